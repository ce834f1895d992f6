"""What is sent of training and of rounds: a change of the weights, and with SCAFFOLD one of a control variate."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator_core.codecs import decode, encode
from aggregator_core.layout import Layout
from edge_peer.shell.digests import digest_of

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Change:
    """A change as everybody who receives it works with it.

    Attributes:
        vector: Of the model, shape (p,), float32.
        control: Of the control variate, shape (p,), float32, zero behind the trained values; None: there is none.
    """

    vector: F32
    control: F32 | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all its values."""
        return digest_of(self.vector, {} if self.control is None else {"control": self.control})


@dataclass(frozen=True, slots=True)
class Encoded:
    """A change in the bytes of a codec; its parts as those of `Change`."""

    vector: bytes | memoryview
    control: bytes | memoryview | None = None

    def decode(self, codec: str, layout: Layout) -> Change:
        """The change; raises PayloadError or CodecNameError."""
        control = None if self.control is None else decode(codec, self.control, layout)
        return Change(decode(codec, self.vector, layout), control)


def encoded(codec: str, change: Change, layout: Layout, rng: random.Random | None) -> Encoded:
    """A change in the bytes of a codec, as `aggregator_core.codecs.encode` makes them."""
    control = None if change.control is None else encode(codec, change.control, layout, rng)
    return Encoded(encode(codec, change.vector, layout, rng), control)
