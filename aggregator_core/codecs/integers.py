"""Integers of eight or four bits with one scale a channel.

A payload is the exact tensors, the channels' peaks as float32, and one block of the integers: a byte each, or two in a
byte, the first in its low half, as 1 to 15 (0 fills the last byte up).
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
I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]

#: Added to an integer of four bits.
NIBBLE_ZERO = np.int8(8)


class Integers:
    """The codec of integers of `bits` bits, 8 or 4, from -(2**(bits - 1) - 1) up."""

    def __init__(self, bits: int) -> None:
        assert bits in (4, 8)
        self._bits = bits
        self._levels = 2 ** (bits - 1) - 1

    def encode(self, change: F32, layout: Layout, rng: random.Random | None) -> bytes:
        """See `registry.Codec`."""
        plan = plan_of(layout)
        integers = np.empty(plan.coded_size, np.int8)
        scales = []
        place = 0
        for part in plan.parts:
            peaks = flushed(part.peaks(change))
            scales.append(peaks.astype("<f4", copy=False).tobytes())
            for start, stop in part.blocks():
                values = change[part.offset + start : part.offset + stop]
                integers[place : place + stop - start] = quantize(
                    values, peaks[part.channel_of(start, stop)], self._levels, rng
                )
                place += stop - start
        packed = integers.view(np.uint8) if self._bits == 8 else pack_nibbles(integers)
        return exact_bytes(plan, change) + b"".join(scales) + deflate(packed.tobytes())

    def decode(self, payload: memoryview, layout: Layout) -> F32:
        """See `registry.Codec`."""
        plan = plan_of(layout)
        vector = np.empty(layout.size, np.float32)
        reader = Reader(payload)
        reader.exact(plan, vector)
        peaks = reader.floats(plan.scales, "scales")
        check_peaks(peaks)
        packed = np.frombuffer(inflate(reader, self._packed_size(plan), "integers"), np.uint8)
        reader.end()
        integers = packed.view(np.int8) if self._bits == 8 else unpack_nibbles(packed, plan.coded_size)
        place = channel = 0
        for part in plan.parts:
            for start, stop in part.blocks():
                vector[part.offset + start : part.offset + stop] = dequantize(
                    integers[place : place + stop - start], peaks[channel + part.channel_of(start, stop)], self._levels
                )
                place += stop - start
            channel += part.channels
        return vector

    def bound(self, layout: Layout) -> int:
        """See `registry.Codec`."""
        plan = plan_of(layout)
        return 4 * (plan.exact_size + plan.scales) + OVERHEAD + self._packed_size(plan)

    def _packed_size(self, plan: Plan) -> int:
        return (plan.coded_size * self._bits + 7) // 8


def pack_nibbles(integers: I8) -> U8:
    """Two integers from -7 to 7 in a byte; shape (n,) gives (ceil(n / 2),)."""
    signed = np.zeros(integers.size + integers.size % 2, np.int8)
    signed[: integers.size] = integers + NIBBLE_ZERO
    codes: U8 = signed.view(np.uint8)
    packed: U8 = codes[0::2] | (codes[1::2] << np.uint8(4))
    return packed


def unpack_nibbles(packed: U8, size: int) -> I8:
    """The opposite of `pack_nibbles`.

    Args:
        packed: Shape (ceil(size / 2),).
        size: Number of integers.

    Raises:
        PayloadError: The half byte after the last integer is not zero.
    """
    codes = np.empty(2 * packed.size, np.int8)
    codes[0::2] = packed & 15
    codes[1::2] = packed >> 4
    if codes[size:].any():
        raise PayloadError(f"the half byte after the last integer is {codes[-1]}, not 0")
    integers: I8 = codes[:size] - NIBBLE_ZERO
    return integers
