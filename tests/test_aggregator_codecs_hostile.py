"""Payloads of anybody: nothing but PayloadError comes out, before more memory is taken than an honest one needs."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_aggregator_codecs import NAMES, WHOLE, layout_of, noise

from aggregator_core import Layout, RefusedUpdateError
from aggregator_core.codecs import PayloadError, bound, decode, encode
from aggregator_core.codecs.entropy import OVERHEAD, deflate, inflate
from aggregator_core.codecs.plan import plan_of
from aggregator_core.codecs.reader import Reader

PAYLOADS = {name: encode(name, noise(WHOLE, 3), WHOLE, random.Random(3)) for name in NAMES}
#: One rounded tensor of 100 values and a state of one: offsets in payloads are easy to count.
SMALL = layout_of([((100,), None, "weight"), ((1,), None, "state")])


def block(content: bytes) -> bytes:
    """A block as it is when nothing can be saved."""
    return len(content).to_bytes(4, "little") + content


def raw_deflate(content: bytes) -> bytes:
    writer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return writer.compress(content) + writer.flush()


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def read(name: str, payload: bytes, layout: Layout = WHOLE) -> bool:
    """Whether a payload is accepted; what is accepted must be of use."""
    try:
        found = decode(name, payload, layout)
    except PayloadError as error:
        reason = str(error)
    else:
        reason = ""
    if reason:
        assert len(reason) < 300
        return False
    assert found.dtype == np.float32
    assert found.shape == (layout.size,)
    assert np.isfinite(found).all()
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_cut_off_anywhere_is_refused(name: str) -> None:
    whole = PAYLOADS[name]
    assert read(name, whole)
    assert not any(read(name, whole[:length]) for length in range(len(whole)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", [b"\0", b"\xff" * 5, b"\0" * 100_000])
def test_a_payload_with_more_at_its_end_is_refused(name: str, more: bytes) -> None:
    with pytest.raises(PayloadError, match=r"follow the end of the payload|gives at most"):
        decode(name, PAYLOADS[name] + more, WHOLE)


@pytest.mark.parametrize("name", NAMES)
def test_any_changed_byte_is_refused_or_harmless(name: str) -> None:
    whole = bytearray(PAYLOADS[name])
    outcomes = set()
    for place in range(len(whole)):
        for mask in (0x01, 0x80, 0xFF):
            whole[place] ^= mask
            outcomes.add(read(name, bytes(whole)))
            whole[place] ^= mask
    # Of float32 a single changed byte makes another number of these.
    assert outcomes == ({True} if name == "float32" else {True, False})


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_several_changes_are_refused_or_harmless(name: str, data: st.DataObject) -> None:
    whole = bytearray(PAYLOADS[name])
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, min(start + 8, len(whole))))
        whole[start:stop] = data.draw(st.binary(max_size=8))
    read(name, bytes(whole))


@pytest.mark.parametrize("name", NAMES)
@given(payload=st.binary(max_size=1000))
def test_random_bytes_are_refused_or_harmless(name: str, payload: bytes) -> None:
    if read(name, payload, SMALL):
        assert len(payload) <= bound(name, SMALL)


@pytest.mark.parametrize("name", ["float16", "int8", "int4", "topk-0.3"])
@given(tail=st.binary(max_size=300))
def test_random_blocks_are_refused_or_harmless(name: str, tail: bytes) -> None:
    plan = plan_of(SMALL)
    read(name, floats(1.0) + (b"" if name == "float16" else floats(*[0.5] * plan.scales)) + tail, SMALL)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_payloads_of_another_codec_are_refused(name: str, other: str) -> None:
    if name != other and not (name.startswith("topk") and other.startswith("topk")):
        with pytest.raises(PayloadError):
            decode(name, PAYLOADS[other], WHOLE)


def longest(name: str, layout: Layout) -> bytes:
    """A payload of the length of the bound, with no block that is compressed."""
    rng = random.Random(1)
    per_channel = not name.startswith("topk")
    plan = plan_of(layout, per_channel)
    exact, scales = floats(*[1.0] * plan.exact_size), floats(*[0.5] * plan.scales)
    count = plan.coded_size
    if name == "float32":
        return floats(*[1.0] * layout.size)
    if name == "float16":
        return exact + block(rng.randbytes(count)) + block(bytes(rng.randrange(60) for _ in range(count)))
    if name == "int8":
        return exact + scales + block(bytes(rng.randrange(-127, 128) & 255 for _ in range(count)))
    if name == "int4":
        assert count % 2 == 1
        nibbles = [*(rng.randrange(1, 16) for _ in range(count)), 0]
        return exact + scales + block(bytes(nibbles[i] | nibbles[i + 1] << 4 for i in range(0, count, 2)))
    kept = int(np.ceil(count * float(name[5:])))
    integers = bytes(rng.randrange(1, 128) for _ in range(kept))
    return exact + scales + kept.to_bytes(4, "little") + block(bytes(2 * kept)) + block(integers)


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_as_long_as_the_bound_is_read_and_none_longer(name: str) -> None:
    payload = longest(name, WHOLE)
    assert len(payload) == bound(name, WHOLE)
    assert np.count_nonzero(decode(name, payload, WHOLE)) > 0
    with pytest.raises(PayloadError, match=rf"{len(payload) + 1} bytes, codec {name} gives at most {len(payload)} for"):
        decode(name, payload + b"\0", WHOLE)


NAN, INFINITY = float("nan"), float("inf")
NOTHING = block(bytes([0x88] * 50))
GOOD_INT4 = floats(2.0, 0.5) + NOTHING
TOP = floats(2.0, 0.5)
LIES = {
    "state nan": ("int4", floats(NAN, 0.5) + NOTHING, "t1: 1 of 1 values are not finite"),
    "state infinite": ("float16", floats(-INFINITY) + block(bytes(100)) * 2, "t1: 1 of 1 values are not finite"),
    "update nan": ("float32", floats(*[0.0] * 100, NAN), "update: 1 of 101 values are not finite"),
    "scale nan": ("int4", floats(2.0, NAN) + NOTHING, "scales: 1 of 1 values are not finite"),
    "scale infinite": ("int8", floats(2.0, INFINITY) + block(bytes(100)), "scales: 1 of 1 values are not finite"),
    "scale negative": ("int4", floats(2.0, -0.5) + NOTHING, "scale 0 is -0.5, not zero"),
    "scale of a negative zero": ("int4", floats(2.0, -0.0) + NOTHING, "scale 0 is -0.0, not zero"),
    "scale subnormal": ("topk-0.3", floats(2.0, 1e-40) + bytes(12), "scale 0 is 1e-40, not zero"),
    "half infinite": ("float16", floats(2.0) + block(bytes(100)) + block(b"\x7c" + bytes(99)), "t0: 1 of 100 values"),
    "half nan": ("float16", floats(2.0) + block(b"\1" * 100) + block(b"\xfc" * 100), "t0: 100 of 100 values"),
    "integer -128": ("int8", TOP + block(bytes(99) + b"\x80"), "an integer is beyond -127 to 127"),
    "nibble -8": ("int4", TOP + block(b"\x80" + b"\x88" * 49), "an integer is beyond -7 to 7"),
    "length above": ("int4", TOP + (51).to_bytes(4, "little") + bytes(50), "length of integers is 51, more than 50"),
    "length of everything": ("int8", TOP + b"\xff" * 54, "length of integers is 4294967295, more than 100"),
    "length beyond": ("int8", TOP + (90).to_bytes(4, "little") + bytes(80), "integers takes 90 bytes, but 80 of 92"),
    "no stream": ("int8", TOP + block(b"\xff" * 30), "integers cannot be decompressed"),
    "empty stream": ("int8", TOP + block(b""), "integers ends after 0 of 100 bytes"),
    "stream cut off": ("int8", TOP + block(raw_deflate(bytes(100))[:-1]), "integers ends after"),
    "stream too short": ("int8", TOP + block(raw_deflate(bytes(99))), "integers decompresses to 99 bytes, not 100"),
    "stream too long": ("int8", TOP + block(raw_deflate(bytes(101))), "integers decompresses to more than 100 bytes"),
    "bytes in a block": ("int8", TOP + block(raw_deflate(bytes(100)) + b"ab"), "2 bytes follow the end of integers"),
    "bytes after": ("int8", TOP + block(raw_deflate(bytes(100))) + b"abc", "3 bytes follow the end of the payload"),
    "too many": ("topk-0.3", TOP + (31).to_bytes(4, "little") + bytes(68), "number of values is 31, more than 30"),
    "index beyond": (
        "topk-0.3",
        TOP + b"\2\0\0\0" + block(b"\x32\x31") + block(b"\1\1"),
        "index 100 is beyond the 100",
    ),
    "value zero": ("topk-0.3", TOP + b"\2\0\0\0" + block(b"\1\1") + block(b"\1\0"), "an integer is 0"),
    "value -128": ("topk-0.3", TOP + b"\1\0\0\0" + block(b"\1") + block(b"\x80"), "beyond -127 to 127"),
    "number alone": ("topk-0.3", TOP + b"\2\0\0\0", "length of gaps takes 4 bytes, but 0 of 12 are left"),
    "nothing": ("topk-0.3", b"", "t1 takes 4 bytes, but 0 of 0 are left"),
    "no scale": ("int8", floats(1.0), "scales takes 4 bytes, but 0 of 4 are left"),
}


@pytest.mark.parametrize("case", LIES)
def test_lies_are_refused_with_a_reason_that_can_be_told(case: str) -> None:
    name, payload, message = LIES[case]
    with pytest.raises(PayloadError, match=message):
        decode(name, payload, SMALL)


def test_payloads_built_by_hand_are_read() -> None:
    assert decode("int4", GOOD_INT4, SMALL).tolist() == [0.0] * 100 + [2.0]
    found = decode("topk-0.3", TOP + b"\2\0\0\0" + block(b"\1\x61") + block(b"\x7f\x81"), SMALL)
    assert {index: float(found[index]) for index in np.flatnonzero(found)} == {1: 0.5, 99: -0.5, 100: 2.0}
    halves = decode("float16", floats(2.0) + block(bytes(100)) + block(b"\x3c" * 99 + b"\xbc"), SMALL)
    assert halves.tolist() == [1.0] * 99 + [-1.0, 2.0]


def test_the_half_byte_that_fills_up_must_be_zero() -> None:
    odd = layout_of([((101,), None, "weight")])
    good = floats(0.5) + block(b"\x88" * 50 + b"\x0f")
    assert decode("int4", good, odd)[100] == 0.5
    with pytest.raises(PayloadError, match="the half byte after the last integer is 8, not 0"):
        decode("int4", floats(0.5) + block(b"\x88" * 51), odd)


def test_the_largest_scale_does_not_overflow() -> None:
    top = float(np.finfo(np.float32).max)
    found = decode("int8", floats(2.0, top) + block(b"\x7f\x81" * 50), SMALL)
    assert set(found[:100].tolist()) == {top, -top}


def test_errors_are_those_of_refused_updates() -> None:
    assert issubclass(PayloadError, RefusedUpdateError)


LARGE = layout_of([((1000, 400), 1, "weight"), ((400,), None, "bias")])
BOMB = raw_deflate(bytes(100 << 20))


@pytest.mark.parametrize("name", ["float16", "int8", "int4", "topk-0.3"])
def test_a_bomb_takes_no_more_memory_than_an_honest_payload(name: str) -> None:
    plan = plan_of(LARGE, not name.startswith("topk"))
    head = b"" if name == "float16" else floats(*[1.0] * plan.scales)
    if name == "topk-0.3":
        head += (120_000).to_bytes(4, "little")
    payload = head + block(BOMB)
    assert len(payload) < bound(name, LARGE)
    tracemalloc.start()
    with pytest.raises(PayloadError, match="decompresses to more than"):
        decode(name, payload, LARGE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LARGE.size + 4 * bound(name, LARGE)


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_that_is_too_long_takes_no_memory(name: str) -> None:
    payload = bytes(bound(name, LARGE) + 1)
    tracemalloc.start()
    with pytest.raises(PayloadError, match="gives at most"):
        decode(name, payload, LARGE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000


@given(
    st.binary(max_size=400) | st.builds(lambda byte, count: byte * count, st.binary(max_size=2), st.integers(0, 3000))
)
def test_blocks_are_read_as_they_were_written(content: bytes) -> None:
    packed = deflate(content)
    assert len(packed) <= len(content) + OVERHEAD
    reader = Reader(memoryview(packed))
    assert bytes(inflate(reader, len(content), "block")) == content
    reader.end()


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_block_has_the_length_that_is_asked_for_or_is_refused(packed: bytes, size: int) -> None:
    try:
        content = inflate(Reader(memoryview(block(packed))), size, "block")
    except PayloadError:
        return
    assert len(content) == size
