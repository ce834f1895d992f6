"""Fake quantization in a model's training graph: what is trained is what is deployed.

`prepare` gives a model of the same layers with a FakeQuantize layer at each point of the plan. Its range is a variable
that is not trained but observed, and that a federation averages with the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from edge_peer.trainers.int8 import KERNEL_SCALE_MIN, QMAX, QMIN, RANGE_MIN, activation_parameters
from models.gradients.fake_quantization import to_multiples
from models.quantization.calls import as_functional, replay
from models.quantization.errors import QuantizationError
from models.quantization.kinds import FIXED
from models.quantization.steps import Plan, Point
from models.training.padding import real_examples

#: Of the old range in the new one, when the batch's is narrower.
MOMENTUM = 0.95
MODES = ("weights", "full")


@keras.saving.register_keras_serializable("edge_peer")
class FakeQuantize(keras.layers.Layer):
    """Observe the range of activations, and round them to the 256 values that int8 has for it.

    In training, a range [min, max] that holds 0 widens at once to the batch's and narrows slowly: a moving average of
    both ends alone would cut off what grows while the model learns, and what is cut off gets no gradient. Rounding is
    with the new range, so nothing of the batch is outside of it, and all of the gradient flows. Zero width means that
    nothing was observed yet; of zeros it gets RANGE_MIN. Without training it passes values on.

    Args:
        rounds: Whether to round, or to observe only.
        limits: A range that is fixed; it has no variable then.
        rectified: Whether nothing below 0 comes here.
    """

    def __init__(
        self, rounds: bool, limits: tuple[float, float] | None = None, rectified: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.rounds, self.rectified = rounds, rectified
        self.limits = None if limits is None else (float(limits[0]), float(limits[1]))

    def build(self, input_shape: Any) -> None:  # noqa: ARG002 - Keras passes it
        """Make the variable."""
        if self.limits is None:
            self.range = self.add_weight(shape=(2,), initializer="zeros", trainable=False, name="range")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The same shape."""
        if not training:
            return inputs
        if self.limits is not None:
            return self._round(inputs, *self.limits)
        low, high = self._moved(tf.stop_gradient(inputs))
        self.range.assign(tf.stack([low, high]))
        return self._round(inputs, low, high)

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes."""
        own = {"rounds": self.rounds, "limits": self.limits, "rectified": self.rectified}
        return {**super().get_config(), **own}

    def _moved(self, x: Any) -> tuple[Any, Any]:
        """The new range."""
        real = real_examples()
        axes = list(range(1, len(x.shape)))
        some = 1.0 if real is None else tf.reduce_max(real)

        def end(old: Any, reduce: Any, outer: Any, least: float) -> Any:
            each = reduce(x, axis=axes)
            batch = outer(reduce(each if real is None else each * real), least)
            # A batch of padding alone changes nothing.
            return old + some * (outer(batch, MOMENTUM * old + (1 - MOMENTUM) * batch) - old)

        old = tf.convert_to_tensor(self.range)
        low = tf.zeros([]) if self.rectified else end(old[0], tf.reduce_min, tf.minimum, 0.0)
        return low, end(old[1], tf.reduce_max, tf.maximum, RANGE_MIN)

    def _round(self, x: Any, low: Any, high: Any) -> Any:
        """To multiples of the scale: zero is one of them, as in TensorFlow's own fake quantization."""
        if not self.rounds:
            return x
        scale = tf.maximum(high - low, RANGE_MIN) / (QMAX - QMIN)
        highest = None
        if self.limits is not None and self.limits != FIXED["relu6"]:
            # A sigmoid reaches 1, which its fixed range leaves out.
            highest = float(QMAX - activation_parameters(*self.limits)[1])
        return to_multiples(x, scale, highest)


