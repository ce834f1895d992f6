"""Models, updates and deltas as safetensors files: `<kind> <codec>\\n<file>`.

The mutator makes digests right again, which no chance could: else nothing behind them would be reached.
"""

from __future__ import annotations

import json
import random

import numpy as np

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.topics import DELTA, MODEL, UPDATE
from edge_peer.shell.global_model import SLOTS, GlobalModel
from edge_peer.shell.payload import (
    DOCUMENT,
    SERVER,
    decode_change,
    decode_delta,
    decode_encoded,
    decode_model,
    decode_model_ref,
    decode_offer,
    decode_update,
    encode_delta,
    encode_model,
    encode_update,
)
from tests.fuzz.checks import assert_clean, assert_finite
from tests.fuzz.mutators import Bytes, join_tensors, line_and, split_tensors, tensors_bytes
from tests.fuzz.target import Target
from tests.fuzz.targets.codecs import LAYOUT


def run(data: bytes) -> str:
    line, _, payload = data.partition(b"\n")
    kind = line.decode("latin1")
    try:
        if kind == MODEL:
            return _model(payload)
        if kind == UPDATE:
            return _update(payload)
        if kind == DELTA:
            return _delta(payload)
    except RemoteProtocolError as error:
        assert_clean(str(error), 10_000)
        return "refused"
    return "no kind"


def _model(payload: bytes) -> str:
    try:
        named = decode_model_ref(LAYOUT, payload)
    except RemoteProtocolError:
        named = None
    ref, model = decode_model(LAYOUT, payload)
    assert named == ref, "the reference alone is another one"
    assert ref.sha256 == model.digest
    assert_finite(model)
    seen_ref, seen = decode_model(LAYOUT, encode_model(LAYOUT, ref, model))
    assert seen_ref == ref
    assert seen.vector.tobytes() == model.vector.tobytes()
    assert {name: it.tobytes() for name, it in seen.server.items()} == {
        name: it.tobytes() for name, it in model.server.items()
    }
    return f"model with {len(model.server)} slots" if model.server else "model"


def _update(payload: bytes) -> str:
    offer = decode_offer(payload)
    change = decode_update(payload, offer, LAYOUT)
    assert change.digest == offer.digest
    _check_change(change)
    again = encode_update(offer, decode_encoded(payload, offer.codec, LAYOUT))
    assert decode_offer(again) == offer
    assert decode_update(again, offer, LAYOUT).digest == change.digest
    return f"update {offer.codec}" + (" with control" if change.control is not None else "")


def _delta(payload: bytes) -> str:
    delta = decode_delta(payload)
    change = decode_change(payload, delta.codec, LAYOUT)
    _check_change(change)
    again = encode_delta(delta, decode_encoded(payload, delta.codec, LAYOUT))
    assert decode_delta(again) == delta
    assert decode_change(again, delta.codec, LAYOUT).digest == change.digest
    return f"delta {delta.codec}"


def _check_change(change: object) -> None:
    for name in ("vector", "control"):
        vector = getattr(change, name)
        if vector is not None:
            assert_finite(vector, name)
            assert vector.shape == (LAYOUT.size,)
            assert vector.dtype == np.float32


def repaired(kind: str, payload: bytes) -> bytes:
    """The file with the digest in its document that its values have, where they have one."""
    try:
        header, values = split_tensors(payload)
        fields = json.loads(header["__metadata__"][DOCUMENT])
        if kind == MODEL:
            fields["sha256"] = _model_digest(payload)
        elif kind == UPDATE:
            fields["digest"] = decode_change(payload, fields["codec"], LAYOUT).digest
        header["__metadata__"][DOCUMENT] = json.dumps(fields, separators=(",", ":"))
        return join_tensors(header, values)
    except (ValueError, LookupError, TypeError, RecursionError, AttributeError, RemoteProtocolError):
        return payload


def _model_digest(payload: bytes) -> str:
    """Of the tensors where the header says that they are."""
    header, values = split_tensors(payload)
    parts = {
        name: np.frombuffer(values[slice(*facts["data_offsets"])], "<f4")
        for name, facts in header.items()
        if name != "__metadata__"
    }
    slots = {slot: parts[f"{SERVER}{slot}"] for slot in SLOTS if f"{SERVER}{slot}" in parts}
    vector = np.concatenate([parts[tensor.name] for tensor in LAYOUT.tensors])
    return GlobalModel(vector, slots).digest


def _inner(line: bytes, rest: bytes, size: int, rng: random.Random, mutate: Bytes) -> bytes:
    changed = tensors_bytes(rest, size, rng, mutate, DOCUMENT)
    return repaired(line.decode("latin1"), changed) if rng.randrange(4) else changed


TARGET = Target(
    run,
    frozenset(
        {"refused", "model", "model with 1 slots", "model with 2 slots", "update int8 with control"}
        | {f"{kind} {codec}" for kind in ("update", "delta") for codec in ("float32", "float16", "int8", "int4")}
        | {"update topk-0.1", "delta topk-0.1"}
    ),
    ("edge_peer.shell.payload", "edge_peer.shell.changes", "edge_peer.shell.global_model", "edge_peer.shell.digests"),
    # The header is parsed twice, and names of server state and control variates are of the longest layout.
    memory_a_byte=128,
    length_max=8192,
    mutate=line_and(_inner),
    words=(b"model\n", b"update\n", b"delta\n", b'"data_offsets"', b'"dtype":"U8"', b'"dtype":"F32"', b"server_state/"),
)
