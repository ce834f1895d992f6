"""Floating point: float32 as it is, and half precision in two planes of bytes.

Sign, exponent and two bits of the fraction of a half make one byte, and the other eight bits of the fraction the other.
The first are few and frequent, the second random: apart, zlib finds the one and leaves the other.
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from aggregator_core.checks import RefusedUpdateError
from aggregator_core.codecs.entropy import OVERHEAD, deflate, inflate
from aggregator_core.codecs.plan import plan_of
from aggregator_core.codecs.reader import Reader, check_finite, exact_bytes
from aggregator_core.layout import Layout

F32 = npt.NDArray[np.float32]

#: What rounds to infinity in half precision: the largest half and half a step (IEEE 754-2019, section 4.3.1).
HALF_END = 65_520.0


class Float32:
    """Little-endian float32."""

    def encode(self, change: F32, layout: Layout, rng: random.Random | None) -> bytes:  # noqa: ARG002 - exact
        """See `registry.Codec`."""
        return change.astype("<f4", copy=False).tobytes()

    def decode(self, payload: memoryview, layout: Layout) -> F32:
        """See `registry.Codec`."""
        reader = Reader(payload)
        # A copy: the payload need not be held as long as the values.
        values: F32 = reader.floats(layout.size, "update").copy()
        reader.end()
        return values

    def bound(self, layout: Layout) -> int:
        """See `registry.Codec`."""
        return 4 * layout.size


class Float16:
    """Half precision, to the nearest."""

    def encode(self, change: F32, layout: Layout, rng: random.Random | None) -> bytes:  # noqa: ARG002 - deterministic
        """See `registry.Codec`; raises RefusedUpdateError for a value beyond half precision."""
        plan = plan_of(layout)
        halves = np.empty(plan.coded_size, "<f2")
        place = 0
        for part in plan.parts:
            values = change[part.offset : part.offset + part.size]
            peak = float(part.peaks(change).max())
            if peak >= HALF_END:
                raise RefusedUpdateError(
                    f"{part.name}: a value of magnitude {peak:.6g} does not fit float16, whose largest is 65504; "
                    "choose codec float32 or int8"
                )
            halves[place : place + part.size] = values
            place += part.size
        planes = halves.view(np.uint8).reshape(-1, 2)
        return exact_bytes(plan, change) + b"".join(deflate(planes[:, byte].tobytes()) for byte in (0, 1))

    def decode(self, payload: memoryview, layout: Layout) -> F32:
        """See `registry.Codec`."""
        plan = plan_of(layout)
        vector = np.empty(layout.size, np.float32)
        reader = Reader(payload)
        reader.exact(plan, vector)
        planes = np.empty((plan.coded_size, 2), np.uint8)
        for byte, what in enumerate(("low bytes", "high bytes")):
            planes[:, byte] = np.frombuffer(inflate(reader, plan.coded_size, what), np.uint8)
        reader.end()
        halves = planes.reshape(-1).view("<f2")
        place = 0
        for part in plan.parts:
            values = halves[place : place + part.size]
            check_finite(values, part.name)
            vector[part.offset : part.offset + part.size] = values
            place += part.size
        return vector

    def bound(self, layout: Layout) -> int:
        """See `registry.Codec`."""
        plan = plan_of(layout)
        return 4 * plan.exact_size + 2 * (OVERHEAD + plan.coded_size)
