"""Networks: they sort every sequence of zeros and ones, and so everything; and what is pruned is what nobody uses."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator_core import RefusedUpdateError, median, reference
from aggregator_core.selection import (
    apply,
    cost,
    extremes_outward,
    merge_exchange,
    prune,
    run,
    sorting,
    sorting_ends_and_middle,
    trimming,
)


@pytest.mark.parametrize("n", range(1, 12))
def test_merge_exchange_sorts_everything(n: int) -> None:
    assert all(row == sorted(row) for row in reference.zero_one(merge_exchange(n), n))


@pytest.mark.parametrize("n", range(1, 11))
def test_extremes_come_to_the_ends(n: int) -> None:
    for f in range(n // 2 + 1):
        for row in reference.zero_one(extremes_outward(n, f), n):
            assert row[:f] == sorted(row)[:f]
            assert row[n - f :] == sorted(row)[n - f :]


@pytest.mark.parametrize("n", range(1, 66))
def test_pruned_networks_give_the_wanted_ranks(n: int) -> None:
    columns = np.random.default_rng(n).integers(-9, 9, size=(n, 200)).astype(np.float32)
    columns.flags.writeable = False
    ordered = np.sort(columns, axis=0)
    for first, stop in ((0, n), ((n - 1) // 2, n // 2 + 1), (0, 1), (n - 1, n)):
        rows = list(columns)
        apply(sorting(n, first, stop), rows, list(np.empty((n + 1, 200), np.float32)))
        np.testing.assert_array_equal(rows[first:stop], ordered[first:stop])
    for f in {0, min(1, (n - 1) // 2), (n - 1) // 2}:
        rows = list(columns)
        apply(trimming(n, f), rows, list(np.empty((n + 1, 200), np.float32)))
        np.testing.assert_array_equal(np.sort(rows[f : n - f], axis=0), ordered[f : n - f])
        np.testing.assert_array_equal([rows[0], rows[-1]], ordered[[0, -1]])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 13, 16, 31, 62, 63])
def test_ends_and_middle_are_in_order_and_the_rest_is_not_lost(n: int) -> None:
    columns = np.random.default_rng(n).integers(-9, 9, size=(n, 200)).astype(np.float32)
    columns.flags.writeable = False
    ordered = np.sort(columns, axis=0)
    for k in {0, 1, n // 4, n // 2, n - 1}:
        network = sorting_ends_and_middle(n, k)
        assert cost(network) <= cost(sorting(n, 0, n))
        rows = list(columns)
        apply(network, rows, list(np.empty((n + 1, 200), np.float32)))
        np.testing.assert_array_equal(np.sort(rows, axis=0), ordered)
        for there in (slice(0, k), slice((n - 1) // 2, n // 2 + 1), slice(n - k, n)):
            np.testing.assert_array_equal(np.stack(rows)[there], ordered[there])
    assert n < 62 or cost(sorting_ends_and_middle(n, 2)) < 0.9 * cost(sorting(n, 0, n))


@pytest.mark.parametrize("n", [2, 3, 16, 33])
def test_a_row_is_told_once_when_no_comparator_touches_it_any_more(n: int) -> None:
    columns = np.random.default_rng(n).normal(size=(n, 50)).astype(np.float32)
    for network in (sorting(n, 0, n), trimming(n, 1), trimming(n, (n - 1) // 2)):
        final = list(columns)
        apply(network, final, list(np.empty((n + 1, 50), np.float32)))
        rows = list(columns)
        told = {index: rows[index].copy() for index in run(network, rows, list(np.empty((n + 1, 50), np.float32)))}
        assert sorted(told) == sorted({row for it in network for row in (it.i, it.j)})
        assert sorted(row for it in network for row in it.last) == sorted(told)
        for index, values in told.items():
            np.testing.assert_array_equal(values, final[index])


@pytest.mark.parametrize(("n", "f"), [(1, 0), (4, 0), (3, 1), (16, 1), (17, 3), (16, 7), (64, 1), (33, 16)])
def test_what_passes_a_network_is_summed_while_it_works_on_in_its_memory(n: int, f: int) -> None:
    rows = np.random.default_rng(n).normal(size=(n, median.COLUMNS + 9)).astype(np.float32)
    rows.flags.writeable = False
    exact = np.sort(rows, axis=0)[f : n - f].mean(0, dtype=np.float64)
    np.testing.assert_allclose(median.trimmed_mean(list(rows), f), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cost_max", [-1, median.NETWORK_COST_MAX])
def test_a_trimmed_sum_may_leave_float32(cost_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(median, "NETWORK_COST_MAX", cost_max)
    rows = np.full((9, median.COLUMNS + 9), 3e38, np.float32)
    rows[:, 0] = range(9)
    np.testing.assert_array_equal(median.trimmed_mean(list(rows), 2)[[0, 1, -1]], np.array([4, 3e38, 3e38], np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, -1])
def test_what_is_trimmed_must_be_finite_too(bad: float, column: int) -> None:
    rows = np.random.default_rng(1).normal(size=(9, median.COLUMNS + 9)).astype(np.float32)
    rows[4, column] = bad
    with pytest.raises(RefusedUpdateError, match=r"1 of .* values are not finite"):
        median.trimmed_mean(list(rows), 2)


def test_networks_have_the_known_numbers_of_comparators() -> None:
    # Knuth, volume 3, 5.3.4, table of merge exchange.
    assert [len(merge_exchange(n)) for n in (1, 2, 3, 4, 5, 8, 16)] == [0, 1, 3, 5, 9, 19, 63]
    assert cost(prune(merge_exchange(16), range(16))) == 2 * 63
    assert cost(sorting(16, 7, 9)) < 2 * 63
    assert cost(trimming(64, 1)) < cost(sorting(64, 1, 63)) / 4


@pytest.mark.parametrize("n", [3, 16, 33])
def test_sort_and_network_give_the_same_bytes(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(np.random.default_rng(n).normal(size=(n, median.COLUMNS + 9)).astype(np.float32).round(1))
    by_network = median.coordinate_median(rows)
    monkeypatch.setattr(median, "NETWORK_COST_MAX", -1)
    assert median.coordinate_median(rows).tobytes() == by_network.tobytes()


def test_zero_has_one_sign() -> None:
    for rows in ([0.0, -0.0, -0.0], [-0.0, -0.0], [-0.0]):
        result = median.coordinate_median([np.array([value], np.float32) for value in rows])
        assert not np.signbit(result).any()
