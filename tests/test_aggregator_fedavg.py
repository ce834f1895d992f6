"""The mean: properties on random updates, and equality with the slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator_core import RefusedUpdateError, StreamingMean, fedavg, reference, weighted_mean

VALUES = st.floats(-1e6, 1e6, width=32)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """Clients that differ in value and in weight: equal ones would hide a weighting error."""
    n = draw(st.integers(1, 9))
    p = draw(st.integers(1, 40))
    updates = draw(hnp.arrays(np.float32, (n, p), elements=VALUES))
    counts = draw(st.lists(st.integers(1, 10_000), min_size=n, max_size=n, unique=True))
    return updates, counts


def close(a: np.ndarray, b: np.ndarray, scale: float) -> None:
    np.testing.assert_allclose(a, b, rtol=2e-7, atol=scale * 1e-7 + 1e-37)


@given(rounds())
def test_equals_the_slow_reference(it: tuple[np.ndarray, list[int]]) -> None:
    updates, counts = it
    expected = np.array(reference.weighted_mean(updates.tolist(), counts), np.float32)
    close(weighted_mean(updates, counts), expected, float(np.abs(updates).max()))


@given(rounds(), st.randoms(use_true_random=False))
def test_order_of_clients_does_not_matter(it, random) -> None:
    updates, counts = it
    order = list(range(len(counts)))
    random.shuffle(order)
    shuffled = weighted_mean(updates[order], [counts[i] for i in order])
    close(shuffled, weighted_mean(updates, counts), float(np.abs(updates).max()))


@given(rounds())
def test_stays_between_the_smallest_and_the_largest(it) -> None:
    updates, counts = it
    mean = weighted_mean(updates, counts)
    slack = np.abs(updates).max() * 1e-6
    assert (mean >= updates.min(0) - slack).all()
    assert (mean <= updates.max(0) + slack).all()


@given(rounds(), st.integers(2, 1000))
def test_scaling_all_counts_changes_nothing(it, factor: int) -> None:
    updates, counts = it
    scaled = weighted_mean(updates, [count * factor for count in counts])
    close(scaled, weighted_mean(updates, counts), float(np.abs(updates).max()))


@given(rounds())
def test_one_client_is_identity(it) -> None:
    updates, counts = it
    np.testing.assert_array_equal(weighted_mean(updates[:1], counts[:1]), updates[0])


@given(rounds())
def test_a_client_in_two_equal_halves_changes_nothing(it) -> None:
    updates, counts = it
    doubled = [2 * count for count in counts]
    halves = weighted_mean([*updates, updates[0]], [counts[0], *doubled[1:], counts[0]])
    close(halves, weighted_mean(updates, doubled), float(np.abs(updates).max()))


@given(rounds())
def test_inputs_are_not_modified(it) -> None:
    updates, counts = it
    before = updates.copy()
    updates.flags.writeable = False
    weighted_mean(updates, counts)
    np.testing.assert_array_equal(updates, before)


@given(rounds())
def test_streaming_gives_the_same_bytes(it) -> None:
    updates, counts = it
    stream = StreamingMean(updates.shape[1])
    for update, count in zip(updates, counts, strict=True):
        stream.add(update, count)
    assert stream.total == sum(counts)
    assert stream.result().tobytes() == weighted_mean(updates, counts).tobytes()


def test_more_values_than_a_block() -> None:
    rng = np.random.default_rng(1)
    updates = rng.normal(size=(5, fedavg.BLOCK * 2 + 7)).astype(np.float32)
    counts = [1, 2, 3, 4, 5]
    expected = np.average(updates.astype(np.float64), axis=0, weights=counts)
    np.testing.assert_allclose(weighted_mean(updates, counts), expected, rtol=1e-6, atol=1e-7)
    stream = StreamingMean(updates.shape[1])
    for update, count in zip(updates, counts, strict=True):
        stream.add(update, count)
    assert stream.result().tobytes() == weighted_mean(updates, counts).tobytes()


ONE = np.ones(3, np.float32)
BAD = {
    "nothing": ([], [], "no update"),
    "zero count": ([ONE], [0], "not a positive integer"),
    "negative count": ([ONE, ONE], [3, -1], "not a positive integer"),
    "fractional count": ([ONE], [1.5], "not a positive integer"),
    "boolean count": ([ONE], [True], "not a positive integer"),
    "counts too large": ([ONE, ONE], [2**53, 1], "more than 2\\*\\*53"),
    "counts missing": ([ONE, ONE], [1], "2 updates but 1"),
    "nan": ([ONE, np.array([1, np.nan, 2], np.float32)], [1, 2], "1 of 3 values are not finite"),
    "infinite": ([np.array([np.inf, 1, -np.inf], np.float32)], [1], "2 of 3 values are not finite"),
    "dtype": ([ONE.astype(np.float64)], [1], "float64, not float32"),
    "shapes differ": ([ONE, np.ones(4, np.float32)], [1, 2], r"shape is \[4\]"),
    "matrix": ([np.ones((2, 2), np.float32)], [1], "shape is"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_averaged_is_refused(name: str) -> None:
    updates, counts, message = BAD[name]
    with pytest.raises(RefusedUpdateError, match=message):
        weighted_mean(updates, counts)


@given(hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_the_peak_is_the_largest_magnitude(update: np.ndarray) -> None:
    if np.isfinite(update).all():
        assert fedavg._peak(update) == max([0.0, *(abs(float(value)) for value in update)])
    else:
        with pytest.raises(RefusedUpdateError, match="not finite"):
            fedavg._peak(update)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, fedavg.PEAK_BLOCK - 1, fedavg.PEAK_BLOCK, -1])
def test_a_stream_sees_a_value_that_is_not_finite_anywhere(bad: float, where: int) -> None:
    update = np.full(fedavg.PEAK_BLOCK * 2 + 3, -3e38, np.float32)
    update[where] = bad
    stream = StreamingMean(update.size)
    with pytest.raises(RefusedUpdateError, match=r"1 of .* values are not finite"):
        stream.add(update, 1)
    assert stream.total == 0


def test_a_refused_update_leaves_the_streaming_mean_as_it_was() -> None:
    stream = StreamingMean(3)
    with pytest.raises(RefusedUpdateError, match="no update"):
        stream.result()
    stream.add(ONE, 2)
    for update, count in ((ONE[:2], 1), (ONE, 0), (ONE * np.nan, 1), (ONE, 2**53)):
        with pytest.raises(RefusedUpdateError):
            stream.add(update, count)
    np.testing.assert_array_equal(stream.result(), ONE)
    with pytest.raises(RefusedUpdateError, match="negative"):
        StreamingMean(-1)
