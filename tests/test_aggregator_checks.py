"""Guards: what is refused, and that the reason says why."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator_core import RefusedUpdateError, check_counts, check_update, l2_norm


def test_norm_does_not_overflow_in_float32() -> None:
    assert l2_norm(np.full(4, 3e38, np.float32)) == pytest.approx(6e38, rel=1e-6)


def test_norm_bound() -> None:
    vector = np.array([3, 4], np.float32)
    check_update(vector, 2, norm_max=5.0)
    with pytest.raises(RefusedUpdateError, match=r"norm 5 is above the bound 4\.9"):
        check_update(vector, 2, norm_max=4.9)


def test_counts_keep_their_values() -> None:
    np.testing.assert_array_equal(check_counts(np.array([3, 1])), [3, 1])
    np.testing.assert_array_equal(check_counts([2**40]), [2**40])
