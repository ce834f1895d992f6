"""The workstation of a fleet of boards: a checkout with the fleet, its make targets, and the operator's view."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_peer.config import BrokerSection
from edge_peer.errors import BrokerError
from edge_peer.operator.live.federation import WATCHED, Federation
from edge_peer.operator.live.session import Session
from edge_peer.protocol.messages import Document
from tests.boards.board import Done
from tests.boards.boards import Boards

ROOT = Path(__file__).parent.parent.parent
#: What a checkout has that the targets use.
SOURCES = ("aggregator_core", "ansible", "data_shards", "edge_peer", "models", "requirements")
FILES = ("LICENSE", "Makefile", "README.md", "pyproject.toml")
BROKER_PORT = 8883
FEDERATION = "test"
#: Where things are on a board.
CONFIG = "/etc/edge-peer/config.toml"
PROGRAM = "/opt/edge-peer/current/bin/edge-peer"
RECAP = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)
#: Of one target; a deployment under emulation takes that much longer, and more.
MAKE_S = 600.0
WAIT_S = 120.0
TAKE_S = 1.0
#: Between two tries to reach a broker that is away.
RETRY_S = 0.2
CLONE_NEWNET = 0x40000000


@dataclass
class Workstation:
    """A checkout of its own, which nobody edits meanwhile, with the fleet's folder in it.

    Attributes:
        root: The checkout.
        boards: Whose network its targets have.
    """

    root: Path
    boards: Boards

    @classmethod
    def prepare(cls, root: Path, boards: Boards, inventory: str, examples: int) -> Workstation:
        """All that `make deploy` needs: an inventory, certificates, shards of so many examples, and wheels.

        Args:
            root: A folder that is not there yet, or is empty.
            boards: Whose network the targets have.
            inventory: Its text; how to log in is added.
            examples: A shard's.
        """
        subprocess.run(["requirements/environment.sh", ".venv-fleet", "fleet", "13"], cwd=ROOT, check=True)
        for name in SOURCES:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            shutil.copyfile(ROOT / name, root / name)
        for name in (".venv", ".venv-fleet"):
            (root / name).symlink_to(ROOT / name)
        it = cls(root, boards)
        it.write_inventory(inventory)
        it.here("make", "--assume-old=setup-fleet", "--assume-old=setup", "certs", "shards", f"EXAMPLES={examples}")
        it.fill_wheelhouse()
        return it

    @property
    def fleet(self) -> Path:
        """The fleet's folder."""
        return self.root / "fleet"

    def write_inventory(self, text: str) -> None:
        """What it says from now on."""
        (self.fleet / "group_vars").mkdir(parents=True, exist_ok=True)
        login = {"ansible_user": self.boards.user, "ansible_ssh_private_key_file": str(self.boards.key)}
        (self.fleet / "group_vars/all.json").write_text(json.dumps(login))
        (self.fleet / "inventory.yml").write_text(text)

    def fill_wheelhouse(self) -> None:
        """Get the wheels, which `make deploy` cannot on a network without a way out."""
        machine = {"amd64": "x86_64", "arm64": "aarch64"}[self.boards.arch]
        self.here(
            ".venv-fleet/bin/python", "-m", "edge_peer.operator.fleet.wheelhouse", "--out", "fleet/wheelhouse",
            f"{machine}-cp311-glibc2.36",
        )  # fmt: skip

    def here(self, *words: str) -> None:
        """A command with this machine's network: what boards cannot reach is fetched before."""
        done = subprocess.run(words, cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def make(self, *words: str, check: bool = True) -> Done:
        """A target, on the boards' network. The environments are this checkout's, and up to date."""
        return self.run("make", "--assume-old=setup-fleet", "--assume-old=setup", *words, check=check)

    def changes(self, *words: str) -> dict[str, int]:
        """A target's playbook: how many tasks have changed something, by host; none has failed anywhere."""
        done = self.make(*words)
        recap = RECAP.findall(done.stdout)
        assert recap, done.stdout + done.stderr
        assert all(it[2:] == ("0", "0") for it in recap), done.stdout + done.stderr
        return {name: int(changed) for name, changed, *_ in recap}

    def refused(self, *words: str) -> str:
        """What a target says that fails, on one line: messages are folded by the playbook's language and its output."""
        done = self.make(*words, check=False)
        assert done.returncode != 0, done.stdout
        return " ".join((done.stdout + done.stderr).split())

    def run(self, *words: str, check: bool = True) -> Done:
        """A command in the checkout, on the boards' network."""
        patience = next(iter(self.boards)).patience ** 2
        done = self.boards.run(
            list(words), cwd=self.root, check=False, environment={"LC_ALL": "C.UTF-8"}, timeout_s=MAKE_S * patience
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def broker(self, host: str, name: str = "operator", pki: Path | None = None) -> BrokerSection:
        """How somebody with a certificate of the fleet, or of another folder, connects to the broker on `host`."""
        folder = pki or self.fleet / "pki"
        return BrokerSection(
            host=self.boards[host].address, port=BROKER_PORT, keepalive_s=60, tls_ca=self.fleet / "pki/ca.crt",
            tls_certificate=folder / f"{name}.crt", tls_key=folder / f"{name}.key",
        )  # fmt: skip


@contextlib.contextmanager
def network_of(boards: Boards) -> Iterator[None]:
    """What this thread opens meanwhile is on the boards' network."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{boards.namespace}") as there:  # noqa: PTH123
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    # `os.setns` is there from Python 3.12 on.
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Onlooker:
    """The federation as the operator sees it; goes on when the broker was away. Close it.

    Args:
        station: With the operator's certificate.
        broker: The broker's board.

    Attributes:
        federation: The latest documents.
    """

    def __init__(self, station: Workstation, broker: str) -> None:
        self.federation = Federation()
        self._station = station
        self._broker = broker
        self._session: Session | None = None

    def close(self) -> None:
        """Stop watching."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def wait_from_now(self, condition: Callable[[Federation], bool], what: str) -> Federation:
        """As `wait`, but what was said before now and is said no more does not count."""
        self.close()
        return self.wait(condition, what)

    def wait(self, condition: Callable[[Federation], bool], what: str, timeout_s: float = WAIT_S) -> Federation:
        """Until it holds of the latest documents."""
        end_s = time.monotonic() + timeout_s * self._station.boards[self._broker].patience
        why = ""
        while True:
            try:
                for document in self._connected().take(TAKE_S):
                    self.federation.take(*document)
                    if condition(self.federation):
                        return self.federation
                if condition(self.federation):
                    return self.federation
            except BrokerError as error:
                why = str(error)
                self.close()
                time.sleep(RETRY_S)
            assert time.monotonic() < end_s, f"not within {timeout_s:g} s: {what}; {why} {self.federation}"

    def say(self, kind: str, document: Document | None) -> None:
        """Publish a document as the operator, or clear it."""
        self._connected().publish(kind, document)

    def _connected(self) -> Session:
        if self._session is None:
            # What a broker said before it was away need not be so any more.
            self.federation = Federation()
            with network_of(self._station.boards):
                session = Session(self._station.broker(self._broker), FEDERATION, "operator").__enter__()
            session.subscribe(WATCHED)
            self._session = session
        return self._session
