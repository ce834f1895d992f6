"""Write a federation's float32 weights into a fully integer TFLite file, with numpy alone.

The exporter makes one such file, the template, with TensorFlow's converter, and a recipe that says where in it every
number stands that depends on the weights: int8 kernels with a scale per output channel, int32 biases, and scale and
zero point of every activation. All of them have a fixed size, so a board writes its own into a copy, and gets byte for
byte what TensorFlow would have converted from the same weights.

Source: the quantization scheme of TFLite (https://ai.google.dev/edge/litert/models/quantization_spec).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_peer.trainers.int8_recipe import Int8Recipe, Kernel, Normalization, Point, RecipeError, recipe_error
from edge_peer.trainers.interface import F32, I32, Cancelled, Examples

__all__ = [
    "Int8Recipe",
    "Int8Scorer",
    "Kernel",
    "Normalization",
    "NotQuantizableError",
    "Point",
    "RecipeError",
    "activation_parameters",
    "folded",
    "kernel_parameters",
    "point_range",
    "write_int8",
]

#: Of an activation, and of the range that is divided into them.
QMIN, QMAX = -128, 127
#: Width of the range that training gives a layer of zeros: a width of 0 says that nothing has been observed.
RANGE_MIN = 1e-6
#: What such a layer is quantized with. A scale as small as its own would make factors that runtimes refuse.
ZEROS_RANGE = (0.0, 1.0)
#: Of a kernel's channel: what is below it is as good as zero, and the runtimes refuse scales that are denormal.
KERNEL_SCALE_MIN = 1e-12
#: Larger ones come from a training that has diverged, and their products are not finite.
SCALE_MAX = 1e15
#: A bias stays far enough below int32's limit that what is added to it does not overflow.
BIAS_MAX = 2**30

F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]


class NotQuantizableError(Exception):
    """These weights have no int8 form; the message names the tensor, its value, why, and what to do."""


def activation_parameters(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of int8 activations in a range, as TensorFlow's converter computes them.

    Args:
        low: At most 0.
        high: At least 0, and above `low`.

    Returns:
        The scale, and the int8 value that stands for zero. Zero has an exact one: the range moves by up to half a
        scale.
    """
    scale = (high - low) / (QMAX - QMIN)
    # Counted from the lowest value, where a half is rounded up.
    steps = -low / scale
    whole = math.floor(steps)
    return scale, QMIN + min(whole + (steps - whole >= 0.5), QMAX - QMIN)


def point_range(point: Point, tensors: Mapping[str, F32]) -> tuple[float, float]:
    """The range of activations to quantize with.

    Args:
        point: Where.
        tensors: Of the layout, by name.

    Raises:
        NotQuantizableError: Nothing was observed yet, or what was is not a range.
    """
    if point.limits is not None:
        return point.limits
    assert point.range is not None, f"{point.name}: a point is checked when its recipe is read"
    low, high = (float(it) for it in tensors[point.range])
    shown = f"{point.range} is [{low:g}, {high:g}]"
    if not low <= 0 <= high:
        raise NotQuantizableError(f"{shown}, which does not hold 0: train from the initial weights again")
    if high - low > SCALE_MAX:
        raise NotQuantizableError(f"{shown}: train with a smaller learning rate")
    if high - low < RANGE_MIN / 2:
        raise NotQuantizableError(f"{shown}: no example has come there yet; train before an int8 model is made")
    return ZEROS_RANGE if high - low < RANGE_MIN * 2 else (low, high)


def kernel_parameters(kernel: F64, bias: F64, input_scale: float, weight_bits: int) -> tuple[I8, F64, I32, F64]:
    """Quantize a kernel per output channel, symmetrically, and its bias; as TensorFlow's converter does.

    Args:
        kernel: Shape (taps, channels).
        bias: Shape (channels,).
        input_scale: Of the activations that the kernel is applied to.
        weight_bits: 8 or 4.

    Returns:
        (values (taps, channels), their scales (channels,), biases (channels,), their scales (channels,)).
    """
    largest = 2 ** (weight_bits - 1) - 1
    # A channel of zeros takes any scale; one whose bias would leave int32 takes the smallest that keeps it inside.
    scales = np.maximum(np.abs(kernel).max(axis=0) / largest, KERNEL_SCALE_MIN)
    scales = np.maximum(scales, np.abs(bias) / (input_scale * BIAS_MAX))
    values = np.clip(_rounded(kernel / scales), -largest, largest).astype(np.int8)
    bias_scales = scales * input_scale
    return values, scales, _rounded(bias / bias_scales).astype(np.int32), bias_scales


def folded(kernel: Kernel, tensors: Mapping[str, F32]) -> tuple[F32, F32]:
    """A layer's kernel (taps, channels) and bias (channels,), with the BatchNormalization behind it in them.

    Raises:
        NotQuantizableError: A variance is not positive, or a product is not finite.
    """
    weights = tensors[kernel.kernel].reshape(-1, kernel.channels)
    bias = tensors[kernel.bias] if kernel.bias is not None else np.zeros(kernel.channels, np.float32)
    norm = kernel.normalization
    if norm is None:
        return weights, bias
    variance = tensors[norm.variance].astype(np.float64) + norm.epsilon
    if not (variance > 0).all():
        raise NotQuantizableError(
            f"{norm.variance} is {float(variance.min() - norm.epsilon):g}, and a variance is not negative: "
            "train from the initial weights again"
        )
    factor = 1 / np.sqrt(variance)
    if norm.gamma is not None:
        factor *= tensors[norm.gamma]
    shifted = (bias - tensors[norm.mean].astype(np.float64)) * factor
    if norm.beta is not None:
        shifted += tensors[norm.beta]
    with np.errstate(over="ignore"):
        result = (weights * factor).astype(np.float32), shifted.astype(np.float32)
    if not all(np.isfinite(it).all() for it in result):
        raise NotQuantizableError(
            f"{kernel.kernel} is not finite with its BatchNormalization ({norm.variance} is as small as "
            f"{float(variance.min() - norm.epsilon):g}): train with a smaller learning rate"
        )
    return result


