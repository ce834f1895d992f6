"""Gradients of arithmetic on elements; an input may be broadcast."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from models.gradients.registry import gradient_of


def _summed_to(grad: Any, like: Any) -> Any:
    """The gradient of an input that was broadcast."""
    missing = len(grad.shape) - len(like.shape)
    axes = [
        axis
        for axis in range(len(grad.shape))
        if axis < missing or (like.shape[axis - missing] == 1 and grad.shape[axis] != 1)
    ]
    return tf.reshape(tf.reduce_sum(grad, axis=axes), like.shape) if axes else grad


def _chosen(op: Any, dy: Any, choice: Any) -> tuple[Any, Any]:
    """To the first of two inputs where the choice is true, to the second elsewhere."""
    first = tf.cast(choice, dy.dtype)
    one, other = op.inputs[-2:]
    return _summed_to(dy * first, one), _summed_to(dy * (1 - first), other)


@gradient_of("SelectV2")
def _select(op: Any, dy: Any) -> Any:
    return None, *_chosen(op, dy, op.inputs[0])


@gradient_of("Maximum")
def _maximum(op: Any, dy: Any) -> Any:
    """Of equal inputs the first, as in TensorFlow."""
    return _chosen(op, dy, op.inputs[0] >= op.inputs[1])


@gradient_of("Minimum")
def _minimum(op: Any, dy: Any) -> Any:
    """Of equal inputs the first, as in TensorFlow."""
    return _chosen(op, dy, op.inputs[0] <= op.inputs[1])


@gradient_of("Rsqrt")
def _rsqrt(op: Any, dy: Any) -> Any:
    y = op.outputs[0]
    return dy * -0.5 * y * y * y


def _is_whole_power(op: Any) -> bool:
    """Whether the exponent is one positive whole number."""
    exponent = tf.get_static_value(op.inputs[1])
    return exponent is not None and exponent.ndim == 0 and exponent >= 1 and float(exponent).is_integer()


@gradient_of("Pow", _is_whole_power)
def _pow(op: Any, dy: Any) -> Any:
    """Out of products: TFLite's kernel calls the C library for each element."""
    exponent, factor = int(tf.get_static_value(op.inputs[1])), dy
    for _ in range(exponent - 1):
        factor = factor * op.inputs[0]
    return factor * float(exponent), None
