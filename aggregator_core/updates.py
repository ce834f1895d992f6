"""The updates of a round as rows, and the refusal of those that cannot be aggregated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aggregator_core.checks import RefusedUpdateError, check_counts, check_update

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
#: Updates of a round, shape (n, p), or n arrays of shape (p,); float32.
Updates = F32 | Sequence[F32]
#: Examples of each update, n positive integers.
Counts = Sequence[int] | npt.NDArray[np.int64]


def rows_of(updates: Updates, counts: Counts) -> tuple[list[F32], I64]:
    """Each update as an array of its own, and their counts; to look at every value would cost as much as their sum.

    Args:
        updates: Shape (n, p), or n arrays of shape (p,); float32. They are not copied.
        counts: n positive integers.

    Returns:
        n arrays of shape (p,), and the counts, shape (n,), int64.

    Raises:
        RefusedUpdateError: No updates, counts that do not fit, or shapes or dtypes that differ.
    """
    exact = check_counts(counts)
    if len(updates) != len(exact):
        raise RefusedUpdateError(f"{len(updates)} updates but {len(exact)} example counts")
    rows = list(updates)
    for row in rows:
        if row.dtype != np.float32:
            raise RefusedUpdateError(f"values are {row.dtype}, not float32")
        if row.ndim != 1 or row.shape != rows[0].shape:
            raise RefusedUpdateError(f"shape is {list(row.shape)}, the first update's is {list(rows[0].shape)}")
    return rows, exact


def refuse_non_finite(rows: Sequence[F32]) -> None:
    """Look at every value.

    Args:
        rows: Arrays of shape (p,), float32.

    Raises:
        RefusedUpdateError: A value is not finite.
    """
    for row in rows:
        check_update(row, row.size)
