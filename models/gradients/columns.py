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
COLUMNS_BYTES_MAX = 4 << 20
#: With so many input channels the filter's gradient is faster without a transposition of the output's gradient.
ROW_CHANNELS_MIN = 8
#: With fewer input channels a transposed convolution is faster than products of columns of `dy`.
INPUT_CHANNELS_MIN = 8
FLOAT_BYTES = 4


def columns_bytes(x: Any, down: Window, across: Window) -> int:
    """Memory of the columns of a convolution of an input with known sizes."""
    return int(x.shape[0]) * down.count * across.count * down.taps * across.taps * int(x.shape[3]) * FLOAT_BYTES


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

    @tf.custom_gradient
    def run(x: Any, kernel: Any) -> Any:
        columns = _columns(x, down, across)
        batch, channels, outputs = x.shape[0], x.shape[3], kernel.shape[3]
        matrix = tf.transpose(tf.reshape(kernel, [-1, outputs]))
        y = tf.matmul(tf.reshape(matrix, [1, outputs, -1]), columns)
        # The examples of a window stand beside each other.
        y = tf.transpose(tf.reshape(y, [outputs, down.count * across.count, batch]), [2, 1, 0])
        y = tf.reshape(y, [batch, down.count, across.count, outputs])

        def gradient(dy: Any) -> Any:
            by_rows = channels >= ROW_CHANNELS_MIN
            dkernel = (_filter_by_rows if by_rows else _filter_by_columns)(columns, dy)
            return input_gradient(dy, kernel, x.shape, down, across, padding), tf.reshape(dkernel, kernel.shape)

        return y, gradient

    return run(x, kernel)


def _columns(x: Any, down: Window, across: Window) -> Any:
    """Shape (1, taps * channels, windows * batch)."""
    batch, height, width, channels = x.shape
    # Before any padding, because the rows of few channels are short.
    turned = tf.transpose(tf.reshape(x, [batch, height * width, channels]), [2, 1, 0])
    turned = tf.reshape(turned, [channels, height, width, batch])
    taps = [tap for row in taps_of(turned, down, across) for tap in row]
    return tf.reshape(tf.concat(taps, 0), [1, len(taps) * channels, down.count * across.count * batch])


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
    """The gradient of a convolution's input, of this shape."""
    channels, outputs = kernel.shape[2:]
    images = down.stride * across.stride
    # Each of `read` carries something back to the positions of a stride.
    read = -(-down.taps // down.stride) * -(-across.taps // across.stride) * outputs
    size = int(shape[0]) * len(down.reach) * len(across.reach) * read * FLOAT_BYTES
    if channels < INPUT_CHANNELS_MIN or channels * images < outputs or size > COLUMNS_BYTES_MAX:
        return tf.nn.conv2d_transpose(dy, kernel, shape, [1, down.stride, across.stride, 1], padding)
    return _input_by_products(dy, kernel, down, across)


def _input_by_products(dy: Any, kernel: Any, down: Window, across: Window) -> Any:
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
