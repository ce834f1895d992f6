"""Gradients of convolutions.

A dilated convolution is, in Keras on TensorFlow, SpaceToBatchND, a plain convolution and BatchToSpaceND; the first and
the last are each other's gradient.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from models.gradients.registry import gradient_of, is_nhwc
from models.gradients.windows import Window, place


def _is_plain(op: Any) -> bool:
    """Whether a Conv2D has neither dilation nor groups."""
    same_channels = op.inputs[0].shape[3] == op.inputs[1].shape[2]
    return is_nhwc(op) and op.get_attr("dilations") == [1, 1, 1, 1] and bool(same_channels)


@gradient_of("Conv2D", _is_plain)
def _conv2d(op: Any, dy: Any) -> Any:
    """Input gradient: a transposed convolution. Filter gradient: a convolution of the input with `dy` as the filter.

    For the filter, examples take the place of channels, and the stride of the layer becomes the dilation of `dy`.
    """
    x, kernel = op.inputs
    strides, padding = op.get_attr("strides"), op.get_attr("padding").decode()
    assert _is_plain(op), f"{op.name}: `unsupported` has let a convolution through that has no gradient here"
    rows, columns = kernel.shape[0], kernel.shape[1]
    batch, height, width, channels = x.shape
    out_height, out_width = dy.shape[1], dy.shape[2]
    dx = tf.nn.conv2d_transpose(dy, kernel, [batch, height, width, channels], strides, padding)
    # The part of the padded input that the forward pass has read.
    used_height, used_width = (out_height - 1) * strides[1] + rows, (out_width - 1) * strides[2] + columns
    if padding == "SAME":
        down, right = max(used_height - height, 0), max(used_width - width, 0)
        x = tf.pad(x, [[0, 0], [down // 2, down - down // 2], [right // 2, right - right // 2], [0, 0]])
    x = x[:, :used_height, :used_width, :]
    dkernel = tf.nn.conv2d(
        tf.transpose(x, [3, 1, 2, 0]),
        tf.transpose(dy, [1, 2, 0, 3]),
        strides=1,
        padding="VALID",
        dilations=[strides[1], strides[2]],
    )
    return dx, tf.transpose(dkernel, [1, 2, 0, 3])


def _is_plain_depthwise(op: Any) -> bool:
    """Whether a depthwise convolution has no dilation, and one stride for both axes, as TensorFlow's kernel has."""
    strides = op.get_attr("strides")
    return is_nhwc(op) and op.get_attr("dilations") == [1, 1, 1, 1] and strides[1] == strides[2]


@gradient_of("DepthwiseConv2dNative", _is_plain_depthwise)
def _depthwise(op: Any, dy: Any) -> Any:
    """Input gradient: `dy`, set apart by the stride, convolved with the flipped filter.

    TFLite has no transposed depthwise convolution. An input channel that feeds several output channels gets their sum.
    Filter gradient: for each tap, the sum of what it has read times `dy`.
    """
    x, kernel = op.inputs
    rows, columns, channels, multiplier = kernel.shape
    down, across = Window.of(op, 1, rows), Window.of(op, 2, columns)
    batch = x.shape[0]

    apart = place([dy], 1, down.stride, 0, down.span - rows + 1)
    apart = place([apart], 2, across.stride, 0, across.span - columns + 1)
    margin = [[0, 0], [rows - 1, rows - 1], [columns - 1, columns - 1], [0, 0]]
    # One axis: tflite-runtime 2.14 reverses the first of several axes only, and says nothing.
    flipped = tf.reverse(tf.reshape(kernel, [rows * columns, channels * multiplier]), [0])
    flipped = tf.reshape(flipped, [rows, columns, channels * multiplier, 1])
    dx = tf.nn.depthwise_conv2d(tf.pad(apart, margin), flipped, [1, 1, 1, 1], "VALID")
    if multiplier > 1:
        # Rows and columns as one axis: not all of TFLite's kernels take five.
        dx = tf.reduce_sum(tf.reshape(dx, [batch, down.span * across.span, channels, multiplier]), axis=3)
        dx = tf.reshape(dx, [batch, down.span, across.span, channels])
    dx = across.uncovered(down.uncovered(dx))

    padded = across.covered(down.covered(x, 0.0), 0.0)
    if multiplier > 1:
        shape = [batch, down.span * across.span, channels, 1]
        padded = tf.tile(tf.reshape(padded, shape), [1, 1, 1, multiplier])
        padded = tf.reshape(padded, [batch, down.span, across.span, channels * multiplier])
    taps = [
        tf.reduce_sum(across.read(down.read(padded, i), j) * dy, axis=[0, 1, 2])
        for i in range(rows)
        for j in range(columns)
    ]
    return dx, tf.reshape(tf.stack(taps), kernel.shape)
