"""Where the modules of this package put their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

#: TensorFlow operation -> the name under which its gradient is registered.
OVERRIDES: dict[str, str] = {}
#: TensorFlow operation -> whether the gradient here is right for this use of it.
CONDITIONS: dict[str, Callable[[Any], bool]] = {}


def gradient_of(kind: str, only_if: Callable[[Any], bool] | None = None) -> Callable[[Any], Any]:
    """Register the decorated function as the gradient of an operation.

    Args:
        kind: TensorFlow's name of the operation.
        only_if: Takes the operation; says whether the gradient holds for it. Other uses are refused.
    """

    def register(function: Any) -> Any:
        OVERRIDES[kind] = f"Builtin{kind}"
        if only_if is not None:
            CONDITIONS[kind] = only_if
        return tf.RegisterGradient(OVERRIDES[kind])(function)

    return register


def is_nhwc(op: Any) -> bool:
    """Whether channels come last, as in every TFLite operation."""
    return bool(op.get_attr("data_format") == b"NHWC")
