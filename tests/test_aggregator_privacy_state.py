"""What noise has made of a model's state is a state again, and nothing else is touched."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator_core import Layout, LayoutError, Tensor
from aggregator_core.privacy_state import possible

LAYOUT = Layout(
    (
        Tensor("moving_variance", (2,), 0),
        Tensor("a/range", (2,), 2, kind="bias"),
        Tensor("a/moving_mean", (2,), 4, kind="state"),
        Tensor("a/moving_variance", (2,), 6, kind="state"),
        Tensor("a_range/range", (2,), 8, kind="state"),
        Tensor("b_range/range", (3,), 10, kind="state"),
        Tensor("range", (2,), 13, kind="state"),
    )
)
VALUES = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=15, max_size=15)


@given(VALUES)
def test_variances_and_ranges_are_ones_and_the_rest_stays(values: list[float]) -> None:
    vector = np.array(values, np.float32)
    vector.flags.writeable = False
    wanted = list(values)
    for index in (6, 7, 9, 14):
        wanted[index] = max(values[index], 0.0)
    for index in (8, 13):
        wanted[index] = min(values[index], 0.0)
    result = possible(vector, LAYOUT)
    assert result.tolist() == wanted
    assert all(math.copysign(1, result[index]) == math.copysign(1, values[index]) for index in (0, 1, 2, 3, 4, 5, 10))
    assert possible(result, LAYOUT).tobytes() == result.tobytes()
    assert not np.shares_memory(result, vector)


def test_a_vector_of_another_model_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"vector is float32\[14\], the layout needs float32\[15\]"):
        possible(np.zeros(14, np.float32), LAYOUT)
