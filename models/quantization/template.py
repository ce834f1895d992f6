"""The integer file that boards fill in, and the recipe by which they do.

The deployed graph is built with fake quantization of random ranges and weights, and converted by TensorFlow. Every
number in the file is then found by its value, which only one range or kernel can have made: the file is understood, or
the export fails. A second conversion with other weights and ranges must give the bytes that a board's writer puts into
the first file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from aggregator_core.layout import Layout
from edge_peer.trainers import int8
from models.quantization.errors import QuantizationError
from models.quantization.graph import deployed
from models.quantization.steps import Linear, Plan, Point

AGAIN = 'report the model, or set QAT = "off", which keeps it in float32'


@dataclass(frozen=True)
class Place:
    """A tensor of the file: its name, its quantization and data as views into the file, or None."""

    name: str
    scales: Any
    zero_points: Any
    data: Any
    dtype: int


def make_template(model: keras.Model, plan: Plan, layout: Layout, seed: int) -> tuple[bytes, dict[str, Any]]:
    """The integer file and its recipe.

    Args:
        model: What the plan was made of.
        plan: Of this model.
        layout: Of the flat vector; its names are the paths of the trained model's variables.
        seed: Of the weights and ranges that stand in the file until a board writes its own.

    Returns:
        (TFLite file: uint8 in, int8 logits out, any number of examples; recipe as JSON values).

    Raises:
        QuantizationError: The converter does not make a file that a board could write.
    """
    rng = np.random.default_rng(seed)
    shape = tuple(model.input_shape[1:])
    first, second = placeholders(plan, layout, rng), placeholders(plan, layout, rng)
    template = convert(model.name, plan, layout, shape, first)
    recipe = find(model.name, template, plan, layout, first)
    template = without_stand_ins(template, recipe)
    for vector, converted in ((first, template), (second, convert(model.name, plan, layout, shape, second))):
        if int8.write_int8(template, recipe, vector) != without_stand_ins(converted, recipe):
            raise QuantizationError(model.name, "a board would write another int8 file than TensorFlow", AGAIN, "model")
    # TensorFlow converts to 8 bits; with fewer, the same places get smaller numbers.
    return template, replace(recipe, weight_bits=plan.weight_bits).to_json()


def folded(step: Linear, plan: Plan, tensors: Any) -> tuple[Any, Any]:
    """What a board folds of a step: kernel (taps, channels) and bias (channels,), for the converter.

    A bias of zeros the converter would leave out. Layers without one get a stand-in, which is zero in the template.
    """
    kernel, bias = int8.folded(board_kernel(step, plan), tensors)
    if step.bias is None and step.normalization is None:
        bias = (1 + np.arange(len(bias))).astype(np.float32)
    return kernel, bias


def without_stand_ins(content: bytes, recipe: int8.Int8Recipe) -> bytes:
    """The file with zeros as the biases of layers without a bias."""
    result = bytearray(content)
    for kernel in recipe.kernels:
        if kernel.bias is None and kernel.normalization is None:
            result[kernel.bias_data : kernel.bias_data + 4 * kernel.channels] = bytes(4 * kernel.channels)
    return bytes(result)


def placeholders(plan: Plan, layout: Layout, rng: Any) -> Any:
    """A vector of random weights and ranges, no two of which give the same numbers in the file."""
    vector = rng.normal(0, 0.1, layout.size).astype(np.float32)
    parts = layout.split(vector)
    for step in plan.steps:
        if isinstance(step, Linear) and step.normalization is not None:
            norm = step.normalization
            parts[norm.moving_variance.path][:] = rng.uniform(0.5, 2, norm.moving_variance.shape)
            if norm.gamma is not None:
                parts[norm.gamma.path][:] = rng.uniform(0.5, 2, norm.gamma.shape) * rng.choice(
                    [-1, 1], norm.gamma.shape
                )
    for point in plan.points:
        if point.variable is not None:
            parts[point.variable][:] = [0 if point.rectified else -rng.uniform(1, 8), rng.uniform(1, 8)]
    return vector


def board_point(point: Point, scales: tuple[int, ...] = (), zero_points: tuple[int, ...] = ()) -> int8.Point:
    """A point in the words of the board's recipe."""
    return int8.Point(point.name, point.variable, point.limits, scales, zero_points)


def board_kernel(step: Linear, plan: Plan, offsets: tuple[int, int, int, int] = (0, 0, 0, 0)) -> int8.Kernel:
    """A step's kernel in the words of the board's recipe."""
    norm = step.normalization
    channels = int(np.prod([_shape(step)[axis] for axis in step.kernel.axes]))
    return int8.Kernel(
        step.kernel.path,
        step.bias,
        None
        if norm is None
        else int8.Normalization(
            norm.gamma.path if norm.gamma is not None else None,
            norm.beta.path if norm.beta is not None else None,
            norm.moving_mean.path,
            norm.moving_variance.path,
            float(norm.epsilon),
        ),
        plan.tensor_points[step.source],
        channels,
        step.form != "depthwise",
        *offsets,
    )


def _shape(step: Linear) -> tuple[int, ...]:
    variables = {it.path: it for it in step.layer.variables}
    return tuple(int(it) for it in variables[step.kernel.path].shape)


