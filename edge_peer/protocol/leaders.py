"""Who else is controller, by the latest round document of each peer."""

from __future__ import annotations

from edge_peer.protocol.context import Context
from edge_peer.protocol.messages import Round


class Leaders:
    """The other peers that say that they are controllers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def on_round(self, peer: str, document: Round) -> None:
        """Hold a peer's newest document; one that is older, or of a term that is over, changes nothing."""
        context = self._context
        context.learn(document)
        if document.term < context.state.elected_term:
            return
        held = context.rounds.get(peer)
        if held is not None and (document.term, document.beat) < (held[0].term, held[0].beat):
            return
        if held is not None and held[0] == document:
            # A duplicate from the broker is not a beat: it does not renew the lease.
            return
        context.rounds[peer] = (document, context.now_s)

    def on_connected(self) -> None:
        """A lease that ran while nothing could be heard has not run."""
        rounds, now_s = self._context.rounds, self._context.now_s
        for peer, (document, _) in list(rounds.items()):
            rounds[peer] = (document, now_s)

    def lapses_s(self, peer: str) -> float:
        """When the lease of this controller ends."""
        return self._context.rounds[peer][1] + self._context.timing.lease_s

    def best(self, own_term: int, in_grace: bool) -> str | None:
        """The other peer that is controller, unless it is this one.

        Args:
            own_term: The term that this peer is controller of; 0: of none.
            in_grace: Nobody is taken for gone yet.
        """
        context = self._context
        alive = {
            peer: document
            for peer, (document, _) in context.rounds.items()
            if document.term >= context.state.elected_term
            and context.is_current(peer, document.session)
            and (in_grace or context.now_s < self.lapses_s(peer))
        }
        if not alive:
            return None
        best = max(alive, key=lambda peer: (alive[peer].term, self._strength(peer)))
        theirs = alive[best].term
        if own_term > theirs or (own_term == theirs and self._strength(context.peer) > self._strength(best)):
            return None
        return best

    def _strength(self, peer: str) -> tuple[float, str]:
        """Of two controllers that meet: by what does not come and go within a session, so that both see it alike."""
        presence = self._context.everyone().get(peer)
        return (presence.score if presence is not None else 0.0, peer)
