"""Windows that slide along two axes: what each tap reads, and where its gradient goes back to."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

#: Up to so many channels, TFLite pads a matrix for each axis up to ten times as fast as two axes of four at once.
MATRIX_CHANNELS_MAX = 32


def along(axis: int, inside: Any, outside: Any) -> list[Any]:
    """A value for each of four axes: `inside` for this one."""
    return [inside if index == axis else outside for index in range(4)]


def along_shape(shape: list[int], axis: int, length: int) -> list[int]:
    """The shape with another length on this axis."""
    return [length if index == axis else size for index, size in enumerate(shape)]


def framed(x: Any, margins: dict[int, tuple[int, int]], filler: float = 0.0) -> Any:
    """Four axes with so much before and behind the input on each; a negative margin cuts."""
    before, behind = zip(*(margins.get(axis, (0, 0)) for axis in range(4)), strict=True)
    if min(*before, *behind) < 0:
        lengths = [int(length) for length in x.shape]
        kept = [
            length + min(first, 0) + min(last, 0) for length, first, last in zip(lengths, before, behind, strict=True)
        ]
        x = tf.slice(x, [max(-first, 0) for first in before], kept)
    pads = [(max(first, 0), max(last, 0)) for first, last in zip(before, behind, strict=True)]
    axes = [axis for axis, pair in enumerate(pads) if max(pair)]
    if axes and (int(x.shape[3]) > MATRIX_CHANNELS_MAX or pads[3] != (0, 0)):
        return tf.pad(x, pads, constant_values=filler)
    for axis in axes:
        x = _padded_as_matrix(x, axis, pads[axis], filler)
    return x


def _padded_as_matrix(x: Any, axis: int, margins: tuple[int, int], filler: float) -> Any:
    """So much before and behind the input on one axis, which with those behind it becomes the columns of a matrix."""
    shape = [int(length) for length in x.shape]
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    columns = [length * inner for length in margins]
    rows = tf.pad(tf.reshape(x, [outer, shape[axis] * inner]), [[0, 0], columns], constant_values=filler)
    return tf.reshape(rows, along_shape(shape, axis, shape[axis] + sum(margins)))


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
            framed(piece, {axis: (shift, shifts - 1 - shift)}) for shift, piece in enumerate(pieces[remainder::stride])
        ]
        total = None
        for piece in shifted:
            total = piece if total is None else total + piece
        sums.append(tf.zeros(along_shape(shape, axis, shape[axis] + shifts - 1)) if total is None else total)
    length = (shape[axis] + shifts - 1) * stride
    whole = sums[0] if stride == 1 else tf.reshape(tf.concat(sums, axis + 1), along_shape(shape, axis, length))
    return framed(whole, {axis: (-start, start + size - length)})


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
        size, stride = int(op.inputs[0].shape[axis]), int(op.get_attr("strides")[axis])
        return cls.over(axis, size, int(taps), stride, op.get_attr("padding").decode())

    @classmethod
    def over(cls, axis: int, size: int, taps: int, stride: int, padding: str) -> Window:
        """Over an axis of this length, with the padding SAME or VALID."""
        if padding == "VALID":
            return cls(axis, taps, stride, (size - taps) // stride + 1, size, 0)
        count = -(-size // stride)
        return cls(axis, taps, stride, count, size, max((count - 1) * stride + taps - size, 0) // 2)

    @property
    def span(self) -> int:
        """From the start of the first window to the end of the last."""
        return (self.count - 1) * self.stride + self.taps

    @property
    def strides(self) -> int:
        """How many strides hold the span."""
        return -(-self.span // self.stride)

    @property
    def reach(self) -> range:
        """The strides, counted from the start of the first window, in which positions of the input lie."""
        return range(self.before // self.stride, -(-(self.before + self.size) // self.stride))

    def margins(self, length: int) -> tuple[int, int]:
        """Of the input in so many positions from the start of the first window on."""
        return self.before, length - self.before - self.size

    def margins_of_reach(self, taps: int) -> tuple[int, int]:
        """Of the outputs, of which so many taps, one stride apart, carry something back to each stride of `reach`."""
        return taps - 1 - self.reach.start, self.reach.stop - self.count

    def woven(self, remainders: list[Any]) -> Any:
        """The positions of the input, from those with each remainder by the stride; `reach` tells their strides."""
        return place(remainders, self.axis, self.stride, self.before - self.reach.start * self.stride, self.size)

    def write(self, pieces: list[Any]) -> Any:
        """The gradient of the input from those of what each tap has read."""
        return place(pieces, self.axis, self.stride, self.before, self.size)


def taps_of(x: Any, down: Window, across: Window, filler: float = 0.0) -> list[list[Any]]:
    """What each tap of the windows reads of the input, by row and column; shape (n, down.count, across.count, m).

    The input's shape is (n, down.size, across.size, m), and padding holds the filler. Each tap is one slice without
    steps, of the input with the positions of a stride on axes of their own: some of TFLite's kernels of a slice with
    steps go from number to number.
    """
    lengths = [window.strides * window.stride for window in (down, across)]
    x = framed(x, {it.axis: it.margins(length) for it, length in zip((down, across), lengths, strict=True)}, filler)
    first, last = int(x.shape[0]), int(x.shape[3])
    # The position within a stride of columns and the last axis as one: not all of TFLite's kernels take six.
    x = tf.reshape(x, [first, down.strides, down.stride, across.strides, across.stride * last])
    size, shape = [first, down.count, 1, across.count, last], [first, down.count, across.count, last]

    def tap(i: int, j: int) -> Any:
        begin = [0, i // down.stride, i % down.stride, j // across.stride, j % across.stride * last]
        return tf.reshape(tf.slice(x, begin, size), shape)

    return [[tap(i, j) for j in range(across.taps)] for i in range(down.taps)]
