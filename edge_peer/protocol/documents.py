"""What each document changes in what a peer knows; what to do about it is decided afterwards, whatever came."""

from __future__ import annotations

from edge_peer.protocol import events as ev
from edge_peer.protocol.context import Context
from edge_peer.protocol.controller import Controller
from edge_peer.protocol.leaders import Leaders
from edge_peer.protocol.messages import Evaluation, Presence, Round, Start, Stop, Vote
from edge_peer.protocol.name import Name
from edge_peer.protocol.topics import PRESENCE, ROUND, STOP, VOTE


class Documents:
    """Takes in the documents of all peers, this one's own as the broker sends them back.

    Attributes:
        called: Others have begun an election within this peer's grace.
        left_behind: The broker keeps a round document of this peer's last process or controllership, to be taken back
            once there is a controller.
    """

    def __init__(self, context: Context, leaders: Leaders) -> None:
        self._context = context
        self._leaders = leaders
        self._name = Name(context)
        self._made_known_s = float("-inf")
        self.called = False
        self.left_behind = False

    def of_another(self, event: ev.DocumentReceived, controller: Controller | None, in_grace: bool) -> None:
        """A document of another peer came.

        Args:
            event: It.
            controller: This peer's controllership, if it has one.
            in_grace: This peer takes nobody for gone yet.
        """
        context = self._context
        document = event.document
        if not context.roster.admits(event.peer):
            return
        if event.kind == STOP:
            self._on_stop(event.peer, document if isinstance(document, Stop) else None)
        elif isinstance(document, Start):
            self._on_start(document)
        elif event.kind == PRESENCE:
            before = context.roster.presence(event.peer)
            context.roster.on_presence(event.peer, document if isinstance(document, Presence) else None)
            if isinstance(document, Presence) and document.online and not event.retained:
                self._heed(document, in_grace)
                if controller is not None and document.election > (before.election if before is not None else 0):
                    self._make_known(document, controller)
        elif event.kind == VOTE:
            context.roster.on_vote(event.peer, document if isinstance(document, Vote) else None)
        elif isinstance(document, Round):
            self._leaders.on_round(event.peer, document)
        elif event.kind == ROUND:
            context.rounds.pop(event.peer, None)
        elif isinstance(document, Evaluation):
            presence = context.roster.presence(event.peer)
            if controller is not None and presence is not None and presence.session == document.session:
                controller.on_evaluation(event.peer, document)
        offline = isinstance(document, Presence) and not document.online
        if not event.retained and not offline and document is not None:
            context.roster.heard(event.peer, context.now_s)

    def own(self, event: ev.DocumentReceived, controller: Controller | None) -> bool:
        """The broker's copy of what this peer said came: an echo, or what somebody or something made of it.

        Returns:
            Whether this peer's name is another process's.
        """
        document = event.document
        if event.kind == PRESENCE:
            return self._name.on_presence(document if isinstance(document, Presence) else None, event.retained)
        if event.kind == STOP:
            self._on_stop(event.peer, document if isinstance(document, Stop) else None)
        elif isinstance(document, Start):
            self._on_start(document)
        elif event.kind == ROUND:
            self._on_own_round(document if isinstance(document, Round) else None, controller)
        elif isinstance(document, Evaluation) and controller is not None:
            controller.on_evaluation(event.peer, document)
        return False

    def _heed(self, presence: Presence, in_grace: bool) -> None:
        """An election that others hold now is no suspicion of this peer's own: it need not wait out its grace."""
        term = self._context.state.elected_term
        if in_grace and presence.election > max(presence.elected, term):
            self.called = True

    def _make_known(self, presence: Presence, controller: Controller) -> None:
        """Somebody elects though there is this controller: not every broker keeps for all what was said before."""
        context = self._context
        if presence.election != controller.term and context.now_s >= self._made_known_s + context.timing.resend_s:
            self._made_known_s = context.now_s
            context.publish_presence(always=True)
            controller.on_overwritten()

    def _on_own_round(self, document: Round | None, controller: Controller | None) -> None:
        context = self._context
        if document is not None:
            context.learn(document)
        if controller is None:
            self.left_behind = document is not None
        elif document is not None and (document.session, document.term) == (
            context.settings.session,
            controller.term,
        ):
            controller.on_echo(document.beat)
        elif document is None or document.term != controller.term:
            controller.on_overwritten()

    def _on_stop(self, sender: str, stop: Stop | None) -> None:
        if stop is not None:
            self._context.stops[sender] = stop
        else:
            self._context.stops.pop(sender, None)

    def _on_start(self, document: Start) -> None:
        context = self._context
        known = context.run.number if context.run is not None else 0
        if document.after >= max(known, context.finished_number()) and not context.wants_run:
            context.wants_run = True
            context.log("asked to start another run")
