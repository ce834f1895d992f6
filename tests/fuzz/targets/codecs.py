"""Every codec's decoder, of a layout with all that a codec treats differently: `<codec>\\n<payload>`."""

from __future__ import annotations

import random

import numpy as np

from aggregator_core import Layout, RefusedUpdateError, Tensor
from aggregator_core.codecs import CodecNameError, PayloadError, bound, decode, encode
from aggregator_core.codecs.plan import plan_of
from tests.fuzz.checks import assert_clean, assert_finite
from tests.fuzz.mutators import Bytes, line_and
from tests.fuzz.target import Target

#: Channels, a tensor without an axis, one of a few values, one of an odd number of values, and state.
LAYOUT = Layout(
    (
        Tensor("dense/kernel", (9, 8), 0, 1),
        Tensor("dense/bias", (8,), 72, None, "bias"),
        Tensor("row/kernel", (65,), 80),
        Tensor("norm/mean", (4,), 145, None, "state"),
    )
)
CODECS = ("float32", "float16", "int8", "int4", "topk-0.1", "topk-1")
#: Of the levels between zero and a peak.
LEVELS = {"int8": 127, "int4": 7}


def run(data: bytes) -> str:
    name, _, payload = data.partition(b"\n")
    codec = name.decode("latin1")
    try:
        most = bound(codec, LAYOUT)
        vector = decode(codec, payload, LAYOUT)
    except CodecNameError as error:
        assert_clean(str(error))
        return "no codec"
    except PayloadError as error:
        assert_clean(str(error))
        return "refused"
    assert len(payload) <= most
    assert vector.shape == (LAYOUT.size,)
    assert vector.dtype == np.float32
    assert vector.flags.owndata or vector.base is not payload
    assert_finite(vector)
    _again(codec, vector)
    return codec if codec in CODECS else "topk"


def _again(codec: str, vector: np.ndarray) -> None:
    """What was decoded can be encoded, and comes out as near as the codec says; after that it stays."""
    try:
        sent = encode(codec, vector, LAYOUT, None)
    except RefusedUpdateError as error:
        raise AssertionError(f"{codec} cannot write what it has read") from error
    assert len(sent) <= bound(codec, LAYOUT)
    seen = decode(codec, sent, LAYOUT)
    if codec.startswith("float"):
        assert seen.tobytes() == vector.tobytes()
    plan = plan_of(LAYOUT, per_channel=not codec.startswith("topk"))
    for part in plan.parts:
        place = slice(part.offset, part.offset + part.size)
        peak = np.abs(vector[place].astype(np.float64)).max(initial=0.0)
        # Half a step, and as much again for what float32 rounds; channels that are next to nothing become nothing.
        near = peak / LEVELS.get(codec, 127) * 0.51 + 2.0**-99
        assert (np.abs(vector[place].astype(np.float64) - seen[place]) <= near).all(), f"{codec}, {part.name}"
    assert decode(codec, encode(codec, seen, LAYOUT, None), LAYOUT).tobytes() == seen.tobytes()


def _inner(_line: bytes, rest: bytes, _size: int, rng: random.Random, mutate: Bytes) -> bytes:
    """Mostly of the same length, as the fields stand one after another."""
    if rng.randrange(3) == 0:
        return mutate(rest, len(rest) + 8)
    changed = mutate(rest, len(rest)) if rest else b""
    return changed + rest[len(changed) :]


TARGET = Target(
    run,
    frozenset({*CODECS, "refused", "no codec"}),
    (
        "aggregator_core.codecs.registry",
        "aggregator_core.codecs.floats",
        "aggregator_core.codecs.integers",
        "aggregator_core.codecs.sparse",
        "aggregator_core.codecs.entropy",
        "aggregator_core.codecs.reader",
        "aggregator_core.codecs.rounding",
    ),
    length_max=2048,
    mutate=line_and(_inner),
    words=(*(f"{codec}\n".encode() for codec in CODECS), b"topk-0.", b"\xff\xff\xff\xff", b"\0\0\x80\x7f"),
)
