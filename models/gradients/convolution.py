"""Gradients of convolutions.

A dilated convolution is, in Keras on TensorFlow, SpaceToBatchND, a plain convolution and BatchToSpaceND; the first and
the last are each other's gradient.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from models.gradients.columns import input_gradient
from models.gradients.registry import gradient_of, is_nhwc
from models.gradients.windows import Window, along, along_shape, framed, taps_of

#: With so many input channels a product of matrices for each tap is faster than a convolution with `dy` as the filter.
PRODUCT_CHANNELS_MIN = 8
#: Channels that TFLite's depthwise kernel takes: it keeps at least one pixel's outputs in a buffer of this length, and
#: with more channels it never ends (kAccBufferMaxSize in tensorflow/lite/kernels/internal/optimized/
#: depthwiseconv_float.h of TensorFlow).
DEPTHWISE_CHANNELS_MAX = 4832


def _is_plain(op: Any) -> bool:
    """Whether a Conv2D has neither dilation nor groups."""
    same_channels = op.inputs[0].shape[3] == op.inputs[1].shape[2]
    return is_nhwc(op) and op.get_attr("dilations") == [1, 1, 1, 1] and bool(same_channels)


def _windows(op: Any) -> tuple[Window, Window]:
    rows, columns = op.inputs[1].shape[:2]
    return Window.of(op, 1, rows), Window.of(op, 2, columns)


@gradient_of("Conv2D", _is_plain)
def _conv2d(op: Any, dy: Any) -> Any:
    """Input gradient: a transposed convolution. Filter gradient: a convolution of the input with `dy` as the filter."""
    assert _is_plain(op), f"{op.name}: `unsupported` has let a convolution through that has no gradient here"
    x, kernel = op.inputs
    down, across = _windows(op)
    if (down.taps, across.taps, down.stride, across.stride) == (1, 1, 1, 1):
        return _pointwise(x, kernel, dy)
    dx = input_gradient(dy, kernel, x.shape, down, across, op.get_attr("padding").decode())
    by_products = kernel.shape[2] >= PRODUCT_CHANNELS_MIN
    return dx, (_filter_by_products if by_products else _filter_by_convolution)(x, dy, down, across)


def _pointwise(x: Any, kernel: Any, dy: Any) -> Any:
    """Of a filter of one tap: products of matrices.

    As batches of one: of a plain product the converter may make FULLY_CONNECTED, which XNNPACK does not take over when
    its weights are no constant. It takes BATCH_MATMUL over; in tflite-runtime 2.14 only without `transpose_b`.
    """
    channels, outputs = kernel.shape[2:]
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    matrix = tf.transpose(tf.reshape(kernel, [channels, outputs]))
    x_rows, dy_rows = tf.reshape(x, [1, pixels, channels]), tf.reshape(dy, [1, pixels, outputs])
    dx = tf.matmul(dy_rows, tf.reshape(matrix, [1, outputs, channels]))
    dkernel = tf.matmul(x_rows, dy_rows, transpose_a=True)
    return tf.reshape(dx, x.shape), tf.reshape(dkernel, kernel.shape)


def _channels_first(x: Any) -> Any:
    """Shape (channels, height, width, batch): before any padding, because the rows of few channels are short."""
    batch, height, width, channels = x.shape
    turned = tf.transpose(tf.reshape(x, [batch, height * width, channels]), [2, 1, 0])
    return tf.reshape(turned, [channels, height, width, batch])


def _batch_third(x: Any) -> Any:
    """Shape (height, width, batch, channels)."""
    batch, height, width, channels = x.shape
    turned = tf.transpose(tf.reshape(x, [batch, height * width, channels]), [1, 0, 2])
    return tf.reshape(turned, [height, width, batch, channels])


def _filter_by_convolution(x: Any, dy: Any, down: Window, across: Window) -> Any:
    """Examples take the place of channels, and the stride of the layer becomes the dilation of `dy`."""
    read = framed(_channels_first(x), {it.axis: it.margins(it.span) for it in (down, across)})
    dilations = [down.stride, across.stride]
    dkernel = tf.nn.conv2d(read, _batch_third(dy), strides=1, padding="VALID", dilations=dilations)
    return tf.transpose(dkernel, [1, 2, 0, 3])


def _filter_by_products(x: Any, dy: Any, down: Window, across: Window) -> Any:
    """For each tap, what it has read of each channel times `dy`; both over all windows of all examples."""
    channels, outputs = x.shape[3], dy.shape[3]
    windows = dy.shape[0] * dy.shape[1] * dy.shape[2]
    dy_rows = tf.reshape(_batch_third(dy), [1, windows, outputs])
    taps = [
        tf.matmul(tf.reshape(tap, [1, channels, windows]), dy_rows)
        for row in taps_of(_channels_first(x), down, across)
        for tap in row
    ]
    return tf.reshape(tf.concat(taps, 0), [down.taps, across.taps, channels, outputs])


def _is_plain_depthwise(op: Any) -> bool:
    """Whether a depthwise convolution has no dilation, and one stride for both axes, as TensorFlow's kernel has."""
    strides = op.get_attr("strides")
    plain = is_nhwc(op) and op.get_attr("dilations") == [1, 1, 1, 1] and strides[1] == strides[2]
    return plain and op.outputs[0].shape[3] <= DEPTHWISE_CHANNELS_MAX


