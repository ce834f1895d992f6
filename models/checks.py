"""What a board cannot train is refused before anything is written, by the name of the layer."""

from __future__ import annotations

import math
import re
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from models import gradients
from models.errors import ExportError
from models.training.losses import Loss

#: A relu within rounding of zero may be on in one and off in the other.
CONVERTED_ERROR_MAX = 1e-3
#: How many random ones are tried; one that agrees is enough.
BATCHES = 8
#: Of a layer; Keras applies them outside of the graph that is exported.
NOT_APPLIED = ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")
REMEDY = (
    "use Dense, Embedding, Conv1D and Conv2D (without groups), DepthwiseConv2D, SeparableConv2D, max and average "
    "pooling of images and rows, ZeroPadding, Cropping, Flatten, Reshape, Permute, Rescaling, Dropout, "
    "BatchNormalization, LayerNormalization, GroupNormalization, LSTM, GRU, SimpleRNN, Bidirectional, TimeDistributed, "
    "RepeatVector, UpSampling of whole pixels, Add, Subtract, Multiply, Average, "
    "Concatenate, and relu, relu6, leaky_relu, elu, sigmoid, tanh, softmax over channels, silu, gelu or hard_silu; "
    "channels last"
)


def layers_of(model: keras.Model) -> list[Any]:
    """All layers, those of models within the model too."""
    found = []
    for layer in getattr(model, "layers", []):
        found += [layer, *layers_of(layer)]
    return found


def check_model(model: keras.Model, module: ModuleType, loss: Loss) -> None:
    """Refuse what would be exported without a word, and then train otherwise than in Keras; raises ExportError."""
    if None in model.input_shape[1:]:
        raise ExportError(f"input has shape {list(model.input_shape[1:])}: boards need every dimension; write it out")
    outputs = tuple(model.output_shape)
    if outputs != (None, module.CLASSES) and (loss.name, module.CLASSES, outputs) != (
        "binary_crossentropy",
        2,
        (None, 1),
    ):
        raise ExportError(
            f"layer {model.layers[-1].name!r} gives shape {list(outputs[1:])}, CLASSES is {module.CLASSES}: "
            "end with Dense(CLASSES), or, for two classes and BinaryCrossentropy, with Dense(1)"
        )
    for layer in layers_of(model):
        extra = [name for name in NOT_APPLIED if getattr(layer, name, None) is not None]
        if extra:
            raise ExportError(f"layer {layer.name!r} has a {extra[0]}, which boards do not apply; leave it out")
        if getattr(layer, "mask_zero", False):
            raise ExportError(f"layer {layer.name!r} masks zeros, which operation NotEqual does; leave mask_zero out")
        if getattr(layer, "renorm", False):
            raise ExportError(f"layer {layer.name!r} has renorm, which boards do not do; leave it out")


def check_forward(model: keras.Model, infer: Any) -> None:
    """Refuse a model whose forward graph holds an operation that cannot be differentiated on a board.

    Also one that ends with a softmax: the loss is that of logits, and would learn little from probabilities.
    """
    for name, kind in gradients.unsupported(infer.graph):
        raise ExportError(f"layer {_layer_of(model, name)!r}: operation {kind} cannot be trained on a board; {REMEDY}")
    last = infer.structured_outputs["logits"].op
    if model.output_shape[-1] == 1:
        # Behind the zeros that stand for the first of two classes.
        last = last.inputs[1].op if last.type == "ConcatV2" else last.inputs[0].op.inputs[1].op
    while last.type in ("Identity", "Reshape"):
        last = last.inputs[0].op
    if last.type in ("Softmax", "Sigmoid"):
        raise ExportError(
            f"layer {_layer_of(model, last.name)!r} ends the model with a {last.type.lower()}; boards take logits: "
            "leave it out"
        )


def check_training(model: keras.Model, train: Any) -> None:
    """Refuse a training step that draws random numbers of its own: a board has none but those of Dropout."""
    for node in train.graph.get_operations():
        if "Random" in node.type:
            raise ExportError(
                f"layer {_layer_of(model, node.name)!r} draws random numbers in operation {node.type}, which boards do "
                "not; use Dropout, or leave it out"
            )


def _layer_of(model: keras.Model, name: str) -> str:
    """The layer that an operation belongs to."""
    layers = {layer.name for layer in layers_of(model)}
    # A layer's operations stand below its name, with a number when it is called once more.
    scopes = [scope if scope in layers else re.sub(r"_\d+$", "", scope) for scope in name.split("/")]
    return next((scope for scope in reversed(scopes) if scope in layers), name)


def random_inputs(function: Any, vector: Any, classes: int, seed: int = 0) -> dict[str, Any]:
    """Inputs of a traced function: the weights near those given, and a batch that is half filled up."""
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "weights": vector + rng.normal(0, 0.05, vector.size) * (vector != 0),
        "learning_rate": 0.1,
        "proximal": 0.01,
        "count": 1,
    }
    inputs = {}
    for spec in function.structured_input_signature[1].values():
        shape = tuple(spec.shape)
        drawn = {
            "x": lambda shape=shape: rng.integers(0, 256, shape),
            "y": lambda shape=shape: rng.integers(0, classes, shape),
            "sample_weight": lambda shape=shape: np.arange(shape[0]) <= shape[0] // 2,
            "noise": lambda shape=shape: rng.integers(-(2**31), 2**31, shape),
            "slots": lambda shape=shape: rng.uniform(0, 1e-3, shape),
            "correction": lambda shape=shape: rng.normal(0, 1e-3, shape),
        }
        value = values[spec.name] if spec.name in values else drawn[spec.name]()
        inputs[spec.name] = np.asarray(value).astype(spec.dtype.as_numpy_dtype)
    return inputs


def check_converted(content: bytes, functions: dict[str, Any], model: keras.Model, vector: Any, classes: int) -> None:
    """Refuse a file that computes something else than the functions that it was made from.

    The converter rewrites graphs, not always rightly: it takes a relu behind a Dense layer without bias for part of
    that layer, writes the layer as an operation that has no activation, and so drops the relu without a word.
    """
    interpreter = Interpreter(model_content=content)
    for name, function in sorted(functions.items()):
        runner = interpreter.get_signature_runner(name)
        # A rounding within rounding of its threshold goes one way here and the other there, and what follows amplifies
        # it: BatchNormalization with quantization does in many batches, a wrong conversion in all.
        found = [_difference(function, runner, vector, classes, seed) for seed in range(BATCHES)]
        if min(distance for distance, _ in found) > CONVERTED_ERROR_MAX:
            distance, output = found[0]
            suspects = [layer.name for layer in layers_of(model) if getattr(layer, "use_bias", True) is False]
            where = f"layer {suspects[0]!r}" if suspects else f"model {model.name!r}"
            raise ExportError(
                f"{where}: the converter has changed what {name} computes ({output} differs by {distance:.3g}); "
                "use layers with a bias"
            )


def _difference(function: Any, runner: Any, vector: Any, classes: int, seed: int) -> tuple[float, str]:
    """The largest difference of an output, as a share of the output's largest value, and which output it is."""
    inputs = random_inputs(function, vector, classes, seed)
    expected = function(**{key: tf.constant(value) for key, value in inputs.items()})
    found = runner(**inputs)
    shares = {}
    for output, value in expected.items():
        share = float(np.abs(found[output] - value.numpy()).max()) / max(1.0, float(np.abs(value.numpy()).max()))
        # What is no number agrees with nothing.
        shares[output] = math.inf if math.isnan(share) else share
    output = max(shares, key=lambda it: shares[it])
    return shares[output], output
