"""Certificates as a board reads them by hand: a PEM file, or `DER` and the bytes that would stand in one."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from ssl import DER_cert_to_PEM_cert

from edge_peer.shell.x509 import PEM, days_left, read_certificates, untimely
from tests.fuzz.checks import assert_clean
from tests.fuzz.mutators import Bytes
from tests.fuzz.target import Target

DER = b"DER"
NOW = datetime(2026, 5, 17, 12, tzinfo=timezone.utc)


def run(data: bytes) -> str:
    pem = DER_cert_to_PEM_cert(data[len(DER) :]).encode() if data.startswith(DER) else data
    try:
        found = read_certificates(pem)
    except ValueError as error:
        assert_clean(str(error))
        return "refused"
    assert len(found) == len(PEM.findall(pem))
    for it in found:
        assert it.not_before.tzinfo is timezone.utc
        assert it.not_after.tzinfo is timezone.utc
        assert isinstance(days_left(it, NOW), int)
        assert bool(untimely(it, NOW)) == (not it.not_before <= NOW <= it.not_after)
    return "certificate" if all(it.common_name is not None for it in found) else "certificate without a name"


def _mutate(data: bytes, size: int, _seed: int, mutate: Bytes) -> bytes:
    """Mostly of the same length, as lengths stand before what they are of."""
    rng = random.Random(_seed)
    if rng.randrange(3) == 0:
        return mutate(data, size)
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randint(1, 40))
    changed = mutate(data[start:end], end - start)
    return data[:start] + changed + data[start + len(changed) :]


TARGET = Target(
    run,
    frozenset({"refused", "certificate", "certificate without a name"}),
    ("edge_peer.shell.x509",),
    length_max=2048,
    mutate=_mutate,
    words=(
        DER,
        b"-----BEGIN CERTIFICATE-----",
        b"-----END CERTIFICATE-----",
        b"\x55\x04\x03",
        b"\x17\x0d",
        b"\x18\x0f",
    ),
)
