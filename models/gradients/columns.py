"""Convolutions as products of matrices: what each tap reads of the input becomes a row, and windows are columns.

XNNPACK takes over BATCH_MATMUL, but neither CONV_2D nor TRANSPOSE_CONV when their weights are no constant, and in a
training step no weights are. The columns stay in memory until the backward pass, because the filter's gradient is
their product with the gradient of the output.

Source: Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from models.gradients.windows import Window, framed, taps_of

#: Bytes of the columns of one convolution; with more of them it stays a convolution.
COLUMNS_BYTES_MAX = 8 << 20
#: With so many input channels it is faster to put the taps of a row beside each other, and to add products of rows.
LINE_CHANNELS_MIN = 16
#: With so many input channels the filter's gradient is faster without a transposition of the output's gradient.
ROW_CHANNELS_MIN = 8
#: With fewer input channels a transposed convolution is faster than products.
INPUT_CHANNELS_MIN = 8
FLOAT_BYTES = 4


def columns_bytes(x: Any, down: Window, across: Window) -> int:
    """Memory of the columns of a convolution of an input with known sizes."""
    return _bytes(x, down, across, int(x.shape[3]))


def _bytes(x: Any, down: Window, across: Window, channels: int) -> int:
    return int(x.shape[0]) * down.count * across.count * down.taps * across.taps * channels * FLOAT_BYTES


def convolution(x: Any, kernel: Any, down: Window, across: Window, padding: str) -> Any:
    """A convolution without dilation and groups, which brings its gradient along.

    Args:
        x: float32 (batch, rows, columns, channels), all sizes known.
        kernel: float32 (taps down, taps across, channels, outputs).
        down: The windows along the rows.
        across: The windows along the columns.
        padding: What the windows were made with, SAME or VALID.

    Returns:
        float32 (batch, down.count, across.count, outputs).
    """
    by_lines = x.shape[3] >= LINE_CHANNELS_MIN

    @tf.custom_gradient
    def run(x: Any, kernel: Any) -> Any:
        read = _lines(x, down, across) if by_lines else _columns(x, down, across)
        y = (_of_lines if by_lines else _of_columns)(read, kernel)
        batch, outputs = x.shape[0], kernel.shape[3]
        if not by_lines:
            # The examples of a window stand beside each other.
            y = tf.transpose(tf.reshape(y, [outputs, down.count * across.count, batch]), [2, 1, 0])
        y = tf.reshape(y, [batch, down.count, across.count, outputs])

        def gradient(dy: Any) -> Any:
            by_rows = x.shape[3] >= ROW_CHANNELS_MIN
            by_columns = _filter_by_rows if by_rows else _filter_by_columns
            dkernel = (_filter_by_lines if by_lines else by_columns)(read, dy)
            return input_gradient(dy, kernel, x.shape, down, across, padding), tf.reshape(dkernel, kernel.shape)

        return y, gradient

    return run(x, kernel)


def _lines(x: Any, down: Window, across: Window) -> list[Any]:
    """What each row of taps reads; shape (1, windows, taps across * channels).

    Taps within a stride stand beside each other as they are.
    """
    batch, channels = x.shape[0], x.shape[3]
    x = framed(x, {it.axis: it.margins(it.strides * it.stride) for it in (down, across)})
    height = down.strides * down.stride
    x = tf.reshape(x, [batch, height, across.strides, across.stride * channels])
    taps = [
        tf.slice(
            x,
            [0, 0, first // across.stride, 0],
            [batch, height, across.count, min(across.stride, across.taps - first) * channels],
        )
        for first in range(0, across.taps, across.stride)
    ]
    line = across.count * across.taps * channels
    beside = tf.reshape(taps[0] if len(taps) == 1 else tf.concat(taps, 3), [batch, down.strides, down.stride * line])
    windows = [1, batch * down.count * across.count, across.taps * channels]
    return [
        tf.reshape(
            tf.slice(beside, [0, tap // down.stride, tap % down.stride * line], [batch, down.count, line]), windows
        )
        for tap in range(down.taps)
    ]


def _of_lines(lines: list[Any], kernel: Any) -> Any:
    matrices = tf.split(tf.reshape(kernel, [len(lines), -1, kernel.shape[3]]), len(lines))
    y = None
    for line, matrix in zip(lines, matrices, strict=True):
        product = tf.matmul(line, matrix)
        y = product if y is None else y + product
    return y


def _filter_by_lines(lines: list[Any], dy: Any) -> Any:
    dy_rows = tf.reshape(dy, [1, -1, dy.shape[3]])
    return tf.concat([tf.matmul(line, dy_rows, transpose_a=True) for line in lines], 0)


def _columns(x: Any, down: Window, across: Window) -> Any:
    """Shape (1, taps * channels, windows * batch)."""
    batch, height, width, channels = x.shape
    # Before any padding, because the rows of few channels are short.
    turned = tf.transpose(tf.reshape(x, [batch, height * width, channels]), [2, 1, 0])
    turned = tf.reshape(turned, [channels, height, width, batch])
    # Row by row: XNNPACK concatenates few tensors at once, and what it does not do needs memory outside of it.
    rows = [_joined(row) for row in taps_of(turned, down, across)]
    return tf.reshape(_joined(rows), [1, down.taps * across.taps * channels, down.count * across.count * batch])


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tf.concat(parts, 0)


def _of_columns(columns: Any, kernel: Any) -> Any:
    matrix = tf.transpose(tf.reshape(kernel, [-1, kernel.shape[3]]))
    return tf.matmul(tf.reshape(matrix, [1, *matrix.shape]), columns)


def _filter_by_rows(columns: Any, dy: Any) -> Any:
    batch, height, width, outputs = dy.shape
    turned = tf.transpose(tf.reshape(dy, [batch, height * width, outputs]), [1, 0, 2])
    return tf.matmul(columns, tf.reshape(turned, [1, batch * height * width, outputs]))


def _filter_by_columns(columns: Any, dy: Any) -> Any:
    """With the few rows of the columns as the columns of the product."""
    batch, height, width, outputs = dy.shape
    turned = tf.transpose(tf.reshape(dy, [batch, height * width, outputs]), [2, 1, 0])
    product = tf.matmul(tf.reshape(turned, [1, outputs, batch * height * width]), columns, transpose_b=True)
    return tf.transpose(tf.reshape(product, [outputs, -1]))


def input_gradient(dy: Any, kernel: Any, shape: Any, down: Window, across: Window, padding: str) -> Any:
    """The gradient of a convolution's input.

    Args:
        dy: Of the output, float32 (batch, down.count, across.count, outputs).
        kernel: float32 (taps down, taps across, channels, outputs).
        shape: Of the input.
        down: The windows along the rows.
        across: The windows along the columns.
        padding: What the windows were made with, SAME or VALID.

    Returns:
        float32, of the input's shape.
    """
    channels, outputs = kernel.shape[2:]
    if channels < INPUT_CHANNELS_MIN or _bytes(dy, down, across, channels) > COLUMNS_BYTES_MAX:
        return tf.nn.conv2d_transpose(dy, kernel, shape, [1, down.stride, across.stride, 1], padding)
    # Of the positions of a stride, each is read by a part of the taps only.
    positions = down.stride * across.stride
    if channels < LINE_CHANNELS_MIN and positions > 1 and channels * positions >= outputs:
        return _input_by_positions(dy, kernel, down, across)
    return _input_by_lines(dy, kernel, down, across)


def _input_by_lines(dy: Any, kernel: Any, down: Window, across: Window) -> Any:
    """What each row of taps carries back, in its place; then what each of their columns does."""
    batch, height, width, outputs = dy.shape
    channels = kernel.shape[2]
    matrices = tf.transpose(tf.reshape(kernel, [down.taps, across.taps * channels, outputs]), [0, 2, 1])
    dy_rows = tf.reshape(dy, [1, batch * height * width, outputs])
    lines = [
        tf.reshape(tf.matmul(dy_rows, matrix), [batch, height, width, across.taps * channels])
        for matrix in tf.split(matrices, down.taps)
    ]
    beside = down.write(lines)
    taps = [
        tf.slice(beside, [0, 0, 0, tap * channels], [batch, down.size, width, channels]) for tap in range(across.taps)
    ]
    return across.write(taps)


def _input_by_positions(dy: Any, kernel: Any, down: Window, across: Window) -> Any:
    """All positions of a stride as outputs of one convolution of `dy`: they are carried back to by the same windows.

    Its filter is the given one from the last tap to the first, one tap a stride, with zeros where a stride is longer
    than what is left of the filter. It is done by rows of taps: those of one row side by side, and the products of all
    rows added.
    """
    batch, outputs, channels = dy.shape[0], dy.shape[3], kernel.shape[2]
    rows, columns = -(-down.taps // down.stride), -(-across.taps // across.stride)
    height, width = len(down.reach), len(across.reach)
    matrices = tf.split(_matrices(kernel, down, across), rows)
    read = framed(dy, {1: down.margins_of_reach(rows), 2: across.margins_of_reach(columns)})
    lines = height + rows - 1
    taps = [
        tf.slice(read, [0, 0, columns - 1 - column, 0], [batch, lines, width, outputs]) for column in range(columns)
    ]
    line = width * columns * outputs
    beside = tf.reshape(taps[0] if columns == 1 else tf.concat(taps, 3), [batch, lines, line])
    dx = None
    for row, matrix in enumerate(matrices):
        part = tf.slice(beside, [0, rows - 1 - row, 0], [batch, height, line])
        product = tf.matmul(tf.reshape(part, [1, batch * height * width, columns * outputs]), matrix)
        dx = product if dx is None else dx + product
    if down.stride > 1:
        dx = tf.reshape(dx, [batch * height, width, down.stride, across.stride * channels])
        dx = tf.transpose(dx, [0, 2, 1, 3])
    dx = tf.reshape(dx, [batch, height * down.stride, width * across.stride, channels])
    margins = {}
    for window, strides in ((down, height), (across, width)):
        first = window.before - window.reach.start * window.stride
        margins[window.axis] = -first, first + window.size - strides * window.stride
    return framed(dx, margins)


def _matrices(kernel: Any, down: Window, across: Window) -> Any:
    """Shape (rows, columns * outputs, positions of a stride * channels): a filter by taps that are a stride apart."""
    channels, outputs = kernel.shape[2:]
    rows, columns = -(-down.taps // down.stride), -(-across.taps // across.stride)
    behind = rows * down.stride - down.taps, columns * across.stride - across.taps
    whole = framed(kernel, {0: (0, behind[0]), 1: (0, behind[1])})
    whole = tf.reshape(whole, [rows, down.stride, columns, across.stride * channels * outputs])
    taps = tf.reshape(
        tf.transpose(whole, [0, 2, 1, 3]), [rows * columns, down.stride * across.stride * channels, outputs]
    )
    return tf.reshape(tf.transpose(taps, [0, 2, 1]), [rows, columns * outputs, -1])
