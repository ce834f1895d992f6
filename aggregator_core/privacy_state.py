"""Noise can make of a model's state what no training makes of it; this puts it right, which costs no privacy.

What is done with a noised vector alone needs no budget: differential privacy is closed under it (Dwork and Roth, "The
Algorithmic Foundations of Differential Privacy", 2014, proposition 2.1).
"""

from __future__ import annotations

import numpy as np

from aggregator_core.layout import Layout
from aggregator_core.updates import F32


def possible(vector: F32, layout: Layout) -> F32:
    """A model with a state that can be: ranges of activations hold zero, and variances are not negative.

    A range that does not hold zero has no int8 form, and a BatchNormalization with a negative variance has no root.

    Args:
        vector: The model after noise was added to it, shape (p,), float32; not modified.
        layout: Of the model. Tensors of the kind `state` are known by the last part of their names, as layers have
            them: `range` and `moving_variance`. Others stay as they are.

    Returns:
        Shape (p,), float32, in memory of its own.

    Raises:
        LayoutError: Another shape or dtype.
    """
    result: F32 = vector.copy()
    parts = layout.split(result)
    for tensor in layout.tensors:
        if tensor.kind != "state":
            continue
        part, name = parts[tensor.name], tensor.name.rpartition("/")[2]
        if name == "moving_variance":
            np.maximum(part, 0, out=part)
        elif name == "range" and tensor.shape == (2,):
            part[0] = min(part[0], np.float32(0))
            part[1] = max(part[1], np.float32(0))
    return result
