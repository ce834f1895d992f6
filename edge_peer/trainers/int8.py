"""Write a federation's float32 weights into a fully integer TFLite file, with numpy alone.

The exporter makes one such file, the template, with TensorFlow's converter, and a recipe that says where in it every
number stands that depends on the weights: int8 kernels with a scale per output channel, int32 biases, and scale and
zero point of every activation. All of them have a fixed size, so a board writes its own into a copy, and gets byte for
byte what TensorFlow would have converted from the same weights.

Source: the quantization scheme of TFLite (https://ai.google.dev/edge/litert/models/quantization_spec).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from aggregator_core.layout import Layout, Tensor
from edge_peer.errors import ResourceError
from edge_peer.trainers.interface import F32, I32, Cancelled, Examples

FORMAT = 1
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
#: Largest numbers of points and kernels that a recipe may list.
ENTRIES_MAX = 10_000

F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]
_T = TypeVar("_T")


class RecipeError(ResourceError):
    """A recipe contradicts itself, its template or the layout; the message names field, value and remedy."""


class NotQuantizableError(Exception):
    """These weights have no int8 form; the message names the tensor, its value, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Point:
    """Where activations are quantized.

    Attributes:
        name: For messages.
        range: Name of the layout's tensor [min, max], shape (2,); None: the range is fixed.
        limits: The fixed range.
        scales: Offsets in the file of the float32 scales to write.
        zero_points: Offsets in the file of the int64 zero points to write.
    """

    name: str
    range: str | None
    limits: tuple[float, float] | None
    scales: tuple[int, ...]
    zero_points: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Normalization:
    """A BatchNormalization that is folded into the kernel before it: names in the layout, and its epsilon."""

    gamma: str | None
    beta: str | None
    mean: str
    variance: str
    epsilon: float


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and its bias in the file.

    Attributes:
        kernel: Name in the layout; its values are (taps, channels) in C order.
        bias: Name in the layout; None: the layer has none.
        normalization: What is folded into both.
        input: Index of the point whose scale the bias is a multiple of.
        channels: Number of output channels.
        channels_first: Whether the file holds (channels, taps) instead of (taps, channels).
        data: Offset of the int8 values.
        scales: Offset of the float32 scales, one a channel.
        bias_data: Offset of the int32 biases.
        bias_scales: Offset of the biases' float32 scales.
    """

    kernel: str
    bias: str | None
    normalization: Normalization | None
    input: int
    channels: int
    channels_first: bool
    data: int
    scales: int
    bias_data: int
    bias_scales: int


@dataclass(frozen=True, slots=True)
class Int8Recipe:
    """Where a template's numbers stand, and what they are made of.

    Attributes:
        layout: Of the flat vector.
        template_bytes: Size of the template.
        weight_bits: 8: kernels use -127..127; 4: they use -7..7, and still take a byte each.
        points: Every range of activations.
        kernels: Every kernel.
    """

    layout: Layout
    template_bytes: int
    weight_bits: int
    points: tuple[Point, ...]
    kernels: tuple[Kernel, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without the layout."""
        return {
            "format": FORMAT,
            "template_bytes": self.template_bytes,
            "weight_bits": self.weight_bits,
            "points": [_lists(asdict(it)) for it in self.points],
            "kernels": [_lists(asdict(it)) for it in self.kernels],
        }

    @classmethod
    def from_json(cls, value: Any, layout: Layout, template_bytes: int) -> Int8Recipe:
        """Read what `to_json` gave.

        Args:
            value: JSON values, from anywhere: nothing in them can make `write_int8` write outside of the template, or
                over another number of the recipe.
            layout: Of the flat vector.
            template_bytes: Size of the template.

        Raises:
            RecipeError: A field is missing, unknown or of another type; a name is not in the layout or has another
                shape; an offset is outside of the template, or two overlap.
        """
        names = {"format", "template_bytes", "weight_bits", "points", "kernels"}
        fields = _Fields.of("recipe", value, names)
        if fields.integer("format", 0, 2**31) != FORMAT:
            raise _error("format", value["format"], f"this program reads {FORMAT}")
        if fields.integer("template_bytes", 0, 2**31) != template_bytes:
            raise _error("template_bytes", value["template_bytes"], f"the template has {template_bytes}")
        if fields.integer("weight_bits", 0, 64) not in (4, 8):
            raise _error("weight_bits", value["weight_bits"], "it must be 8 or 4")
        points = fields.entries("points", _read_point)
        kernels = fields.entries("kernels", _read_kernel)
        recipe = cls(layout, template_bytes, value["weight_bits"], points, kernels)
        tensors = {it.name: it for it in layout.tensors}
        for index, point in enumerate(points):
            _check_point(f"points[{index}]", point, tensors)
        for index, kernel in enumerate(kernels):
            _check_kernel(f"kernels[{index}]", kernel, tensors, len(points))
        _check_places(recipe, tensors)
        return recipe


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
        raise _error("template_bytes", recipe.template_bytes, f"the template has {len(template)}")
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

    def evaluate(self, vector: F32, x: Examples, y: I32, cancelled: Callable[[], bool]) -> float:
        """Accuracy in 0..1 of the int8 model of a vector.

        Args:
            vector: Shape (p,), float32.
            x: uint8 examples, shape (n, ...).
            y: Their classes, shape (n,).
            cancelled: Asked between batches.

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


# ---------------------------------------------------------------------- reading a recipe


def _error(field: str, value: Any, problem: str) -> RecipeError:
    return RecipeError(
        f"int8 recipe: {field} is {str(value)[:60]}, {problem}; export the model again with `make model`"
    )


def _lists(value: Any) -> Any:
    """Tuples as lists: what JSON would make of them."""
    if isinstance(value, dict):
        return {name: _lists(it) for name, it in value.items()}
    return [_lists(it) for it in value] if isinstance(value, list | tuple) else value


class _Fields:
    """An object of JSON, with exactly the named fields."""

    def __init__(self, where: str, value: dict[str, Any]) -> None:
        self._where, self._value = where, value

    @classmethod
    def of(cls, where: str, value: Any, names: set[str]) -> _Fields:
        if not isinstance(value, dict) or set(value) != names:
            raise _error(where, type(value).__name__, f"not an object of {', '.join(sorted(names))}")
        return cls(where, value)

    def _field(self, name: str) -> str:
        return name if self._where == "recipe" else f"{self._where}.{name}"

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._value[name]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _error(self._field(name), repr(value), f"not an integer from {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        value = self._value[name]
        if not isinstance(value, bool):
            raise _error(self._field(name), repr(value), "not true or false")
        return value

    def number(self, name: str) -> float:
        return self._number(self._value[name], self._field(name))

    def text(self, name: str) -> str:
        value = self._value[name]
        if not isinstance(value, str):
            raise _error(self._field(name), repr(value), "not a text")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self._value[name] is None else self.text(name)

    def object_or_none(self, name: str, names: set[str]) -> _Fields | None:
        value = self._value[name]
        return None if value is None else _Fields.of(self._field(name), value, names)

    def pair_or_none(self, name: str) -> tuple[float, float] | None:
        value = self._value[name]
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            raise _error(self._field(name), repr(value), "not two numbers")
        return self._number(value[0], self._field(name)), self._number(value[1], self._field(name))

    def offsets(self, name: str) -> tuple[int, ...]:
        value = self._value[name]
        if not isinstance(value, list) or len(value) > ENTRIES_MAX:
            raise _error(self._field(name), repr(value), f"not a list of at most {ENTRIES_MAX} offsets")
        for it in value:
            if not isinstance(it, int) or isinstance(it, bool):
                raise _error(self._field(name), repr(it), "not an offset")
        return tuple(value)

    def entries(self, name: str, read: Callable[[str, Any], _T]) -> tuple[_T, ...]:
        value = self._value[name]
        if not isinstance(value, list) or not 1 <= len(value) <= ENTRIES_MAX:
            raise _error(self._field(name), type(value).__name__, f"not a list of 1 to {ENTRIES_MAX} objects")
        return tuple(read(f"{name}[{index}]", it) for index, it in enumerate(value))

    @staticmethod
    def _number(value: Any, field: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= SCALE_MAX:
            raise _error(field, repr(value), f"not a number up to {SCALE_MAX:g}")
        return float(value)


def _read_point(where: str, value: Any) -> Point:
    fields = _Fields.of(where, value, {"name", "range", "limits", "scales", "zero_points"})
    return Point(
        fields.text("name"),
        fields.text_or_none("range"),
        fields.pair_or_none("limits"),
        fields.offsets("scales"),
        fields.offsets("zero_points"),
    )


def _read_kernel(where: str, value: Any) -> Kernel:
    fields = _Fields.of(where, value, set(Kernel.__slots__))
    norm = fields.object_or_none("normalization", set(Normalization.__slots__))
    return Kernel(
        fields.text("kernel"),
        fields.text_or_none("bias"),
        None
        if norm is None
        else Normalization(
            norm.text_or_none("gamma"),
            norm.text_or_none("beta"),
            norm.text("mean"),
            norm.text("variance"),
            norm.number("epsilon"),
        ),
        fields.integer("input", 0, ENTRIES_MAX),
        fields.integer("channels", 1, 2**31),
        fields.boolean("channels_first"),
        *(fields.integer(name, 0, 2**31) for name in ("data", "scales", "bias_data", "bias_scales")),
    )


def _check_point(where: str, point: Point, tensors: Mapping[str, Tensor]) -> None:
    if (point.range is None) == (point.limits is None):
        raise _error(f"{where}.range", repr(point.range), "and limits is not its opposite: one of both must be null")
    if point.limits is not None:
        low, high = point.limits
        if not low <= 0 <= high or high - low < RANGE_MIN:
            raise _error(f"{where}.limits", point.limits, "not a range around 0")
    if point.range is not None:
        _check_name(f"{where}.range", point.range, tensors, 2)


def _check_kernel(where: str, kernel: Kernel, tensors: Mapping[str, Tensor], points: int) -> None:
    if kernel.kernel not in tensors or tensors[kernel.kernel].size % kernel.channels:
        raise _error(f"{where}.kernel", repr(kernel.kernel), f"no tensor of the layout with {kernel.channels} channels")
    if kernel.input >= points:
        raise _error(f"{where}.input", kernel.input, f"but there are {points} points")
    if kernel.bias is not None:
        _check_name(f"{where}.bias", kernel.bias, tensors, kernel.channels)
    norm = kernel.normalization
    if norm is None:
        return
    for name in ("gamma", "beta", "mean", "variance"):
        value = getattr(norm, name)
        if value is not None:
            _check_name(f"{where}.normalization.{name}", value, tensors, kernel.channels)


def _check_name(field: str, name: str, tensors: Mapping[str, Tensor], size: int) -> None:
    if name not in tensors or tensors[name].shape != (size,):
        raise _error(field, repr(name), f"no tensor of shape ({size},) in the layout")


def _check_places(recipe: Int8Recipe, tensors: Mapping[str, Tensor]) -> None:
    """Every place is inside the template, and no two of them overlap."""
    places: list[tuple[int, int, str]] = []

    def add(field: str, offsets: Sequence[int], size: int) -> None:
        places.extend((offset, size, field) for offset in offsets)

    for index, point in enumerate(recipe.points):
        add(f"points[{index}].scales", point.scales, 4)
        add(f"points[{index}].zero_points", point.zero_points, 8)
    for index, kernel in enumerate(recipe.kernels):
        add(f"kernels[{index}].data", [kernel.data], tensors[kernel.kernel].size)
        for name in ("scales", "bias_data", "bias_scales"):
            add(f"kernels[{index}].{name}", [getattr(kernel, name)], 4 * kernel.channels)
    end, before = 0, ""
    for offset, size, field in sorted(places):
        if offset < 0 or offset + size > recipe.template_bytes:
            raise _error(field, offset, f"but {size} bytes from there are not inside {recipe.template_bytes}")
        if offset < end:
            raise _error(field, offset, f"and overlaps {before}")
        end, before = offset + size, field
