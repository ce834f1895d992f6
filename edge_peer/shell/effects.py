"""What the protocol wants done, done: sent, saved, trained, aggregated and written; one command after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import encode
from edge_peer.protocol.onlookers import Sending
from edge_peer.protocol.onlookers import encode as encode_for_onlookers
from edge_peer.protocol.topics import DELTA, MODEL, RETAINED, SENDING, UPDATE
from edge_peer.shell.curve import Curve
from edge_peer.shell.kept_updates import KeptUpdates
from edge_peer.shell.link import Link
from edge_peer.shell.merging import Merger
from edge_peer.shell.metrics import Metrics
from edge_peer.shell.payload import encode_model, encode_update
from edge_peer.shell.quotas import Quotas
from edge_peer.shell.records import Records
from edge_peer.shell.store import Store
from edge_peer.shell.vectors import Vectors
from edge_peer.shell.watch import Watch
from edge_peer.shell.worker import EvaluateJob, TrainJob, Worker
from edge_peer.trainers.artifacts import ModelArtifacts

LOG = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Effects:
    """The parts of a peer's process that commands act on.

    Attributes:
        worker: Trains and evaluates; None on a board without a shard.
        kept: Keeps updates on disk; None where the configuration does not ask for it.
        private: Whether this board's own configuration promises privacy: then no class of its data is counted.
        say: Takes what the peer is doing, for `systemctl status`.
        exit: The command that ends the process, once it was given.
    """

    artifacts: ModelArtifacts
    link: Link
    store: Store
    vectors: Vectors
    merger: Merger
    worker: Worker | None
    quotas: Quotas
    records: Records
    curve: Curve
    metrics: Metrics
    watch: Watch
    kept: KeptUpdates | None
    private: bool
    say: Callable[[str], None]
    exit: do.Exit | None = None
    _how: dict[type, Callable[..., ev.Event | None]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._how = {
            do.Subscribe: self._subscribe,
            do.Unsubscribe: self._unsubscribe,
            do.Publish: self._publish,
            do.PublishModel: self._publish_model,
            do.PublishDelta: self._publish_delta,
            do.ClearModel: self._clear_model,
            do.PublishUpdate: self._publish_update,
            do.SaveState: self._save_state,
            do.SaveModel: self._save_model,
            do.KeepModels: self._keep_models,
            do.KeepUpdates: self._keep_updates,
            do.StartTraining: self._start_training,
            do.StartEvaluation: self._start_evaluation,
            do.CancelTraining: self._cancel_training,
            do.Aggregate: self._aggregate,
            do.WriteRow: self._write_row,
            do.LogRound: self._log_round,
            do.RunFinished: self._finish,
            do.SetStatus: self._set_status,
            do.Log: self._log,
            do.Exit: self._end,
        }

    def run(self, command: do.Command) -> ev.Event | None:
        """Run one command; returns the event that it gives at once, if it gives one."""
        return self._how[type(command)](command)

    # ------------------------------------------------------------------ the broker

    def _subscribe(self, command: do.Subscribe) -> None:
        self.link.subscribe(command.kinds)

    def _unsubscribe(self, command: do.Unsubscribe) -> None:
        self.link.unsubscribe(command.kinds)

    def _publish(self, command: do.Publish) -> None:
        payload = encode(command.document) if command.document is not None else b""
        if command.kind in RETAINED:
            self.store.settle()
        self.link.send(command.kind, payload, retain=command.kind in RETAINED)

    def _publish_model(self, command: do.PublishModel) -> None:
        model = self.vectors.model(command.ref.sha256)
        self.store.settle()
        if model is not None:
            self.link.send(MODEL, encode_model(self.artifacts.layout, command.ref, model), retain=command.retained)

    def _publish_delta(self, command: do.PublishDelta) -> None:
        payload = self.merger.delta(command.ref)
        self.store.settle()
        if payload is not None:
            self.link.send(DELTA, payload, retain=False, expires=True)

    def _clear_model(self, _command: do.ClearModel) -> None:
        self.link.send(MODEL, b"", retain=True)

    def _publish_update(self, command: do.PublishUpdate) -> None:
        own = self.vectors.own(command.offer.digest)
        if own is not None:
            offer, payload = command.offer, encode_update(command.offer, own.encoded)
            said = Sending(offer.session, offer.run_id, offer.round, len(payload), offer.seconds, offer.loss)
            self.link.send(SENDING, encode_for_onlookers(said), retain=False, expires=True)
            self.link.send(UPDATE, payload, retain=False, expires=True)

    # ------------------------------------------------------------------ what must outlast the process

    def _save_state(self, command: do.SaveState) -> None:
        self.store.save_state(command.state)

    def _save_model(self, command: do.SaveModel) -> None:
        model = self.vectors.model(command.ref.sha256)
        if model is not None:
            self.store.save_model(self.artifacts.layout, command.ref, model)

    def _keep_models(self, command: do.KeepModels) -> None:
        self.vectors.keep_models(command.digests)

    def _keep_updates(self, command: do.KeepUpdates) -> None:
        self.vectors.keep_updates(command.digests)
        if self.kept is not None:
            self.kept.forget(command.digests)

    # ------------------------------------------------------------------ training and aggregation

    def _start_training(self, command: do.StartTraining) -> None:
        self.quotas.round_seen(command.key.run_id, command.key.round)
        base = self.vectors.model(command.key.base)
        if self.worker is not None and base is not None:
            self.worker.submit(TrainJob(command.key, command.settings, base, command.after))

    def _cancel_training(self, command: do.CancelTraining) -> None:
        if self.worker is not None:
            self.worker.cancel(command.key)

    def _start_evaluation(self, command: do.StartEvaluation) -> None:
        self.quotas.round_seen(command.ref.run_id, command.ref.round)
        model = self.vectors.model(command.ref.sha256)
        if self.worker is not None and model is not None:
            self.worker.submit(EvaluateJob(command.ref, model.vector))

    def _aggregate(self, command: do.Aggregate) -> ev.Event:
        # On the loop: it takes about a millisecond for a small model, less than a thread's hand-over can.
        event = self.merger.merge(command)
        if self.kept is not None:
            self.kept.merge(command, event)
        return event

    # ------------------------------------------------------------------ what people read

    def _write_row(self, command: do.WriteRow) -> None:
        self.metrics.row(command)
        self.curve.add(command, *self.records.write_row(command, self.link.carried, self.watch.health))

    def _log_round(self, command: do.LogRound) -> None:
        self.records.log_round(command)
        self.metrics.logged(command)
        if command.event == "committed":
            self.quotas.round_seen(str(command.run_id), int(str(command.fields["round"])))
        if self.kept is not None and command.event == "committed":
            self.kept.commit(str(command.fields["sha256"]))

    def _finish(self, command: do.RunFinished) -> None:
        sha256 = command.ref.sha256
        self.records.finish(command, self.vectors.model(sha256))
        self.metrics.finished()
        self.curve.say_again()
        # Exact counts of a board's data would undo what the run, or this board, has promised.
        if self.worker is not None and not self.private and command.settings.privacy == "none":
            self.records.count_classes(command.ref, *self.worker.labels, self.worker.predicted(sha256))

    def _set_status(self, command: do.SetStatus) -> None:
        LOG.debug("%s", command.text)
        self.say(command.text)

    def _log(self, command: do.Log) -> None:
        LOG.log(logging.getLevelName(command.level), "%s", command.text)

    def _end(self, command: do.Exit) -> None:
        self.exit = command
