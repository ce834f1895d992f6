"""Who holds the newest global model: what a controller that takes over goes on from, and asks its holder for."""

from __future__ import annotations

from collections import Counter

from edge_peer.protocol.context import Context
from edge_peer.protocol.tensors import ModelRef

#: A model that its holder did not send this often is not asked for again.
FETCHES_MAX = 3


class Search:
    """What a controller knows of who holds which model."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._unsent: Counter[tuple[str, str]] = Counter()

    def newest(self) -> tuple[ModelRef | None, str]:
        """The newest model that anybody who is there holds, and who: this peer, where it does."""
        best, holder = self._context.state.held, self._context.peer
        for peer, presence in self._context.roster.online().items():
            newest = presence.newest
            if presence.model_digest != self._context.settings.model_digest:
                continue
            if newest is None or self._unsent[peer, newest.sha256] >= FETCHES_MAX:
                continue
            if best is None or newest.order > best.order:
                best, holder = newest, peer
        return best, holder

    def holder_of(self, ref: ModelRef) -> str | None:
        """A peer that is there and has announced this very model; None: nobody has."""
        online = self._context.roster.online().items()
        return next((peer for peer, it in online if it.newest is not None and it.newest.sha256 == ref.sha256), None)

    def was_not_sent(self, ref: ModelRef, holder: str) -> None:
        """Its holder was asked for it in vain, and is taken for gone until it says something."""
        self._unsent[holder, ref.sha256] += 1
        self._context.roster.suspect(holder, f"did not send the model of round {ref.round}")
