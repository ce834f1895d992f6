"""Products of matrices as TFLite does them fastest, and layers as such products.

XNNPACK takes over BATCH_MATMUL, but neither CONV_2D nor FULLY_CONNECTED when their weights are no constant, and in a
training step no weights are. The converter may make FULLY_CONNECTED of a plain product, but not of a batch of one.
It gets its second matrix transposed by an operation of its own: with `transpose_b` tflite-runtime 2.14 takes longer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from models.gradients.columns import COLUMNS_BYTES_MAX, columns_bytes, convolution
from models.gradients.registry import gradient_of
from models.gradients.windows import Window

#: Bytes of the columns of all convolutions of a training step, which stay in memory until its backward pass.
STEP_BYTES_MAX = 8 << 20


def _times_transposed(x: Any, y: Any) -> Any:
    """`x` times the transpose of `y`; both are matrices."""
    rows, columns = y.shape
    turned = tf.reshape(tf.transpose(y), [1, columns, rows])
    return tf.reshape(tf.matmul(tf.reshape(x, [1, *x.shape]), turned), [x.shape[0], rows])


def _is_one_product(op: Any) -> bool:
    """Whether a batch of products is a batch of one, of matrices as they are."""
    return not (op.get_attr("adj_x") or op.get_attr("adj_y")) and all(
        len(it.shape) == 3 and it.shape[0] == 1 and it.shape.is_fully_defined() for it in op.inputs
    )


@gradient_of("BatchMatMulV2", _is_one_product)
def _batch_of_one(op: Any, dy: Any) -> Any:
    assert _is_one_product(op), f"{op.name}: `unsupported` has let a product through that has no gradient here"
    x, y = op.inputs
    dx = _times_transposed(tf.reshape(dy, dy.shape[1:]), tf.reshape(y, y.shape[1:]))
    return tf.reshape(dx, x.shape), tf.matmul(x, dy, transpose_a=True)


@gradient_of("MatMul")
def _matmul(op: Any, dy: Any) -> Any:
    x, y = op.inputs
    transposed = op.get_attr("transpose_a"), op.get_attr("transpose_b")
    if transposed == (False, False):
        return _times_transposed(dy, y), tf.matmul(x, dy, transpose_a=True)
    if transposed == (False, True):
        return tf.matmul(dy, y), tf.matmul(dy, x, transpose_a=True)
    if transposed == (True, False):
        return _times_transposed(y, dy), tf.matmul(x, dy)
    return tf.matmul(y, dy, transpose_a=True, transpose_b=True), tf.matmul(dy, x, transpose_a=True, transpose_b=True)


def pointwise(x: Any, kernel: Any) -> Any:
    """A convolution of one tap without steps.

    Args:
        x: float32 (batch, rows, columns, channels), all sizes known.
        kernel: float32 (1, 1, channels, outputs).
    """
    channels, outputs = kernel.shape[2:]
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    y = tf.matmul(tf.reshape(x, [1, pixels, channels]), tf.reshape(kernel, [1, channels, outputs]))
    return tf.reshape(y, [*x.shape[:3], outputs])


def _both(steps: Any) -> tuple[int, int] | None:
    """Steps of a convolution along two axes; None: they are given in another way."""
    values = (steps or 1,) * 2 if steps is None or isinstance(steps, int) else tuple(steps)
    return (int(values[0]), int(values[1])) if len(values) == 2 else None


def _on_columns(steps: Any) -> tuple[int, ...]:
    """Steps along one axis as those along the columns of one row."""
    return (1, *((steps or 1,) if steps is None or isinstance(steps, int) else steps))


@contextlib.contextmanager
def convolutions_by_products() -> Iterator[None]:
    """Have Keras call this module where it would have TensorFlow convolve, as far as memory allows.

    Convolutions with dilation or groups stay as they are, and those whose columns would be too large.
    """
    original = tf.nn.convolution
    used = 0

    def as_products(x: Any, kernel: Any, strides: Any, padding: Any, dilations: Any) -> Any:
        nonlocal used
        steps = _both(strides)
        if steps is None or _both(dilations) != (1, 1) or padding not in ("SAME", "VALID"):
            return None
        # Of unequal channels, Keras makes groups.
        if not x.shape.is_fully_defined() or x.shape[3] != kernel.shape[2]:
            return None
        if (*kernel.shape[:2], *steps) == (1, 1, 1, 1):
            return pointwise(x, kernel)
        down, across = (
            Window.over(axis, int(x.shape[axis]), int(kernel.shape[axis - 1]), steps[axis - 1], padding)
            for axis in (1, 2)
        )
        size = columns_bytes(x, down, across)
        if min(down.count, across.count) < 1 or size > COLUMNS_BYTES_MAX or used + size > STEP_BYTES_MAX:
            return None
        used += size
        return convolution(x, kernel, down, across, padding)

    def replacement(
        input: Any,  # noqa: A002 - TensorFlow's name
        filters: Any,
        strides: Any = None,
        padding: Any = "VALID",
        data_format: str | None = None,
        dilations: Any = None,
        name: str | None = None,
    ) -> Any:
        result = None
        if data_format in (None, "NHWC") and len(input.shape) == 4:
            result = as_products(input, filters, strides, padding, dilations)
        elif data_format in (None, "NWC") and len(input.shape) == 3:
            row, taps = tf.expand_dims(input, 1), tf.expand_dims(filters, 0)
            rows = as_products(row, taps, _on_columns(strides), padding, _on_columns(dilations))
            result = None if rows is None else tf.squeeze(rows, 1)
        if result is None:
            result = original(input, filters, strides, padding, data_format, dilations, name)
        return result

    tf.nn.convolution = replacement
    try:
        yield
    finally:
        tf.nn.convolution = original
