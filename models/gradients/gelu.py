"""The exact gelu out of builtin operations: TFLite has no `erfc`, and its converter does not know it as a gelu."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

#: Of x times a polynomial in x * x, and of the polynomial that divides it, highest power first. The coefficients are
#: those of Eigen's `erf` for float32 (Eigen 3.4, unsupported/Eigen/src/SpecialFunctions).
ABOVE = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
    -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
BELOW = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02,
)  # fmt: skip


def erf(x: Any) -> Any:
    """The error function of float32 numbers."""
    # Beyond it is 1 to the last bit.
    x = tf.minimum(tf.maximum(x, -4.0), 4.0)
    square = x * x

    def polynomial(coefficients: tuple[float, ...]) -> Any:
        value = coefficients[0] * square + coefficients[1]
        for coefficient in coefficients[2:]:
            value = value * square + coefficient
        return value

    return x * polynomial(ABOVE) / polynomial(BELOW)


@tf.custom_gradient
def exact_gelu(x: Any) -> Any:
    """The input times the normal distribution's probability of less than it, and the gradient of that."""
    probability = 0.5 + 0.5 * erf(x * math.sqrt(0.5))

    def gradient(dy: Any) -> Any:
        return dy * (probability + x * tf.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)))

    return x * probability, gradient


@contextlib.contextmanager
def written_out_gelu() -> Iterator[None]:
    """Have Keras call this module's gelu where it would call TensorFlow's."""
    original = tf.nn.gelu

    def gelu(features: Any, approximate: bool = False, name: str | None = None) -> Any:
        return original(features, True, name) if approximate else exact_gelu(features)

    tf.nn.gelu = gelu
    try:
        yield
    finally:
        tf.nn.gelu = original
