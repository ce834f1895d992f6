"""Which tensors of a layout a codec may round, and which values share a scale.

Statistics of the data and ranges of activations (kind `state`) are exact, because an error in them moves every output
of their layer. So are tensors of a few values: their scale would take as many bytes as the rounding saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator_core.checks import BLOCK
from aggregator_core.layout import Layout, Tensor

F32 = npt.NDArray[np.float32]

#: A tensor of at most so many values is exact.
TINY = 64
#: Channels of fewer values share the scale of their tensor.
CHANNEL_VALUES_MIN = 8


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor that is rounded: seen as (outer, channels, inner) in C order, it has a scale for each channel.

    Attributes:
        name: The tensor's.
        offset: Of its first value in the flat vector.
        size: Number of its values.
        channels: Number of its scales.
        inner: How many values in a row belong to the same channel.
    """

    name: str
    offset: int
    size: int
    channels: int
    inner: int

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Where blocks of the part's values begin and end: work on a large tensor needs little memory beside it."""
        for start in range(0, self.size, BLOCK):
            yield start, min(start + BLOCK, self.size)

    def channel_of(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The channel of each of the part's values from `start` to `stop`, shape (stop - start,)."""
        return np.arange(start, stop, dtype=np.int64) // self.inner % self.channels

    def peaks(self, vector: F32) -> F32:
        """The largest magnitude in each channel, shape (channels,), of a flat vector."""
        values = vector[self.offset : self.offset + self.size].reshape(-1, self.channels, self.inner)
        # Not `abs`: it would copy the tensor. The sum with zero makes a negative zero positive.
        peaks: F32 = np.maximum(values.max(axis=(0, 2)), -values.min(axis=(0, 2))) + np.float32(0)
        return peaks


@dataclass(frozen=True, slots=True)
class Plan:
    """The division of a layout.

    Attributes:
        exact: Tensors that stay float32.
        parts: Tensors that are rounded.
        exact_size: Number of values of the first.
        coded_size: Number of values of the second.
        scales: Number of channels of the second.
    """

    exact: tuple[Tensor, ...]
    parts: tuple[Part, ...]
    exact_size: int
    coded_size: int
    scales: int


def plan_of(layout: Layout, per_channel: bool = True) -> Plan:
    """Divide a layout.

    Args:
        layout: The model's.
        per_channel: Whether a tensor with an axis has a scale for each channel, or one like the others.
    """
    exact = tuple(it for it in layout.tensors if it.kind == "state" or it.size <= TINY)
    kept = set(exact)
    parts = tuple(_part(it, per_channel) for it in layout.tensors if it not in kept)
    exact_size = sum(it.size for it in exact)
    return Plan(exact, parts, exact_size, layout.size - exact_size, sum(it.channels for it in parts))


def _part(tensor: Tensor, per_channel: bool) -> Part:
    if per_channel and tensor.axis is not None:
        channels = tensor.shape[tensor.axis]
        if tensor.size // channels >= CHANNEL_VALUES_MIN:
            inner = math.prod(tensor.shape[tensor.axis + 1 :])
            return Part(tensor.name, tensor.offset, tensor.size, channels, inner)
    return Part(tensor.name, tensor.offset, tensor.size, 1, tensor.size)
