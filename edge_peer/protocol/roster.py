"""Who is there: the latest presence of every peer, and how much it is worth.

A presence that the broker kept from before our subscription says what was true when it was written; its author may
have lost power together with the broker. So presences are `online` on their word, `suspected` when their author kept
silent although it was asked (an election, a round), and cleared of it by anything that it says live.

Everybody hears everybody in an election, and asks after each document who is there: what is asked for often is kept up
to date with the one member that has changed, so that an answer takes no time that grows with the fleet.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeVar

from edge_peer.protocol.highest import Highest
from edge_peer.protocol.messages import Presence, Vote

Value = TypeVar("Value")


@dataclass(slots=True)
class Member:
    """One other peer, as far as it is known.

    Attributes:
        heard_s: When it last said something live (not retained); monotonic, this peer's clock.
        confirmed: Its presence has arrived since this connection was made.
        suspected: Why it is taken for gone although its presence says online; empty: it is not.
    """

    presence: Presence | None = None
    vote: Vote | None = None
    heard_s: float = float("-inf")
    confirmed: bool = False
    suspected: str = ""


class Roster:
    """All other peers of the federation.

    Args:
        own: This peer's name, which is never a member.
        peers_max: Further names are ignored, so that memory is bounded.
    """

    def __init__(self, own: str, peers_max: int) -> None:
        self._own = own
        self._peers_max = peers_max
        self._members: dict[str, Member] = {}
        # What is derived from the members, never changed in place once it was handed out.
        self._online: dict[str, Presence] = {}
        self._said_online: dict[str, Presence] = {}
        self._votes: dict[str, Vote] = {}
        self._voted = Counter[tuple[int, str]]()
        self._terms = Highest()
        self._vote_terms = Highest()
        self._finished = Highest()

    def _changed(self, peer: str) -> None:
        """Bring what is derived up to date with one member, or with its absence."""
        member = self._members.get(peer)
        presence = member.presence if member is not None else None
        said = presence if presence is not None and presence.online else None
        online = said if member is not None and not member.suspected else None
        vote = member.vote if member is not None else None
        vote = vote if vote is not None and said is not None and vote.session == said.session else None
        if online is not self._online.get(peer):
            self._online = _with(self._online, peer, online)
            # Above every controller that somebody knows: it would follow no lower one.
            self._terms.put(peer, max(online.election, online.elected + 1) if online is not None else None)
        if said is not self._said_online.get(peer):
            self._said_online = _with(self._said_online, peer, said)
            self._finished.put(peer, said.finished if said is not None else None)
        held = self._votes.get(peer)
        if vote is not held:
            self._votes = _with(self._votes, peer, vote)
            self._vote_terms.put(peer, vote.term if vote is not None else None)
            if held is not None:
                self._voted[held.term, held.candidate] -= 1
                if not self._voted[held.term, held.candidate]:
                    del self._voted[held.term, held.candidate]
            if vote is not None:
                self._voted[vote.term, vote.candidate] += 1

    def _member(self, peer: str) -> Member | None:
        if peer == self._own:
            return None
        member = self._members.get(peer)
        if member is None and len(self._members) < self._peers_max:
            member = self._members[peer] = Member()
        return member

    def on_presence(self, peer: str, presence: Presence | None) -> None:
        """Hold a peer's latest presence; None: it was cleared, the peer has left for good."""
        member = self._member(peer)
        if member is None:
            return
        # A broker that restarted from old storage sends an older document; its author is known here all the same.
        member.confirmed = True
        if presence is not None and member.presence is not None and presence.session == member.presence.session:
            # The same document may come late or twice; within a session its election term and `finished` only rise.
            older = (presence.election, presence.finished) < (
                member.presence.election,
                member.presence.finished,
            )
            if older and presence.online:
                return
        if presence is not None and member.presence is not None and presence.session != member.presence.session:
            member.suspected = ""
        member.presence = presence
        self._changed(peer)

    def on_vote(self, peer: str, vote: Vote | None) -> None:
        """Hold a peer's latest vote; an older term never replaces a newer one of the same session."""
        member = self._member(peer)
        if member is None:
            return
        held = member.vote
        if vote is not None and held is not None and vote.session == held.session and vote.term < held.term:
            return
        member.vote = vote
        self._changed(peer)

    def heard(self, peer: str, now_s: float) -> None:
        """Something live came from the peer: it is there."""
        member = self._member(peer)
        if member is not None:
            member.heard_s = now_s
            if member.suspected:
                member.suspected = ""
                self._changed(peer)

    def heard_s(self, peer: str) -> float:
        """When the peer was last heard live; -inf: never."""
        member = self._members.get(peer)
        return member.heard_s if member is not None else float("-inf")

    def suspect(self, peer: str, reason: str) -> None:
        """Take a silent peer for gone until it is heard."""
        member = self._members.get(peer)
        if member is not None:
            member.suspected = reason
            self._changed(peer)

    def disconnected(self) -> None:
        """The connection is gone: what is known of the others must be confirmed on the next one."""
        for member in self._members.values():
            member.confirmed = False

    def grace_over(self) -> None:
        """Whoever did not show up on this connection is not there."""
        for peer in [peer for peer, member in self._members.items() if not member.confirmed]:
            del self._members[peer]
            self._changed(peer)

    def admits(self, peer: str) -> bool:
        """Whether there is room to remember anything of this peer."""
        return self._member(peer) is not None

    def presence(self, peer: str) -> Presence | None:
        """The latest presence of a peer, online or not."""
        member = self._members.get(peer)
        return member.presence if member is not None else None

    def suspicion(self, peer: str) -> str:
        """Why an online peer is taken for gone; empty: it is not."""
        member = self._members.get(peer)
        return member.suspected if member is not None else ""

    def online(self) -> dict[str, Presence]:
        """The others that are there, by name, sorted; as of now, whatever changes later. Not to be changed."""
        return self._online

    def said_online(self) -> dict[str, Presence]:
        """The others whose presence says online, suspected ones too; sorted, as of now."""
        return self._said_online

    def votes(self) -> dict[str, Vote]:
        """The votes that count: of peers that are online with the session that the vote names; sorted, as of now."""
        return self._votes

    def voted(self, term: int, candidate: str) -> int:
        """How many of these votes are for a candidate in a term."""
        return self._voted[term, candidate]

    def highest_term(self) -> int:
        """The highest term that a vote or somebody online knows of, or may be controller in; 0: nobody."""
        return max(self._terms.value, self._vote_terms.value)

    def highest_finished(self) -> int:
        """The highest number of a run that somebody whose presence says online knows as finished; 0: none."""
        return self._finished.value


def _with(held: dict[str, Value], key: str, value: Value | None) -> dict[str, Value]:
    """A sorted copy, with a value for the key or without it."""
    changed = held.copy()
    if value is None:
        changed.pop(key, None)
    elif key in changed:
        changed[key] = value
    else:
        changed[key] = value
        changed = dict(sorted(changed.items()))
    return changed
