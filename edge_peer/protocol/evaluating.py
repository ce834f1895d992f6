"""What the global model scores here: each model is evaluated once, told to the controller, and written into the CSV."""

from __future__ import annotations

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.events import LocalEvaluated, ModelEvaluated, TrainingDone
from edge_peer.protocol.messages import FINISHED, WAITING, Evaluation, Round
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.topics import EVALUATION


class Evaluating:
    """A peer's evaluations of one global model after another."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._at: str | None = None
        self._done: ModelEvaluated | None = None
        self._told: tuple[str, int, bool] | None = None
        self._told_s = float("-inf")
        self._row: tuple[str, int] | None = None
        self._handed_in: ModelRef | None = None
        #: The newest update that this peer has made, and what its own model scored.
        self._made: TrainingDone | None = None
        self._local: LocalEvaluated | None = None

    # ------------------------------------------------------------------ what happens

    def on_connected(self) -> None:
        """Nothing that was sent on the old connection is known to have arrived."""
        self._told = None

    def on_trained(self, event: TrainingDone) -> None:
        """An update is made, which the row of its round tells of."""
        self._made = event

    def on_local(self, event: LocalEvaluated) -> None:
        """The local model's score is known."""
        self._local = event

    def on_evaluated(self, event: ModelEvaluated) -> None:
        """The global model's score on the own test split is known; it is told at the next step."""
        if self._at == event.ref.sha256:
            self._at = None
        self._done = event
        self._told = None

    def on_run(self) -> None:
        """This peer takes part in another run."""
        self._local = self._done = self._row = None

    # ------------------------------------------------------------------ going on

    def evaluate(self, base: ModelRef) -> None:
        """Have the model evaluated, unless it is or is being."""
        context = self._context
        if context.settings.test_examples > 0 and not self._has(base) and self._at != base.sha256:
            self._at = base.sha256
            context.emit(do.StartEvaluation(base))

    def _has(self, base: ModelRef) -> bool:
        return self._done is not None and self._done.ref.sha256 == base.sha256

    def tell(self, controller: str, document: Round, taking_part: bool) -> float:
        """Publish the evaluation, again where the controller has not listed it; write the CSV row once.

        Returns:
            When to call this again at the latest.
        """
        context = self._context
        event, base = self._done, document.base
        if event is None or base is None or event.ref.sha256 != base.sha256 or document.state == WAITING:
            return float("inf")
        if taking_part:
            self._write_row(controller, event, base)
        final = document.state == FINISHED
        telling = (base.sha256, document.term, final)
        missed = final and not document.complete and context.peer not in document.reports
        overdue = missed and context.now_s >= self._told_s + context.timing.resend_s
        if self._told != telling or overdue:
            self._told, self._told_s = telling, context.now_s
            evaluation = Evaluation(context.settings.session, base.run_id, base.round, base.sha256, event.report, final)
            context.emit(do.Publish(EVALUATION, evaluation))
        return self._told_s + context.timing.resend_s if missed else float("inf")

    def hand_in(self, controller: str, document: Round, base: ModelRef) -> None:
        """Hand the final model in, after the last row.

        Again, if a later controller that never heard of this end has ended the run with another model.
        """
        context = self._context
        if self._handed_in == base or (context.settings.test_examples > 0 and not self._has(base)):
            return
        if controller == context.peer and context.own_end != base:
            # Nobody has heard of it yet, and somebody else may be controller by now.
            return
        self._handed_in = base
        context.emit(do.RunFinished(base, document.settings, document.reason))

    def _write_row(self, controller: str, event: ModelEvaluated, base: ModelRef) -> None:
        """The row of round r: the training of round r, and the score of the model after it."""
        context = self._context
        if self._row is not None and self._row >= (base.run_id, base.round) and self._row[0] == base.run_id:
            return
        self._row = (base.run_id, base.round)
        made = self._made
        update = made if made and (made.key.run_id, made.key.round) == (base.run_id, base.round) else None
        local = self._local.report if update and self._local and self._local.key == update.key else None
        role = "controller" if controller == context.peer else "trainer" if update else "observer"
        context.emit(
            do.WriteRow(
                run_id=base.run_id,
                term=base.term,
                round=base.round,
                role=role,
                controller=controller,
                report=event.report,
                evaluation_s=event.seconds,
                examples=update.examples if update else 0,
                train_loss=update.loss if update else None,
                training_s=update.seconds if update else None,
                local=local,
            )
        )
