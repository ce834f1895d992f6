"""Distances between updates, from one matrix of their products.

The products are a BLAS's, the fastest that there is: n * n * p / 2 multiplications. A BLAS sums in an order that
depends on the processor and on its threads, and a choice between updates must not. So each update is rounded to
integers of BITS bits, times a power of two, and the products of a block of them are summed in float64 without any
rounding: whatever the order, the sum is the same integer. What that changes in a distance is the rounding to BITS bits
of the update's largest value, less than choices between updates can hang on.

numpy's BLAS wakes a thread for each core, and they spin; on a board that trains on the same cores, set
OPENBLAS_NUM_THREADS=1 before numpy is loaded, as the daemon does. It does not change the result.

Source of the idea: Ozaki et al., "Error-free transformations of matrix multiplication by using fast routines of matrix
multiplication and its applications", Numerical Algorithms 59, 2012.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aggregator_core.updates import F32, F64, refuse_non_finite

#: Integers are from -2**BITS to 2**BITS; COLUMNS_MAX products of two sum to no more than 2**53, exact in float64.
BITS = 20
COLUMNS_MIN, COLUMNS_MAX = 1_024, 8_192
#: Integers that are held at a time, if COLUMNS_MIN permits; 8 bytes each, and 4 for float32.
VALUES = 524_288
#: The largest power of two of float32, less one; what is smaller than its inverse is zero here.
SHIFT_MAX = 126


def gram(rows: Sequence[F32]) -> F64:
    """Products of each two rows.

    Args:
        rows: n arrays of shape (p,), float32; not modified.

    Returns:
        Shape (n, n), float64, symmetric.

    Raises:
        RefusedUpdateError: A value is not finite.
    """
    n, size = len(rows), rows[0].size
    # Not int64: of that, ldexp knows nothing on 32-bit boards.
    shifts = np.array([_shift(row) for row in rows], np.intc)
    factors = np.ldexp(np.float32(1), shifts)
    total = np.zeros((n, n), np.float64)
    width = min(size, max(COLUMNS_MIN, min(COLUMNS_MAX, VALUES // n)))
    integers, scaled = np.empty((n, width), np.float64), np.empty((n, width), np.float32)
    for start in range(0, size, width):
        stop = min(start + width, size)
        block, parts = integers[:, : stop - start], scaled[:, : stop - start]
        for row, factor, part in zip(rows, factors, parts, strict=True):
            np.multiply(row[start:stop], factor, out=part)
        np.rint(parts, out=parts)
        np.copyto(block, parts)
        total += block @ block.T
    units = np.ldexp(1.0, -shifts)
    # Times powers of two: nothing is rounded.
    product: F64 = total * units[:, None] * units
    return product


def _shift(row: F32) -> int:
    """The power of two that brings the largest magnitude to at most 2**BITS; raises RefusedUpdateError."""
    low, high = float(row.min()), float(row.max())
    if not (-np.inf < low and high < np.inf):
        refuse_non_finite([row])
    return min(SHIFT_MAX, BITS - int(np.frexp(max(-low, high))[1]))


def squared_distances(products: F64) -> F64:
    """Squared Euclidean distances between each two rows, from `gram`; shape (n, n), float64, zero on the diagonal."""
    norms = np.diagonal(products)
    distances: F64 = np.maximum(norms[:, None] + norms - 2 * products, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances
