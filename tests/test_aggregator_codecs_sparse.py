"""Top-k: the same values as by sorting, and indices that come back as they were."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_aggregator_codecs import layout_of, noise

from aggregator_core.codecs import PayloadError, decode, encode
from aggregator_core.codecs.sparse import largest, pack_indices, unpack_indices


@given(hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(-3, 3, width=16)), st.data())
def test_the_largest_are_those_of_sorting_and_of_equal_ones_the_first(values: np.ndarray, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, values.size))
    if count == 0 and values.size:
        return
    order = sorted(range(values.size), key=lambda index: (-abs(float(values[index])), index))
    assert largest(values, count).tolist() == sorted(order[:count])


def test_equal_values_are_kept_from_the_front_however_many() -> None:
    values = np.full(100_000, -0.5, np.float32)
    values[[7, 99_999]] = 1.0
    assert largest(values, 1000).tolist() == [*range(999), 99_999]


@given(st.data(), st.integers(1, 70_000))
def test_indices_are_unpacked_as_they_were_packed(data: st.DataObject, size: int) -> None:
    indices = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=40))), np.int64)
    width = max(1, ((size - 1).bit_length() + 7) // 8)
    planes = pack_indices(indices, width)
    gaps, last = [], -1
    for index in indices.tolist():
        gaps.append(index - last - 1)
        last = index
    expected = [gap >> (8 * plane) & 255 for plane in range(width) for gap in gaps]
    assert planes.tolist() == expected
    np.testing.assert_array_equal(unpack_indices(planes, indices.size, width, size), indices)


@given(st.binary(min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 100_000))
def test_any_gaps_give_ascending_indices_or_are_refused(gaps: bytes, width: int, size: int) -> None:
    count = len(gaps) // width
    planes = np.frombuffer(gaps[: count * width], np.uint8)
    last = sum(int.from_bytes(bytes(planes[place::count].tolist()), "little") + 1 for place in range(count)) - 1
    if count and last >= size:
        with pytest.raises(PayloadError, match=f"index {last} is beyond the {size} values"):
            unpack_indices(planes, count, width, size)
        return
    indices = unpack_indices(planes, count, width, size)
    assert indices.size == count
    assert (np.diff(indices, prepend=-1) > 0).all()
    assert (indices < size).all()


def test_the_largest_gaps_do_not_overflow() -> None:
    planes = np.full(4 * 1000, 255, np.uint8)
    with pytest.raises(PayloadError, match=f"index {1000 * 2**32 - 1} is beyond"):
        unpack_indices(planes, 1000, 4, 2**31 - 1)


@pytest.mark.parametrize(("name", "kept"), [("topk-0.01", 21), ("topk-0.5", 1036), ("topk-0.000001", 1)])
def test_a_fraction_is_rounded_up_over_all_tensors(name: str, kept: int) -> None:
    layout = layout_of([((100, 20), 1, "weight"), ((72,), None, "bias"), ((2,), None, "state")])
    change = noise(layout, 4)
    found = decode(name, encode(name, change, layout, random.Random(1)), layout)[:2072]
    expected = largest(change[:2072], kept)
    chosen = set(np.flatnonzero(found).tolist())
    # Of the values that are kept, those that round to zero are left out.
    assert chosen <= set(expected.tolist())
    peaks = [np.abs(change[:2000]).max(), np.abs(change[2000:2072]).max()]
    for index in set(expected.tolist()) - chosen:
        assert abs(change[index]) < peaks[index >= 2000] / 127
    for index in chosen:
        assert abs(found[index] - change[index]) < peaks[index >= 2000] / 127


def test_values_of_each_tensor_come_back_to_their_own_place() -> None:
    layout = layout_of(
        [
            ((70,), None, "bias"),
            ((8,), None, "bias"),
            ((80,), None, "weight"),
            ((9,), None, "weight"),
            ((90,), None, "bias"),
        ]
    )
    change = np.zeros(layout.size, np.float32)
    places = (0, 69, 78, 157, 167, 256)
    change[list(places)] = (1, -2, 3, -4, 5, -6)
    found = decode("topk-0.025", encode("topk-0.025", change, layout), layout)
    assert np.flatnonzero(found).tolist() == list(places)
    # Each tensor has its own scale, and its peak is exact.
    assert found[[69, 157, 256]].tolist() == [-2, -4, -6]
    np.testing.assert_allclose(found, change, atol=6 / 127 / 2)
