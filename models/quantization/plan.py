"""Decide where a Keras model is quantized: its points, its kernels, and what is computed as one.

The deployed graph is a list of steps over numbered tensors; tensor 0 is the input. A convolution or a Dense layer, the
BatchNormalization directly behind it and a relu behind both are one step, as they are one operation in the integer
file, and its result has one point: a range of activations. What only moves or picks values has none: TFLite's kernels
want the same scale on both sides. Nor has what goes into nothing but a Concatenate, whose parts share its range.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from models.quantization.calls import Call, calls_of
from models.quantization.errors import QuantizationError
from models.quantization.kinds import (
    DEPTHWISE,
    DROPPED,
    FIXED,
    FLOAT,
    FUSED,
    LINEAR,
    MEANS,
    MERGES,
    MOVING,
    SEPARABLE,
    SUPPORTED,
    L,
    activation_of,
    is_activation,
)  # fmt: skip
from models.quantization.steps import Apply, Kernel, Linear, Plan, Point


def make_plan(model: keras.Model, weight_bits: int = 8) -> Plan:
    """Plan the quantization of a Sequential or functional model.

    Args:
        model: Built, with one input (uint8 values) and one output (logits).
        weight_bits: 8: kernels use -127..127; 4: they use -7..7.

    Raises:
        QuantizationError: The model holds what has no int8 form.
    """
    if weight_bits not in (4, 8):
        raise QuantizationError(model.name, f"weights of {weight_bits} bits are not supported", "use 8 or 4", "model")
    return _Planner(model, weight_bits).plan()


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
            raise QuantizationError(self.model.name, "it has no kernel", "add a Dense or Conv2D layer", "model")
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