@gradient_of("DepthwiseConv2dNative", _is_plain_depthwise)
def _depthwise(op: Any, dy: Any) -> Any:
    """Both gradients are depthwise convolutions, too."""
    x, kernel = op.inputs
    down, across = _windows(op)
    return _depthwise_input(dy, kernel, down, across), _depthwise_filter(x, dy, down, across)


def _depthwise_input(dy: Any, kernel: Any, down: Window, across: Window) -> Any:
    """`dy` convolved with the flipped filter; an input channel that feeds several output channels gets their sum.

    TFLite has no transposed depthwise convolution. Positions of the input with the same remainder by the stride have
    been read by the same taps: they are an image of their own, convolved with a part of the filter.
    """
    batch, outputs = dy.shape[0], dy.shape[3]
    channels, multiplier = kernel.shape[2:]

    def image(i: int, j: int) -> Any:
        taps = kernel[i :: down.stride, j :: across.stride] if down.stride > 1 else kernel
        height, width = taps.shape[:2]
        if 0 in (height, width):
            return tf.zeros([batch, len(down.reach), len(across.reach), outputs])
        # One axis: tflite-runtime 2.14 reverses the first of several axes only, and says nothing.
        flipped = tf.reverse(tf.reshape(taps, [height * width, outputs]), [0])
        flipped = tf.reshape(flipped, [height, width, outputs, 1])
        margins = [down.margins_of_reach(height), across.margins_of_reach(width)]
        if margins == [((length - 1) // 2, length // 2) for length in (height, width)]:
            # Without a copy of `dy`.
            return tf.nn.depthwise_conv2d(dy, flipped, [1, 1, 1, 1], "SAME")
        return tf.nn.depthwise_conv2d(framed(dy, dict(enumerate(margins, 1))), flipped, [1, 1, 1, 1], "VALID")

    dx = down.woven([across.woven([image(i, j) for j in range(across.stride)]) for i in range(down.stride)])
    if multiplier > 1:
        # Rows and columns as one axis: not all of TFLite's kernels take five.
        dx = tf.reduce_sum(tf.reshape(dx, [batch, down.size * across.size, channels, multiplier]), axis=3)
    return tf.reshape(dx, [batch, down.size, across.size, channels])


def _depthwise_filter(x: Any, dy: Any, down: Window, across: Window) -> Any:
    """The input convolved with `dy` as the filter, each example as channels of its own; then the sum over examples.

    The stride of the layer becomes the dilation of `dy`.
    """
    batch, height, width, channels = x.shape
    outputs = dy.shape[3]
    multiplier = outputs // channels
    x = tf.reshape(_batch_third(x), [1, height, width, batch * channels])
    x = framed(x, {it.axis: it.margins(it.span) for it in (down, across)})
    dy = tf.reshape(_batch_third(dy), [down.count, across.count, batch * channels, multiplier])
    at_once = DEPTHWISE_CHANNELS_MAX // outputs * channels
    parts = [
        tf.nn.depthwise_conv2d(images, filters, [1, 1, 1, 1], "VALID", dilations=[down.stride, across.stride])
        for images, filters in zip(_parts(x, 3, at_once), _parts(dy, 2, at_once), strict=True)
    ]
    taps = tf.reshape(tf.concat(parts, 3), [down.taps * across.taps, batch, outputs])
    return tf.reshape(tf.reduce_sum(taps, axis=1), [down.taps, across.taps, channels, multiplier])


def _parts(x: Any, axis: int, length: int) -> list[Any]:
    """Four axes in parts of at most this length along one of them."""
    shape = [int(size) for size in x.shape]
    if length >= shape[axis]:
        return [x]
    starts = range(0, shape[axis], length)
    return [
        tf.slice(x, along(axis, start, 0), along_shape(shape, axis, min(length, shape[axis] - start)))
        for start in starts
    ]
