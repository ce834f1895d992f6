"""A trainer's part: what the controller's latest document asks of this peer.

`step` compares the document with what is held and done, and starts what is missing; so a document that comes twice, or
from a new controller that asks for the same, starts nothing twice. An update is kept until a document says that it was
accepted or that its round is over, and is sent again, without training again, when it may have been lost.
"""

from __future__ import annotations

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.evaluating import Evaluating
from edge_peer.protocol.events import (
    LocalEvaluated,
    ModelEvaluated,
    TrainingDone,
    TrainingFailed,
    TrainingKey,
)
from edge_peer.protocol.memories import Memories
from edge_peer.protocol.messages import FINISHED, TRAINING, Round
from edge_peer.protocol.run_settings import WHOLE
from edge_peer.protocol.selection import is_choice, why_not
from edge_peer.protocol.state import RunRecord
from edge_peer.protocol.tensors import ModelRef, UpdateOffer
from edge_peer.protocol.topics import MODEL


class Trainer:
    """What this peer does for whoever is controller."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._memories = Memories(context.peer, context.state.memories)
        self._evaluating = Evaluating(context)
        self._training: TrainingKey | None = None
        self._update: TrainingDone | None = None
        self._failed: TrainingKey | None = None
        self._failed_s = float("-inf")
        self._sent: tuple[str, int, str, int] | None = None
        self._sent_s = float("-inf")
        self._asked_s: float | None = None
        #: What was sent before this connection did not come, and will not come any more.
        self._late = True
        #: The newest document that was worked on, and the one of those before this connection.
        self._seen: tuple[str, int, int] | None = None
        self._seen_before: tuple[str, int, int] | None = None
        self._served_s = float("-inf")
        self._kept: frozenset[str] = frozenset()
        self._outbox: tuple[UpdateOffer, float] | None = None
        self._reported_missing: tuple[int, int, int] | None = None
        self._reported_s = float("-inf")
        self._reported_ahead: tuple[int, str] | None = None
        self._other_model: str | None = None
        self._wake_s = float("inf")

    # ------------------------------------------------------------------ what happens

    def on_connected(self) -> None:
        """Nothing that was sent on the old connection is known to have arrived."""
        self._sent = None
        self._evaluating.on_connected()
        self._asked_s = None
        self._late = True
        self._seen_before = self._seen

    def on_done(self, event: TrainingDone) -> None:
        """The update is ready."""
        if self._training == event.key:
            self._training = None
        self._update = event
        self._evaluating.on_trained(event)
        self._sent = None
        if event.remembers:
            self._memories.made(event.key, event.digest)

    def on_local(self, event: LocalEvaluated) -> None:
        """The local model's score is known."""
        self._evaluating.on_local(event)

    def on_failed(self, event: TrainingFailed) -> None:
        """This round goes on without this peer, which says why in its presence."""
        if self._training == event.key:
            self._training = None
            self._failed = event.key
            self._failed_s = self._context.now_s
            self._context.failed_note = f"training of round {event.key.round} failed: {event.reason}"[:300]
            self._context.log(self._context.failed_note, "ERROR")
            self._context.publish_presence()

    def on_evaluated(self, event: ModelEvaluated) -> None:
        """The global model's score on the own test split is known; it is told at the next step."""
        self._evaluating.on_evaluated(event)

    def take_own_update(self) -> tuple[UpdateOffer, float] | None:
        """The update for a controller that is this peer, and its norm: it does not go over the broker."""
        offer, self._outbox = self._outbox, None
        return offer

    def next_deadline_s(self) -> float:
        """When `step` must be called again at the latest, because something may have been lost."""
        return self._wake_s

    def _wake(self, time_s: float) -> None:
        self._wake_s = min(self._wake_s, time_s)

    # ------------------------------------------------------------------ going on

    def step(self, controller: str, document: Round) -> None:
        """Do what the controller's latest document asks for."""
        self._wake_s = float("inf")
        if not self._has_same_model(controller, document):
            self._stop_training_unless(None)
            # It trains nothing, and counts all the same where a majority of the roster has to be heard.
            self._answer_if_missed(document)
            return
        self._seen = (document.session, document.term, document.beat)
        self._adopt(document)
        self._memories.hear(document)
        self._serve(document)
        self._answer_if_missed(document)
        self._try_again_after_failure(document)
        base = document.base
        if base is None:
            # A new controller that is still looking for its model may ask for the very update that is being made.
            return
        run = self._context.state.run
        taking_part = run is not None and run.run_id == document.run_id
        if document.state == FINISHED or not taking_part:
            self._stop_training_unless(None)
        if not taking_part and (document.state != FINISHED or document.complete):
            return
        if document.state == TRAINING and self._is_ahead(base):
            # Rounds never go back on a peer: it waits until the controller has caught up with what it holds.
            self._stop_training_unless(None)
            self._announce_newer(document, base)
            return
        if base.sha256 not in self._context.models:
            self._ask_for_model(document, base)
            return
        self._asked_s = None
        self._late = self._late and self._seen == self._seen_before
        self._context.needs = None
        if taking_part:
            self._context.hold(base, later=True)
        self._keep(base)
        self._evaluating.evaluate(base)
        if document.state == TRAINING and run is not None and run.finished is None:
            self._train(controller, document, base)
        # Only now, while the worker trains already.
        if document.state == TRAINING:
            self._wake(self._context.save_held_in_time())
        else:
            self._context.save_held()
        self._wake(self._evaluating.tell(controller, document, taking_part))
        if document.state == FINISHED and taking_part:
            self._evaluating.hand_in(controller, document, base)

    def _has_same_model(self, controller: str, document: Round) -> bool:
        """Whether the controller's run is about the model that this peer has; says so, once, if it is not."""
        settings = self._context.settings
        same = document.model_digest == settings.model_digest
        if not same and self._other_model != document.model_digest:
            self._context.log(
                f"takes no part: {controller}'s model {document.model_id} has digest {document.model_digest[:12]}, "
                f"this peer's {settings.model_id} has {settings.model_digest[:12]}: deploy the same artifacts to both",
                "WARNING",
            )
        self._other_model = None if same else document.model_digest
        return same

    def _adopt(self, document: Round) -> None:
        """Take part in the run that is on."""
        context = self._context
        if document.state != TRAINING or document.run_id is None or document.run_number <= context.state.finished:
            return
        run = context.state.run
        if (
            run is None
            or document.run_number > run.number
            or (document.run_number == run.number and document.run_id > run.run_id)
        ):
            record = RunRecord(document.run_id, document.run_number, document.settings)
            context.save(run=record)
            self._update = None
            self._evaluating.on_run()
            context.log(f"takes part in run {document.run_id}")

    def _is_ahead(self, base: ModelRef) -> bool:
        held = self._context.state.held
        return held is not None and held.run_id == base.run_id and held.round > base.round

    def _announce_newer(self, document: Round, base: ModelRef) -> None:
        """A controller elected after our newest model was committed does not know of it: tell it, so that it asks.

        Within one term the model merely came before the round document that goes with it.
        """
        held = self._context.state.held
        place = (document.term, base.sha256)
        if held is not None and document.term > held.term and self._reported_ahead != place:
            self._reported_ahead = place
            self._context.publish_presence(always=True)

    def _try_again_after_failure(self, document: Round) -> None:
        """A failed training may have been bad luck: after a round's time the peer offers itself again."""
        context = self._context
        if not context.failed_note:
            return
        again_s = self._failed_s + max(document.settings.round_deadline_s, context.timing.resend_s)
        if context.now_s < again_s:
            self._wake(again_s)
            return
        self._failed = None
        context.failed_note = ""
        context.publish_presence()

    def _serve(self, document: Round) -> None:
        """Publish the model that the controller wants from this peer."""
        context = self._context
        held = context.state.held
        if document.wanted is None or document.wanted_from != context.peer or held is None:
            return
        if held.sha256 == document.wanted and context.now_s >= self._served_s + context.timing.resend_s / 2:
            self._served_s = context.now_s
            context.save_held()
            context.emit(do.PublishModel(held, retained=False))

    def _answer_if_missed(self, document: Round) -> None:
        """Taken for gone, but here: say so, at once for each opening of a round, and again while it does not help."""
        context = self._context
        reason = document.missing.get(context.peer)
        presence = context.presence()
        if reason is None or is_choice(reason, presence.note):
            return
        if reason == why_not(presence, document.model_digest)[:300]:
            return
        opening = (document.term, document.round, document.attempt)
        if self._reported_missing != opening or context.now_s >= self._reported_s + context.timing.resend_s:
            self._reported_missing = opening
            self._reported_s = context.now_s
            context.publish_presence(always=True)

    def _ask_for_model(self, document: Round, base: ModelRef) -> None:
        """The model should have come with the round; if not, the broker still has it, or the controller is told."""
        context = self._context
        if context.lacking():
            # It may not even be able to read them.
            context.needs = None
            return
        if document.settings.downlink != WHOLE and context.needs != base.sha256:
            held = context.state.held
            before = held.round if held is not None and held.run_id == base.run_id else 0
            waited = self._asked_s is not None and context.now_s >= self._asked_s + context.timing.resend_s
            if waited or self._late or base.round > before + 1:
                # It will not come of itself: deltas are sent once, and this peer has not what the next is added to.
                context.needs = base.sha256
                context.publish_presence()
        if self._asked_s is None:
            self._asked_s = context.now_s
        elif context.now_s >= self._asked_s + context.timing.resend_s:
            self._asked_s = context.now_s
            context.emit(do.Subscribe((MODEL,)))
        self._wake(self._asked_s + context.timing.resend_s)

    def _keep(self, base: ModelRef) -> None:
        context = self._context
        held = context.state.held
        keep = frozenset({base.sha256, context.settings.initial_sha256} | ({held.sha256} if held else set()))
        if keep != self._kept:
            self._kept = keep
            self.forget_models()

    def forget_models(self, *but: str) -> None:
        """Let go of every model that is neither the present base, nor the newest, nor the initial one, nor in `but`."""
        held = self._context.state.held
        keep = self._kept | {self._context.settings.initial_sha256, *but} | ({held.sha256} if held else set())
        self._context.models &= keep
        self.forget_unknown_models(keep)

    def forget_unknown_models(self, keep: frozenset[str] = frozenset()) -> None:
        """Let go of what came and is none of the models that are known, nor one whose sender may yet be."""
        context = self._context
        waiting = {event.ref.sha256 for event in context.unvouched.values()}
        context.emit(do.KeepModels(keep | self._kept | context.models | waiting))

    def _train(self, controller: str, document: Round, base: ModelRef) -> None:
        context = self._context
        key = TrainingKey(base.run_id, document.round, base.sha256)
        self._stop_training_unless(key)
        if self._update is not None and self._update.key != key:
            self._update = None
            self._sent = None
        if self._failed != key and context.failed_note:
            context.failed_note = ""
            context.publish_presence()
        if context.peer not in document.participants or context.peer in document.accepted:
            return
        if self._update is not None:
            self._send(controller, document, self._update)
        elif self._training is None and self._failed != key and not self._lacking(document):
            self._training = key
            context.emit(do.StartTraining(key, document.settings, self._memories.before(key)))

    def _lacking(self, document: Round) -> bool:
        """Whether this round asks for what this peer cannot do, or has promised not to do.

        Its presence says so, but the controller may have picked it before anybody could know.
        """
        return bool(self._context.settings.aggregation.lacking(document.settings))

    def _stop_training_unless(self, key: TrainingKey | None) -> None:
        if self._training is not None and self._training != key:
            self._context.emit(do.CancelTraining(self._training))
            self._training = None

    def _send(self, controller: str, document: Round, update: TrainingDone) -> None:
        context = self._context
        sending = (controller, document.term, update.digest, document.attempt)
        if self._sent == sending and context.peer in document.refused:
            return
        if self._sent == sending and context.now_s < self._sent_s + context.timing.resend_s:
            self._wake(self._sent_s + context.timing.resend_s)
            return
        self._sent, self._sent_s = sending, context.now_s
        self._memories.sent(update.digest)
        self._wake(self._sent_s + context.timing.resend_s)
        offer = UpdateOffer(
            session=context.settings.session,
            run_id=update.key.run_id,
            term=document.term,
            round=update.key.round,
            base=update.key.base,
            digest=update.digest,
            examples=update.examples,
            codec=document.settings.codec,
            loss=update.loss,
            seconds=update.seconds,
            steps=update.steps,
            base_loss=update.base_loss,
        )
        if controller == context.peer:
            self._outbox = (offer, update.norm)
        else:
            context.emit(do.PublishUpdate(offer))
