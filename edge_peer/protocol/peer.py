"""One peer of the federation as a state machine without I/O: events in, commands out.

Theory of operation. Every event first changes what is known (a document, a presence, a vote, a finished training), then
`_reconcile` compares what is known with what this peer does and gives the commands that close the gap. Decisions are
therefore functions of the latest documents, not of the order in which they came; handling an event twice is harmless.

Whoever drives a `Peer` calls `handle` with each event and the monotonic time, runs the commands in order, and calls
`handle(TimerFired(), now)` no later than `next_deadline_s()`. Nothing here reads a clock, draws from a global random
source, or touches a socket or file.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

from edge_peer.errors import LocalProtocolError
from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.context import Context
from edge_peer.protocol.controller import Controller
from edge_peer.protocol.documents import Documents
from edge_peer.protocol.election import Election
from edge_peer.protocol.leaders import Leaders
from edge_peer.protocol.messages import Presence
from edge_peer.protocol.roles import ELECTING, FOLLOWING, JOINING, LEADING, OFFLINE, STOPPED, TRANSITIONS
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.settings import PeerSettings
from edge_peer.protocol.state import SavedState
from edge_peer.protocol.status import status_line
from edge_peer.protocol.topics import DELTA, EVALUATION, MODEL, PRESENCE, ROUND, START, STOP, UPDATE, VOTE
from edge_peer.protocol.training import Trainer

EVERYONE_READS = (PRESENCE, ROUND, MODEL, DELTA, STOP, START)
CONTROLLER_READS = (UPDATE, EVALUATION)
#: More global models than this are never held; the oldest are of no use to anybody.
MODELS_MAX = 8
#: Models of peers of whom nothing else is known yet, beside those.
UNVOUCHED_MAX = 3


class Peer:
    """The whole of what one board decides.

    Args:
        settings: Fixed facts about this peer.
        state: What the last process saved; `SavedState()` for the first one.
        rng: Source of all randomness.
        stamp: Gives the text that the name of a new run begins with, such as the date.
    """

    def __init__(self, settings: PeerSettings, state: SavedState, rng: random.Random, stamp: Callable[[], str]) -> None:
        self._context = Context(settings, state, rng, stamp)
        self._election = Election(self._context, max(state.voted_term, state.elected_term))
        self._trainer = Trainer(self._context)
        self._leaders = Leaders(self._context)
        self._documents = Documents(self._context, self._leaders)
        self._controller: Controller | None = None
        self._following: str | None = None
        self._grace_s: float | None = None
        #: Until when a controller that leads on waits for those who were there before its connection was lost.
        self._patience_s: float | None = None
        self._lost_s = float("inf")
        self._window_s = float("inf")
        self._status = ""
        self.role = OFFLINE

    # ------------------------------------------------------------------ the interface

    def will(self) -> Presence:
        """The last will: what the broker says of this peer when the connection breaks."""
        return self._context.presence(online=False)

    @property
    def term(self) -> int:
        """The highest term in which a controller is known to be elected."""
        return self._context.state.elected_term

    @property
    def state(self) -> SavedState:
        """What is saved, or will be once the commands given so far are run."""
        return self._context.state

    @property
    def led(self) -> RunSettings | None:
        """Settings of the run that this peer leads; None: it leads none."""
        document = self._controller.document if self._controller is not None else None
        return document.settings if document is not None and document.run_id is not None else None

    @property
    def controller(self) -> Controller | None:
        """This peer's controllership, while it has one."""
        return self._controller

    def handle(self, event: ev.Event, now_s: float) -> tuple[do.Command, ...]:
        """Take in one event and return what to do about it, in order.

        Args:
            event: What happened.
            now_s: Monotonic time in seconds; never less than at an earlier call.

        Raises:
            LocalProtocolError: Time went back, or the peer is stopped.
        """
        context = self._context
        if now_s < context.now_s:
            raise LocalProtocolError(f"time went back from {context.now_s} to {now_s}")
        if self.role == STOPPED:
            return ()
        term = context.state.elected_term
        context.now_s = now_s
        context.out = []
        self._HANDLERS[type(event)](self, event)
        if self.role != STOPPED:
            self._reconcile()
            self._say_status()
        assert context.state.elected_term >= term, "the elected term went back"
        return tuple(context.out)

    def next_deadline_s(self) -> float | None:
        """When to call `handle(TimerFired(), ...)` at the latest; None: only when something happens."""
        if self.role in (OFFLINE, STOPPED):
            return None
        times = [it for it in (self._grace_s, self._patience_s) if it is not None]
        if self.role in (FOLLOWING, LEADING):
            times.append(self._trainer.next_deadline_s())
        if self.role == ELECTING and (self._grace_s is None or self._documents.called):
            times.append(self._election.deadline_s() if self._election.active else self._window_s)
        if self.role == LEADING and self._controller is not None:
            times.append(self._controller.next_deadline_s())
        if self.role == FOLLOWING and self._following is not None:
            times.append(self._leaders.lapses_s(self._following))
        time = min(times, default=float("inf"))
        return time if time < float("inf") else None

    # ------------------------------------------------------------------ what happens

    def _move(self, cause: str) -> None:
        assert (self.role, cause) in TRANSITIONS, f"{cause} while {self.role}"
        self.role = TRANSITIONS[self.role, cause]

    def _on_connected(self, _event: ev.Connected) -> None:
        if self.role != OFFLINE:
            self._on_disconnected(ev.Disconnected())
        context = self._context
        self._move("connected")
        self._grace_s = context.now_s + context.timing.grace_s
        if self._controller is not None:
            # Whoever tries again ever more seldom tries again after as long as it was away.
            away_s = max(0.0, context.now_s - self._lost_s)
            self._patience_s = self._grace_s + min(away_s, context.timing.lease_s)
        self._window_s = context.now_s + context.timing.startup_window_s
        self._leaders.on_connected()
        context.emit(do.Subscribe(EVERYONE_READS))
        if self._controller is not None:
            context.emit(do.Subscribe(CONTROLLER_READS))
        context.publish_presence(always=True)
        vote = self._election.own_vote()
        if vote is not None:
            context.emit(do.Publish(VOTE, vote))
        self._trainer.on_connected()
        if self._controller is not None:
            self._controller.on_connected()

    def _on_disconnected(self, event: ev.Disconnected) -> None:
        context = self._context
        if event.taken_over:
            self._give_up_name()
            return
        if self.role == OFFLINE:
            return
        self._move("disconnected")
        self._grace_s = self._patience_s = None
        self._lost_s = context.now_s
        self._documents.called = False
        self._following = None
        if context.unvouched:
            context.unvouched.clear()
            self._trainer.forget_unknown_models()
        self._election.on_disconnected()
        context.roster.disconnected()

    def _on_document(self, event: ev.DocumentReceived) -> None:
        if event.peer != self._context.peer:
            self._documents.of_another(event, self._controller, in_grace=self._grace_s is not None)
        elif self._documents.own(event, self._controller):
            self._give_up_name()
        unvouched = self._context.unvouched
        if event.peer in unvouched and self._context.roster.presence(event.peer) is not None:
            self._on_model(unvouched.pop(event.peer))

    def _give_up_name(self) -> None:
        context = self._context
        context.log(
            f"another process connected as {context.peer}: every peer needs a name of its own; stopping", "ERROR"
        )
        context.emit(do.Exit("another process connected with this peer's name", failed=True))
        self._move("shut down")

    def _on_model(self, event: ev.ModelReceived) -> None:
        context = self._context
        sender = context.roster.presence(event.peer)
        if sender is not None and sender.model_digest != context.settings.model_digest:
            self._trainer.forget_unknown_models()
            return
        if sender is None and event.peer != context.peer and context.roster.admits(event.peer):
            # Retained documents come in any order, and its presence tells whether its model is of this peer's kind.
            context.unvouched.pop(event.peer, None)
            context.unvouched[event.peer] = event
            if len(context.unvouched) > UNVOUCHED_MAX:
                del context.unvouched[next(iter(context.unvouched))]
            self._trainer.forget_unknown_models()
            return
        context.models.add(event.ref.sha256)
        if len(context.models) > MODELS_MAX:
            self._trainer.forget_models(event.ref.sha256)
        run = context.state.run
        if (run is not None and event.ref.run_id == run.run_id) or event.ref.run_number > context.finished_number():
            context.hold(event.ref, later=True)
        if event.peer != context.peer:
            context.roster.heard(event.peer, context.now_s)

    def _on_update(self, event: ev.UpdateReceived) -> None:
        self._context.roster.heard(event.peer, self._context.now_s)
        if self._controller is not None:
            self._controller.on_update(event.peer, event.offer, event.problem, event.norm)
        else:
            # It was on its way when this peer ceased to be controller, and nobody will ever ask for it.
            self._context.emit(do.KeepUpdates(frozenset()))

    def _on_aggregate(self, event: ev.AggregateReady) -> None:
        if self._controller is not None and self._controller.term == event.term:
            self._context.models.add(event.sha256)
            self._controller.on_aggregate(event.run_id, event.round, event.sha256)

    def _on_aggregate_failed(self, event: ev.AggregateFailed) -> None:
        if self._controller is not None and self._controller.term == event.term:
            self._controller.on_aggregate_failed(event.run_id, event.round, event.reason)

    def _on_health(self, event: ev.HealthChanged) -> None:
        context = self._context
        context.health, context.strained_now = event.health, event.strained
        if (context.train_able, context.note) != (event.train, event.note):
            context.train_able, context.note = event.train, event.note
            context.log(event.note or "can train again", "WARNING" if event.note else "INFO")

    def _on_reconfigured(self, event: ev.Reconfigured) -> None:
        self._context.reconfigure(event.settings)

    def _on_shutdown(self, _event: ev.ShutdownRequested) -> None:
        context = self._context
        if self.role != OFFLINE:
            # Say goodbye first: the others elect at once, without waiting for the broker to notice.
            context.emit(do.Publish(PRESENCE, self.will()))
            if self._controller is not None:
                self._controller.resign()
        self._move("shut down")
        context.emit(do.SetStatus("stopping"))
        context.emit(do.Exit("shut down"))

    def _on_timer(self, _event: ev.TimerFired) -> None:
        """Time has passed: `_reconcile` sees to it."""

    # ------------------------------------------------------------------ going on

    def _reconcile(self) -> None:
        context = self._context
        if self.role == OFFLINE:
            return
        if self._grace_s is not None and context.now_s >= self._grace_s:
            self._grace_s = None
            self._documents.called = False
            if self._patience_s is None:
                context.roster.grace_over()
        if self._patience_s is not None and (self._controller is None or context.now_s >= self._patience_s):
            self._patience_s = None
            if self._grace_s is None:
                context.roster.grace_over()
        context.believe_finished()
        if not self._election.active:
            context.strained = context.strained_now
        context.publish_presence()
        own_term = self._controller.term if self._controller is not None else 0
        best = self._leaders.best(own_term, in_grace=self._grace_s is not None)
        if best is not None:
            self._follow(best)
        elif self._controller is not None:
            self._lead_on()
        else:
            self._lose_controller()
            if self._grace_s is None or self._documents.called:
                self._elect()
        self._work()

    def _follow(self, peer: str) -> None:
        context = self._context
        term = context.rounds[peer][0].term
        if self._controller is not None:
            self._step_down(peer, term)
        self._election.leave()
        self._documents.called = False
        if self.role != FOLLOWING:
            self._move("controller seen")
        if self._following != peer:
            context.log(f"follows {peer}, controller of term {term}")
        self._following = peer
        context.save(elected_term=max(term, context.state.elected_term))
        if self._documents.left_behind and self._grace_s is None:
            self._take_back()

    def _step_down(self, peer: str, term: int) -> None:
        context = self._context
        assert self._controller is not None
        document = self._controller.document
        giving_up = f", gives up run {document.run_id}" if document is not None and document.run_id else ""
        context.log(f"steps down from term {self._controller.term}: {peer} is controller of term {term}{giving_up}")
        self._give_up_control()

    def _give_up_control(self) -> None:
        self._controller = None
        self._context.emit(do.Unsubscribe(CONTROLLER_READS))
        self._context.emit(do.KeepUpdates(frozenset()))
        self._take_back()

    def _take_back(self) -> None:
        self._documents.left_behind = False
        self._context.emit(do.Publish(ROUND, None))
        self._context.emit(do.ClearModel())

    def _resign(self, why: str) -> None:
        context = self._context
        assert self._controller is not None
        context.log(f"resigns from term {self._controller.term}: {why}", "WARNING")
        self._give_up_control()
        self._move("resigned")

    def _lead_on(self) -> None:
        assert self._controller is not None
        why = self._controller.why_resign() if self.role == LEADING else ""
        if why:
            self._resign(why)
            self._elect()
        elif self.role == JOINING and self._grace_s is None:
            self._move("grace over, still controller")

    def _lose_controller(self) -> None:
        if self.role == FOLLOWING:
            context = self._context
            assert self._following is not None
            context.log(f"{self._following} is controller no more", "WARNING")
            if context.now_s >= context.roster.heard_s(self._following) + context.timing.lease_s:
                # The broker may miss it only much later, and the next round would wait for it as long.
                context.roster.suspect(self._following, "silent for a whole lease")
            self._following = None
            self._move("controller lost")

    def _elect(self) -> None:
        context = self._context
        if self.role == JOINING:
            self._move("called to an election" if self._documents.called else "grace over, no controller")
        if context.settings.roster is None and not self._election.active:
            seen = len(context.roster.online()) + 1
            if seen < context.settings.min_peers and context.now_s < self._window_s:
                return
        if self._election.step():
            self._lead()

    def _lead(self) -> None:
        context = self._context
        term = self._election.term
        self._election.leave()
        self._move("elected")
        context.save(elected_term=term)
        context.log(f"is controller of term {term}")
        self._controller = Controller(context, term, self._election.begun_s)
        self._documents.left_behind = False
        context.emit(do.Subscribe(CONTROLLER_READS))
        run = context.run.run_id if context.run is not None and not context.is_finished(context.run) else None
        context.emit(do.LogRound(run, "elected", {"term": term}))

    def _work(self) -> None:
        """Do the controller's part, this peer's or another's; then the trainer's."""
        context = self._context
        if self.role == LEADING and self._controller is not None:
            self._controller.step()
            for _ in range(3):
                document = self._controller.document
                if document is None:
                    return
                self._trainer.step(context.peer, document)
                own = self._trainer.take_own_update()
                if own is None:
                    return
                offer, norm = own
                self._controller.on_update(context.peer, offer, "", norm)
                self._controller.step()
        elif self.role == FOLLOWING and self._following is not None:
            self._trainer.step(self._following, context.rounds[self._following][0])

    def _say_status(self) -> None:
        context = self._context
        document = None
        if self._controller is not None:
            document = self._controller.document
        elif self._following is not None:
            document = context.rounds[self._following][0]
        text = status_line(self.role, context.state.elected_term, self._following, document)
        if text != self._status:
            self._status = text
            context.emit(do.SetStatus(text))

    _HANDLERS: ClassVar[dict[type, Callable[..., None]]] = {
        ev.Connected: _on_connected,
        ev.Disconnected: _on_disconnected,
        ev.DocumentReceived: _on_document,
        ev.ModelReceived: _on_model,
        ev.UpdateReceived: _on_update,
        ev.TrainingDone: lambda self, event: self._trainer.on_done(event),
        ev.LocalEvaluated: lambda self, event: self._trainer.on_local(event),
        ev.TrainingFailed: lambda self, event: self._trainer.on_failed(event),
        ev.ModelEvaluated: lambda self, event: self._trainer.on_evaluated(event),
        ev.AggregateReady: _on_aggregate,
        ev.AggregateFailed: _on_aggregate_failed,
        ev.HealthChanged: _on_health,
        ev.Reconfigured: _on_reconfigured,
        ev.ShutdownRequested: _on_shutdown,
        ev.TimerFired: _on_timer,
    }
