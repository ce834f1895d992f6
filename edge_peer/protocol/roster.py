"""Who is there: the latest presence of every peer, and how much it is worth.

A presence that the broker kept from before our subscription says what was true when it was written; its author may
have lost power together with the broker. So presences are `online` on their word, `suspected` when their author kept
silent although it was asked (an election, a round), and cleared of it by anything that it says live.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_peer.protocol.messages import Presence, Vote


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

    def on_vote(self, peer: str, vote: Vote | None) -> None:
        """Hold a peer's latest vote; an older term never replaces a newer one of the same session."""
        member = self._member(peer)
        if member is None:
            return
        held = member.vote
        if vote is not None and held is not None and vote.session == held.session and vote.term < held.term:
            return
        member.vote = vote

    def heard(self, peer: str, now_s: float) -> None:
        """Something live came from the peer: it is there."""
        member = self._member(peer)
        if member is not None:
            member.heard_s = now_s
            member.suspected = ""

    def heard_s(self, peer: str) -> float:
        """When the peer was last heard live; -inf: never."""
        member = self._members.get(peer)
        return member.heard_s if member is not None else float("-inf")

    def suspect(self, peer: str, reason: str) -> None:
        """Take a silent peer for gone until it is heard."""
        member = self._members.get(peer)
        if member is not None:
            member.suspected = reason

    def disconnected(self) -> None:
        """The connection is gone: what is known of the others must be confirmed on the next one."""
        for member in self._members.values():
            member.confirmed = False

    def grace_over(self) -> None:
        """Whoever did not show up on this connection is not there."""
        for peer in [peer for peer, member in self._members.items() if not member.confirmed]:
            del self._members[peer]

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
        """The others that are there, by name, sorted."""
        return {
            peer: member.presence
            for peer, member in sorted(self._members.items())
            if member.presence is not None and member.presence.online and not member.suspected
        }

    def said_online(self) -> dict[str, Presence]:
        """The others whose presence says online, suspected ones too."""
        return {
            peer: member.presence
            for peer, member in sorted(self._members.items())
            if member.presence is not None and member.presence.online
        }

    def votes(self) -> dict[str, Vote]:
        """The votes that count: of peers that are online with the session that the vote names."""
        return {
            peer: member.vote
            for peer, member in sorted(self._members.items())
            if member.vote is not None
            and member.presence is not None
            and member.presence.online
            and member.vote.session == member.presence.session
        }
