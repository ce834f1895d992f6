"""The fields of a payload, one after another: each is checked to be there before anything is made of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aggregator_core.codecs.errors import PayloadError
from aggregator_core.codecs.plan import Plan

F32 = npt.NDArray[np.float32]


class Reader:
    """A payload and how far it has been read.

    Args:
        payload: Bytes of anybody.
    """

    def __init__(self, payload: memoryview) -> None:
        self._payload = payload
        self._place = 0

    def take(self, size: int, what: str) -> memoryview:
        """The next `size` bytes, not copied; raises PayloadError where the payload ends before."""
        left = len(self._payload) - self._place
        if size > left:
            raise PayloadError(f"{what} takes {size} bytes, but {left} of {len(self._payload)} are left")
        self._place += size
        return self._payload[self._place - size : self._place]

    def count(self, largest: int, what: str) -> int:
        """An unsigned integer of four bytes, little-endian; raises PayloadError above `largest`."""
        value = int.from_bytes(self.take(4, what), "little")
        if value > largest:
            raise PayloadError(f"{what} is {value}, more than {largest}")
        return value

    def floats(self, size: int, what: str) -> F32:
        """Values as little-endian float32, shape (size,); raises PayloadError if one is not finite."""
        values = np.frombuffer(self.take(4 * size, what), "<f4").astype(np.float32, copy=False)
        check_finite(values, what)
        return values

    def exact(self, plan: Plan, vector: F32) -> None:
        """Read the exact tensors into a flat vector; raises PayloadError."""
        for tensor in plan.exact:
            vector[tensor.offset : tensor.offset + tensor.size] = self.floats(tensor.size, tensor.name)

    def end(self) -> None:
        """Raise PayloadError if something is left."""
        left = len(self._payload) - self._place
        if left:
            raise PayloadError(f"{left} bytes follow the end of the payload")


def check_finite(values: npt.NDArray[np.floating], what: str) -> None:
    """Raise PayloadError if a value is infinite or no number."""
    finite = int(np.count_nonzero(np.isfinite(values)))
    if finite != values.size:
        raise PayloadError(f"{what}: {values.size - finite} of {values.size} values are not finite")


def exact_bytes(plan: Plan, vector: F32) -> bytes:
    """The exact tensors of a flat vector, as `Reader.exact` takes them."""
    return b"".join(vector[it.offset : it.offset + it.size].astype("<f4", copy=False).tobytes() for it in plan.exact)
