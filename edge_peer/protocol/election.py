"""Electing a controller by votes over retained documents.

Theory of operation. A term is a number that only grows. An election of a term has two steps, and no step waits for a
time when the peers answer:

1. Everyone renews its presence, naming the term and the newest model that it holds. A peer whose presence is not
   renewed after `settle_s` keeps silent and cannot be candidate in this term.
2. Everyone votes for the best willing peer that it sees, once, and has the vote on disk before it is published. Only
   who has voted for itself reads the votes: in a large fleet every document that all read is n times n deliveries.

The candidate that holds the votes of a quorum is controller of the term. Terms without a winner end after a time that
differs by chance from peer to peer, and the next one begins; but not while documents of it still come one after
another, as those of a large fleet on slow boards do. Votes never change and never repeat within a term, and two
quorums of a roster share a peer; so a roster never has two controllers in one term.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.messages import Presence, Vote
from edge_peer.protocol.topics import VOTE

#: In a fleet of so many peers an election may take twice as long as alone, and so on, before it is given up.
PEERS_AT_ONCE = 16


def rank(peer: str, presence: Presence) -> tuple[tuple[int, str, int, int], float, str]:
    """How good a controller the peer would be, the same on every peer: newest model, then standing, then name."""
    newest = presence.newest.order if presence.newest is not None else (0, "", 0, 0)
    return (newest, presence.standing, peer)


def choose(candidates: Mapping[str, Presence]) -> str | None:
    """The best willing candidate: of the model that most have, then by rank; None where nobody is willing."""
    willing = {peer: presence for peer, presence in candidates.items() if presence.control and presence.online}
    # A controller leads those who have its model; one board with another model must not hold up the fleet.
    alike = Counter(presence.model_digest for presence in candidates.values())
    return max(willing, key=lambda peer: (alike[willing[peer].model_digest], rank(peer, willing[peer])), default=None)


def quorum(roster: Iterable[str] | None, seen: Iterable[str]) -> int:
    """How many votes elect: a majority of the roster, or of the peers seen where there is none."""
    return len(set(roster if roster is not None else seen)) // 2 + 1


class Election:
    """This peer's part in the election of one term after another, while there is no controller.

    Args:
        context: Shared state.
        term_floor: The highest term that this peer had a part in before its process started. It never leads in one of
            those: what it published then is forgotten.
    """

    def __init__(self, context: Context, term_floor: int) -> None:
        self._context = context
        self._term_floor = term_floor
        self.term = 0
        self._settle_s = 0.0
        self._end_s = 0.0
        self._begun_s = 0.0
        self._patience = 1.0
        self._heard: tuple[Mapping[str, Presence], Mapping[str, Vote]] | None = None
        self._awaited = ""
        self._counts_votes = False

    @property
    def active(self) -> bool:
        """Whether this peer is in an election now."""
        return self.term > 0

    @property
    def begun_s(self) -> float:
        """When the present election began: what was heard in it is no older."""
        return self._begun_s

    def leave(self) -> None:
        """There is a controller."""
        self.term = 0
        if self._counts_votes:
            self._counts_votes = False
            self._context.emit(do.Unsubscribe((VOTE,)))

    def on_disconnected(self) -> None:
        """There is no connection, and so no subscription."""
        self.term = 0
        self._counts_votes = False

    def deadline_s(self) -> float:
        """When `step` must be called again at the latest."""
        settling = self._context.state.voted_term < self.term and self._context.now_s < self._settle_s
        return self._settle_s if settling else self._end_s

    def own_vote(self) -> Vote | None:
        """The vote of this term, if it is cast."""
        state = self._context.state
        if state.voted_term < 1 or not state.voted_for:
            return None
        return Vote(self._context.settings.session, state.voted_term, state.voted_for)

    def step(self) -> bool:
        """Go on with the election; returns whether this peer has won it."""
        context = self._context
        highest = context.roster.highest_term()
        if not self.active or highest > self.term:
            self._begin(max(highest, context.state.elected_term + 1, context.state.voted_term + (not self.active)))
        elif context.now_s >= self._end_s:
            self._suspect_the_silent()
            self._begin(self.term + 1)
        else:
            self._wait_for_more()
        if context.state.voted_term < self.term:
            self._vote_if_ready()
        return self._won()

    def _begin(self, term: int) -> None:
        context = self._context
        timing = context.timing
        self.term = term
        self._begun_s = context.now_s
        self._patience = 1 + context.rng.random()
        self._heard = (context.roster.online(), context.roster.votes())
        self._settle_s = context.now_s + timing.settle_s
        self._end_s = self._settle_s + timing.election_timeout_s * self._patience
        context.election_term = max(context.election_term, term)
        # Only here, so that everybody votes by the same.
        context.strained = context.strained_now
        context.publish_presence(always=True)
        context.log(f"election of term {term} begins")

    def _wait_for_more(self) -> None:
        """While the others' documents still come, nobody is silent and the term is not over; within bounds."""
        context = self._context
        timing, online, votes = context.timing, context.roster.online(), context.roster.votes()
        if self._heard is not None and self._heard[0] is online and self._heard[1] is votes:
            return
        self._heard = (online, votes)
        longer = 1 + len(online) / PEERS_AT_ONCE
        timeout_s = timing.election_timeout_s * self._patience
        settled_s, ended_s = context.now_s + timing.settle_s, context.now_s + timing.settle_s + timeout_s
        if context.now_s < self._settle_s:
            self._settle_s = max(self._settle_s, min(settled_s, self._begun_s + timing.settle_s * longer))
        self._end_s = max(self._end_s, min(ended_s, self._begun_s + (timing.settle_s + timeout_s) * longer))

    def _fresh(self) -> dict[str, Presence]:
        """The peers that have renewed their presence for this term."""
        everyone = self._context.everyone()
        return {peer: presence for peer, presence in everyone.items() if presence.election >= self.term}

    def _awaits_somebody(self) -> bool:
        """Whether a peer whose vote counts is there, and has not renewed its presence for this term.

        One that is awaited is remembered: all others need not be looked at before it has.
        """
        roster, online = self._context.settings.roster, self._context.roster.online()

        def awaited(peer: str) -> bool:
            presence = online.get(peer)
            return presence is not None and presence.election < self.term and (roster is None or peer in roster)

        if not awaited(self._awaited):
            # From the end: documents come about in the order of names.
            self._awaited = next((peer for peer in reversed(online) if awaited(peer)), "")
        return bool(self._awaited)

    def _electorate(self) -> set[str]:
        """Whose votes count: the roster, or everybody seen online where there is none."""
        context = self._context
        if context.settings.roster is not None:
            return set(context.settings.roster)
        return {*context.roster.online(), context.peer}

    def _vote_if_ready(self) -> None:
        context = self._context
        roster = context.settings.roster
        if roster is not None and context.peer not in roster:
            return
        if context.state.elected_term >= self.term:
            return
        if context.now_s < self._settle_s and self._awaits_somebody():
            return
        voters = set(roster) if roster is not None else None
        candidate = choose({peer: it for peer, it in self._fresh().items() if voters is None or peer in voters})
        if candidate is None:
            return
        context.save(voted_term=self.term, voted_for=candidate)
        context.emit(do.Publish(VOTE, Vote(context.settings.session, self.term, candidate)))
        context.log(f"term {self.term}: votes for {candidate}")
        if candidate == context.peer and not self._counts_votes:
            self._counts_votes = True
            context.emit(do.Subscribe((VOTE,)))

    def _won(self) -> bool:
        context = self._context
        state = context.state
        if not context.settings.control or self.term <= self._term_floor or self.term <= state.elected_term:
            return False
        own = state.voted_term == self.term and state.voted_for == context.peer
        fleet = context.settings.roster if context.settings.roster is not None else context.roster.online()
        if own + context.roster.voted(self.term, context.peer) <= len(fleet) // 2:
            # Whoever they are from: there are too few.
            return False
        electorate = self._electorate()
        votes = {peer for peer, vote in context.roster.votes().items() if self._is_for_me(vote)}
        if own:
            votes.add(context.peer)
        return len(votes & electorate) >= quorum(context.settings.roster, electorate)

    def _is_for_me(self, vote: Vote) -> bool:
        return vote.term == self.term and vote.candidate == self._context.peer

    def _suspect_the_silent(self) -> None:
        """An election makes everybody talk; whoever has not is not there, whatever its presence says."""
        context = self._context
        for peer in context.roster.online():
            if context.roster.heard_s(peer) < self._begun_s:
                context.roster.suspect(peer, f"silent in the election of term {self.term}")
                context.log(f"{peer} kept silent in the election of term {self.term}: taken for gone", "WARNING")
