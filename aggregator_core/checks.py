"""What an update must pass before it comes near the global model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

#: Sums of example counts stay exact in float64.
COUNT_TOTAL_MAX = 2**53
#: Values a block: one float64 block of the sum and one of the product stay in a small board's second-level cache.
BLOCK = 16_384


class RefusedUpdateError(ValueError):
    """An update or its weight is of no use; the message is the reason that its sender is told."""


def l2_norm(vector: npt.NDArray[Any]) -> float:
    """Euclidean norm in float64: squares of large float32 values would overflow in their own type.

    Not a dot product: BLAS wakes a thread for each core, and they spin, on a board that trains on the same cores.
    """
    total = 0.0
    for start in range(0, vector.size, BLOCK):
        total += float(np.square(vector[start : start + BLOCK], dtype=np.float64).sum())
    return math.sqrt(total)


def check_update(vector: npt.NDArray[Any], size: int, norm_max: float | None = None) -> None:
    """Refuse an update that cannot be averaged.

    Args:
        vector: What training changed.
        size: Number of values that the model has.
        norm_max: Largest L2 norm; None: no bound.

    Raises:
        RefusedUpdateError: Other dtype than float32, other shape than (size,), a value that is not finite, or a norm
            above `norm_max`.
    """
    if vector.dtype != np.float32:
        raise RefusedUpdateError(f"values are {vector.dtype}, not float32")
    if vector.shape != (size,):
        raise RefusedUpdateError(f"shape is {list(vector.shape)}, the model's is [{size}]")
    finite = np.isfinite(vector)
    if not finite.all():
        raise RefusedUpdateError(f"{size - int(np.count_nonzero(finite))} of {size} values are not finite")
    if norm_max is not None:
        norm = l2_norm(vector)
        if norm > norm_max:
            raise RefusedUpdateError(f"L2 norm {norm:.6g} is above the bound {norm_max:.6g}")


def check_counts(counts: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Example counts as int64, shape (n,).

    Raises:
        RefusedUpdateError: None at all, one that is not a positive integer, or a total beyond 2**53.
    """
    if len(counts) == 0:
        raise RefusedUpdateError("there is no update to average")
    exact = []
    for count in counts:
        if isinstance(count, bool | np.bool_) or not isinstance(count, int | np.integer) or count < 1:
            raise RefusedUpdateError(f"example count {count!r} is not a positive integer")
        exact.append(int(count))
    if sum(exact) > COUNT_TOTAL_MAX:
        raise RefusedUpdateError(f"example counts sum to {sum(exact)}, more than 2**53")
    return np.array(exact, np.int64)
