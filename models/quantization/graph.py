"""A plan's deployed graph in TensorFlow: folded weights as constants, fake quantization with ranges as constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from models.quantization.kinds import L, activation_of
from models.quantization.steps import Apply, Linear, Plan

ELEMENTWISE = {"add": tf.add, "subtract": tf.subtract, "multiply": tf.multiply}


def deployed(plan: Plan, weights: Mapping[str, tuple[Any, Any]], ranges: Sequence[tuple[float, float]], x: Any) -> Any:
    """The logits of examples as the integer file computes them, in float32 with fake quantization.

    Args:
        plan: Of the model.
        weights: Path of a kernel -> (kernel, bias), float32 arrays with what is folded into them.
        ranges: Of each point, in the plan's order.
        x: Shape (batch, ...), float32: the network's input, after the leading Rescaling.

    Returns:
        Shape (batch, classes), float32.
    """

    def at_point(values: Any, tensor: int) -> Any:
        index = plan.tensor_points.get(tensor)
        if index is None:
            return values
        return tf.quantization.fake_quant_with_min_max_args(values, *ranges[index])

    tensors = {0: at_point(x, 0)}
    for step in plan.steps:
        if isinstance(step, Linear):
            values = activated(step.activation, linear(step, tensors[step.source], *weights[step.kernel.path]))
            tensors[step.target] = at_point(values, step.target)
        else:
            tensors[step.target] = applied(step, [tensors[it] for it in step.sources])
            if step.operation not in ("move", "drop"):
                tensors[step.target] = at_point(tensors[step.target], step.target)
    return tensors[plan.output]


def activated(name: str | None, x: Any) -> Any:
    """An activation that one operation of the file does together with what is before it."""
    return {None: tf.identity, "relu": tf.nn.relu, "relu6": tf.nn.relu6}[name](x)


def linear(step: Linear, x: Any, kernel: Any, bias: Any) -> Any:
    """A kernel's product with rows, a sequence or an image, and the bias."""
    if step.form == "dense":
        rows = tf.reshape(x, [-1, kernel.shape[0]])
        values = tf.nn.bias_add(tf.matmul(rows, kernel), bias)
        return values if len(x.shape) == 2 else tf.reshape(values, [-1, *x.shape[1:-1], kernel.shape[1]])
    layer, padding = step.layer, step.layer.padding
    strides, dilation = list(layer.strides), list(layer.dilation_rate)
    if step.pointwise:
        strides, dilation, padding = [1] * len(strides), [1] * len(strides), "valid"
    if padding == "causal":
        x = tf.pad(x, [[0, 0], [dilation[0] * (kernel.shape[0] - 1), 0], [0, 0]])
        padding = "valid"
    flat = len(strides) == 1
    if flat:
        # A sequence is an image of one column.
        x = tf.reshape(x, [-1, x.shape[1], 1, x.shape[2]])
        kernel, strides, dilation = kernel[:, None], [*strides, 1], [*dilation, 1]
    operation = tf.raw_ops.DepthwiseConv2dNative if step.form == "depthwise" else tf.raw_ops.Conv2D
    values = operation(
        input=x, filter=tf.constant(kernel), strides=[1, *strides, 1], padding=padding.upper(),
        dilations=[1, *dilation, 1],
    )  # fmt: skip
    values = tf.nn.bias_add(values, bias)
    return tf.reshape(values, [-1, values.shape[1], values.shape[3]]) if flat else values


def applied(step: Apply, sources: list[Any]) -> Any:
    """Everything that has no kernel."""
    layer, x = step.layer, sources[0]
    if step.operation == "drop":
        return x
    if step.operation in ELEMENTWISE:
        return activated(step.activation, ELEMENTWISE[step.operation](*sources))
    if step.operation == "concatenate":
        return tf.concat(sources, layer.axis)
    if step.operation == "mean":
        return tf.reduce_mean(x, list(range(1, len(x.shape) - 1)), keepdims=layer.keepdims)
    if step.operation == "move":
        if isinstance(layer, L.Flatten | L.Reshape):
            # Keras's own asks for the number of examples, which becomes operations of the file.
            return tf.reshape(x, [-1, *layer.compute_output_shape((1, *x.shape[1:]))[1:]])
        return layer(x)
    if step.operation == "leaky_relu":
        return tf.nn.leaky_relu(x, activation_of(layer)[1])
    if step.operation == "hard_silu":
        return x * tf.nn.relu6(x + 3) * (1 / 6)
    return {"relu": tf.nn.relu, "relu6": tf.nn.relu6, "sigmoid": tf.sigmoid, "tanh": tf.tanh, "softmax": tf.nn.softmax}[
        step.operation
    ](x)
