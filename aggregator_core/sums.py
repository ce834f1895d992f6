"""Weighted sums of updates, block by block: the same bytes on every board, at about the speed of a copy.

Products and sums of up to GROUP updates are float32, the sums of groups are float64: n updates lose no more than GROUP
roundings of float32 each, and conversion, the slow part of a sum in float64, is done once a group. Every step is an
elementwise operation that IEEE 754 defines to the last bit, in the order of the updates. A matrix product or `einsum`
would be up to twice as fast, but their results depend on the processor (fused or separate products, order of partial
sums), and a BLAS wakes a thread for each core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aggregator_core.updates import F32, F64, refuse_non_finite

#: Updates that are summed in float32 before they go to the float64 sum.
GROUP = 16
#: Values a block: what is worked on stays in the second-level cache. It changes no result.
BLOCK = 49_152


def weighted_sum(rows: Sequence[F32], weights: F32, divisor: float = 1.0) -> F32:
    """The sum of weights[i] * rows[i], divided.

    Args:
        rows: n arrays of shape (p,), float32; at least one.
        weights: Shape (n,), float32. A weight of exactly one costs no product.
        divisor: What the sum is divided by, in float64.

    Returns:
        Shape (p,), float32.

    Raises:
        RefusedUpdateError: A value of a row is not finite. It would be seen in the result, so that p values are looked
            at instead of n * p.
    """
    size = rows[0].size
    result = np.empty(size, np.float32)
    width = min(BLOCK, size)
    factors = factors_of(weights)
    total, group, product = np.empty(width, np.float64), np.empty(width, np.float32), np.empty(width, np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            here, partial, scaled = total[: stop - start], group[: stop - start], product[: stop - start]
            here.fill(0.0)
            for first in range(0, len(rows), GROUP):
                for index in range(first, min(first + GROUP, len(rows))):
                    add_scaled(partial, rows[index][start:stop], factors[index], scaled, first=index == first)
                np.add(here, partial, out=here)
            np.divide(here, divisor, out=here)
            result[start:stop] = here
    if not np.isfinite(result).all():
        refuse_non_finite(rows)
        # The values are so large that products or sums have left float32.
        result = (float64_sum(rows, weights.astype(np.float64)) / divisor).astype(np.float32)
    return result


def factors_of(weights: F32) -> list[F32 | None]:
    """Weights as arrays of no dimension, which numpy multiplies by at once; None: one, which needs no product."""
    return [None if weight == 1 else np.array(weight, np.float32) for weight in weights]


def add_scaled(total: F32, row: F32, factor: F32 | None, scaled: F32, *, first: bool = False) -> None:
    """Add a row times a factor of `factors_of` to a sum.

    Args:
        total: Shape (b,), float32.
        row: Shape (b,), float32; not modified.
        factor: As from `factors_of`.
        scaled: Shape (b,), float32, overwritten.
        first: The sum begins with this row; what `total` holds does not count.
    """
    if first and factor is None:
        np.copyto(total, row)
    elif first:
        np.multiply(row, factor, total)  # type: ignore[arg-type]
    elif factor is None:
        np.add(total, row, total)
    else:
        np.multiply(row, factor, scaled)
        np.add(total, scaled, total)


def float64_sum(rows: Sequence[F32], weights: F64) -> F64:
    """The sum of weights[i] * rows[i] in float64 alone, for values whose products would leave float32; shape (p,)."""
    total = np.zeros(rows[0].size, np.float64)
    for start in range(0, total.size, BLOCK):
        here = total[start : start + BLOCK]
        for row, weight in zip(rows, weights, strict=True):
            here += np.multiply(row[start : start + BLOCK], weight, dtype=np.float64)
    return total


def weighted_average(rows: Sequence[F32], weights: F64, unit: float | None = None) -> F32:
    """The mean of finite updates, weighted by anything positive.

    Args:
        rows: n arrays of shape (p,), float32; at least one.
        weights: Shape (n,), float64, positive, finite. They need not sum to one.
        unit: The weight that costs no product; None: the first. So a single update comes out as it went in, and updates
            of one weight are summed at once.

    Returns:
        Shape (p,), float32.

    Raises:
        RefusedUpdateError: A value is not finite.
    """
    relative = (weights / (weights[0] if unit is None else unit)).astype(np.float32)
    return weighted_sum(rows, relative, float(relative.sum(dtype=np.float64)))
