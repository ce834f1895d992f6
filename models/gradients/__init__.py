"""Gradients written with operations that the TFLite interpreter carries.

TensorFlow's own gradient of a convolution or a relu is an operation (Conv2DBackpropFilter, ReluGrad) that TFLite knows
only through its Select TF extension, which neither `tflite-runtime` nor `ai-edge-litert` contains. Each gradient here
is the same mathematics out of convolutions, products and comparisons. They are registered by name and take effect
inside `with_builtin_gradients()` around code that `tf.gradients` differentiates; a GradientTape would not see them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from models.gradients import activations, arrays, convolution, elementwise, pooling  # noqa: F401 - they register their gradients
from models.gradients.gelu import written_out_gelu
from models.gradients.products import convolutions_by_products
from models.gradients.registry import CONDITIONS, OVERRIDES

__all__ = ["convolutions_by_products", "unsupported", "with_builtin_gradients", "written_out_gelu"]

#: Operations whose gradient in TensorFlow is made of operations that TFLite carries, and operations on whole numbers.
SAFE = frozenset(
    {
        "AddV2", "Add", "Sub", "Mul", "RealDiv", "Neg", "Exp", "Log", "Sum", "Mean", "Max", "Reshape",
        "Squeeze", "Cast", "Identity", "StopGradient", "Pack", "Unpack", "Slice", "OneHot", "Shape", "Const",
        "ExpandDims", "Split", "SplitV", "Fill", "BroadcastTo", "Placeholder", "NoOp", "Greater", "Less",
        "SpaceToBatchND", "BatchToSpaceND", "Softmax", "LogSoftmax", "SquaredDifference", "Square",
        # Of tf.nn.silu, and of gelu and recurrent layers as written here: all bring their gradient with them.
        "IdentityN",
    }
)  # fmt: skip


@contextlib.contextmanager
def with_builtin_gradients() -> Iterator[None]:
    """Differentiate what is traced inside with the gradients of this package."""
    with tf.compat.v1.get_default_graph().gradient_override_map(OVERRIDES):
        yield


def unsupported(graph: Any) -> list[tuple[str, str]]:
    """(layer, operation) of what stands in a forward graph and has no gradient that a board can run."""
    known = SAFE | set(OVERRIDES)
    return [
        (node.name, node.type)
        for node in graph.get_operations()
        if node.type not in known or (node.type in CONDITIONS and not CONDITIONS[node.type](node))
    ]
