"""What an operator sees of a federation: the latest documents of every peer, and what follows from them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from edge_peer.operator.live.session import Session
from edge_peer.protocol.messages import Document, Evaluation, Presence, Round, Stop, Vote
from edge_peer.protocol.onlookers import History
from edge_peer.protocol.topics import EVALUATION, HISTORY, PRESENCE, ROUND, STOP, VOTE

#: Retained documents come at once after a subscription: when it is quiet for this long, they are all here.
QUIET_S = 0.3
#: A federation that is busy is never quiet; its retained documents have come by then.
LOOK_S = 2.0
#: What it takes to keep a `Federation` up to date.
WATCHED = (PRESENCE, VOTE, ROUND, STOP, EVALUATION, HISTORY)


@dataclass(slots=True)
class Federation:
    """The latest documents, by peer.

    Attributes:
        evaluations: The latest evaluation of each peer of the run that is on.
        histories: Each peer's rounds of its run so far, thinned out; the only one of what is past that is retained.
    """

    presences: dict[str, Presence] = field(default_factory=dict)
    votes: dict[str, Vote] = field(default_factory=dict)
    rounds: dict[str, Round] = field(default_factory=dict)
    stops: dict[str, Stop] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)

    def take(self, peer: str, kind: str, document: Document | History | None) -> None:
        """Hold a document, or forget a cleared one."""
        held: dict[str, dict[str, Any]] = {
            PRESENCE: self.presences,
            VOTE: self.votes,
            ROUND: self.rounds,
            STOP: self.stops,
            EVALUATION: self.evaluations,
            HISTORY: self.histories,
        }
        documents = held.get(kind)
        if documents is None:
            return
        if document is None:
            documents.pop(peer, None)
        else:
            documents[peer] = document

    def forget(self) -> None:
        """Hold nothing, as before a new connection: what was cleared meanwhile is not said again."""
        for documents in (*(self.presences, self.votes, self.rounds, self.stops, self.evaluations, self.histories),):
            documents.clear()

    @property
    def online(self) -> list[str]:
        """Who says that it is there, sorted."""
        return sorted(peer for peer, presence in self.presences.items() if presence.online)

    @property
    def controller(self) -> str | None:
        """The peer whose round document has the highest term, while it is online in the session that wrote it."""
        valid = {
            peer: document
            for peer, document in self.rounds.items()
            if peer in self.presences
            and self.presences[peer].online
            and self.presences[peer].session == document.session
        }
        return max(valid, key=lambda peer: (valid[peer].term, peer), default=None)

    @property
    def round(self) -> Round | None:
        """The controller's document."""
        controller = self.controller
        return self.rounds[controller] if controller is not None else None

    def role(self, peer: str) -> str:
        """What a peer does now, in one word."""
        presence, document = self.presences.get(peer), self.round
        if presence is None or not presence.online:
            return "offline"
        if peer == self.controller:
            return "controller"
        if document is not None and peer in document.participants:
            return "trainer"
        return "waiting"


def look(session: Session) -> Federation:
    """What the broker keeps of a federation now; the session stays subscribed."""
    federation = Federation()
    session.subscribe(WATCHED)
    end_s = time.monotonic() + LOOK_S
    while (left_s := end_s - time.monotonic()) > 0:
        documents = session.take(min(left_s, QUIET_S))
        if not documents:
            break
        for document in documents:
            federation.take(*document)
    return federation
