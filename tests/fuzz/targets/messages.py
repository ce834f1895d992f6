"""Every JSON document of the protocol, also those for onlookers, and the metadata of tensors: `<kind>\\n<JSON>`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol import messages, onlookers, tensors
from edge_peer.protocol.fields import parse_object
from edge_peer.protocol.messages import DECODERS, decode, encode
from edge_peer.protocol.topics import DELTA, HISTORY, MODEL, SENDING, UPDATE
from tests.fuzz.checks import assert_clean, assert_finite
from tests.fuzz.mutators import Bytes, json_bytes, line_and
from tests.fuzz.target import Target

METADATA: dict[str, Callable[..., Any]] = {
    MODEL: tensors.ModelRef.read,
    DELTA: tensors.Delta.read,
    UPDATE: tensors.UpdateOffer.read,
    SENDING: onlookers.Sending.read,
    HISTORY: onlookers.History.read,
}


def run(data: bytes) -> str:
    name, _, payload = data.partition(b"\n")
    kind = name.decode("latin1")
    if kind not in DECODERS and kind not in METADATA:
        return "no kind"
    try:
        document = _read(kind, payload)
    except RemoteProtocolError as error:
        assert_clean(str(error))
        return "refused"
    assert_finite(document, kind)
    again = _write(kind, document)
    assert _read(kind, again) == document, "what was read is not what is written"
    assert _write(kind, _read(kind, again)) == again
    if isinstance(document, messages.Round):
        return f"{kind} {document.state}"
    return kind


def _read(kind: str, payload: bytes) -> Any:
    return decode(kind, payload) if kind in DECODERS else METADATA[kind](parse_object(payload))


def _write(kind: str, document: Any) -> bytes:
    if kind in DECODERS:
        return encode(document)
    return json.dumps(asdict(document), sort_keys=True, allow_nan=False).encode()


def _inner(_line: bytes, rest: bytes, size: int, rng: random.Random, mutate: Bytes) -> bytes:
    return json_bytes(rest, size, rng, mutate)


TARGET = Target(
    run,
    frozenset({"refused", *METADATA, *DECODERS, "round waiting", "round training", "round finished"} - {"round"}),
    (
        "edge_peer.protocol.messages",
        "edge_peer.protocol.fields",
        "edge_peer.protocol.onlookers",
        "edge_peer.protocol.tensors",
        "edge_peer.protocol.run_settings",
    ),
    length_max=8192,
    mutate=line_and(_inner),
    words=(*(f"{kind}\n".encode() for kind in sorted({*DECODERS, *METADATA})), b"null", b"NaN", b"\\ud800", b"1e999"),
)
