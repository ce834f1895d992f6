"""The vectors that the protocol speaks of by digest: global models, this peer's update, received updates."""

from __future__ import annotations

from collections import Counter

import numpy as np

from aggregator_core import RefusedUpdateError, check_update, weighted_mean
from edge_peer.shell.payload import F32, digest_of

#: Vectors that are held of one sender at a time, beside those that the protocol keeps: one of the round, one of the
#: round before or after, and some more for a controller that changes.
FROM_ONE_PEER_MAX = 4


class Vectors:
    """Holds what the protocol says is needed, and of each peer no more than a few besides.

    Args:
        initial: The initial weights, shape (p,); always held.
    """

    def __init__(self, initial: F32) -> None:
        self._initial_digest = digest_of(initial)
        self._models: dict[str, F32] = {self._initial_digest: initial}
        self._kept: frozenset[str] = frozenset()
        #: Digests that came from a peer, the oldest first.
        self._received: dict[str, list[str]] = {}
        self._updates: dict[str, F32] = {}
        self._senders: Counter[str] = Counter()
        self._own: tuple[str, F32] | None = None
        self.size = initial.size

    def model(self, digest: str) -> F32 | None:
        """A global model."""
        return self._models.get(digest)

    def hold_model(self, digest: str, vector: F32) -> None:
        """Keep a global model."""
        self._models[digest] = vector

    def hold_received(self, peer: str, digest: str, vector: F32) -> None:
        """Keep a global model that a peer sent; its oldest ones go, unless the protocol keeps them."""
        self._models[digest] = vector
        mine = self._received.setdefault(peer, [])
        mine.append(digest)
        while len(mine) > FROM_ONE_PEER_MAX:
            oldest = mine.pop(0)
            if oldest not in self._kept:
                self._models.pop(oldest, None)

    def keep_models(self, digests: frozenset[str]) -> None:
        """Forget all others but the initial one."""
        self._kept = digests | {self._initial_digest}
        self._models = {digest: vector for digest, vector in self._models.items() if digest in self._kept}
        self._received.clear()

    def hold_own(self, digest: str, change: F32) -> None:
        """Keep this peer's newest update."""
        self._own = (digest, change)

    def own(self, digest: str) -> F32 | None:
        """This peer's update."""
        return self._own[1] if self._own is not None and self._own[0] == digest else None

    def hold_update(self, peer: str, digest: str, change: F32, total_max: int) -> bool:
        """Keep a received update until it is merged or forgotten; returns False where there is no room for it.

        It is the newest that finds no room: an earlier one may be accepted already.
        """
        if digest not in self._updates:
            if len(self._updates) >= total_max or self._senders[peer] >= FROM_ONE_PEER_MAX:
                return False
            self._updates[digest] = change
            self._senders[peer] += 1
        return True

    def keep_updates(self, digests: frozenset[str]) -> None:
        """Forget all other received updates."""
        self._updates = {digest: change for digest, change in self._updates.items() if digest in digests}
        self._senders.clear()

    @property
    def held(self) -> tuple[int, int]:
        """How many models and how many received updates are held."""
        return len(self._models), len(self._updates)

    @staticmethod
    def problem(change: F32, size: int) -> str:
        """Why an update is refused; empty: it is good."""
        try:
            check_update(change, size)
        except RefusedUpdateError as error:
            return str(error)
        return ""

    def merge(self, base: str, updates: tuple[tuple[str, str, int], ...]) -> tuple[str, F32]:
        """The base plus the weighted mean of the updates: (digest, vector).

        Raises:
            RefusedUpdateError: A vector is not held, or the result is not finite.
        """
        model = self._models.get(base)
        changes = [self._updates.get(digest, self.own(digest)) for _, digest, _ in updates]
        if model is None or any(change is None for change in changes):
            raise RefusedUpdateError("the base or an update is not held any more")
        mean = weighted_mean([change for change in changes if change is not None], [count for _, _, count in updates])
        vector = (model + mean).astype(np.float32, copy=False)
        check_update(vector, self.size)
        digest = digest_of(vector)
        self._models[digest] = vector
        return digest, vector
