"""The round that is open: who is to train, what has come in, who is missing and why."""

from __future__ import annotations

from edge_peer.protocol.commands import Contribution
from edge_peer.protocol.context import Context
from edge_peer.protocol.messages import Presence
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.selection import NOT_PICKED, select, why_not
from edge_peer.protocol.tensors import UpdateOffer


class Opening:
    """The bookkeeping of a controller's rounds, one after another; when to close one, the controller decides.

    Attributes:
        attempt: How often the present round was opened.
        vain: How often its deadline passed without enough updates.
        participants: Who is to train; empty while there are too few.
        extended: The deadline of this opening was moved once.
        accepted: The update that counts of each peer; it stays over further openings of the round.
        closed: Digests of those of the round before.
        population: Examples of all peers that could train or have, when the round was closed.
        refused: Why an update was refused, by peer, in this opening.
        missing: Why a peer is not in the round, or did not answer.
        used: In how many rounds each peer's update was counted.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.attempt = 0
        self.vain = 0
        self.participants: tuple[str, ...] = ()
        self.opened_s = 0.0
        self.extended = False
        self.accepted: dict[str, UpdateOffer] = {}
        self.closed: dict[str, str] = {}
        self.population = 0
        self.refused: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.used: dict[str, int] = {}

    def clear(self) -> None:
        """Nothing of the round before is of use any more."""
        self.accepted = {}
        self.refused = {}
        self.missing = {}
        self.participants = ()

    def able(self) -> dict[str, Presence]:
        """Who can train now; `missing` says why the others cannot."""
        context = self._context
        return {
            peer: presence
            for peer, presence in context.everyone().items()
            if not why_not(presence, context.settings.model_digest)
            and (peer != context.peer or context.settings.controller_trains)
        }

    def open(self, settings: RunSettings) -> bool:
        """Open with the peers that are there; False: they are too few."""
        context = self._context
        needed = context.settings.aggregation.updates_needed(settings)
        chosen = set(select(self.able(), settings, needed, self.used, context.rng)) | set(self.accepted)
        self.missing = self._absent(chosen)
        # What was refused may be offered again, to the new opening.
        self.refused = {}
        if len(chosen) < needed:
            self.participants = ()
            return False
        self.participants = tuple(sorted(chosen))
        self.attempt += 1
        self.extended = False
        self.opened_s = context.now_s
        return True

    def _absent(self, chosen: set[str]) -> dict[str, str]:
        context = self._context
        reasons = {}
        expected = set(context.settings.roster or ()) | set(context.roster.said_online())
        for peer in sorted(expected - chosen - {context.peer}):
            presence = context.roster.presence(peer)
            if presence is None or not presence.online:
                reasons[peer] = "offline"
            else:
                why = why_not(presence, context.settings.model_digest)
                reasons[peer] = (context.roster.suspicion(peer) or why or NOT_PICKED)[:300]
        return reasons

    def not_from(self, peer: str, offer: UpdateOffer) -> str:
        """Why an update of this sender cannot count; empty: it can."""
        if peer not in self.participants:
            return "not selected for this round"
        presence = self._context.roster.presence(peer)
        if peer != self._context.peer and (presence is None or presence.session != offer.session):
            return "sent by another session than the peer's present one"
        return ""

    def take(self, peer: str, offer: UpdateOffer, problem: str) -> bool:
        """Accept an update or refuse it; returns whether its sender has to be told something new."""
        held = self.accepted.get(peer)
        if held is not None:
            if held.digest != offer.digest:
                self._context.log(f"second, different update of {peer} in round {offer.round} ignored", "WARNING")
            return False
        if not problem:
            self.accepted[peer] = offer
            self.refused.pop(peer, None)
            return False
        if self.refused.get(peer) == problem:
            return False
        self.refused[peer] = problem
        self._context.log(f"update of {peer} for round {offer.round} refused: {problem}", "WARNING")
        return True

    def outstanding(self) -> list[str]:
        """Participants that are there and have not answered."""
        able = self.able()
        answered = self.accepted.keys() | self.refused.keys()
        return [peer for peer in self.participants if peer not in answered and peer in able]

    def extend(self, outstanding: list[str]) -> None:
        """Wait once more for these."""
        self.extended = True
        for peer in outstanding:
            self.missing[peer] = "no update before the deadline, which was extended once"
        self._context.log(f"deadline extended, still missing: {', '.join(outstanding)}", "WARNING")

    def suspect(self, outstanding: list[str]) -> None:
        """Whoever was silent since the round was opened is taken for gone, until it is heard."""
        roster = self._context.roster
        for peer in outstanding:
            self.missing[peer] = "no update before the deadline"
            if peer != self._context.peer and roster.heard_s(peer) < self.opened_s:
                roster.suspect(peer, "silent for a whole round")

    def close(self) -> tuple[Contribution, ...]:
        """What is to be merged, sorted by peer."""
        for peer in self.participants:
            if peer not in self.accepted and peer not in self.refused and peer not in self.missing:
                self.missing[peer] = "left during the round"
        self.population = self._examples()
        return tuple(Contribution(peer, offer) for peer, offer in sorted(self.accepted.items()))

    def _examples(self) -> int:
        """Examples of all peers that can train or have."""
        examples = {peer: presence.examples for peer, presence in self.able().items()}
        return sum((examples | {peer: offer.examples for peer, offer in self.accepted.items()}).values())

    def count(self) -> None:
        """The accepted updates are in the model now."""
        self.closed = {peer: offer.digest for peer, offer in self.accepted.items()}
        for peer in self.accepted:
            self.used[peer] = self.used.get(peer, 0) + 1

    def summary(self) -> dict[str, object]:
        """What the round log says of the round."""
        return {
            "attempt": self.attempt,
            "accepted": {peer: _recorded(it) for peer, it in sorted(self.accepted.items())},
            "population": self.population,
            "refused": dict(self.refused),
            "missing": dict(self.missing),
            "seconds": round(self._context.now_s - self.opened_s, 6),
        }


def _recorded(offer: UpdateOffer) -> dict[str, object]:
    """All that the model depends on beside the update's vector, which its digest names; and how long it took."""
    known = {
        "digest": offer.digest,
        "examples": offer.examples,
        "steps": offer.steps,
        "codec": offer.codec,
        "loss": offer.loss,
        "s": offer.seconds,
    }
    return known if offer.base_loss is None else {**known, "base_loss": offer.base_loss}
