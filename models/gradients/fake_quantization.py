"""Quantization that training can look through: rounded on the way forward, and on the way back as if it were not.

Out of operations that are fast in both interpreters. A comparison with a number, as in `x > high`, takes tflite-runtime
2.14 twenty times as long as a product; distances that are multiplied until they are 0 or 1 do the same.

Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation",
2013 (https://arxiv.org/abs/1308.3432): the straight-through estimator.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

#: What is farther outside than one part of it is outside; products with it may be infinite.
STEEP = 1e30


def quantized_activations(x: Any, scale: Any, lowest: Any, highest: Any) -> Any:
    """The nearest multiples of a scale, between a lowest and a highest one; outside, no gradient flows.

    Args:
        x: float32, any shape.
        scale: float32 scalar, positive.
        lowest: Whole number as a float32 scalar: of the smallest multiple. None: nothing in x is below 0.
        highest: Of the largest multiple.
    """

    @tf.custom_gradient
    def rounded(values: Any) -> Any:
        multiples = values * (1 / scale)
        inside = tf.minimum(multiples, highest)
        if lowest is not None:
            inside = tf.maximum(inside, lowest)

        def gradient(dy: Any) -> Any:
            outside = multiples - inside if lowest is None else tf.abs(multiples - inside)
            return dy * (1 - tf.minimum(outside * STEEP, 1.0))

        return tf.round(inside) * scale, gradient

    return rounded(x)


def quantized_weights(x: Any, scale: Any) -> Any:
    """The nearest multiples of scales that are wide enough for every value; all of the gradient flows.

    Args:
        x: float32, any shape.
        scale: float32, positive; its shape can be broadcast to that of x.
    """

    @tf.custom_gradient
    def rounded(values: Any) -> Any:
        return tf.round(values * (1 / scale)) * scale, lambda dy: dy

    return rounded(x)
