"""Where in an int8 template the numbers stand that a board writes, and what they are made of.

A recipe comes from a file: every field is checked, so that nothing in it can make a board write anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from aggregator_core.layout import Layout, Tensor
from edge_peer.errors import ResourceError

FORMAT = 1
#: Largest numbers of points and kernels that a recipe may list.
ENTRIES_MAX = 10_000
#: Of a fixed range or an epsilon.
NUMBER_MAX = 1e15

_T = TypeVar("_T")


class RecipeError(ResourceError):
    """A recipe contradicts itself, its template or the layout; the message names field, value and remedy."""


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
            raise recipe_error("format", value["format"], f"this program reads {FORMAT}")
        if fields.integer("template_bytes", 0, 2**31) != template_bytes:
            raise recipe_error("template_bytes", value["template_bytes"], f"the template has {template_bytes}")
        if fields.integer("weight_bits", 0, 64) not in (4, 8):
            raise recipe_error("weight_bits", value["weight_bits"], "it must be 8 or 4")
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


def recipe_error(field: str, value: Any, problem: str) -> RecipeError:
    """About a field, its value, and what is wrong with it."""
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
            raise recipe_error(where, type(value).__name__, f"not an object of {', '.join(sorted(names))}")
        return cls(where, value)

    def _field(self, name: str) -> str:
        return name if self._where == "recipe" else f"{self._where}.{name}"

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._value[name]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise recipe_error(self._field(name), repr(value), f"not an integer from {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        value = self._value[name]
        if not isinstance(value, bool):
            raise recipe_error(self._field(name), repr(value), "not true or false")
        return value

    def number(self, name: str) -> float:
        return self._number(self._value[name], self._field(name))

    def text(self, name: str) -> str:
        value = self._value[name]
        if not isinstance(value, str):
            raise recipe_error(self._field(name), repr(value), "not a text")
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
            raise recipe_error(self._field(name), repr(value), "not two numbers")
        return self._number(value[0], self._field(name)), self._number(value[1], self._field(name))

    def offsets(self, name: str) -> tuple[int, ...]:
        value = self._value[name]
        if not isinstance(value, list) or len(value) > ENTRIES_MAX:
            raise recipe_error(self._field(name), repr(value), f"not a list of at most {ENTRIES_MAX} offsets")
        for it in value:
            if not isinstance(it, int) or isinstance(it, bool):
                raise recipe_error(self._field(name), repr(it), "not an offset")
        return tuple(value)

    def entries(self, name: str, read: Callable[[str, Any], _T]) -> tuple[_T, ...]:
        value = self._value[name]
        if not isinstance(value, list) or not 1 <= len(value) <= ENTRIES_MAX:
            raise recipe_error(self._field(name), type(value).__name__, f"not a list of 1 to {ENTRIES_MAX} objects")
        return tuple(read(f"{name}[{index}]", it) for index, it in enumerate(value))

    @staticmethod
    def _number(value: Any, field: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= NUMBER_MAX:
            raise recipe_error(field, repr(value), f"not a number up to {NUMBER_MAX:g}")
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
        raise recipe_error(
            f"{where}.range", repr(point.range), "and limits is not its opposite: one of both must be null"
        )
    if point.limits is not None:
        low, high = point.limits
        if not low <= 0 <= high or low == high:
            raise recipe_error(f"{where}.limits", point.limits, "not a range around 0")
    if point.range is not None:
        _check_name(f"{where}.range", point.range, tensors, 2)


def _check_kernel(where: str, kernel: Kernel, tensors: Mapping[str, Tensor], points: int) -> None:
    if kernel.kernel not in tensors or tensors[kernel.kernel].size % kernel.channels:
        raise recipe_error(
            f"{where}.kernel", repr(kernel.kernel), f"no tensor of the layout with {kernel.channels} channels"
        )
    if kernel.input >= points:
        raise recipe_error(f"{where}.input", kernel.input, f"but there are {points} points")
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
        raise recipe_error(field, repr(name), f"no tensor of shape ({size},) in the layout")


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
            raise recipe_error(field, offset, f"but {size} bytes from there are not inside {recipe.template_bytes}")
        if offset < end:
            raise recipe_error(field, offset, f"and overlaps {before}")
        end, before = offset + size, field
