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

#: TensorFlow operation -> the gradient registered here.
OVERRIDES = {"Relu": "BuiltinRelu", "BiasAdd": "BuiltinBiasAdd", "Conv2D": "BuiltinConv2D"}
#: Operations whose gradient in TensorFlow is made of operations that TFLite carries.
SAFE = frozenset(
    {
        "AddV2", "Add", "Sub", "Mul", "RealDiv", "Neg", "Exp", "Log", "Sum", "Mean", "Max", "MatMul", "Reshape",
        "Squeeze", "Cast", "Identity", "StopGradient", "Pack", "StridedSlice", "Slice", "OneHot", "Shape", "Const",
        "ExpandDims", "Maximum", "Split", "SplitV", "Fill", "BroadcastTo", "Placeholder", "NoOp", "Greater",
    }
)  # fmt: skip


@contextlib.contextmanager
def with_builtin_gradients() -> Iterator[None]:
    """Differentiate what is traced inside with the gradients of this module."""
    with tf.compat.v1.get_default_graph().gradient_override_map(OVERRIDES):
        yield


def unsupported(graph: Any) -> list[tuple[str, str]]:
    """(layer, operation) of what stands in a forward graph and has no gradient that a board can run."""
    known = SAFE | set(OVERRIDES)
    return [
        (node.name, node.type)
        for node in graph.get_operations()
        if node.type not in known or (node.type == "Conv2D" and not _is_plain(node))
    ]


def _is_plain(op: Any) -> bool:
    """Whether a Conv2D is one that `_conv2d` differentiates: NHWC, no dilation, no groups."""
    same_channels = op.inputs[0].shape[3] == op.inputs[1].shape[2]
    return bool(op.get_attr("data_format") == b"NHWC" and op.get_attr("dilations") == [1, 1, 1, 1] and same_channels)


@tf.RegisterGradient("BuiltinRelu")
def _relu(op: Any, dy: Any) -> Any:
    return dy * tf.cast(op.outputs[0] > 0, dy.dtype)


@tf.RegisterGradient("BuiltinBiasAdd")
def _bias_add(op: Any, dy: Any) -> Any:
    return dy, tf.reduce_sum(dy, axis=list(range(len(op.inputs[0].shape) - 1)))


@tf.RegisterGradient("BuiltinConv2D")
def _conv2d(op: Any, dy: Any) -> Any:
    """Input gradient: a transposed convolution. Filter gradient: a convolution of the input with `dy` as the filter.

    For the filter, examples take the place of channels, and the stride of the layer becomes the dilation of `dy`.
    """
    x, kernel = op.inputs
    strides, padding = op.get_attr("strides"), op.get_attr("padding").decode()
    assert _is_plain(op), f"{op.name}: `unsupported` has let a convolution through that has no gradient here"
    rows, columns = kernel.shape[0], kernel.shape[1]
    batch, height, width, channels = x.shape
    out_height, out_width = dy.shape[1], dy.shape[2]
    dx = tf.nn.conv2d_transpose(dy, kernel, [batch, height, width, channels], strides, padding)
    # The part of the padded input that the forward pass has read.
    used_height, used_width = (out_height - 1) * strides[1] + rows, (out_width - 1) * strides[2] + columns
    if padding == "SAME":
        down, right = max(used_height - height, 0), max(used_width - width, 0)
        x = tf.pad(x, [[0, 0], [down // 2, down - down // 2], [right // 2, right - right // 2], [0, 0]])
    x = x[:, :used_height, :used_width, :]
    dkernel = tf.nn.conv2d(
        tf.transpose(x, [3, 1, 2, 0]),
        tf.transpose(dy, [1, 2, 0, 3]),
        strides=1,
        padding="VALID",
        dilations=[strides[1], strides[2]],
    )
    return dx, tf.transpose(dkernel, [1, 2, 0, 3])
