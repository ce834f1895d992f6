"""Where each tensor of a model stands in the one flat vector that everything else works on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

TENSORS_MAX = 10_000
SIZE_MAX = 2**31 - 1
KINDS = frozenset({"weight", "bias", "state"})


class LayoutError(ValueError):
    """A layout contradicts itself, or an array does not fit it; the message names the field and its value."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the model.

    Attributes:
        name: Unique within the model, such as `conv2d/kernel`.
        shape: Its dimensions; () is a scalar.
        offset: Index of its first value in the flat vector; values follow in C order.
        axis: The axis that per-channel scales run along; None: one scale for the tensor.
        kind: `weight`, `bias`, or `state` (averaged like the others, but not trained by gradients).
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    axis: int | None = None
    kind: str = "weight"

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """All tensors of a model, in the order and without gaps in which they stand in the flat vector.

    Raises:
        LayoutError: Names repeat, a dimension is not positive, a tensor does not begin where the one before ends, a
            trained tensor follows the state, or the whole is too large.
    """

    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.tensors) <= TENSORS_MAX:
            raise LayoutError(f"layout has {len(self.tensors)} tensors, not 1 to {TENSORS_MAX}")
        offset = 0
        names: set[str] = set()
        for tensor in self.tensors:
            if not tensor.name or tensor.name in names:
                raise LayoutError(f"tensor name {tensor.name!r} is empty or stands twice")
            names.add(tensor.name)
            if any(size < 1 for size in tensor.shape):
                raise LayoutError(f"{tensor.name}: shape {tensor.shape} has a dimension below 1")
            if tensor.offset != offset:
                raise LayoutError(f"{tensor.name}: offset is {tensor.offset}, but the tensor before ends at {offset}")
            if tensor.axis is not None and not 0 <= tensor.axis < len(tensor.shape):
                raise LayoutError(f"{tensor.name}: axis {tensor.axis} is not one of shape {tensor.shape}")
            if tensor.kind not in KINDS:
                raise LayoutError(f"{tensor.name}: kind {tensor.kind!r} is not one of {', '.join(sorted(KINDS))}")
            if tensor.kind != "state" and offset > 0 and self.tensors[len(names) - 2].kind == "state":
                raise LayoutError(
                    f"{tensor.name}: kind {tensor.kind!r} follows a tensor of kind 'state', which comes last"
                )
            offset += tensor.size
            if offset > SIZE_MAX:
                raise LayoutError(f"{tensor.name}: the layout grows beyond {SIZE_MAX} values")

    @property
    def size(self) -> int:
        """Number of values of the flat vector."""
        last = self.tensors[-1]
        return last.offset + last.size

    @property
    def trained_size(self) -> int:
        """Number of values that gradients train; those of the state follow them."""
        return sum(tensor.size for tensor in self.tensors if tensor.kind != "state")

    def split(self, vector: F32) -> dict[str, F32]:
        """Views of a flat vector's tensors.

        Args:
            vector: Shape (size,), float32.

        Returns:
            Name to array of the tensor's shape, sharing memory with `vector`.

        Raises:
            LayoutError: Another shape or dtype.
        """
        if vector.shape != (self.size,) or vector.dtype != np.float32:
            raise LayoutError(f"vector is {vector.dtype}{list(vector.shape)}, the layout needs float32[{self.size}]")
        return {it.name: vector[it.offset : it.offset + it.size].reshape(it.shape) for it in self.tensors}

    def join(self, tensors: Mapping[str, npt.NDArray[Any]]) -> F32:
        """The flat vector of named tensors; the opposite of `split`.

        Raises:
            LayoutError: Names, shapes or dtypes differ from the layout's.
        """
        names = {it.name for it in self.tensors}
        if set(tensors) != names:
            missing, extra = sorted(names - set(tensors)), sorted(set(tensors) - names)
            raise LayoutError(f"tensors do not fit the layout: missing {missing[:3]}, unknown {extra[:3]}")
        for it in self.tensors:
            value = tensors[it.name]
            if value.shape != it.shape or value.dtype != np.float32:
                raise LayoutError(
                    f"{it.name} is {value.dtype}{list(value.shape)}, the layout needs float32{list(it.shape)}"
                )
        # Only now: a layout may speak of more than there is memory for.
        vector = np.empty(self.size, np.float32)
        for it in self.tensors:
            vector[it.offset : it.offset + it.size] = tensors[it.name].reshape(-1)
        return vector

    def to_json(self) -> list[dict[str, Any]]:
        """As JSON values."""
        return [{**asdict(it), "shape": list(it.shape)} for it in self.tensors]

    @classmethod
    def from_json(cls, value: Any) -> Layout:
        """Read what `to_json` gave.

        Raises:
            LayoutError: A field is missing, unknown, or of another type.
        """
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise LayoutError(f"layout is {type(value).__name__}, not a list of tensors")
        return cls(tuple(_read_tensor(index, item) for index, item in enumerate(value[: TENSORS_MAX + 1])))


def _read_tensor(index: int, item: Any) -> Tensor:
    where = f"layout[{index}]"
    fields = {"name", "shape", "offset", "axis", "kind"}
    if not isinstance(item, Mapping) or set(item) != fields:
        raise LayoutError(f"{where} is not an object of {', '.join(sorted(fields))}")
    shape = item["shape"]
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_int(size) for size in shape):
        raise LayoutError(f"{where}.shape is {shape!r}, not a list of at most 8 integers")
    if not isinstance(item["name"], str) or not isinstance(item["kind"], str):
        raise LayoutError(f"{where}.name or .kind is not a text")
    if not _is_int(item["offset"]) or not (item["axis"] is None or _is_int(item["axis"])):
        raise LayoutError(f"{where}.offset or .axis is not an integer")
    return Tensor(item["name"], tuple(shape), item["offset"], item["axis"], item["kind"])


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= SIZE_MAX
