"""The federation's model with all that the next round needs to go on exactly, whoever leads it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aggregator_core.server_optimizers import OPTIMIZERS
from edge_peer.shell.digests import digest_of

F32 = npt.NDArray[np.float32]
#: The name of SCAFFOLD's control variate among the server's state.
CONTROL = "control"
#: Every array that can belong to a model beside its weights, shape (trained_size,), float32.
SLOTS = tuple(sorted({slot for kind in OPTIMIZERS.values() for slot in kind.slots} | {CONTROL}))


@dataclass(frozen=True, slots=True)
class GlobalModel:
    """A model of the federation.

    Attributes:
        vector: Weights, shape (p,), float32.
        server: What the server optimizer and SCAFFOLD remember, by name of SLOTS; a model that no round has changed
            has none of it.
    """

    vector: F32
    server: dict[str, F32] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it; without server state, of the weights."""
        return digest_of(self.vector, self.server)
