"""What a plan is made of: points, kernels, and the steps of the deployed graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
