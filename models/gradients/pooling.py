"""Gradients of pooling; windows may overlap, leave gaps, and reach over the edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from models.gradients.registry import gradient_of, is_nhwc
from models.gradients.windows import Window, taps_of


def _is_spatial(op: Any) -> bool:
    """Whether a pooling goes over rows and columns only."""
    sizes = op.get_attr("ksize"), op.get_attr("strides")
    return is_nhwc(op) and all(size[0] == size[3] == 1 for size in sizes) and op.get_attr("padding") != b"EXPLICIT"


def _windows(op: Any) -> tuple[Window, Window]:
    size = op.get_attr("ksize")
    return Window.of(op, 1, size[1]), Window.of(op, 2, size[2])


@gradient_of("MaxPool", _is_spatial)
def _max_pool(op: Any, dy: Any) -> Any:
    """To the largest element of each window; of equal ones to the first, row by row, as TensorFlow does."""
    y = op.outputs[0]
    down, across = _windows(op)
    # Not ones as tall as the output: they would be a constant in the exported file.
    open_windows: Any = 1.0
    rows = []
    for row in taps_of(op.inputs[0], down, across, np.finfo(np.float32).min):
        pieces = []
        for tap in row:
            first = tf.cast(tf.equal(tap, y), dy.dtype)
            if rows or pieces:
                first = first * open_windows
            open_windows = open_windows - first
            pieces.append(dy * first)
        rows.append(across.write(pieces))
    return down.write(rows)


@gradient_of("AvgPool", _is_spatial)
def _avg_pool(op: Any, dy: Any) -> Any:
    """In equal parts to the elements of each window; padding is no element."""
    share = dy
    for window in _windows(op):
        first = np.arange(window.count) * window.stride - window.before
        elements = np.minimum(first + window.taps, window.size) - np.maximum(first, 0)
        share = share * tf.constant(
            (1 / elements).reshape([-1 if it == window.axis else 1 for it in range(4)]), dy.dtype
        )
    for window in _windows(op):
        share = window.write([share] * window.taps)
    return share
