"""Dropout whose random numbers come from outside.

TFLite's random operations have their seed in the file: every board would drop the same units in every step. Here the
board draws whole numbers from the training's own seed and gives them to the step, so that a training can be repeated to
the byte, on another interpreter too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import tensorflow as tf


class Noise:
    """The random numbers of one step, handed out from layer to layer.

    Args:
        numbers: Shape (n,), int32, each of all 2**32 values alike; None: only count how many are needed.
    """

    def __init__(self, numbers: Any = None) -> None:
        self._numbers = numbers
        self.count = 0

    def dropout(self, x: Any, rate: float, noise_shape: Any = None) -> Any:
        """What tf.nn.dropout gives: elements are zero with probability `rate`, the others grow by 1 / (1 - rate).

        Args:
            x: float32.
            rate: 0 to 1.
            noise_shape: Shape of what is drawn; 1 where an axis shares its numbers. None: that of `x`.
        """
        # Keras gives it as a tensor, of sizes that are known.
        shape = [int(size) for size in (x.shape if noise_shape is None else tf.get_static_value(noise_shape))]
        begin, self.count = self.count, self.count + math.prod(shape)
        if self._numbers is None:
            return x
        numbers = tf.reshape(self._numbers[begin : self.count], shape)
        threshold = min(2**31 - 1, round(rate * 2**32) - 2**31)
        return x * (tf.cast(numbers >= threshold, x.dtype) * (1 / (1 - rate)))


@contextlib.contextmanager
def dropout_from(noise: Noise) -> Iterator[None]:
    """Have Keras's dropout layers take their random numbers from `noise`."""
    original = tf.nn.experimental.stateless_dropout

    def dropout(x: Any, rate: float, seed: Any, noise_shape: Any = None) -> Any:  # noqa: ARG001 - its seed is not ours
        return noise.dropout(x, rate, noise_shape)

    tf.nn.experimental.stateless_dropout = dropout
    try:
        yield
    finally:
        tf.nn.experimental.stateless_dropout = original
