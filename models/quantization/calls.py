"""Follow a Keras model from layer to layer, and make it anew with other layers in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from models.quantization.errors import QuantizationError
from models.quantization.kinds import FLOAT, SUPPORTED


@dataclass(frozen=True)
class Call:
    """One call of a layer: numbers of what goes in and of what comes out, and the result's axes with the batch's."""

    layer: Any
    sources: tuple[int, ...]
    target: int
    rank: int


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
            "model",
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
        raise QuantizationError(model.name, "it has several inputs or outputs", f"use one of each, {FLOAT}", "model")
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
