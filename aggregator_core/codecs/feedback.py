"""Error feedback: what a codec has lost of this round's change is added to the next.

Sources: Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed Training of
Speech DNNs", Interspeech 2014; Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression
Schemes", ICML 2019, algorithm 2 (arXiv:1901.09847).
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from aggregator_core.checks import check_update
from aggregator_core.codecs.registry import decode, encode
from aggregator_core.layout import Layout

F32 = npt.NDArray[np.float32]


def encode_with_feedback(
    name: str, change: F32, residual: F32, layout: Layout, rng: random.Random | None = None
) -> tuple[bytes, F32]:
    """The payload of a change and of what earlier payloads have left out.

    The caller keeps the residual, and keeps the old one for as long as the payload may still be refused: what was not
    averaged has not been said. It belongs to one model and one run, and begins with zeros.

    Args:
        name: The codec.
        change: Shape (p,), float32, finite; not modified.
        residual: Shape (p,), float32, finite; not modified.
        layout: Of the model.
        rng: Of stochastic rounding; None: to the nearest, which leaves the smaller residual.

    Returns:
        The payload, and the new residual: change + residual less what `decode` makes of the payload. Shape (p,),
        float32.

    Raises:
        CodecNameError: There is no such codec.
        RefusedUpdateError: Change, residual or their sum is not finite or does not fit the layout, or a value does not
            fit the codec.
    """
    check_update(change, layout.size)
    check_update(residual, layout.size)
    with np.errstate(over="ignore"):
        # A sum beyond float32 is refused by `encode`.
        wanted = change + residual
    payload = encode(name, wanted, layout, rng)
    wanted -= decode(name, payload, layout)
    return payload, wanted
