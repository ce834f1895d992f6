"""Small models, references and offers for the tests of the shell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aggregator_core import Layout, Tensor
from edge_peer.protocol.messages import ModelRef, UpdateOffer
from edge_peer.shell.payload import digest_of

LAYOUT = Layout((Tensor("dense/kernel", (2, 3), 0, 1), Tensor("dense/bias", (3,), 6, None, "bias")))


def vector(seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=LAYOUT.size).astype(np.float32)


def ref_of(it: npt.NDArray[np.float32], round_: int = 3, run_id: str = "run-1") -> ModelRef:
    return ModelRef(run_id, 1, round_, 2, digest_of(it))


def offer_of(change: npt.NDArray[np.float32], codec: str = "float32") -> UpdateOffer:
    return UpdateOffer("session", "run-1", 2, 4, "0" * 64, digest_of(change), 100, codec, 0.5, 1.25)
