"""Small models, references, changes and offers for the tests of the shell."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt

from aggregator_core import Layout, Tensor
from edge_peer.protocol.commands import Contribution
from edge_peer.protocol.tensors import Delta, ModelRef, UpdateOffer
from edge_peer.shell.changes import Change, encoded
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.payload import encode_delta, encode_update
from edge_peer.shell.vectors import Own

F32 = npt.NDArray[np.float32]

LAYOUT = Layout((Tensor("dense/kernel", (2, 3), 0, 1), Tensor("dense/bias", (3,), 6, None, "bias")))
#: Large enough for a codec to round some of it, and with state.
LARGE = Layout(
    (
        Tensor("dense/kernel", (20, 10), 0, 1),
        Tensor("dense/bias", (10,), 200, None, "bias"),
        Tensor("norm/mean", (10,), 210, None, "state"),
    )
)
#: One of each kind.
CODECS = ("float32", "float16", "int8", "int4", "topk-0.1")


def vector(seed: int = 0, layout: Layout = LAYOUT) -> F32:
    return np.random.default_rng(seed).normal(size=layout.size).astype(np.float32)


def model(seed: int = 0, layout: Layout = LAYOUT, *slots: str) -> GlobalModel:
    """A model with server state of these names; nothing in it is negative, as roots are taken of some."""
    server = {slot: np.abs(vector(seed + 50 + i, layout))[: layout.trained_size] for i, slot in enumerate(slots)}
    return GlobalModel(vector(seed, layout), server)


def change(seed: int = 0, layout: Layout = LAYOUT, control: bool = False) -> Change:
    if not control:
        return Change(vector(seed, layout))
    it = vector(seed + 70, layout)
    it[layout.trained_size :] = 0
    return Change(vector(seed, layout), it)


def ref_of(it: GlobalModel, round_: int = 3, run_id: str = "run-1") -> ModelRef:
    return ModelRef(run_id, 1, round_, 2, it.digest)


def offer_of(it: Change, codec: str = "float32", examples: int = 100, **fields: Any) -> UpdateOffer:
    return UpdateOffer(
        "session", "run-1", 2, 4, "0" * 64, it.digest, examples, codec, 0.5, 1.25, **{"steps": 3, **fields}
    )


def own_of(it: Change, codec: str = "float32", layout: Layout = LAYOUT) -> Own:
    """An update as it comes out of a codec."""
    sent = encoded(codec, it, layout, random.Random(0))
    seen = sent.decode(codec, layout)
    return Own(seen.digest, seen, sent)


def update_bytes(it: Change, codec: str = "float32", layout: Layout = LAYOUT) -> bytes:
    """The payload of an update."""
    own = own_of(it, codec, layout)
    return encode_update(offer_of(own.change, codec), own.encoded)


def delta_bytes(delta: Delta, it: Change, layout: Layout = LAYOUT) -> bytes:
    """The payload of a round's change."""
    return encode_delta(delta, encoded(delta.codec, it, layout, random.Random(0)))


def contributions(*changes: Change, examples: tuple[int, ...] = (), **fields: Any) -> tuple[Contribution, ...]:
    """What a controller knows of updates, by peers a, b, c and so on."""
    counts = examples or (100,) * len(changes)
    return tuple(
        Contribution(chr(ord("a") + i), offer_of(it, examples=count, **fields))
        for i, (it, count) in enumerate(zip(changes, counts, strict=True))
    )
