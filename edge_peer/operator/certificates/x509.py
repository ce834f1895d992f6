"""Certificates of a fleet: made, and judged whether they are still of use. No files, no clock.

ECDSA on P-256 throughout: every TLS 1.2 and 1.3 implementation on old and new boards takes it, its handshake costs a
small processor a fraction of RSA's, and it needs no support for Ed25519 in whatever else speaks to the broker.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: A board without a battery for its clock wakes up on the day its image was made, or the systemd in it.
SLACK = timedelta(days=3653)
CURVE = ec.SECP256R1
#: X.520's bound of a common name.
COMMON_NAME_MAX = 64
OTHER_AUTHORITY = "is signed by another authority"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom a certificate is for.

    Attributes:
        name: Its common name, and its file's: what the broker takes for the client's name.
        server: For the broker, which clients know by one of `addresses`; else for a client.
        addresses: Host names and IP addresses (subject alternative names).
    """

    name: str
    server: bool = False
    addresses: tuple[str, ...] = ()

    @property
    def usage(self) -> x509.ObjectIdentifier:
        """What it may be used for: a stolen peer's certificate makes no broker, and the broker's makes no peer."""
        return ExtendedKeyUsageOID.SERVER_AUTH if self.server else ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Authority:
    """The certificate that signs, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key on P-256."""
    return ec.generate_private_key(CURVE())


def make_authority(now: datetime, days: int) -> Authority:
    """A new certificate authority, which signs certificates of the fleet and no further authorities.

    Args:
        now: UTC.
        days: How long it is valid from now on.
    """
    key = new_key()
    mine = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Two authorities are trusted at a time while one takes over: people tell them apart by their names.
    name = _name(f"edge-peer CA {mine.digest.hex()[:8]}")
    builder = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(mine, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(mine), critical=False)
    )
    return Authority(builder.sign(key, hashes.SHA256()), key)


def make_certificate(
    wanted: Wanted, key: ec.EllipticCurvePrivateKey, authority: Authority, now: datetime, days: int
) -> x509.Certificate:
    """A certificate for one key, which has the fields that a strict check asks for (RFC 5280, Python 3.13's default).

    Args:
        wanted: For whom.
        key: Its own.
        authority: Who signs.
        now: UTC.
        days: How long it is valid from now on, at most as long as the authority.
    """
    end = min(now + timedelta(days=days), authority.certificate.not_valid_after_utc)
    issuer_key = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(wanted.name), authority.certificate.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([wanted.usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
    )
    if wanted.addresses:
        names = [_general_name(it) for it in wanted.addresses]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def shortcoming(
    wanted: Wanted, certificate: x509.Certificate, authority: x509.Certificate, now: datetime, renew_days: int
) -> str:
    """Why a certificate must be made anew; empty when it need not.

    Args:
        wanted: What it should be.
        certificate: What it is.
        authority: Who should have signed it.
        now: UTC.
        renew_days: With fewer days left it is made anew.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return OTHER_AUTHORITY
    end = certificate.not_valid_after_utc
    # One that ends with its authority cannot be made to last longer.
    if end < now + timedelta(days=renew_days) and (end < authority.not_valid_after_utc or end <= now):
        return f"has {(end - now).days} days left"
    if certificate.subject != _name(wanted.name):
        return f"is of {certificate.subject.rfc4514_string()}"
    if _usages(certificate) != [wanted.usage]:
        return "is for another use"
    if (addresses := _addresses(certificate)) != {_general_name(it) for it in wanted.addresses}:
        had = ", ".join(sorted(str(it.value) for it in addresses)) or "no address"
        return f"names {had} instead of {', '.join(sorted(wanted.addresses)) or 'none'}"
    return ""


def belongs(certificate: x509.Certificate, key: object) -> bool:
    """Whether a key is the certificate's."""
    return isinstance(key, ec.EllipticCurvePrivateKey) and certificate.public_key() == key.public_key()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLACK)
        .not_valid_after(end)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def _addresses(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()