class Shift(keras.layers.Layer):
    """Move a model's input so that one of its 256 values is zero, as in int8.

    Args:
        by: What is added.
    """

    def __init__(self, by: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by = by

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The same shape."""
        return inputs + self.by if training else inputs

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {**super().get_config(), "by": self.by}


class Inside(keras.layers.Layer):
    """A layer with fake quantization in the middle: before its activation, or between a separable one's convolutions.

    It has the layer's name and variables, and stands in its place.

    Args:
        layer: The layer.
        middle: Between a separable convolution's depthwise and pointwise one.
        before: Before the activation.
    """

    def __init__(self, layer: Any, middle: FakeQuantize | None, before: FakeQuantize | None) -> None:
        super().__init__(name=layer.name)
        self.layer, self.middle, self.before = layer, middle, before

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """What the layer gives."""
        values = self._linear(inputs) if self.middle is None else self._separable(inputs, training)
        if self.before is not None:
            values = self.before(values, training=training)
        return self.layer.activation(values)

    def _linear(self, inputs: Any) -> Any:
        """The layer without its activation, which is put back at once."""
        activation, self.layer.activation = self.layer.activation, keras.activations.linear
        try:
            return self.layer(inputs)
        finally:
            self.layer.activation = activation

    def _separable(self, inputs: Any, training: bool | None) -> Any:
        layer = self.layer
        strides = layer.strides if len(set(layer.strides)) > 1 else layer.strides[0]
        values = keras.ops.depthwise_conv(
            inputs,
            layer.depthwise_kernel,
            strides=strides,
            padding=layer.padding,
            data_format="channels_last",
            dilation_rate=layer.dilation_rate,
        )
        values = self.middle(values, training=training)
        values = keras.ops.conv(values, layer.pointwise_kernel, padding="valid", data_format="channels_last")
        return values if layer.bias is None else values + layer.bias


def prepare(model: keras.Model, plan: Plan, mode: str) -> keras.Model:
    """The model with fake quantization at its points.

    Args:
        model: What the plan was made of. Its layers are shared: training one trains both.
        plan: Of this model.
        mode: `weights`: ranges are observed and activations stay as they are; `full`: activations are rounded, too.
            The kernels are the caller's, with `fake_quantize_kernels`.

    Returns:
        A functional model. Its `non_trainable_variables` are the ranges and the model's own.

    Raises:
        QuantizationError: The mode is unknown.
    """
    if mode not in MODES:
        raise QuantizationError(model.name, f"mode {mode!r} is unknown", f"use one of {', '.join(MODES)}", "model")
    rounds = mode == "full"

    def layer_at(point: Point) -> Any:
        return FakeQuantize(rounds, point.limits, point.rectified, name=point.name)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        inside = {where: layer_at(plan.points[it]) for where, it in plan.inside.get(layer.name, {}).items()}
        if inside:
            layer = Inside(layer, inside.get("middle"), inside.get("activation"))
        values = layer(*args, **kwargs)
        if layer.name == plan.rescaling and rounds:
            values = _shifted(values, plan)
        index = plan.behind.get(layer.name)
        # Nothing is to be observed where the range is fixed.
        if index is not None and (rounds or plan.points[index].limits is None):
            values = layer_at(plan.points[index])(values)
        return values

    return replay(as_functional(model), call)


def _shifted(values: Any, plan: Plan) -> Any:
    """The input as the integer file sees it: pixels stay apart by the scale, and one of them is exactly 0."""
    scale, zero_point = activation_parameters(*_limits(plan.points[0]))
    by = (QMIN - zero_point) * scale - plan.offset
    # 1/255 and its like need none.
    return values if abs(by) < 1e-6 * scale else Shift(by, name=plan.points[0].name)(values)


def _limits(point: Point) -> tuple[float, float]:
    assert point.limits is not None, f"{point.name}: the range of an input is fixed"
    return point.limits


def fake_quantize_kernels(parts: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The variables of a forward pass with their kernels rounded to what int8 has, per output channel.

    Scaling by channel commutes with what a BatchNormalization will multiply the channel with.

    Args:
        parts: Path of a variable -> its value, a float32 tensor.
        plan: Of the model.

    Returns:
        The same paths; all but the kernels as they were. All of the gradient flows.
    """
    largest = float(2 ** (plan.weight_bits - 1) - 1)
    result = dict(parts)
    for kernel in plan.kernels:
        values = parts[kernel.path]
        channels = math.prod(int(values.shape[axis]) for axis in kernel.axes)
        rows = tf.reshape(values, [-1, channels])
        still = tf.stop_gradient(rows)
        width = tf.maximum(tf.reduce_max(still, 0, keepdims=True), -tf.reduce_min(still, 0, keepdims=True))
        scale = tf.maximum(width / largest, KERNEL_SCALE_MIN)
        result[kernel.path] = tf.reshape(to_multiples(rows, scale), values.shape)
    return result
