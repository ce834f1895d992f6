"""Quantization that training can look through: rounded on the way forward, and on the way back as if it were not.

Rounded with FLOOR, halves up, as TensorFlow's own fake quantization is: ROUND, and MINIMUM with a number, take
tflite-runtime 2.14 about ten times as long, ABS even more.

Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation",
2013 (https://arxiv.org/abs/1308.3432): the straight-through estimator.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def to_multiples(x: Any, scale: Any, highest: float | None = None) -> Any:
    """The nearest multiples of a scale; the gradient is that of the identity.

    Args:
        x: float32, any shape.
        scale: float32, positive, of a shape that can be broadcast to that of x.
        highest: The largest multiple that there is; None: no value is beyond it.
    """

    @tf.custom_gradient
    def rounded(values: Any) -> Any:
        multiples = tf.floor(values * (1 / scale) + 0.5)
        if highest is not None:
            multiples = tf.minimum(multiples, highest)
        return multiples * scale, lambda dy: dy

    return rounded(x)
