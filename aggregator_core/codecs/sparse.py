"""The largest values alone: top-k sparsification, to be used with error feedback.

Source: Aji and Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017 (arXiv:1704.05021).

A payload is the exact tensors, one peak a tensor as float32, the number of values, and two blocks: the gaps between
their indices, and the values as integers of eight bits. A gap is the number of values left out before one, in as few
bytes as any gap of this layout needs, in planes from the low to the high, which is mostly zero.
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from aggregator_core.codecs.entropy import OVERHEAD, deflate, inflate
from aggregator_core.codecs.errors import PayloadError
from aggregator_core.codecs.plan import Plan, plan_of
from aggregator_core.codecs.reader import Reader, exact_bytes
from aggregator_core.codecs.rounding import check_peaks, dequantize, flushed, quantize
from aggregator_core.layout import Layout

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

LEVELS = 127


class TopK:
    """The codec that keeps a fraction of the values, rounded up to whole ones.

    Args:
        numerator: Of the fraction.
        denominator: Of the fraction, which is above 0 and at most 1.
    """

    def __init__(self, numerator: int, denominator: int) -> None:
        assert 0 < numerator <= denominator
        self._numerator, self._denominator = numerator, denominator

    def encode(self, change: F32, layout: Layout, rng: random.Random | None) -> bytes:
        """See `registry.Codec`."""
        plan = plan_of(layout, per_channel=False)
        peaks = flushed(np.array([part.peaks(change)[0] for part in plan.parts], np.float32))
        coded = _gather(plan, change)
        indices = largest(coded, self._count(plan))
        integers = quantize(coded[indices], peaks[_part_of(plan, indices)], LEVELS, rng)
        # What is zero after rounding need not be said.
        indices, integers = indices[integers != 0], integers[integers != 0]
        return b"".join(
            (
                exact_bytes(plan, change),
                peaks.astype("<f4", copy=False).tobytes(),
                len(indices).to_bytes(4, "little"),
                deflate(pack_indices(indices, _width(plan)).tobytes()),
                deflate(integers.tobytes()),
            )
        )

    def decode(self, payload: memoryview, layout: Layout) -> F32:
        """See `registry.Codec`."""
        plan = plan_of(layout, per_channel=False)
        vector = np.zeros(layout.size, np.float32)
        reader = Reader(payload)
        reader.exact(plan, vector)
        peaks = reader.floats(plan.scales, "scales")
        check_peaks(peaks)
        count = reader.count(self._count(plan), "number of values")
        width = _width(plan)
        planes = np.frombuffer(inflate(reader, count * width, "gaps"), np.uint8)
        indices = unpack_indices(planes, count, width, plan.coded_size)
        integers = np.frombuffer(inflate(reader, count, "integers"), np.int8)
        reader.end()
        if not integers.all():
            raise PayloadError("an integer is 0, which is not sent")
        parts = _part_of(plan, indices)
        values = dequantize(integers, peaks[parts], LEVELS)
        offsets = np.array([part.offset for part in plan.parts], np.int64)
        vector[indices - _starts(plan)[parts] + offsets[parts]] = values
        return vector

    def bound(self, layout: Layout) -> int:
        """See `registry.Codec`."""
        plan = plan_of(layout, per_channel=False)
        return 4 * (plan.exact_size + plan.scales) + 4 + 2 * OVERHEAD + self._count(plan) * (_width(plan) + 1)

    def _count(self, plan: Plan) -> int:
        return -(-plan.coded_size * self._numerator // self._denominator)


def largest(values: F32, count: int) -> I64:
    """Indices of the `count` values of largest magnitude, ascending; of equal ones the first, on every processor.

    Args:
        values: Shape (n,).
        count: At most n.
    """
    if count == values.size:
        return np.arange(count, dtype=np.int64)
    sizes = np.abs(values)
    # Where a partition puts equal values differs from machine to machine; the value at its border does not.
    least = np.partition(sizes, values.size - count)[values.size - count]
    above = np.flatnonzero(sizes > least)
    equal = np.flatnonzero(sizes == least)[: count - above.size]
    return np.sort(np.concatenate((above, equal)).astype(np.int64, copy=False))


def pack_indices(indices: I64, width: int) -> U8:
    """Planes of the gaps of ascending indices, shape (width * n,)."""
    gaps = np.diff(indices, prepend=-1) - 1
    planes: U8 = gaps.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width].T.reshape(-1)
    return planes


def unpack_indices(planes: U8, count: int, width: int, size: int) -> I64:
    """The opposite of `pack_indices`: ascending and different by construction.

    Raises:
        PayloadError: The last index is not below `size`.
    """
    gaps = np.zeros((count, 4), np.uint8)
    gaps[:, :width] = planes.reshape(width, count).T
    # At most 2**31 gaps below 2**32: their sum fits.
    indices: I64 = np.cumsum(gaps.reshape(-1).view("<u4").astype(np.int64) + 1) - 1
    if count and indices[-1] >= size:
        raise PayloadError(f"index {indices[-1]} is beyond the {size} values that are coded")
    return indices


def _gather(plan: Plan, vector: F32) -> F32:
    """The values of all parts, one after another."""
    coded = np.empty(plan.coded_size, np.float32)
    for part, start in zip(plan.parts, _starts(plan), strict=True):
        coded[start : start + part.size] = vector[part.offset : part.offset + part.size]
    return coded


def _starts(plan: Plan) -> I64:
    """Where each part begins among the coded values, shape (parts,)."""
    sizes = np.array([part.size for part in plan.parts], np.int64)
    return np.cumsum(sizes) - sizes


def _part_of(plan: Plan, indices: I64) -> I64:
    """The part that each coded value belongs to, shape (n,)."""
    return np.searchsorted(_starts(plan), indices, side="right").astype(np.int64, copy=False) - 1


def _width(plan: Plan) -> int:
    """Bytes that hold any gap: the largest is before the last value."""
    return max(1, (max(plan.coded_size - 1, 0).bit_length() + 7) // 8)
