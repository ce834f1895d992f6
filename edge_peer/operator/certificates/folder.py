"""The folder of a fleet's authority: certificates and keys as files, each written whole and readable by few.

    ca.key         signs; never leaves this folder
    ca.crt         what boards and broker trust: the certificate of `ca.key` and, while one authority takes over from
                   another, that of the other too
    ca.next.key    only between the steps `trust` and `switch`: the key of the authority that is to take over
    <name>.key, <name>.crt

Every change is one file's replacement, in an order in which a run that breaks off leaves something that the next run
puts right: whose certificate in `ca.crt` signs is not written down, but is that which `ca.key` fits.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edge_peer.errors import ConfigError, ResourceError
from edge_peer.operator.certificates.x509 import (
    OTHER_AUTHORITY,
    Authority,
    Wanted,
    belongs,
    make_authority,
    make_certificate,
    new_key,
    shortcoming,
)

Step = Literal["trust", "switch", "forget"]
Say = Callable[[str], None]
OWNER_ONLY = 0o600
EVERYBODY_READS = 0o644


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things are valid, in days from now.

    Attributes:
        days: A new certificate.
        authority_days: A new authority.
        renew_days: What has fewer left is made anew.
    """

    days: int = 825
    authority_days: int = 3650
    renew_days: int = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One certificate as `--check` tells it.

    Attributes:
        name: Its file's, without the ending.
        not_after: UTC; None: there is none that can be read.
        days_left: Whole days; negative once it has expired.
        problem: Why it has to be made anew, or another remark; empty when all is well.
        urgent: Something has to be done.
    """

    name: str
    not_after: datetime | None
    days_left: int | None
    problem: str
    urgent: bool


class Folder:
    """A fleet's certificates.

    Args:
        path: Where they are kept; made when there is something to write.
        now: UTC.
        lifetimes: In days.
        say: Gets one line for everything that is done.
    """

    def __init__(self, path: Path, now: datetime, lifetimes: Lifetimes, say: Say) -> None:
        self._path = path
        self._now = now
        self._lifetimes = lifetimes
        self._say = say

    def make(self, wanted: Sequence[Wanted], rotate: bool = False) -> list[str]:
        """Make what is missing, of no use, or soon expires, the authority included; returns the names made.

        Args:
            wanted: All certificates to have.
            rotate: Make all of them anew, under the same authority.

        Raises:
            ResourceError: A file of the authority is damaged or missing, or the folder cannot be written to.
        """
        authority = self._authority() or self._new_authority()
        made = []
        for it in wanted:
            problem = self._problem(it, authority.certificate) or ("rotated" if rotate else "")
            if problem:
                self._say(f"{it.name}: {problem}; made anew" if problem != "missing" else f"{it.name}: made")
                key = new_key()
                certificate = make_certificate(it, key, authority, self._now, self._lifetimes.days)
                # The key first: a certificate that it does not fit is noticed, and made anew.
                self._write_key(f"{it.name}.key", key)
                self._write_certificates(f"{it.name}.crt", [certificate])
                made.append(it.name)
        for name in ["ca", "ca.next", *(it.name for it in wanted)]:
            self._see_to_rights(f"{name}.key")
        left = (authority.certificate.not_valid_after_utc - self._now).days
        if left < self._lifetimes.days:
            self._say(
                f"the authority itself ends in {left} days, and no certificate outlives it: let another take over "
                "(--authority trust, then switch, then forget, with a deployment after each)"
            )
        return made

    def take_over(self, step: Step, wanted: Sequence[Wanted]) -> None:
        """One of the three steps in which a new authority takes over, without a moment in which two do not trust.

        `trust`: `ca.crt` has the old and the new one. `switch`: the new one signs; call `make` then. `forget`: `ca.crt`
        has the new one only. Between two of them, all boards and the broker must have got what the first has made.
        A step that has been taken is not taken again.

        Args:
            step: Which.
            wanted: The certificates that there should be.

        Raises:
            ConfigError: Another step comes first.
            ResourceError: As `make`.
        """
        authority = self._authority()
        if authority is None:
            raise ConfigError([f"--authority {step}: there is no authority in {self._path} yet; leave it out"])
        trusted = self._trusted()
        coming = self._coming(trusted)
        if step == "trust":
            if coming is not None:
                self._say("ca.crt: has the next authority already; deploy it, then --authority switch")
                return
            following = make_authority(self._now, self._lifetimes.authority_days)
            self._write_key("ca.next.key", following.key)
            self._write_certificates("ca.crt", [*trusted, following.certificate])
            self._say(
                "ca.crt: the next authority is trusted beside the present one; deploy it, then --authority switch"
            )
        elif step == "switch":
            if coming is None and len(trusted) == 1:
                raise ConfigError(["--authority switch: no authority is about to take over; --authority trust first"])
            if coming is not None:
                self._replace("ca.next.key", "ca.key")
            self._say("ca.key: the next authority signs now; deploy, then --authority forget")
        else:
            if coming is not None:
                raise ConfigError(["--authority forget: the next one signs nothing yet; --authority switch first"])
            if former := [it.name for it in wanted if self._problem(it, authority.certificate) == OTHER_AUTHORITY]:
                problem = f"--authority forget: {', '.join(former)}: signed by the former one"
                raise ConfigError([f"{problem}; --authority switch again first, and deploy"])
            self._write_certificates("ca.crt", [authority.certificate])
            self._say("ca.crt: the authority that signs is the only one trusted; deploy it")

    def check(self, wanted: Sequence[Wanted]) -> list[Row]:
        """A row for each trusted authority and each certificate; changes nothing.

        Raises:
            ResourceError: A file of the authority is damaged or missing.
        """
        authority = self._authority()
        if authority is None:
            return [Row(name, None, None, "missing", True) for name in ["ca", *(it.name for it in wanted)]]
        rows = []
        for certificate in self._trusted():
            signs, left = certificate == authority.certificate, self._left(certificate)
            problem = "" if signs else "trusted, does not sign"
            ends = signs and left < self._lifetimes.renew_days
            if ends:
                problem = f"has {left} days left: let another take over (--authority trust)"
            rows.append(Row("ca", certificate.not_valid_after_utc, left, problem, ends))
        for it in wanted:
            problem = self._problem(it, authority.certificate)
            if not problem and self._rights(f"{it.name}.key") & ~OWNER_ONLY:
                problem = "others can read its key"
            try:
                own = self._certificates(f"{it.name}.crt")[0]
                rows.append(Row(it.name, own.not_valid_after_utc, self._left(own), problem, bool(problem)))
            except (OSError, ValueError):
                rows.append(Row(it.name, None, None, problem, True))
        return rows

    # ------------------------------------------------------------------ the authority

    def _authority(self) -> Authority | None:
        """Who signs; None: there is none yet."""
        have_key, have_certificate = (self._path / "ca.key").exists(), (self._path / "ca.crt").exists()
        if not have_certificate and not any(self._path.glob("*.crt")):
            # Nothing has been signed yet: a key alone is what a run left that broke off.
            return None
        if not have_key or not have_certificate:
            missing = "ca.crt" if have_key else "ca.key"
            raise ResourceError(
                f"{self._path / missing} is missing, the fleet trusts its authority: put it back from your backup, or "
                f"begin anew with an empty folder and deploy to all boards"
            )
        try:
            key = self._key("ca.key")
            trusted = self._trusted()
        except (OSError, ValueError) as error:
            raise ResourceError(
                f"{self._path}: ca.key or ca.crt cannot be used ({error}); put both back from your backup"
            ) from None
        for certificate in trusted:
            if belongs(certificate, key):
                return Authority(certificate, key)
        raise ResourceError(f"{self._path}: ca.key fits no certificate in ca.crt; put both back from your backup")

    def _new_authority(self) -> Authority:
        authority = make_authority(self._now, self._lifetimes.authority_days)
        self._write_key("ca.key", authority.key)
        self._write_certificates("ca.crt", [authority.certificate])
        self._say(f"ca: a new authority, {authority.certificate.subject.rfc4514_string()[3:]!r}; keep a copy of ca.key")
        return authority

    def _trusted(self) -> list[x509.Certificate]:
        return self._certificates("ca.crt")

    def _coming(self, trusted: Sequence[x509.Certificate]) -> x509.Certificate | None:
        """The authority that is about to take over."""
        try:
            key = self._key("ca.next.key")
        except (OSError, ValueError):
            return None
        return next((it for it in trusted if belongs(it, key)), None)

    # ------------------------------------------------------------------ certificates

    def _problem(self, wanted: Wanted, authority: x509.Certificate) -> str:
        try:
            certificate = self._certificates(f"{wanted.name}.crt")[0]
            key = self._key(f"{wanted.name}.key")
        except FileNotFoundError:
            return "missing"
        except (OSError, ValueError):
            return "is damaged"
        if not belongs(certificate, key):
            return "is not of its key"
        return shortcoming(wanted, certificate, authority, self._now, self._lifetimes.renew_days)

    def _left(self, certificate: x509.Certificate) -> int:
        return (certificate.not_valid_after_utc - self._now).days

    # ------------------------------------------------------------------ files

    def _certificates(self, name: str) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates((self._path / name).read_bytes())

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        try:
            key = load_pem_private_key((self._path / name).read_bytes(), password=None)
        except TypeError:
            raise ValueError(f"{name} needs a password") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{name} is no key on an elliptic curve")
        return key

    def _write_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        self._write(name, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), OWNER_ONLY)

    def _write_certificates(self, name: str, certificates: Sequence[x509.Certificate]) -> None:
        self._write(name, b"".join(it.public_bytes(Encoding.PEM) for it in certificates), EVERYBODY_READS)

    def _write(self, name: str, content: bytes, mode: int) -> None:
        """A new file takes the old one's place; it has its rights from the moment that it exists."""
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = self._path / f".{name}.new"
            # Of a run that broke off, with whatever rights.
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._replace(temporary.name, name)
        except OSError as error:
            raise ResourceError(
                f"{self._path / name}: cannot be written ({error.strerror}); see to its folder's rights and space"
            ) from None

    def _replace(self, name: str, target: str) -> None:
        (self._path / name).replace(self._path / target)
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _rights(self, name: str) -> int:
        """Of a file; 0: there is none."""
        try:
            return stat.S_IMODE((self._path / name).stat().st_mode)
        except FileNotFoundError:
            return 0

    def _see_to_rights(self, name: str) -> None:
        mode = self._rights(name)
        if mode & ~OWNER_ONLY:
            (self._path / name).chmod(OWNER_ONLY)
            self._say(
                f"{name}: others could read it (mode {mode:o}), now they cannot; if others use this machine, make it "
                "anew (--rotate)"
            )
