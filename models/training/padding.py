"""The last batch of an epoch is filled up with rows that count for nothing.

The loss weighs examples one by one, and so needs no more than the weight 0. What looks at a whole batch has to leave
those rows out: the moments of BatchNormalization, and the ranges that quantization observes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

_REAL: ContextVar[Any] = ContextVar("real_examples", default=None)


def real_examples() -> Any:
    """1 for each row that is an example and 0 for each that is filled up, shape (batch,), float32; None: all are."""
    return _REAL.get()


@contextlib.contextmanager
def padded(real: Any) -> Iterator[None]:
    """Trace a step of a batch of which only some rows are examples.

    Args:
        real: See `real_examples`.
    """
    # Keras has a mask for this, but gives it to layers only along with a mask of time steps.
    original = keras.layers.BatchNormalization._moments
    token = _REAL.set(real)

    def moments(layer: Any, inputs: Any, mask: Any) -> Any:  # noqa: ARG001
        return masked_moments(inputs, layer._reduction_axes)

    keras.layers.BatchNormalization._moments = moments
    try:
        yield
    finally:
        keras.layers.BatchNormalization._moments = original
        _REAL.reset(token)


def masked_moments(x: Any, axes: list[int]) -> tuple[Any, Any]:
    """Mean and biased variance over all axes but one, of the examples alone.

    Args:
        x: float32.
        axes: All of its axes but one.
    """
    (axis,) = set(range(len(x.shape))) - {it % len(x.shape) for it in axes}
    batch, channels = int(x.shape[0]), int(x.shape[axis])
    if axis != len(x.shape) - 1:
        x = tf.transpose(x, [*(it for it in range(len(x.shape)) if it != axis), axis])
    positions = 1
    for size in x.shape[1:-1]:
        positions *= int(size)
    rows = tf.reshape(x, [batch * positions, channels])
    real = _REAL.get()
    weights = tf.ones([batch, 1]) if real is None else tf.reshape(real, [batch, 1])
    weights = weights / (tf.maximum(tf.reduce_sum(weights), 1.0) * positions)
    weights = tf.reshape(tf.tile(weights, [1, positions]), [1, batch * positions])
    # As products: TFLite adds along rows one by one.
    mean = tf.matmul(weights, rows)
    difference = rows - mean
    variance = tf.matmul(weights, difference * difference)
    return tf.reshape(mean, [channels]), tf.reshape(variance, [channels])