def write_int8(template: bytes, recipe: Int8Recipe, vector: F32) -> bytes:
    """The template with these weights.

    Args:
        template: The file that the recipe belongs to.
        recipe: Where the numbers stand.
        vector: Shape (p,), float32: the weights, with the state behind them.

    Returns:
        A fully integer TFLite file: uint8 inputs, int8 logits.

    Raises:
        NotQuantizableError: A weight is not finite, or a range was not observed.
        RecipeError: The template has another size than the recipe's.
    """
    if len(template) != recipe.template_bytes:
        raise recipe_error("template_bytes", recipe.template_bytes, f"the template has {len(template)}")
    tensors = recipe.layout.split(vector)
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise NotQuantizableError(f"{name} holds values that are not finite: train with a smaller learning rate")
    content = np.frombuffer(bytearray(template), np.uint8)

    def put(offset: int, values: npt.NDArray[Any], dtype: str) -> None:
        raw = np.frombuffer(np.ascontiguousarray(values, dtype).tobytes(), np.uint8)
        content[offset : offset + len(raw)] = raw

    input_scales = []
    for point in recipe.points:
        scale, zero_point = activation_parameters(*point_range(point, tensors))
        input_scales.append(scale)
        for offset in point.scales:
            put(offset, np.array([scale]), "<f4")
        for offset in point.zero_points:
            put(offset, np.array([zero_point]), "<i8")
    for kernel in recipe.kernels:
        weights, bias = folded(kernel, tensors)
        integers, scales, biases, bias_scales = kernel_parameters(
            weights.astype(np.float64), bias.astype(np.float64), input_scales[kernel.input], recipe.weight_bits
        )
        if max(scales.max(), bias_scales.max()) > SCALE_MAX:
            raise NotQuantizableError(
                f"{kernel.kernel} holds {float(np.abs(weights).max()):g}: train with a smaller learning rate"
            )
        put(kernel.data, integers.T if kernel.channels_first else integers, "i1")
        put(kernel.scales, scales, "<f4")
        put(kernel.bias_data, biases, "<i4")
        put(kernel.bias_scales, bias_scales, "<f4")
    return content.tobytes()


class Int8Scorer:
    """Score int8 models that are written from flat vectors.

    Args:
        template: The exported integer file.
        recipe: Of the template.
        input_shape: Of one example.
        batch: Examples of an invocation.

    Raises:
        ResourceError: No interpreter is installed.
    """

    def __init__(self, template: bytes, recipe: Int8Recipe, input_shape: tuple[int, ...], batch: int) -> None:
        self._template, self._recipe = template, recipe
        self._shape = (batch, *input_shape)
        from edge_peer.trainers.runtimes import load_runtime  # noqa: PLC0415 - the trainers import this module

        self.runtime, self._module = load_runtime()

    def evaluate(
        self, vector: F32, x: Examples, y: I32, cancelled: Callable[[], bool], predicted: I32 | None = None
    ) -> float:
        """Accuracy in 0..1 of the int8 model of a vector.

        Args:
            vector: Shape (p,), float32.
            x: uint8 examples, shape (n, ...).
            y: Their classes, shape (n,).
            cancelled: Asked between batches.
            predicted: Where the model's classes are written, shape (n,).

        Raises:
            Cancelled: `cancelled()` was true.
            NotQuantizableError: The vector has no int8 form.
            RecipeError: The interpreter does not take the file, or the file takes other examples.
        """
        # One thread: a small model is faster with it.
        interpreter = self._interpreter(write_int8(self._template, self._recipe, vector))
        entry, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        images = np.zeros(self._shape, np.uint8)
        correct, examples = 0, len(y)
        for start in range(0, examples, len(images)):
            if cancelled():
                raise Cancelled
            count = min(len(images), examples - start)
            images[:count] = x[start : start + count]
            interpreter.set_tensor(entry, images)
            interpreter.invoke()
            classes = interpreter.get_tensor(result)[:count].argmax(axis=1)
            correct += int((classes == y[start : start + count]).sum())
            if predicted is not None:
                predicted[start : start + count] = classes
        return correct / examples

    def _interpreter(self, content: bytes) -> Any:
        try:
            interpreter = self._module.Interpreter(model_content=content, num_threads=1)
            entry = interpreter.get_input_details()[0]
            taken = tuple(int(it) for it in entry["shape_signature"][1:])
            if taken != self._shape[1:]:
                raise ValueError(f"it takes examples of shape {taken}, not {self._shape[1:]}")
            interpreter.resize_tensor_input(entry["index"], self._shape)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise RecipeError(
                f"{self.runtime} cannot run the int8 model ({reason}); export it again with `make model`"
            ) from None
        return interpreter


def _rounded(values: F64) -> F64:
    """To the nearest whole numbers, halves away from zero, as the converter does; numpy rounds them to even ones."""
    whole = np.trunc(values)
    return np.where(np.abs(values - whole) >= 0.5, whole + np.sign(values), whole)
