"""Which Keras layers and activations have an int8 form, and which form."""

from __future__ import annotations

from typing import Any

import keras

from models.quantization.errors import QuantizationError

L = keras.layers
FLOAT = 'or set QAT = "off", which keeps the model in float32'
SUPPORTED = (
    "Dense, Conv1D, Conv2D, DepthwiseConv1D, DepthwiseConv2D, SeparableConv1D, SeparableConv2D, BatchNormalization "
    "directly behind one of them, relu, relu6, leaky_relu, sigmoid, tanh, softmax, hard_silu, Add, Subtract, Multiply, "
    "Concatenate, pooling, Flatten, Reshape, Permute, ZeroPadding, Cropping and Dropout"
)
#: What TFLite fixes: results of these have scales 1/256 or 1/128, whatever was observed.
FIXED = {
    "relu6": (0.0, 6.0),
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
#: What one operation of the integer file does together with the linear operation or the sum before it.
FUSED = frozenset({"relu", "relu6"})
ACTIVATIONS = frozenset({"relu", "relu6", "leaky_relu", "sigmoid", "tanh", "softmax", "hard_silu"})
CONVOLUTIONS = (L.Conv1D, L.Conv2D)
DEPTHWISE = (L.DepthwiseConv1D, L.DepthwiseConv2D)
SEPARABLE = (L.SeparableConv1D, L.SeparableConv2D)
LINEAR = (L.Dense, *CONVOLUTIONS, *DEPTHWISE, *SEPARABLE)
MERGES = {L.Add: "add", L.Subtract: "subtract", L.Multiply: "multiply", L.Concatenate: "concatenate"}
#: Deployed as nothing.
DROPPED = (
    L.Dropout,
    L.SpatialDropout1D,
    L.SpatialDropout2D,
    L.GaussianDropout,
    L.GaussianNoise,
    L.ActivityRegularization,
)
MOVING = (
    L.Flatten, L.Reshape, L.Permute, L.MaxPooling1D, L.MaxPooling2D, L.AveragePooling1D, L.AveragePooling2D,
    L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.ZeroPadding1D, L.ZeroPadding2D, L.Cropping1D, L.Cropping2D,
)  # fmt: skip
MEANS = (L.GlobalAveragePooling1D, L.GlobalAveragePooling2D)


def activation_of(layer: Any) -> tuple[str, float]:
    """Name of an activation layer's, or of a layer's own, activation, and the slope of a leaky_relu below 0.

    Raises:
        QuantizationError: It has no int8 form.
    """
    activations = keras.activations
    name, slope = None, 0.0
    if isinstance(layer, L.ReLU):
        plain = float(layer.threshold or 0) == 0 and layer.max_value in (None, 6)
        slope = float(layer.negative_slope or 0)
        if plain and slope == 0:
            name = "relu" if layer.max_value is None else "relu6"
        elif plain and layer.max_value is None:
            name = "leaky_relu"
    elif isinstance(layer, L.LeakyReLU):
        name, slope = "leaky_relu", float(layer.negative_slope)
    elif isinstance(layer, L.Softmax):
        name = "softmax" if layer.axis == -1 else None
    else:
        known = {
            activations.linear: "linear", activations.relu: "relu", activations.relu6: "relu6",
            activations.leaky_relu: "leaky_relu", activations.sigmoid: "sigmoid", activations.tanh: "tanh",
            activations.softmax: "softmax", activations.hard_silu: "hard_silu",
        }  # fmt: skip
        name = next((it for function, it in known.items() if layer.activation is function), None)
        # What Keras takes when it is written by its name.
        slope = 0.2
    if name is None:
        what = getattr(getattr(layer, "activation", layer), "__name__", type(layer).__name__)
        raise QuantizationError(
            layer.name, f"activation {what} has no int8 form", f"use {', '.join(sorted(ACTIVATIONS))}, {FLOAT}"
        )
    return name, slope


def is_activation(layer: Any) -> bool:
    """Whether a layer is nothing but an activation."""
    return type(layer) in (L.Activation, L.ReLU, L.LeakyReLU, L.Softmax)
