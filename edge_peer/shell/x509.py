"""What a certificate says of itself, read without a library: a board has none, and needs a name and two dates.

Reads the fields in the order that RFC 5280 (section 4.1) gives them. It verifies nothing: that is TLS's task.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
SEQUENCE, VERSION, UTC_TIME, GENERALIZED_TIME, BMP_STRING = 0x30, 0xA0, 0x17, 0x18, 0x1E
#: 2.5.4.3, encoded.
COMMON_NAME = b"\x55\x04\x03"
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate's own word.

    Attributes:
        common_name: The first of its subject, which Mosquitto takes for the user's name; None: it has none.
        not_before: It is valid from then on, UTC.
        not_after: And until then, UTC.
    """

    common_name: str | None
    not_before: datetime
    not_after: datetime


def read_certificates(pem: bytes) -> tuple[Certificate, ...]:
    """The certificates of a PEM file, in its order: the first is its owner's.

    Raises:
        ValueError: There is none in it, or one is damaged.
    """
    found = tuple(_read(_der(it)) for it in PEM.findall(pem))
    if not found:
        raise ValueError("no certificate in PEM form")
    return found


def days_left(certificate: Certificate, now: datetime) -> int:
    """Whole days until it expires; negative once it has."""
    return (certificate.not_after - now) // DAY


def untimely(certificate: Certificate, now: datetime) -> str:
    """Why it is not valid at this time, with the remedy; empty when it is."""
    if now > certificate.not_after:
        return f"expired on {certificate.not_after:%Y-%m-%d}; this clock says {now:%Y-%m-%d}: make it anew (make certs)"
    if now < certificate.not_before:
        return (
            f"is valid from {certificate.not_before:%Y-%m-%d} on; this clock says {now:%Y-%m-%d}: set the clock "
            "(timedatectl)"
        )
    return ""


def _der(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a damaged certificate: {error}") from None


def _read(der: bytes) -> Certificate:
    (_, whole), *_ = _elements(der)
    (_, signed), *_ = _elements(whole)
    fields = _elements(signed)
    # Version 1 certificates leave the version out.
    if fields and fields[0][0] == VERSION:
        del fields[0]
    if len(fields) < 6:
        raise ValueError("a damaged certificate: fields are missing")
    validity = _elements(fields[3][1])
    if len(validity) != 2:
        raise ValueError("a damaged certificate: its validity has not two dates")
    return Certificate(_common_name(fields[4][1]), _time(*validity[0]), _time(*validity[1]))


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """(tag, content) of what stands in a row (X.690, section 8.1)."""
    found, at = [], 0
    while at < len(data):
        head = data[at : at + 2]
        if len(head) < 2:
            raise ValueError("a damaged certificate: cut off")
        tag, size = head
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + size > len(data):
            raise ValueError("a damaged certificate: cut off")
        found.append((tag, data[at : at + size]))
        at += size
    if not found:
        raise ValueError("a damaged certificate: empty")
    return found


def _common_name(subject: bytes) -> str | None:
    for _, attributes in _elements(subject) if subject else []:
        for _, attribute in _elements(attributes):
            (_, kind), (tag, value), *_ = [*_elements(attribute), (0, b"")]
            if kind == COMMON_NAME:
                return value.decode("utf-16-be" if tag == BMP_STRING else "utf-8", "replace")
    return None


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii", "replace")
    if tag == UTC_TIME:
        # RFC 5280, section 4.1.2.5.1: two digits of the year are those of 1950 to 2049.
        text = ("20" if text[:2] < "50" else "19") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError("a damaged certificate: a date of an unknown kind")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
