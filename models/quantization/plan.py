"""Decide where a Keras model is quantized: its points, its kernels, and what is computed as one.

The deployed graph is a list of steps over numbered tensors; tensor 0 is the input. A convolution or a Dense layer, the
BatchNormalization directly behind it and a relu behind both are one step, as they are one operation in the integer
file, and its result has one point: a range of activations. What only moves or picks values has none: TFLite's kernels
want the same scale on both sides. Nor has what goes into nothing but a Concatenate, whose parts share its range.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

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


@dataclass(frozen=True)
class Point:
    """A range of activations.

    Attributes:
        name: Of the layer that observes or applies it, unique in the model.
        limits: A range that is fixed; None: it is observed.
        rectified: Whether nothing below 0 comes there.
        inside: Name of the layer that the point is inside of, if it is.
    """

    name: str
    limits: tuple[float, float] | None
    rectified: bool
    inside: str | None = None

    @property
    def variable(self) -> str | None:
        """Path of the variable [min, max]; None when the range is fixed."""
        if self.limits is not None:
            return None
        return "/".join(it for it in (self.inside, self.name, "range") if it is not None)


@dataclass(frozen=True)
class Kernel:
    """A kernel that is quantized per output channel.

    Attributes:
        path: Of its variable.
        axes: Those along which scales differ: the last one; of a depthwise kernel, channels and multiplier.
    """

    path: str
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Linear:
    """A product with a kernel, plus a bias, with a folded BatchNormalization, through a relu.

    Attributes:
        layer: The Keras layer.
        form: `dense`, `convolution` or `depthwise`.
        kernel: What is multiplied with.
        bias: Path of the variable, if there is one.
        normalization: The BatchNormalization that is folded into kernel and bias.
        activation: `relu`, `relu6`, or None.
        source, target: Numbers of tensors.
        pointwise: Whether this is the second half of a separable convolution: no stride, no padding.
    """

    layer: Any
    form: str
    kernel: Kernel
    bias: str | None
    normalization: Any
    activation: str | None
    source: int
    target: int
    pointwise: bool = False


@dataclass(frozen=True)
class Apply:
    """Anything else.

    Attributes:
        layer: The Keras layer.
        operation: `move`, `drop`, `mean`, `concatenate`, `add`, `subtract`, `multiply`, or the name of an activation.
        activation: That follows at once: `relu`, `relu6`, or None.
        sources: Numbers of tensors.
        target: Number of a tensor.
    """

    layer: Any
    operation: str
    activation: str | None
    sources: tuple[int, ...]
    target: int


@dataclass(frozen=True)
class Plan:
    """How a model is quantized.

    Attributes:
        scale, offset: Of the leading Rescaling: what turns a pixel into the network's input.
        points: All ranges; the first is the input's.
        kernels: All kernels.
        steps: The deployed graph, in order.
        output: Number of the tensor of logits.
        tensor_points: Number of a tensor -> index of the point behind it.
        behind: Name of a layer -> index of the point behind its result.
        inside: Name of a layer -> index of the point before its activation, or between the halves of a separable
            convolution.
        rescaling: Name of the leading Rescaling layer, if there is one.
        weight_bits: 8 or 4.
    """

    scale: float
    offset: float
    points: tuple[Point, ...]
    kernels: tuple[Kernel, ...]
    steps: tuple[Linear | Apply, ...]
    output: int
    tensor_points: dict[int, int]
    behind: dict[str, int]
    inside: dict[str, dict[str, int]]
    rescaling: str | None
    weight_bits: int


@dataclass(frozen=True)
class Call:
    """One call of a layer: numbers of what goes in and of what comes out, and the result's axes with the batch's."""

    layer: Any
    sources: tuple[int, ...]
    target: int
    rank: int


def make_plan(model: keras.Model, weight_bits: int = 8) -> Plan:
    """Plan the quantization of a Sequential or functional model.

    Args:
        model: Built, with one input (uint8 values) and one output (logits).
        weight_bits: 8: kernels use -127..127; 4: they use -7..7.

    Raises:
        QuantizationError: The model holds what has no int8 form.
    """
    if weight_bits not in (4, 8):
        raise QuantizationError(model.name, f"weights of {weight_bits} bits are not supported", "use 8 or 4")
    return _Planner(model, weight_bits).plan()


def as_functional(model: keras.Model) -> keras.Model:
    """The same layers as a functional model.

    Raises:
        QuantizationError: It is neither Sequential nor functional.
    """
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs, model.outputs, name=model.name)
    # Only a model that was made from tensors can be followed from layer to layer.
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise QuantizationError(
            model.name,
            "its graph cannot be read",
            f"make it as keras.Sequential or keras.Model(inputs, outputs), {FLOAT}",
        )
    return model


def replay(model: keras.Model, call: Callable[..., Any]) -> keras.Model:
    """A functional model over new inputs, of the same layers.

    Args:
        model: Functional.
        call: Called in the place of each layer with (layer, inputs, ...); returns the layer's result.
    """

    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        # Sequential has written down that it was not in training; whoever calls the new model says what it is in.
        kwargs.pop("training", None)
        return call(layer, *args, **kwargs)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=called)


def calls_of(model: keras.Model) -> tuple[list[Call], int]:
    """All calls of layers, in order, and the number of the output's tensor.

    Raises:
        QuantizationError: Several inputs or outputs, a nested model, an operation that is no layer, or a layer that is
            called twice.
    """
    model = as_functional(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise QuantizationError(model.name, "it has several inputs or outputs", f"use one of each, {FLOAT}")
    calls: list[Call] = []
    # Tensors stay alive with their numbers: an id is used again when its object is gone.
    tensors: list[Any] = []

    def number(tensor: Any) -> int:
        return next((index for index, it in enumerate(tensors) if it is tensor), -1)

    def record(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Model):
            raise QuantizationError(
                layer.name, "it is a model within the model", f"write its layers in the model, {FLOAT}"
            )
        if not isinstance(layer, keras.layers.Layer):
            raise QuantizationError(
                layer.name, f"it is the operation {type(layer).__name__}", f"use a layer: {SUPPORTED}, {FLOAT}"
            )
        if any(it.layer is layer for it in calls):
            raise QuantizationError(layer.name, "it is called more than once", f"use a layer for each call, {FLOAT}")
        inputs = keras.tree.flatten((args, kwargs))
        if not all(isinstance(it, keras.KerasTensor) for it in inputs if it is not None):
            raise QuantizationError(layer.name, "it is called with a constant", f"use layers of tensors only, {FLOAT}")
        if not tensors:
            tensors.append(inputs[0])
        result = layer(*args, **kwargs)
        if not isinstance(result, keras.KerasTensor):
            raise QuantizationError(layer.name, "it has several results", f"use layers with one result, {FLOAT}")
        sources = tuple(number(it) for it in inputs if it is not None)
        assert -1 not in sources, f"{layer.name}: all its inputs were made before"
        tensors.append(result)
        calls.append(Call(layer, sources, len(tensors) - 1, len(result.shape)))
        return result

    replayed = replay(model, record)
    return calls, number(replayed.outputs[0])


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


@dataclass
class _Planner:
    """Walks a model once."""

    model: keras.Model
    weight_bits: int
    points: list[Point] = field(default_factory=list)
    steps: list[Linear | Apply] = field(default_factory=list)
    tensor_points: dict[int, int] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)
    inside: dict[str, dict[str, int]] = field(default_factory=dict)
    fused: set[str] = field(default_factory=set)
    rectified: set[int] = field(default_factory=set)

    def plan(self) -> Plan:
        self.calls, self.output = calls_of(self.model)
        self.names = {call.layer.name for call in self.calls}
        # Tensors inside of a layer get numbers that no call has.
        self.inner = itertools.count(max(call.target for call in self.calls) + 1)
        scale, offset, rescaling = self._input()
        for call in self.calls:
            if call.layer.name in self.fused:
                continue
            kind = type(call.layer)
            if kind in LINEAR:
                self._linear(call)
            elif is_activation(call.layer):
                name, _ = activation_of(call.layer)
                self._activation(call.layer, name, call.sources[0], call.target)
            elif kind in MERGES:
                self._merge(call, MERGES[kind])
            elif kind in MEANS:
                self._apply(call.layer, "mean", None, call.sources, call.target)
                self._observe(call.layer.name, call.target, rectified=call.sources[0] in self.rectified)
            elif kind in MOVING or kind in DROPPED:
                self._move(call)
            else:
                self._refuse(call.layer)
        if not any(isinstance(it, Linear) for it in self.steps):
            raise QuantizationError(self.model.name, "it has no kernel", "add a Dense or Conv2D layer")
        return Plan(
            scale, offset, tuple(self.points), tuple(it.kernel for it in self.steps if isinstance(it, Linear)),
            tuple(self.steps), self.output, self.tensor_points, self.behind, self.inside, rescaling, self.weight_bits,
        )  # fmt: skip

    def _refuse(self, layer: Any) -> None:
        if isinstance(layer, L.BatchNormalization):
            raise QuantizationError(
                layer.name, "BatchNormalization is not directly behind a linear layer without an activation, whose "
                "result goes nowhere else",
                f"put it between Conv2D, DepthwiseConv2D or Dense and the activation, {FLOAT}",
            )  # fmt: skip
        if isinstance(layer, L.Rescaling):
            raise QuantizationError(
                layer.name, "Rescaling is not directly behind the input", f"let the model begin with it, {FLOAT}"
            )
        raise QuantizationError(
            layer.name, f"operation {type(layer).__name__} has no int8 form", f"use {SUPPORTED}, {FLOAT}"
        )

    # ------------------------------------------------------------------ what is where

    def _consumers(self, tensor: int) -> list[Call]:
        return [call for call in self.calls if tensor in call.sources]

    def _next(self, tensor: int) -> Call | None:
        """The only call that a tensor goes into."""
        found = self._consumers(tensor)
        return found[0] if len(found) == 1 and tensor != self.output else None

    def _only_concatenated(self, tensor: int) -> bool:
        while (call := self._next(tensor)) is not None:
            if type(call.layer) is L.Concatenate:
                return True
            if type(call.layer) not in MOVING and type(call.layer) not in DROPPED:
                return False
            tensor = call.target
        return False

    def _point(self, layer: str, limits: tuple[float, float] | None, rectified: bool, inside: str | None = None) -> int:
        self.points.append(Point(self._free_name(f"{layer}_range"), limits, rectified, inside))
        return len(self.points) - 1

    def _free_name(self, wanted: str) -> str:
        taken = self.names | {it.name for it in self.points}
        numbered = (f"{wanted}_{number}" for number in itertools.count(1))
        return next(it for it in itertools.chain([wanted], numbered) if it not in taken)

    def _observe(self, layer: str, tensor: int, rectified: bool, limits: tuple[float, float] | None = None) -> None:
        """Put a point behind a layer."""
        if rectified:
            self.rectified.add(tensor)
        if limits is None and self._only_concatenated(tensor):
            return
        self.tensor_points[tensor] = self.behind[layer] = self._point(layer, limits, rectified)

    # ------------------------------------------------------------------ kinds of layers

    def _input(self) -> tuple[float, float, str | None]:
        first = self._next(0)
        scale, offset, name, tensor = 1.0, 0.0, None, 0
        if first is not None and type(first.layer) is L.Rescaling:
            name, tensor = first.layer.name, first.target
            if not all(isinstance(it, int | float) for it in (first.layer.scale, first.layer.offset)):
                raise QuantizationError(
                    name, "it scales channels differently", f"use numbers as scale and offset, {FLOAT}"
                )
            scale, offset = float(first.layer.scale), float(first.layer.offset)
            self.fused.add(name)
            self._apply(first.layer, "drop", None, (0,), tensor)
        # As float32: TensorFlow's operations take no more.
        low, high = float(np.float32(offset)), float(np.float32(255 * scale + offset))
        if not low <= 0 <= high or not high > low:
            raise QuantizationError(
                name or self.model.name, f"values from {low:g} to {high:g} have no int8 form with an exact 0",
                f"use a positive scale, and an offset from {-255 * scale:g} to 0, {FLOAT}",
            )  # fmt: skip
        self.points.append(Point(self._free_name("input_range"), (low, high), low == 0))
        self.tensor_points[tensor] = 0
        if tensor:
            self.tensor_points[0] = 0
        if low == 0:
            self.rectified.add(tensor)
        return scale, offset, name

    def _relu_behind(self, layer: Any, tensor: int) -> tuple[Any, int, str | None]:
        """The relu that a tensor goes into and nothing else: (last layer, its result, relu or relu6)."""
        call = self._next(tensor)
        if call is None or not is_activation(call.layer):
            return layer, tensor, None
        name, _ = activation_of(call.layer)
        if name not in FUSED:
            return layer, tensor, None
        self.fused.add(call.layer.name)
        return call.layer, call.target, name

    def _linear(self, call: Call) -> None:
        layer = call.layer
        self._check_linear(layer)
        activation, _ = activation_of(layer)
        source, separable = call.sources[0], type(layer) in SEPARABLE
        last, end, norm, relu = layer, call.target, None, None
        if activation in FUSED:
            relu = activation
        elif activation == "linear":
            behind = self._next(end)
            if behind is not None and type(behind.layer) is L.BatchNormalization:
                norm = _normalization(behind)
                last, end = behind.layer, behind.target
                self.fused.add(behind.layer.name)
            last, end, relu = self._relu_behind(last, end)
        else:
            end = next(self.inner)
        if separable:
            middle = next(self.inner)
            self.steps.append(
                Linear(layer, "depthwise", _kernel(layer.depthwise_kernel, 2), None, None, None, source, middle)
            )
            self._inside(layer, "middle", middle)
            source = middle
        variable, form, axes = _kernel_of(layer)
        self.steps.append(
            Linear(
                layer, form, _kernel(variable, axes), layer.bias.path if layer.bias is not None else None, norm, relu,
                source, end, separable,
            )
        )  # fmt: skip
        if activation in FUSED or activation == "linear":
            self._observe(last.name, end, relu is not None, FIXED.get(relu or ""))
        else:
            self._inside(layer, "activation", end)
            self._activation(layer, activation, end, call.target)

    def _inside(self, layer: Any, where: str, tensor: int) -> None:
        index = self._point(f"{layer.name}_{where}", None, False, inside=layer.name)
        self.inside.setdefault(layer.name, {})[where] = self.tensor_points[tensor] = index

    @staticmethod
    def _check_linear(layer: Any) -> None:
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            raise QuantizationError(layer.name, "channels come first", f"use data_format='channels_last', {FLOAT}")
        if getattr(layer, "groups", 1) != 1:
            raise QuantizationError(layer.name, f"it has {layer.groups} groups", f"use groups=1, {FLOAT}")
        if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
            raise QuantizationError(
                layer.name, "Keras has quantized it or given it LoRA", f"use a plain layer, {FLOAT}"
            )

    def _activation(self, layer: Any, name: str, source: int, target: int) -> None:
        if name == "linear":
            self._apply(layer, "drop", None, (source,), target)
            self._pass(source, target)
            return
        self._apply(layer, name, None, (source,), target)
        self._observe(layer.name, target, name in ("relu", "relu6", "sigmoid", "softmax"), FIXED.get(name))

    def _merge(self, call: Call, operation: str) -> None:
        if operation != "concatenate" and len(call.sources) != 2:
            raise QuantizationError(
                call.layer.name,
                f"it merges {len(call.sources)} tensors",
                f"merge two, and the result with the next, {FLOAT}",
            )
        last, end, relu = call.layer, call.target, None
        if operation != "concatenate":
            last, end, relu = self._relu_behind(last, end)
        rectified = relu is not None or (operation != "subtract" and all(it in self.rectified for it in call.sources))
        self._apply(call.layer, operation, relu, call.sources, end)
        self._observe(last.name, end, rectified, FIXED.get(relu or ""))

    def _move(self, call: Call) -> None:
        if getattr(call.layer, "data_format", "channels_last") not in (None, "channels_last"):
            raise QuantizationError(call.layer.name, "channels come first", f"use data_format='channels_last', {FLOAT}")
        operation = "drop" if type(call.layer) in DROPPED else "move"
        self._apply(call.layer, operation, None, call.sources, call.target)
        self._pass(call.sources[0], call.target)

    def _pass(self, source: int, target: int) -> None:
        if source in self.tensor_points:
            self.tensor_points[target] = self.tensor_points[source]
        if source in self.rectified:
            self.rectified.add(target)

    def _apply(self, layer: Any, operation: str, relu: str | None, sources: tuple[int, ...], target: int) -> None:
        self.steps.append(Apply(layer, operation, relu, sources, target))


def _normalization(call: Call) -> Any:
    """A BatchNormalization of channels."""
    axis = call.layer.axis if isinstance(call.layer.axis, int) else call.layer.axis[0]
    if axis not in (-1, call.rank - 1):
        raise QuantizationError(
            call.layer.name, f"BatchNormalization runs along axis {axis}", f"use axis=-1, the channels, {FLOAT}"
        )
    return call.layer


def _kernel(variable: Any, axes: int) -> Kernel:
    rank = len(variable.shape)
    return Kernel(variable.path, tuple(range(rank - axes, rank)))


def _kernel_of(layer: Any) -> tuple[Any, str, int]:
    """The kernel that a linear layer ends with: its variable, its form, and how many axes make its channels."""
    if type(layer) in SEPARABLE:
        return layer.pointwise_kernel, "convolution", 1
    if type(layer) in DEPTHWISE:
        return layer.kernel, "depthwise", 2
    return layer.kernel, "dense" if type(layer) is L.Dense else "convolution", 1