def convert(name: str, plan: Plan, layout: Layout, shape: tuple[int, ...], vector: Any) -> bytes:
    """The integer file of a vector, by TensorFlow."""
    tensors = layout.split(vector)
    weights = {}
    for step in plan.steps:
        if isinstance(step, Linear):
            kernel, bias = folded(step, plan, tensors)
            weights[step.kernel.path] = kernel.reshape(_shape(step)), bias
    ranges = [int8.point_range(board_point(it), tensors) for it in plan.points]

    def function(x: Any) -> Any:
        return deployed(plan, weights, ranges, x)

    # No number of examples is part of the file: the interpreter is told it.
    concrete = tf.function(function, autograph=False).get_concrete_function(
        tf.TensorSpec((None, *shape), tf.float32, name="x")
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.int8
    try:
        content: bytes = converter.convert()
    except Exception as error:
        raise QuantizationError(name, f"TensorFlow does not convert it to int8 ({error})", AGAIN, "model") from error
    return content


def places(content: bytes) -> Iterator[Place]:
    """All tensors of a file."""
    file = schema.Model.GetRootAs(content, 0)
    graph = file.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        quantization, buffer = tensor.Quantization(), file.Buffers(tensor.Buffer())
        has_scale = quantization is not None and quantization.ScaleLength() > 0
        yield Place(
            tensor.Name().decode(),
            quantization.ScaleAsNumpy() if has_scale else None,
            quantization.ZeroPointAsNumpy() if has_scale else None,
            buffer.DataAsNumpy() if buffer.DataLength() else None,
            tensor.Type(),
        )


def find(name: str, content: bytes, plan: Plan, layout: Layout, vector: Any) -> int8.Int8Recipe:
    """Where the numbers of a vector stand in the file that TensorFlow has made of it.

    Raises:
        QuantizationError: A tensor is in float32, or has numbers that nothing in the plan explains, or that two things
            explain, or something of the plan is missing.
    """
    tensors = layout.split(vector)
    base = np.frombuffer(content, np.uint8).__array_interface__["data"][0]

    def offset(view: Any) -> int:
        return int(view.__array_interface__["data"][0] - base)

    def refuse(what: str) -> QuantizationError:
        return QuantizationError(name, f"the integer file is not understood: {what}", AGAIN, "model")

    parameters = [int8.activation_parameters(*int8.point_range(board_point(it), tensors)) for it in plan.points]
    # What a board would write of each kernel, in the file's order: (values, scales, biases, their scales).
    kernels = {}
    steps = [it for it in plan.steps if isinstance(it, Linear)]
    for step in steps:
        kernel = board_kernel(step, plan)
        weights, bias = folded(step, plan, tensors)
        values, scales, biases, bias_scales = int8.kernel_parameters(
            weights.astype(np.float64), bias.astype(np.float64), parameters[kernel.input][0], 8
        )
        ordered = values.T if kernel.channels_first else values
        kernels[step.kernel.path] = (
            np.ascontiguousarray(ordered).view(np.uint8).reshape(-1), scales.astype(np.float32),
            biases.view(np.uint8).reshape(-1), bias_scales.astype(np.float32),
        )  # fmt: skip

    found_points: dict[int, list[Place]] = {index: [] for index in range(len(plan.points))}
    found: dict[tuple[str, int], Place] = {}
    for place in places(content):
        if place.dtype == schema.TensorType.FLOAT32:
            raise refuse(f"{place.name} is in float32")
        if place.scales is None:
            continue
        if place.data is not None:
            matches = [
                (path, part)
                for path, numbers in kernels.items()
                for part in (0, 2)
                if np.array_equal(numbers[part], place.data) and np.array_equal(numbers[part + 1], place.scales)
            ]
            if len(matches) != 1 or matches[0] in found:
                raise refuse(f"constant {place.name} is {len(matches)} of the model's kernels and biases")
            found[matches[0]] = place
            continue
        zero_point = int(place.zero_points[0]) + (int8.QMIN if place.dtype == schema.TensorType.UINT8 else 0)
        points = [
            index
            for index, (scale, zero) in enumerate(parameters)
            if np.float32(scale) == place.scales[0] and zero == zero_point and len(place.scales) == 1
        ]
        observed = [it for it in points if plan.points[it].variable is not None]
        if not points or (observed and len(points) > 1):
            raise refuse(f"activations {place.name} fit {len(points)} of the model's ranges")
        if observed:
            found_points[observed[0]].append(place)
    missing = [f"{path}" for path in kernels for part in (0, 2) if (path, part) not in found]
    missing += [it.name for index, it in enumerate(plan.points) if it.variable is not None and not found_points[index]]
    if missing:
        raise refuse(f"{missing[0]} is not in it")
    recipe = int8.Int8Recipe(
        layout,
        len(content),
        8,
        tuple(
            board_point(
                it,
                tuple(offset(place.scales) for place in found_points[index]),
                tuple(offset(place.zero_points) for place in found_points[index]),
            )
            for index, it in enumerate(plan.points)
        ),
        tuple(
            board_kernel(
                step,
                plan,
                (
                    offset(found[step.kernel.path, 0].data),
                    offset(found[step.kernel.path, 0].scales),
                    offset(found[step.kernel.path, 2].data),
                    offset(found[step.kernel.path, 2].scales),
                ),
            )
            for step in steps
        ),
    )
    # As a board reads it: with all its checks.
    return int8.Int8Recipe.from_json(recipe.to_json(), layout, len(content))
