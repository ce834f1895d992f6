"""What a certificate says of itself, beside what the `cryptography` package and OpenSSL read in it."""

from __future__ import annotations

import contextlib
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from ssl import DER_cert_to_PEM_cert

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.operator.certificates.x509 import Wanted, make_authority, make_certificate, new_key
from edge_peer.shell.x509 import Certificate, days_left, read_certificates, untimely

KEY = new_key()
NOW = datetime(2026, 5, 17, 12, tzinfo=timezone.utc)
#: RFC 5280 has whole seconds; dates up to 2049 are written in another way than later ones.
SECONDS = st.integers(-631_152_000, 253_370_764_800).map(
    lambda s: NOW.replace(year=1970, month=1, day=1, hour=0) + timedelta(seconds=s)
)
GOOD = make_certificate(Wanted("roof"), KEY, make_authority(NOW, 10), NOW, 10).public_bytes(Encoding.DER)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=16)


def pem(subject: x509.Name, start: datetime, end: datetime) -> bytes:
    builder = x509.CertificateBuilder(subject, subject, KEY.public_key(), x509.random_serial_number(), start, end)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


@given(NAMES, st.lists(SECONDS, min_size=2, max_size=2))
def test_name_and_dates_are_those_that_it_was_made_with(name: str, dates: list[datetime]) -> None:
    start, end = sorted(dates)
    more = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "other"),
        x509.NameAttribute(NameOID.COMMON_NAME, name),
        # Mosquitto takes the first, too.
        x509.NameAttribute(NameOID.COMMON_NAME, "second"),
    ]
    content = pem(x509.Name(more), start, end)
    assert read_certificates(content) == (Certificate(name, start, end),)
    assert read_certificates(b"# a comment\n" + content + content) == (Certificate(name, start, end),) * 2


def test_a_subject_without_a_common_name() -> None:
    assert read_certificates(pem(x509.Name([]), NOW, NOW))[0].common_name is None


def test_what_openssl_makes_of_old(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/C=DE/CN=roof"]
    subprocess.run([*command, "-keyout", "key", "-out", "crt"], cwd=tmp_path, check=True, capture_output=True)
    shown = subprocess.run(
        ["openssl", "x509", "-in", "crt", "-noout", "-enddate"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (it,) = read_certificates((tmp_path / "crt").read_bytes())
    assert it.common_name == "roof"
    assert f"notAfter={it.not_after:%b} {it.not_after.day:2} {it.not_after:%H:%M:%S %Y} GMT\n" == shown


@given(st.data())
def test_a_damaged_one_is_an_error_or_another_one_and_nothing_else(data: st.DataObject) -> None:
    bad = bytearray(GOOD[: data.draw(st.integers(0, len(GOOD)))])
    for at in data.draw(st.lists(st.integers(0, max(0, len(bad) - 1)), max_size=4)) if bad else []:
        bad[at] = data.draw(st.integers(0, 255))
    found = None
    with contextlib.suppress(ValueError):
        found = read_certificates(DER_cert_to_PEM_cert(bytes(bad)).encode())
    assert found is None or len(found) == 1
    if len(bad) < len(GOOD):
        assert found is None, "it was cut off"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no certificate",
        b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----",
    ],
)
def test_no_certificate_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="certificate"):
        read_certificates(content)


@pytest.mark.parametrize(
    ("left", "days"),
    [
        (timedelta(days=3), 3),
        (timedelta(days=3, seconds=-1), 2),
        (timedelta(seconds=1), 0),
        (timedelta(seconds=-1), -1),
        (timedelta(days=-2), -2),
    ],
)
def test_days_left_are_whole_ones(left: timedelta, days: int) -> None:
    assert days_left(Certificate("a", NOW, NOW + left), NOW) == days


def test_the_time_outside_of_which_it_is_not_valid_is_told_with_the_remedy() -> None:
    it = Certificate("a", NOW, NOW + timedelta(days=1))
    assert untimely(it, NOW) == untimely(it, it.not_after) == ""
    assert untimely(it, NOW - timedelta(days=400)) == (
        "is valid from 2026-05-17 on; this clock says 2025-04-12: set the clock (timedatectl)"
    )
    assert untimely(it, NOW + timedelta(days=2)) == (
        "expired on 2026-05-18; this clock says 2026-05-19: make it anew (make certs)"
    )
