"""Windows that slide along one axis: what each tap reads, and where its gradient goes back to."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf


def along(axis: int, inside: Any, outside: Any) -> list[Any]:
    """A value for each of four axes: `inside` for this one."""
    return [inside if index == axis else outside for index in range(4)]


def place(pieces: list[Any], axis: int, stride: int, start: int, size: int) -> Any:
    """Element `o` of piece `k` added at position `o * stride + k`, cut to `size` positions from `start` on.

    TFLite has no gradient of a strided slice. Pieces that fall on the same remainder by the stride are shifted and
    added; laid side by side on the next axis, a reshape then interleaves the remainders.
    """
    shape = [int(length) for length in pieces[0].shape]
    shifts = -(-len(pieces) // stride)
    sums = []
    for remainder in range(stride):
        shifted = [
            tf.pad(piece, along(axis, [shift, shifts - 1 - shift], [0, 0])) if shifts > 1 else piece
            for shift, piece in enumerate(pieces[remainder::stride])
        ]
        total = None
        for piece in shifted:
            total = piece if total is None else total + piece
        sums.append(tf.zeros(along_shape(shape, axis, shape[axis] + shifts - 1)) if total is None else total)
    length = (shape[axis] + shifts - 1) * stride
    whole = sums[0] if stride == 1 else tf.reshape(tf.concat(sums, axis + 1), along_shape(shape, axis, length))
    end = min(start + size, length)
    if (start, end) != (0, length):
        whole = tf.slice(whole, along(axis, start, 0), along_shape(shape, axis, end - start))
    if end - start < size:
        whole = tf.pad(whole, along(axis, [0, size - (end - start)], [0, 0]))
    return whole


def along_shape(shape: list[int], axis: int, length: int) -> list[int]:
    """The shape with another length on this axis."""
    return [length if index == axis else size for index, size in enumerate(shape)]


@dataclasses.dataclass(frozen=True)
class Window:
    """The windows of an operation along one axis.

    Attributes:
        axis: The axis.
        taps: Length of a window.
        stride: From one window to the next.
        count: Of windows.
        size: Length of the input.
        before: Padding in front of the input.
    """

    axis: int
    taps: int
    stride: int
    count: int
    size: int
    before: int

    @classmethod
    def of(cls, op: Any, axis: int, taps: int) -> Window:
        """From an operation with strides and the padding SAME or VALID, whose input comes first."""
        stride = op.get_attr("strides")[axis]
        size, count = int(op.inputs[0].shape[axis]), int(op.outputs[0].shape[axis])
        padding = max((count - 1) * stride + taps - size, 0) if op.get_attr("padding") == b"SAME" else 0
        return cls(axis, int(taps), int(stride), count, size, padding // 2)

    @property
    def span(self) -> int:
        """From the start of the first window to the end of the last."""
        return (self.count - 1) * self.stride + self.taps

    def covered(self, x: Any, filler: float) -> Any:
        """The input as the windows see it: padded, or without an end that none of them reads."""
        after = self.span - self.before - self.size
        if after < 0:
            x = tf.slice(x, [0] * 4, along_shape(list(x.shape), self.axis, self.size + after))
        if self.before or after > 0:
            x = tf.pad(x, along(self.axis, [self.before, max(after, 0)], [0, 0]), constant_values=filler)
        return x

    def uncovered(self, dx: Any) -> Any:
        """The gradient of the input from that of `covered`."""
        return place([dx], self.axis, 1, self.before, self.size)

    def read(self, covered: Any, tap: int) -> Any:
        """What one tap of each window reads, of a covered input."""
        begin = along(self.axis, tap, 0)
        end = along_shape(list(covered.shape), self.axis, tap + (self.count - 1) * self.stride + 1)
        return tf.strided_slice(covered, begin, end, along(self.axis, self.stride, 1))

    def write(self, pieces: list[Any]) -> Any:
        """The gradient of the input from those of what each tap has read."""
        return place(pieces, self.axis, self.stride, self.before, self.size)
