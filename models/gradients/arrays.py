"""Gradients of what moves, joins and picks numbers. Shapes are known when a model is exported."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from models.gradients.registry import gradient_of


@gradient_of("BiasAdd")
def _bias_add(op: Any, dy: Any) -> Any:
    return dy, tf.reduce_sum(dy, axis=list(range(len(op.inputs[0].shape) - 1)))


def _has_constant(index: int) -> Any:
    """Whether an operation's input of this number is known when the model is exported."""
    return lambda op: tf.get_static_value(op.inputs[index]) is not None


@gradient_of("Pad", _has_constant(1))
def _pad(op: Any, dy: Any) -> Any:
    before = [int(pair[0]) for pair in tf.get_static_value(op.inputs[1])]
    return tf.slice(dy, before, list(op.inputs[0].shape)), None


@gradient_of("ConcatV2", lambda op: tf.get_static_value(op.inputs[-1]) is not None)
def _concat(op: Any, dy: Any) -> Any:
    *parts, axis = op.inputs
    axis = int(tf.get_static_value(axis)) % len(dy.shape)
    grads, offset = [], 0
    for part in parts:
        begin = [offset if index == axis else 0 for index in range(len(dy.shape))]
        grads.append(tf.slice(dy, begin, list(part.shape)))
        offset += int(part.shape[axis])
    return [*grads, None]


@gradient_of("Transpose", _has_constant(1))
def _transpose(op: Any, dy: Any) -> Any:
    order = [int(axis) for axis in tf.get_static_value(op.inputs[1])]
    return tf.transpose(dy, [order.index(axis) for axis in range(len(order))]), None


def _reverses_one_axis(op: Any) -> bool:
    """Whether a reversal is one that every interpreter does: tflite-runtime 2.14 reverses the first axis of several."""
    axes = tf.get_static_value(op.inputs[1])
    return axes is not None and len(axes) == 1


@gradient_of("ReverseV2", _reverses_one_axis)
def _reverse(op: Any, dy: Any) -> Any:
    return tf.reverse(dy, op.inputs[1]), None


def _has_known_shapes(op: Any) -> bool:
    return bool(op.inputs[0].shape.is_fully_defined() and op.outputs[0].shape.is_fully_defined())


@gradient_of("Tile", _has_known_shapes)
def _tile(op: Any, dy: Any) -> Any:
    """The sum over all copies. Only axes that are copied are divided: some kernels of TFLite take no more than four."""
    sizes: list[int] = []
    copied = []
    for size, total in zip(op.inputs[0].shape, op.outputs[0].shape, strict=True):
        if total > size:
            copied.append(len(sizes))
            sizes.append(total // size)
        sizes.append(size)
    return tf.reduce_sum(tf.reshape(dy, sizes), axis=copied), None


def _is_table(op: Any) -> bool:
    """Whether a gather takes rows of a matrix."""
    axis = tf.get_static_value(op.inputs[2])
    return len(op.inputs[0].shape) == 2 and axis == 0 and op.get_attr("batch_dims") == 0


@gradient_of("GatherV2", _is_table)
def _gather(op: Any, dy: Any) -> Any:
    """A product with one-hot rows: TFLite adds to chosen rows only since version 2.13 (UNSORTED_SEGMENT_SUM)."""
    rows, columns = op.inputs[0].shape
    picked = tf.one_hot(tf.reshape(op.inputs[1], [-1]), rows, dtype=dy.dtype)
    return tf.matmul(picked, tf.reshape(dy, [-1, columns]), transpose_a=True), None, None


def _kept(op: Any) -> list[range] | None:
    """What a strided slice keeps of each axis, if it is a part without gaps and known when the model is exported."""
    limits = [tf.get_static_value(it) for it in op.inputs[1:]]
    masks = {name: op.get_attr(f"{name}_mask") for name in ("begin", "end", "shrink_axis", "ellipsis", "new_axis")}
    if any(it is None for it in limits) or masks["ellipsis"] or masks["new_axis"] or any(limits[2] != 1):
        return None
    kept = [range(int(size)) for size in op.inputs[0].shape]
    for axis, (begin, end) in enumerate(zip(limits[0], limits[1], strict=True)):
        bit = 1 << axis
        if masks["shrink_axis"] & bit:
            first = int(begin) % len(kept[axis])
            kept[axis] = kept[axis][first : first + 1]
        else:
            first, last = (None if masks["begin"] & bit else begin), (None if masks["end"] & bit else end)
            kept[axis] = kept[axis][first:last]
    return kept


@gradient_of("StridedSlice", lambda op: not op.inputs[0].dtype.is_floating or _kept(op) is not None)
def _strided_slice(op: Any, dy: Any) -> Any:
    """Zero outside of the part."""
    kept = _kept(op)
    assert kept is not None, f"{op.name}: `unsupported` has let a slice through that has no gradient here"
    sizes = [int(size) for size in op.inputs[0].shape]
    margins = [[it.start, size - it.stop] for it, size in zip(kept, sizes, strict=True)]
    return tf.pad(tf.reshape(dy, [len(it) for it in kept]), margins), None, None, None
