"""Gradients of activations, most of them out of the output."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from models.gradients.registry import gradient_of


@gradient_of("Relu")
def _relu(op: Any, dy: Any) -> Any:
    """One above zero, by arithmetic: XNNPACK takes over neither a comparison nor SIGN."""
    return dy * tf.math.ceil(tf.minimum(op.outputs[0], 1.0))


@gradient_of("Relu6")
def _relu6(op: Any, dy: Any) -> Any:
    y = op.outputs[0]
    return dy * tf.cast(y > 0, dy.dtype) * tf.cast(y < 6, dy.dtype)


@gradient_of("LeakyRelu")
def _leaky_relu(op: Any, dy: Any) -> Any:
    positive = tf.cast(op.inputs[0] > 0, dy.dtype)
    return dy * (positive + op.get_attr("alpha") * (1 - positive))


@gradient_of("Elu")
def _elu(op: Any, dy: Any) -> Any:
    """1 above zero; below, exp(x) is the output and one."""
    return dy * (tf.minimum(op.outputs[0], 0.0) + 1)


@gradient_of("Sigmoid")
def _sigmoid(op: Any, dy: Any) -> Any:
    y = op.outputs[0]
    return dy * y * (1 - y)


@gradient_of("Tanh")
def _tanh(op: Any, dy: Any) -> Any:
    y = op.outputs[0]
    return dy * (1 - y * y)
