"""Sums and products: exact where they say so, and as near to float64 as they say."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator_core import RefusedUpdateError, StreamingMean, distances, sums, weighted_mean
from aggregator_core.distances import gram, squared_distances


@pytest.mark.parametrize("n", [1, 2, sums.GROUP - 1, sums.GROUP, sums.GROUP + 1, 2 * sums.GROUP, 257])
def test_sums_are_as_near_to_float64_as_a_group_permits(n: int) -> None:
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, 1000)).astype(np.float32)
    weights = rng.uniform(1, 1000, size=n)
    exact = np.average(rows.astype(np.float64), axis=0, weights=weights)
    bound = (sums.GROUP + 2) * 2.0**-24 * np.average(np.abs(rows), axis=0, weights=weights)
    assert (np.abs(sums.weighted_average(list(rows), weights) - exact) <= bound).all()


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_block_changes_no_byte(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = list(rng.normal(size=(2 * sums.GROUP + 5, 501)).astype(np.float32))
    weights = rng.uniform(1, 9, size=len(rows))
    whole = sums.weighted_average(rows, weights)
    monkeypatch.setattr(sums, "BLOCK", block)
    assert sums.weighted_average(rows, weights).tobytes() == whole.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [0, 1, 15, 16, 17, 1000])
def test_every_row_of_working_memory_begins_with_a_cache_line(width: int, dtype: type[np.floating]) -> None:
    rows = sums.aligned_rows(3, width, dtype)
    assert rows.shape == (3, width)
    assert rows.dtype == dtype
    rows[:] = np.arange(3)[:, None]
    np.testing.assert_array_equal(rows.sum(1), np.arange(3) * width)
    assert [row.ctypes.data % sums.LINE for row in rows if width] == [0] * (3 if width else 0)


@pytest.mark.parametrize("n", [1, 2, sums.GROUP + 1])
def test_no_sum_is_a_negative_zero(n: int) -> None:
    """Which of two zeros a network lets pass depends on the processor, so a sum must not show it."""
    rows = np.full((n, 3), -0.0, np.float32)
    stream = StreamingMean(3)
    for row in rows:
        stream.add(row, 2)
    for result in (weighted_mean(rows, [2] * n), stream.result()):
        assert result.tobytes() == bytes(12)


def test_equal_weights_need_no_product_and_give_the_same_bytes() -> None:
    rows = list(np.random.default_rng(1).normal(size=(20, 501)).astype(np.float32))
    by_addition = sums.weighted_sum(rows, np.ones(20, np.float32), 20.0)
    assert sums.factors_of(np.ones(2, np.float32)) == [None, None]
    scaled = sums.weighted_sum(rows, np.full(20, 2, np.float32), 40.0)
    assert by_addition.tobytes() == scaled.tobytes()


def test_what_leaves_float32_is_summed_in_float64() -> None:
    rows = np.full((40, 3), 3e38, np.float32)
    np.testing.assert_array_equal(weighted_mean(rows, [1 + i for i in range(40)]), rows[0])


@pytest.mark.parametrize("n", [1, sums.GROUP, sums.GROUP + 1, 2 * sums.GROUP + 6])
def test_a_stream_gives_the_same_bytes_across_groups(n: int) -> None:
    rng = np.random.default_rng(n)
    size = sums.BLOCK + 9
    rows = rng.normal(size=(n, size)).astype(np.float32)
    counts = rng.integers(1, 1000, size=n).tolist()
    for checked in (False, True):
        stream = StreamingMean(size)
        for row, count in zip(rows, counts, strict=True):
            stream.add(row, count, checked=checked)
        assert stream.result().tobytes() == weighted_mean(rows, counts).tobytes()
        assert stream.result().tobytes() == weighted_mean(rows, counts).tobytes(), "a result may be asked for again"


def test_a_stream_refuses_what_would_leave_float32_and_stays_as_it_was() -> None:
    stream = StreamingMean(2)
    stream.add(np.ones(2, np.float32), 1)
    with pytest.raises(RefusedUpdateError, match=r"a value of 3e\+38 is too large"):
        stream.add(np.full(2, -3e38, np.float32), 1)
    np.testing.assert_array_equal(stream.result(), [1, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_stream_that_was_told_wrong_refuses_in_the_end(bad: float) -> None:
    stream = StreamingMean(2)
    stream.add(np.array([1, bad], np.float32), 1, checked=True)
    with pytest.raises(RefusedUpdateError, match="1 of 2 values are not finite"):
        stream.result()


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1.0, 1e30])
def test_products_are_those_of_float64(scale: float) -> None:
    rows = np.random.default_rng(3).normal(size=(9, 20_011)).astype(np.float32) * np.float32(scale)
    wide = rows.astype(np.float64)
    expected = wide @ wide.T
    slack = 1e-5 if scale > 1e-30 else 1e-2
    np.testing.assert_allclose(gram(list(rows)), expected, rtol=slack, atol=slack * expected.max())


def test_products_are_the_same_integers_whatever_the_order() -> None:
    """Columns in another order make a BLAS sum in another order: what was rounded anywhere would differ."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(17, distances.COLUMNS_MAX)).astype(np.float32)
    order = rng.permutation(rows.shape[1])
    first = gram(list(rows))
    assert gram(list(np.ascontiguousarray(rows[:, order]))).tobytes() == first.tobytes()
    np.testing.assert_array_equal(first, first.T)
    exponents = np.frexp(np.abs(rows).max(1))[1]
    scales = [2.0 ** (distances.BITS - int(exponent)) for exponent in exponents]
    integers = [[round(float(v) * scale) for v in row] for row, scale in zip(rows, scales, strict=True)]
    unit = [2.0 ** (int(e) - distances.BITS) for e in exponents]
    for i, j in ((0, 0), (3, 11)):
        exact = sum(a * b for a, b in zip(integers[i], integers[j], strict=True))
        assert first[i, j] == exact * unit[i] * unit[j]


def test_no_sum_of_products_of_a_block_is_rounded() -> None:
    assert distances.COLUMNS_MAX * 2 ** (2 * distances.BITS) <= 2**53
    full = np.full((2, distances.COLUMNS_MAX), 1 - 2.0**-24, np.float32)
    full[1, 0] = -1
    assert gram(list(full))[0, 0] == distances.COLUMNS_MAX


def test_one_large_row_takes_no_precision_from_the_others() -> None:
    rows = np.random.default_rng(5).normal(size=(4, 999)).astype(np.float32)
    alone = squared_distances(gram(list(rows[:3])))
    rows[3] *= np.float32(1e34)
    np.testing.assert_array_equal(squared_distances(gram(list(rows)))[:3, :3], alone)
    expected = [[float(np.sum((a - b).astype(np.float64) ** 2)) for b in rows[:3]] for a in rows[:3]]
    np.testing.assert_allclose(alone, expected, rtol=1e-4)


def test_equal_rows_have_no_distance() -> None:
    row = np.random.default_rng(6).normal(size=999).astype(np.float32)
    np.testing.assert_array_equal(squared_distances(gram([row, row.copy(), row.copy()])), np.zeros((3, 3)))
