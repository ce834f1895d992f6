"""Examples that stay in their file: whatever the size of a shard, only the batch that is read takes memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
#: Rows up to this length are read one by one and joined: that takes the memory of a batch twice, and less than half the
#: time of reading each to its place, most of which Python spends on the place.
JOINED_BYTES_MAX = 4096


class Rows:
    """A uint8 array in a file, indexed like one in memory: `rows[10:20]`, `rows[np.array([3, 1])]`.

    What is read often stays in the kernel's page cache, which gives it up when programs need the memory.

    Args:
        file: Open for reading, unbuffered; it may be shared, also by threads.
        offset: Of the first value, in bytes.
        shape: (n, ...).
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, file: BinaryIO, offset: int, shape: tuple[int, ...]) -> None:
        self._file = file
        self._offset = offset
        self.shape = shape
        self._row_bytes = math.prod(shape[1:])

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def reshape(self, shape: tuple[int, ...]) -> Rows:
        """The same rows as examples of another shape; raises ValueError if that holds another number of values."""
        if shape[0] != len(self) or math.prod(shape[1:]) != self._row_bytes:
            raise ValueError(f"cannot reshape rows of shape {list(self.shape)} into {list(shape)}")
        return Rows(self._file, self._offset, shape)

    def __len__(self) -> int:
        """How many examples there are."""
        return self.shape[0]

    def __iter__(self) -> Iterator[U8]:
        """One example after another."""
        return (self[index : index + 1][0] for index in range(len(self)))

    def __getitem__(self, key: slice | npt.NDArray[np.int64]) -> U8:
        """A copy of some rows.

        Args:
            key: A slice without a step, or indices.

        Raises:
            IndexError: An index is not one of 0 to n - 1.
            OSError: The file cannot be read, or has become shorter.
        """
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise IndexError(f"rows cannot be read in steps of {step}")
            out = np.empty((max(0, stop - start), *self.shape[1:]), np.uint8)
            self._read(out, start)
            return out
        indices = key.tolist()
        if indices and not 0 <= min(indices) <= max(indices) < len(self):
            raise IndexError(f"indices from {min(indices)} to {max(indices)} are not all in 0..{len(self) - 1}")
        shape = (len(indices), *self.shape[1:])
        if self._row_bytes <= JOINED_BYTES_MAX:
            joined = self._joined(indices)
            if len(joined) == math.prod(shape):
                return np.frombuffer(joined, np.uint8).reshape(shape)
        # Or a row was cut short: this finds out which, and goes on if it was not the end of the file.
        out = np.empty(shape, np.uint8)
        for place, index in enumerate(indices):
            self._read(out[place : place + 1], index)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All of it in memory, for whoever wants an array."""
        if copy is False:
            raise ValueError("rows of a file cannot become an array without a copy")
        return self[:].astype(dtype or np.uint8, copy=False)

    def _joined(self, indices: list[int]) -> bytearray:
        """The bytes of some rows; fewer if the file has become shorter."""
        positions = [self._offset + index * self._row_bytes for index in indices]
        return bytearray().join(map(os.pread, repeat(self._file.fileno()), repeat(self._row_bytes), positions))

    def _read(self, out: U8, row: int) -> None:
        view = out.reshape(-1).data
        position = self._offset + row * self._row_bytes
        while view:
            count = os.preadv(self._file.fileno(), [view], position)
            if count == 0:
                raise OSError(
                    f"{Path(str(self._file.name))} ends before row {row}: it has been changed since it was opened"
                )
            view, position = view[count:], position + count
