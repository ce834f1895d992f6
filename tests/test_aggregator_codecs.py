"""All codecs: what is decoded is near what was encoded, by exact bounds, and the same everywhere."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator_core import Layout, RefusedUpdateError, Tensor
from aggregator_core.codecs import FORMS, CodecNameError, bound, check_name, decode, encode
from aggregator_core.codecs.floats import HALF_END
from aggregator_core.codecs.integers import pack_nibbles, unpack_nibbles
from aggregator_core.codecs.plan import CHANNEL_VALUES_MIN, TINY, plan_of
from aggregator_core.codecs.rounding import PEAK_MIN
from edge_peer.protocol.topics import is_name

NAMES = ("float32", "float16", "int8", "int4", "topk-0.01", "topk-0.3", "topk-1")
LEVELS = {"int8": 127, "int4": 7}
#: Shape, axis and kind: tiny and larger, channels in front, in the middle, at the end, too small, and none.
TRAINED = (
    ((3, 3, 1, 8), 3, "weight"),
    ((8,), None, "bias"),
    ((TINY,), None, "bias"),
    ((TINY + 1,), None, "bias"),
    ((4, 3, 8), 1, "weight"),
    ((9, 16), 0, "weight"),
    ((50, CHANNEL_VALUES_MIN - 1), 0, "weight"),
    ((), None, "weight"),
)
STATE = (((3,), None, "state"), ((100,), None, "state"))


def layout_of(parts: list[tuple[tuple[int, ...], int | None, str]]) -> Layout:
    tensors: list[Tensor] = []
    for index, (shape, axis, kind) in enumerate(parts):
        offset = tensors[-1].offset + tensors[-1].size if tensors else 0
        tensors.append(Tensor(f"t{index}", shape, offset, axis, kind))
    return Layout(tuple(tensors))


WHOLE = layout_of([*TRAINED, *STATE])


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    trained = draw(st.lists(st.sampled_from(TRAINED), min_size=1, max_size=4))
    return layout_of([*trained, *draw(st.lists(st.sampled_from(STATE), max_size=2))])


@st.composite
def changes(draw: st.DrawFn, largest: float = float(np.finfo(np.float32).max)) -> tuple[Layout, np.ndarray]:
    """A layout and values of all magnitudes, many of them the same or zero."""
    layout = draw(layouts())
    scale = draw(st.sampled_from([1.0, 1e-3, 1e-30, 1e-40, largest]))
    top = float(np.float32(min(scale, largest)))
    elements = st.floats(-top, top, width=32)
    return layout, draw(hnp.arrays(np.float32, layout.size, elements=elements, fill=elements))


def noise(layout: Layout, seed: int) -> np.ndarray:
    """Values like those of training, of sums and products alone: the same with every numpy."""
    drawn = np.frombuffer(random.Random(seed).randbytes(8 * layout.size), np.uint8).reshape(-1, 8)
    return ((drawn.astype(np.float32) - 127.5).sum(1) * np.float32(1e-5)).astype(np.float32)


def channel_errors(layout: Layout, change: np.ndarray, found: np.ndarray) -> list[tuple[float, float]]:
    """Of each channel of a rounded tensor the peak and the largest error, found with loops."""
    pairs = []
    for tensor in layout.tensors:
        if tensor.kind == "state" or tensor.size <= TINY:
            continue
        before = change[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape).astype(np.float64)
        after = found[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape).astype(np.float64)
        slices = [np.s_[:]] * len(tensor.shape)
        whole = tensor.axis is None or tensor.size // tensor.shape[tensor.axis] < CHANNEL_VALUES_MIN
        for channel in range(1 if whole else tensor.shape[tensor.axis or 0]):
            if not whole:
                slices[tensor.axis or 0] = channel  # type: ignore[call-overload]
            x, y = before[tuple(slices)], after[tuple(slices)]
            pairs.append((float(np.abs(x).max()), float(np.abs(x - y).max())))
    return pairs


@pytest.mark.parametrize("name", NAMES)
@given(it=changes(largest=65_000.0), seed=st.none() | st.integers(0, 9))
def test_payloads_are_within_their_bound_and_deterministic(name: str, it, seed: int | None) -> None:
    layout, change = it
    before = change.copy()
    payloads = {encode(name, change, layout, None if seed is None else random.Random(seed)) for _ in range(2)}
    assert len(payloads) == 1
    payload = payloads.pop()
    assert len(payload) <= bound(name, layout)
    found = decode(name, payload, layout)
    assert found.dtype == np.float32
    assert found.shape == change.shape
    assert np.isfinite(found).all()
    assert found.flags.writeable
    assert found.flags.owndata
    assert decode(name, memoryview(payload), layout).tobytes() == found.tobytes()
    assert change.tobytes() == before.tobytes()


@pytest.mark.parametrize("name", NAMES)
@given(it=changes(largest=65_000.0), seed=st.none() | st.integers(0, 9))
def test_state_and_tiny_tensors_are_exact(name: str, it, seed: int | None) -> None:
    layout, change = it
    found = decode(name, encode(name, change, layout, None if seed is None else random.Random(seed)), layout)
    for tensor in layout.tensors:
        if tensor.kind == "state" or tensor.size <= TINY:
            part = np.s_[tensor.offset : tensor.offset + tensor.size]
            assert found[part].tobytes() == change[part].tobytes()


@pytest.mark.parametrize("name", NAMES)
@given(it=changes(largest=65_000.0), seeds=st.tuples(*[st.none() | st.integers(0, 9)] * 2))
def test_what_has_been_decoded_stays_as_it_is(name: str, it, seeds: tuple[int | None, int | None]) -> None:
    layout, change = it
    first, second = (None if seed is None else random.Random(seed) for seed in seeds)
    once = decode(name, encode(name, change, layout, first), layout)
    np.testing.assert_array_equal(decode(name, encode(name, once, layout, second), layout), once)


@given(changes())
def test_float32_loses_nothing(it) -> None:
    layout, change = it
    payload = encode("float32", change, layout)
    assert payload == change.astype("<f4").tobytes()
    assert len(payload) == bound("float32", layout)
    assert decode("float32", payload, layout).tobytes() == change.tobytes()


@given(changes(largest=65_519.0))
def test_float16_is_the_nearest_half(it) -> None:
    layout, change = it
    found = decode("float16", encode("float16", change, layout), layout)
    error = np.abs(found.astype(np.float64) - change)
    # Half a step of a fraction of eleven bits, and half of the smallest half there is.
    assert (error <= np.maximum(np.abs(change.astype(np.float64)) * 2.0**-11, 2.0**-25)).all()
    assert (np.signbit(found) == np.signbit(change)).all()


@pytest.mark.parametrize("name", LEVELS)
@given(it=changes(), seed=st.none() | st.integers(0, 9))
def test_integers_are_within_a_step_of_their_channel(name: str, it, seed: int | None) -> None:
    layout, change = it
    found = decode(name, encode(name, change, layout, None if seed is None else random.Random(seed)), layout)
    pairs = channel_errors(layout, change, found)
    assert len(pairs) == plan_of(layout).scales
    for peak, error in pairs:
        if peak < PEAK_MIN:
            assert error == peak
        else:
            steps = 0.5 if seed is None else 1.0
            # The value is rounded to float32 at the end.
            assert error <= peak * (steps / LEVELS[name] + 2.0**-24)


@pytest.mark.parametrize("name", LEVELS)
@given(it=changes(), seed=st.none() | st.integers(0, 9))
def test_the_peaks_of_integers_are_exact(name: str, it, seed: int | None) -> None:
    layout, change = it
    found = decode(name, encode(name, change, layout, None if seed is None else random.Random(seed)), layout)
    for part in plan_of(layout).parts:
        expected = part.peaks(change)
        np.testing.assert_array_equal(part.peaks(found), np.where(expected < PEAK_MIN, 0, expected))


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_stochastic_payloads_are_right_on_the_mean(name: str) -> None:
    change = noise(WHOLE, 1)
    rng = random.Random(2)
    count = 400
    draws = [decode(name, encode(name, change, WHOLE, rng), WHOLE).astype(np.float64) for _ in range(count)]
    error = np.abs(np.mean(draws, 0) - change)
    nearest = np.abs(decode(name, encode(name, change, WHOLE), WHOLE).astype(np.float64) - change)
    plan = plan_of(WHOLE)
    for part in plan.parts:
        values = np.s_[part.offset : part.offset + part.size]
        steps = part.peaks(change)[part.channel_of(0, part.size)].astype(np.float64) / LEVELS[name]
        # Six standard deviations of a mean of `count` draws that are at most a step apart.
        assert (error[values] <= steps * 6 * 0.5 / count**0.5).all()
        assert error[values].mean() < nearest[values].mean() / 4, "rounded to the nearest, the mean would stay off"


@pytest.mark.parametrize("name", NAMES)
def test_draws_come_only_from_the_generator_that_is_given(name: str) -> None:
    change = noise(WHOLE, 1)
    before = random.getstate(), np.random.get_state()[1].tobytes()
    decode(name, encode(name, change, WHOLE, random.Random(1)), WHOLE)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before
    silent, spoken = random.Random(1), random.Random(1)
    encode(name, change, WHOLE, spoken)
    assert (spoken.getstate() == silent.getstate()) == name.startswith("float")


@pytest.mark.parametrize("name", ["float16", "int8", "int4", "topk-0.1"])
@pytest.mark.parametrize("seed", [None, 1])
def test_tensors_of_several_blocks_are_within_a_step(name: str, seed: int | None) -> None:
    layout = layout_of([((301, 131), 1, "weight"), ((40_000,), None, "bias")])
    change = noise(layout, 9)
    found = decode(name, encode(name, change, layout, None if seed is None else random.Random(seed)), layout)
    if name == "topk-0.1":
        kept = found != 0
        assert np.count_nonzero(kept) == 7944
        assert np.abs(found - change)[kept].max() <= np.abs(change).max() / 127
        assert np.abs(change)[~kept].max() <= np.abs(change)[kept].min()
    else:
        levels = {"float16": 2**11, **LEVELS}[name]
        for peak, error in channel_errors(layout, change, found):
            assert error <= peak * (1 / levels + 2.0**-24)


def test_two_draws_differ_and_the_nearest_is_nearer() -> None:
    change = noise(WHOLE, 1)
    one, two = (encode("int4", change, WHOLE, random.Random(seed)) for seed in (1, 2))
    assert one != two
    losses = [np.abs(decode("int4", it, WHOLE) - change).sum() for it in (one, encode("int4", change, WHOLE))]
    assert losses[1] < 0.8 * losses[0]


#: SHA-256 of what is decoded from `noise(WHOLE, 5)` with the generator of seed 7: the same on every processor.
DECODED = {
    "float32": "597bfea8588450d9381139cba1eab69ea26735a940f9cb8dfefb80a7b9707915",
    "float16": "fa49f62dba4b734bea9bf7b1dacb6c44fa42bf03fbfaf9b7dfa9ff8960629acf",
    "int8": "0454b484d22e3436580243437a0c6d9a7dc4f53cbaff7b54a3fc8302dca5cf06",
    "int4": "ce1927fc6c3e84a2e1bfd790fa2493782088e2dfa40764f2b379c90b5bbc2dbb",
    "topk-0.3": "b50618b0e0ec63a2074cd93fee9ae2952fb7dc4b6aeff55edca39615459e836b",
}


@pytest.mark.parametrize("name", DECODED)
def test_the_same_values_come_out_on_every_processor(name: str) -> None:
    payload = encode(name, noise(WHOLE, 5), WHOLE, random.Random(7))
    assert hashlib.sha256(decode(name, payload, WHOLE).astype("<f4").tobytes()).hexdigest() == DECODED[name]


def test_bounds_of_a_known_layout() -> None:
    layout = layout_of([((784, 32), 1, "weight"), ((32,), None, "bias"), ((2,), None, "state")])
    values, exact = 784 * 32, 34
    assert bound("float32", layout) == 4 * (values + exact)
    assert bound("float16", layout) == 4 * exact + 2 * (4 + values)
    assert bound("int8", layout) == 4 * exact + 4 * 32 + 4 + values
    assert bound("int4", layout) == 4 * exact + 4 * 32 + 4 + values // 2
    # One scale, the number of values, two lengths, and three bytes for each value.
    assert bound("topk-0.01", layout) == 4 * exact + 4 + 4 + 8 + 3 * 251


def test_quantized_updates_are_smaller_than_their_integers() -> None:
    layout = layout_of([((784, 32), 1, "weight")])
    change = noise(layout, 3)
    assert len(encode("int8", change, layout, random.Random(1))) < layout.size * 0.95
    assert len(encode("int4", change, layout, random.Random(1))) < layout.size / 2 * 0.85
    assert len(encode("float16", change, layout)) < 2 * layout.size * 0.95
    zeros = np.zeros(layout.size, np.float32)
    for name in ("float16", "int8", "int4", "topk-0.01"):
        assert len(encode(name, zeros, layout)) < 400


def test_a_layout_of_tiny_tensors_is_exact_in_every_codec() -> None:
    layout = layout_of([((2, 3), 1, "weight"), ((3,), None, "bias")])
    change = noise(layout, 1)
    for name in NAMES:
        assert decode(name, encode(name, change, layout, random.Random(1)), layout).tobytes() == change.tobytes()


def test_a_value_beyond_half_precision_is_refused_by_its_tensor() -> None:
    change = noise(WHOLE, 1)
    change[72 + 8 + 64] = -HALF_END
    with pytest.raises(RefusedUpdateError, match=r"t3: a value of magnitude 65520 .* choose codec float32 or int8"):
        encode("float16", change, WHOLE)
    change[72 + 8 + 64] = np.nextafter(np.float32(HALF_END), np.float32(0))
    assert decode("float16", encode("float16", change, WHOLE), WHOLE)[72 + 8 + 64] == 65_504
    # State is exact, so it may be large.
    change[-1] = 1e9
    assert decode("float16", encode("float16", change, WHOLE), WHOLE)[-1] == np.float32(1e9)


@pytest.mark.parametrize("name", NAMES)
def test_changes_of_no_use_are_refused(name: str) -> None:
    change = noise(WHOLE, 1)
    with pytest.raises(RefusedUpdateError, match="float64, not float32"):
        encode(name, change.astype(np.float64), WHOLE)  # type: ignore[arg-type]
    with pytest.raises(RefusedUpdateError, match="shape is"):
        encode(name, change[1:], WHOLE)
    for value in (np.nan, np.inf, -np.inf):
        change[100] = value
        with pytest.raises(RefusedUpdateError, match="not finite"):
            encode(name, change, WHOLE)


@given(hnp.arrays(np.int8, st.integers(0, 50), elements=st.integers(-7, 7)))
def test_nibbles_are_unpacked_as_they_were_packed(integers: np.ndarray) -> None:
    packed = pack_nibbles(integers)
    expected = bytearray((integers.size + 1) // 2)
    for index, integer in enumerate(integers.tolist()):
        expected[index // 2] |= (integer + 8) << (4 * (index % 2))
    assert packed.tobytes() == bytes(expected)
    np.testing.assert_array_equal(unpack_nibbles(packed, integers.size), integers)


def test_names_are_names_of_the_protocol() -> None:
    assert FORMS == ("float32", "float16", "int8", "int4", "topk-<fraction>")
    for name in (*NAMES, "topk-0.000001", "topk-0.999999"):
        check_name(name)
        assert is_name(name)


BAD_NAMES = (
    "",
    "Float32",
    "int8 ",
    "int16",
    "topk",
    "topk-",
    "topk-0",
    "topk-0.0",
    "topk-1.0",
    "topk-2",
    "topk-.5",
    "topk-0.10",
    "topk-00.1",
    "topk-0.0000001",
    "topk-1e-2",
    "topk--1",
    "topk-0.1\n",
    "topk-0.\u0663",
    "x" * 1000,
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_other_names_are_refused_with_those_that_there_are(name: str) -> None:
    for call in (
        lambda: check_name(name),
        lambda: bound(name, WHOLE),
        lambda: encode(name, noise(WHOLE, 1), WHOLE),
        lambda: decode(name, b"", WHOLE),
    ):
        with pytest.raises(CodecNameError, match="not one of float32, float16, int8, int4, topk-<fraction>") as raised:
            call()
        assert len(str(raised.value)) < 400
