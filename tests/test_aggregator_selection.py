"""Networks: they sort every sequence of zeros and ones, and so everything; and what is pruned is what nobody uses."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator_core import median, reference
from aggregator_core.selection import apply, cost, extremes_outward, merge_exchange, prune, sorting, trimming


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


def test_networks_have_the_known_numbers_of_comparators() -> None:
    # Knuth, volume 3, 5.3.4, table of merge exchange.
    assert [len(merge_exchange(n)) for n in (1, 2, 3, 4, 5, 8, 16)] == [0, 1, 3, 5, 9, 19, 63]
    assert cost(prune(merge_exchange(16), range(16))) == 2 * 63
    assert cost(sorting(16, 7, 9)) < 2 * 63
    assert cost(trimming(64, 1)) < cost(sorting(64, 1, 63)) / 4


@pytest.mark.parametrize("n", [3, 16, 33])
def test_sort_and_network_give_the_same_bytes(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(np.random.default_rng(n).normal(size=(n, 20_001)).astype(np.float32).round(1))
    by_network = median.coordinate_median(rows)
    monkeypatch.setattr(median, "NETWORK_COST_MAX", -1)
    assert median.coordinate_median(rows).tobytes() == by_network.tobytes()


def test_zero_has_one_sign() -> None:
    for rows in ([0.0, -0.0, -0.0], [-0.0, -0.0], [-0.0]):
        result = median.coordinate_median([np.array([value], np.float32) for value in rows])
        assert not np.signbit(result).any()
