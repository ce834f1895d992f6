"""The vectors that the protocol speaks of by digest: global models, this peer's update, received updates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edge_peer.shell.changes import Change, Encoded
from edge_peer.shell.global_model import GlobalModel

#: Vectors that are held of one sender at a time, beside those that the protocol keeps: one of the round, one of the
#: round before or after, and some more for a controller that changes.
FROM_ONE_PEER_MAX = 4


@dataclass(frozen=True, slots=True)
class Own:
    """This peer's update, as it is worked with and as it is sent."""

    digest: str
    change: Change
    encoded: Encoded


class Vectors:
    """Holds what the protocol says is needed, and of each peer no more than a few besides.

    Args:
        initial: The initial model; always held.
    """

    def __init__(self, initial: GlobalModel) -> None:
        self._initial_digest = initial.digest
        self._models: dict[str, GlobalModel] = {self._initial_digest: initial}
        self._kept: frozenset[str] = frozenset()
        #: Digests that came from a peer, the oldest first.
        self._received: dict[str, list[str]] = {}
        self._updates: dict[str, Change] = {}
        self._senders: Counter[str] = Counter()
        self._own: Own | None = None

    def model(self, digest: str) -> GlobalModel | None:
        """A global model."""
        return self._models.get(digest)

    def hold_model(self, digest: str, model: GlobalModel) -> None:
        """Keep a global model."""
        self._models[digest] = model

    def hold_received(self, peer: str, digest: str, model: GlobalModel) -> None:
        """Keep a global model that a peer sent; its oldest ones go, unless the protocol keeps them."""
        self._models[digest] = model
        mine = self._received.setdefault(peer, [])
        mine.append(digest)
        while len(mine) > FROM_ONE_PEER_MAX:
            oldest = mine.pop(0)
            if oldest not in self._kept:
                self._models.pop(oldest, None)

    def keep_models(self, digests: frozenset[str]) -> None:
        """Forget all others but the initial one."""
        self._kept = digests | {self._initial_digest}
        self._models = {digest: model for digest, model in self._models.items() if digest in self._kept}
        self._received.clear()

    def hold_own(self, own: Own) -> None:
        """Keep this peer's newest update."""
        self._own = own

    def own(self, digest: str) -> Own | None:
        """This peer's update."""
        return self._own if self._own is not None and self._own.digest == digest else None

    def hold_update(self, peer: str, digest: str, change: Change, total_max: int) -> bool:
        """Keep a received update until it is merged or forgotten; returns False where there is no room for it.

        It is the newest that finds no room: an earlier one may be accepted already.
        """
        if digest not in self._updates:
            if len(self._updates) >= total_max or self._senders[peer] >= FROM_ONE_PEER_MAX:
                return False
            self._updates[digest] = change
            self._senders[peer] += 1
        return True

    def update(self, digest: str) -> Change | None:
        """An update, a received one or this peer's."""
        own = self.own(digest)
        return self._updates.get(digest, own.change if own is not None else None)

    def keep_updates(self, digests: frozenset[str]) -> None:
        """Forget all other received updates."""
        self._updates = {digest: change for digest, change in self._updates.items() if digest in digests}
        self._senders.clear()

    @property
    def held(self) -> tuple[int, int]:
        """How many models and how many received updates are held."""
        return len(self._models), len(self._updates)
