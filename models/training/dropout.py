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

import keras
import tensorflow as tf


class Noise:
    """The random numbers of one step, handed out from layer to layer.

    Args:
        numbers: Shape (n,), int32, each of all 2**32 values alike; None: only count how many are needed.
    """

    def __init__(self, numbers: Any = None) -> None:
        self._numbers = numbers
        self.count = 0

    def dropout(self, x: Any, rate: float, noise_shape: tuple[int | None, ...] | None = None) -> Any:
        """What tf.nn.dropout gives: elements are zero with probability `rate`, the others grow by 1 / (1 - rate).

        Args:
            x: float32.
            rate: 0 to 1.
            noise_shape: Shape of what is drawn; 1 where an axis shares its numbers, None where it is that of `x`.
        """
        wanted = noise_shape or (None,) * len(x.shape)
        shape = [int(size if one is None else one) for size, one in zip(x.shape, wanted, strict=True)]
        begin, self.count = self.count, self.count + math.prod(shape)
        if self._numbers is None:
            return x
        if rate == 1:
            return tf.zeros_like(x)
        numbers = tf.reshape(self._numbers[begin : self.count], shape)
        threshold = round(rate * 2**32) - 2**31
        return x * (tf.cast(numbers >= threshold, x.dtype) * (1 / (1 - rate)))


@contextlib.contextmanager
def dropout_from(noise: Noise) -> Iterator[None]:
    """Have Keras's dropout layers take their random numbers from `noise`."""

    def call(layer: Any, inputs: Any, training: bool = False) -> Any:
        return noise.dropout(inputs, layer.rate, layer.noise_shape) if training and layer.rate > 0 else inputs

    def spatial_call(layer: Any, inputs: Any, training: bool = False) -> Any:
        if not training or layer.rate == 0:
            return inputs
        batch, channels = int(inputs.shape[0]), int(inputs.shape[-1])
        if getattr(layer, "data_format", None) == "channels_first":
            shape = (batch, int(inputs.shape[1]), *(1,) * (len(inputs.shape) - 2))
        else:
            shape = (batch, *(1,) * (len(inputs.shape) - 2), channels)
        return noise.dropout(inputs, layer.rate, shape)

    plain, spatial = keras.layers.Dropout, keras.layers.SpatialDropout2D.__mro__[1]
    originals = plain.call, spatial.call
    # Whole calls: what Keras draws from has a state of its own, which is none of the step's.
    plain.call, spatial.call = call, spatial_call
    try:
        yield
    finally:
        plain.call, spatial.call = originals
