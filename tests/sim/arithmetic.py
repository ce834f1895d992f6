"""A model of four weights, and codecs, a server optimizer and residuals that are as simple as they can be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_peer.protocol.aggregation import Mean
from edge_peer.protocol.run_settings import NONE, WHOLE, RunSettings
from edge_peer.protocol.state import Memory

F32 = npt.NDArray[np.float32]
WEIGHTS = 4
#: Four weights, then the server's momentum: what the server remembers belongs to the model.
INITIAL: F32 = np.zeros(2 * WEIGHTS, np.float32)
#: What a codec leaves out is smaller than that; two updates that become one are not to be expected.
GRID = np.float32(2**-14)


def digest_of(vector: F32) -> str:
    """SHA-256 of a vector's bytes."""
    return hashlib.sha256(vector.tobytes()).hexdigest()


def seen(codec: str, vector: F32) -> F32:
    """What the receiver sees of a vector, shape (4,): a whole number of GRID, where the codec is not exact."""
    return vector if codec == "float32" else np.trunc(vector / GRID) * GRID


def advance(base: F32, change: F32, optimizer: str) -> F32:
    """The model after a round, shape (8,): everybody who has the base makes the same one of the same change."""
    momentum = base[WEIGHTS:]
    if optimizer != NONE:
        momentum = np.float32(0.5) * momentum + change
        change = momentum
    return np.concatenate([base[:WEIGHTS] + change, momentum])


@dataclass(frozen=True)
class Release(Mean):
    """What a board's release can do."""

    lacks: bool

    def lacking(self, settings: RunSettings) -> str:
        """See `Aggregation`."""
        codecs = {settings.codec, settings.downlink} - {WHOLE, "float32"}
        return f"this release has no {min(codecs)}" if self.lacks and codecs else ""


@dataclass(frozen=True)
class Remembered:
    """A memory on the disk: what the codec has left out of everything up to this update."""

    memory: Memory
    residual: F32


class Disk:
    """Two memories that take turns, as the shell keeps them."""

    def __init__(self) -> None:
        self._slots: list[Remembered | None] = [None, None]

    @property
    def memories(self) -> tuple[Memory, ...]:
        """Which there are."""
        return tuple(it.memory for it in self._slots if it is not None)

    def residual(self, digest: str | None) -> F32 | None:
        """Of an own update; None: it is not here."""
        return next((it.residual for it in self._slots if it is not None and it.memory.digest == digest), None)

    def put(self, memory: Memory, residual: F32, after: str | None) -> None:
        """Keep a memory in place of whichever is not that of `after`."""
        first = self._slots[0]
        self._slots[1 if first is not None and first.memory.digest == after else 0] = Remembered(memory, residual)
