"""The only loop: broker, worker, timers and signals in; the protocol decides; its commands are run in order."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import random
import secrets
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aggregator_core.codecs import bound
from aggregator_core.layout import Layout
from aggregator_core.server_optimizers import OPTIMIZERS
from data_shards.shard import Shard
from edge_peer.config import BrokerSection, Config, load_config, to_toml
from edge_peer.errors import BrokerError, ConfigError, ResourceError
from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import WHOLE, RunSettings, encode
from edge_peer.protocol.peer import Peer
from edge_peer.protocol.settings import PeerSettings
from edge_peer.protocol.topics import DELTA, MODEL, PRESENCE, RETAINED, TENSORS, UPDATE, Topics
from edge_peer.shell.aggregation import CoreAggregation
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.history import History
from edge_peer.shell.inbox import Inbox
from edge_peer.shell.kept_updates import KeptUpdates
from edge_peer.shell.merging import Merger
from edge_peer.shell.mqtt import Accepted, Connection, Lost, Message, Refused
from edge_peer.shell.noise import Noise
from edge_peer.shell.payload import encode_model, encode_update
from edge_peer.shell.reload import credentials, has_terminal, renewed, same_connection
from edge_peer.shell.remembered import Remembrance
from edge_peer.shell.resources import check_run, load_resources
from edge_peer.shell.store import Store, write_atomically
from edge_peer.shell.systemd import Notifier
from edge_peer.shell.telemetry import capability, peak_rss_bytes
from edge_peer.shell.updates import UpdateMaker
from edge_peer.shell.vectors import Vectors
from edge_peer.shell.watch import Watch
from edge_peer.shell.worker import EvaluateJob, Result, Trained, TrainJob, Worker
from edge_peer.trainers.backends import make_trainer
from edge_peer.trainers.deployed import int8_model
from edge_peer.trainers.int8 import NotQuantizableError
from edge_peer.trainers.interface import F32

LOG = logging.getLogger(__name__)
TICK_S = 1.0
HEALTH_S = 30.0
#: What a loss of power may cost of the CSV and the round log.
SYNC_S = 5.0
FLUSH_S = 2.0
STEADY_S = 5.0
COMPLAIN_S = 60.0
#: Bytes that a model's or update's metadata and topic take beside its values.
ENVELOPE_BYTES = 16_384
#: Exit code when another process has this peer's name: to start again would only throw that one out.
NAME_TAKEN = 4


class Daemon:
    """One board's process.

    Args:
        config: Checked configuration.
        path: Where it is read from again when the process is asked to; None: nowhere.

    Raises:
        ResourceError: Model, shard or state folder cannot be used.
    """

    def __init__(self, config: Config, path: Path | None = None) -> None:
        self._config = config
        self._path = path
        self._artifacts, shard = load_resources(config)
        layout = self._artifacts.layout
        self._store = Store(config.peer.state_dir)
        self._vectors = Vectors(GlobalModel(self._artifacts.initial()))
        state, model = self._store.load(layout)
        if state.held is not None and model is not None:
            self._vectors.hold_model(state.held.sha256, model)
        remembrance = Remembrance(config.peer.state_dir, layout)
        state = replace(state, memories=remembrance.memories)
        noise = Noise(config.peer.state_dir, layout.trained_size)
        self._merger = Merger(layout, self._vectors, noise, self._artifacts.optimizer)
        self._topics = Topics(config.federation.name)
        self._inbox = Inbox(
            self._topics,
            layout,
            self._vectors,
            2 * config.limits.peers_max,
            lambda: self._peer.led,
        )
        self._history = History(config.peer.state_dir / "runs", config.peer.name)
        self._kept = self._keeper() if config.peer.keep_updates else None
        self._random = random.Random(secrets.randbits(64))
        self._score, self._score_parts = capability(0.0)
        self._facts = self._settings(shard)
        self._peer = Peer(self._facts, state, self._random, _stamp)
        self._watch = Watch(config)
        self._notifier = Notifier()
        self._selector = selectors.DefaultSelector()
        self._wake_receive, self._wake_send = socket.socketpair()
        self._wake_receive.setblocking(False)
        self._wake_send.setblocking(False)
        self._selector.register(self._wake_receive, selectors.EVENT_READ)
        self._results: deque[Result] = deque()
        self._events: deque[ev.Event] = deque()
        self._worker: Worker | None = None
        if shard is not None:
            self._worker = Worker(
                self._make_trainer,
                shard,
                config.peer.name,
                self._post,
                UpdateMaker(layout, remembrance, noise, self._artifacts.optimizer),
                config.trainer.evaluate_local,
            )
        self._connection: Connection | None = None
        #: Digest of the files that it was made with; and the largest message that the broker takes, 0: not told.
        self._credentials = b""
        self._broker_bytes_max = 0
        self._watched: Any = None
        self._accepted = self._connected_once = False
        self._shutdown = self._reload = False
        self._terminal = has_terminal()
        self._exit: do.Exit | None = None
        self._row_bytes = self._past_bytes = (0, 0)
        self._retry_at_s = 0.0
        self._retry_s = config.broker.reconnect_s_min
        self._away_since_s = time.monotonic()
        self._accepted_at_s = 0.0
        #: The present connection has lasted.
        self._steady = False
        self._refusal_at_s = self._complain_at_s = float("-inf")
        self._tick_at_s = self._ping_at_s = self._health_at_s = self._sync_at_s = 0.0
        self._commands: dict[type, Callable[..., None]] = {
            do.Subscribe: self._do_subscribe,
            do.Unsubscribe: lambda it: self._online(
                lambda to: to.unsubscribe([self._topics.filter(k) for k in it.kinds])
            ),
            do.Publish: self._do_publish,
            do.PublishModel: self._do_publish_model,
            do.PublishDelta: self._do_publish_delta,
            do.ClearModel: lambda _: self._send(MODEL, b"", retain=True),
            do.PublishUpdate: self._do_publish_update,
            do.SaveState: lambda it: self._store.save_state(it.state),
            do.SaveModel: self._do_save_model,
            do.KeepModels: lambda it: self._vectors.keep_models(it.digests),
            do.KeepUpdates: self._do_keep_updates,
            do.StartTraining: self._do_start_training,
            do.StartEvaluation: self._do_start_evaluation,
            do.CancelTraining: self._do_cancel_training,
            do.Aggregate: self._do_aggregate,
            do.WriteRow: self._do_write_row,
            do.LogRound: self._do_log_round,
            do.RunFinished: self._do_run_finished,
            do.SetStatus: self._do_set_status,
            do.Log: lambda it: LOG.log(logging.getLevelName(it.level), "%s", it.text),
            do.Exit: self._do_exit,
        }

    def _keeper(self) -> KeptUpdates:
        peer = self._config.peer
        return KeptUpdates(
            peer.state_dir / "runs",
            self._artifacts.layout,
            self._vectors,
            peer.keep_updates_bytes_max,
            lambda: self._peer.led,
        )

    def _settings(self, shard: Shard | None) -> PeerSettings:
        config, artifacts = self._config, self._artifacts
        fixed = PeerSettings(
            peer=config.peer.name,
            session=secrets.token_hex(8),
            model_id=artifacts.model_id,
            model_digest=artifacts.digest,
            initial_sha256=artifacts.initial_sha256,
            examples=len(shard.y_train) if shard is not None else 0,
            test_examples=len(shard.y_test) if shard is not None else 0,
            roster=config.federation.roster,
            min_peers=config.federation.min_peers,
            timing=config.timing,
            peers_max=config.limits.peers_max,
        )
        return self._with_choices(fixed)

    def _with_choices(self, facts: PeerSettings) -> PeerSettings:
        """With what a reload can change, as the configuration now says."""
        config = self._config
        return replace(
            facts,
            control=config.peer.control,
            train=config.peer.train,
            controller_trains=config.peer.controller_trains,
            score=self._score + config.peer.priority,
            score_parts={**self._score_parts, "priority": config.peer.priority},
            run=replace(config.run, learning_rate=config.run.learning_rate or self._artifacts.learning_rate),
            aggregation=CoreAggregation(config.run),
        )

    def _make_trainer(self) -> Any:
        trainer = make_trainer(self._config.trainer.backend, self._artifacts, self._config.trainer.threads)
        LOG.info("trains with %s", trainer.runtime)
        return trainer

    # ------------------------------------------------------------------ the loop

    def run(self) -> int:
        """Run until it is told to stop; returns the exit code.

        Raises:
            BrokerError: The broker was away for longer than the configuration allows.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        # The watchdog ends a process that hangs by SIGABRT: the log then says where.
        faulthandler.enable()
        LOG.info(
            "%s of federation %s: model %s (%s), %d parameters",
            self._config.peer.name,
            self._config.federation.name,
            self._artifacts.model_id,
            self._artifacts.digest[:12],
            self._artifacts.layout.trained_size,
        )
        # What is here now stays: it need not be looked through again for garbage.
        gc.freeze()
        self._notifier.send(READY="1", STATUS="connecting")
        try:
            while self._exit is None:
                self._turn()
            self._store.settle()
            self._flush()
            if self._connection is not None:
                # Only here: after anything else the socket just closes, and the broker publishes the will.
                self._connection.close()
        finally:
            self._notifier.send(STOPPING="1")
            with self._only_a_record("records"):
                self._history.sync()
            if self._kept is not None:
                self._kept.stop()
            if self._worker is not None:
                self._worker.stop()
        LOG.info("ends: %s", self._exit.reason if self._exit else "")
        return NAME_TAKEN if self._exit is not None and self._exit.failed else 0

    def _turn(self) -> None:
        """Wait for something to happen, and deal with it."""
        if self._connection is None and time.monotonic() >= self._retry_at_s:
            self._connect()
        self._select(self._wait_s())
        self._take_in()
        if self._shutdown:
            self._shutdown = False
            self._handle(ev.ShutdownRequested())
        if self._reload and self._exit is None:
            self._reload = False
            self._read_again()
        self._periodic()
        deadline = self._peer.next_deadline_s()
        if deadline is not None and time.monotonic() >= deadline and self._exit is None:
            self._handle(ev.TimerFired())
        self._hold(False)

    def _wait_s(self) -> float:
        now = time.monotonic()
        times = [now + HEALTH_S, self._health_at_s]
        if self._connection is None:
            times.append(self._retry_at_s)
        else:
            times.append(self._tick_at_s)
        if self._notifier.interval_s is not None:
            times.append(self._ping_at_s)
        deadline = self._peer.next_deadline_s()
        if deadline is not None:
            times.append(deadline)
        if self._results or (self._connection is not None and (self._connection.happened or self._connection.unread)):
            return 0.0
        return max(0.0, min(times) - now)

    def _select(self, timeout_s: float) -> None:
        connection = self._connection
        it = connection.socket() if connection is not None else None
        if it is not self._watched:
            if self._watched is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(self._watched)
            self._watched = it
            if it is not None:
                self._selector.register(it, selectors.EVENT_READ)
        if it is not None and connection is not None:
            write = selectors.EVENT_WRITE if connection.wants_write else 0
            self._selector.modify(it, selectors.EVENT_READ | write)
        ready = self._selector.select(timeout_s)
        self._hold(True)
        for key, mask in ready:
            if key.fileobj is self._wake_receive:
                with contextlib.suppress(BlockingIOError):
                    self._wake_receive.recv(4096)
            elif connection is not None:
                if mask & selectors.EVENT_READ:
                    connection.read()
                if mask & selectors.EVENT_WRITE:
                    connection.write()
        if connection is not None and connection.unread:
            connection.read()

    def _take_in(self) -> None:
        connection = self._connection
        while connection is not None and connection.happened and self._exit is None:
            happened = connection.happened.popleft()
            if isinstance(happened, Message):
                event = self._inbox.read(happened)
                if self._kept is not None and isinstance(event, ev.UpdateReceived) and not event.problem:
                    self._kept.receive(event.offer, happened.payload)
                if event is not None:
                    self._handle(event)
            elif isinstance(happened, Accepted):
                self._on_accepted(happened)
            elif isinstance(happened, Refused):
                self._on_refused(happened)
            else:
                self._on_lost(happened)
                return
        while self._results and self._exit is None:
            result = self._results.popleft()
            if isinstance(result, ResourceError):
                raise result
            if isinstance(result, Trained):
                self._vectors.hold_own(result.own)
                self._handle(result.event)
            else:
                self._handle(result)

    def _periodic(self) -> None:
        now = time.monotonic()
        if self._connection is not None and now >= self._tick_at_s:
            self._tick_at_s = now + TICK_S
            self._connection.tick()
        if self._accepted and not self._steady and now >= self._accepted_at_s + STEADY_S:
            # Not at once: a broker that accepts and drops, again and again, must not be asked ten times a second.
            self._steady = True
            self._retry_s = self._config.broker.reconnect_s_min
            self._complain_at_s = float("-inf")
        if now >= self._sync_at_s:
            self._sync_at_s = now + SYNC_S
            with self._only_a_record("records"):
                self._history.sync()
        self._store.settle(wait=False)
        interval = self._notifier.interval_s
        if interval is not None and now >= self._ping_at_s:
            self._ping_at_s = now + interval
            if not self._watch.hangs(now, self._worker):
                self._notifier.send(WATCHDOG="1")
        if now >= self._health_at_s:
            self._health_at_s = now + HEALTH_S
            self._handle(self._watch.look(now, self._worker))

    def _handle(self, event: ev.Event) -> None:
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            # A command may give an event (Aggregate does): it is handled after the commands before it.
            for command in self._peer.handle(self._events[0], time.monotonic()):
                self._commands[type(command)](command)
            self._events.popleft()

    def _post(self, result: Result) -> None:
        """Called on the worker's thread."""
        self._results.append(result)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            # A full pipe wakes the loop just as well.
            self._wake_send.send(b"\0")

    def _on_signal(self, number: int, _frame: Any) -> None:
        # A terminal that is closed sends the same signal, and the process must not stay behind.
        if number == signal.SIGHUP and (not self._terminal or has_terminal()):
            self._reload = True
        else:
            self._shutdown = True
        self._wake()

    # ------------------------------------------------------------------ the configuration, again

    def _read_again(self) -> None:
        self._notifier.send(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            if self._path is None:
                raise ConfigError(["no configuration file was given"])
            self._take_configuration(load_config(self._path))
        except (ConfigError, ResourceError) as error:
            LOG.error("the configuration is not taken, nothing has changed: %s", error)
        finally:
            self._notifier.send(READY="1")

    def _take_configuration(self, read: Config) -> None:
        """Go by what is read, as far as this process can; raises ConfigError, ResourceError before anything changes."""
        config, taken, left = renewed(self._config, read)
        check_run(self._artifacts, config.run)
        self._check_message_bytes(config.run, config.broker)
        # Certificates and password are tried before the connection that stands is given up for them.
        Connection(config.broker, config.peer.name, None)
        before, self._config = self._config, config
        logging.getLogger().setLevel(config.log.level.upper())
        self._watch.config = config
        if self._worker is not None:
            self._worker.evaluate_local = config.trainer.evaluate_local
        self._health_at_s = 0.0
        LOG.info(
            "configuration read again: %s", f"changed {', '.join(taken)}" if taken else "nothing new for this process"
        )
        if left:
            LOG.warning("not changed until the process is started again: %s", ", ".join(left))
        self._facts = self._with_choices(self._facts)
        self._handle(ev.Reconfigured(self._facts))
        if not same_connection(before.broker, config.broker) or credentials(config.broker) != self._credentials:
            self._reconnect()

    def _reconnect(self) -> None:
        """Make a new connection at once, with a goodbye to the broker: it is to tell nobody that the peer is gone."""
        self._retry_at_s = 0.0
        self._retry_s = self._config.broker.reconnect_s_min
        if self._connection is None:
            return
        LOG.info("connects anew, with the broker, certificates and password as they are now")
        accepted = self._accepted
        self._connection.leave()
        self._drop_connection()
        self._away_since_s = time.monotonic()
        if accepted:
            self._handle(ev.Disconnected())

    # ------------------------------------------------------------------ the broker

    def _connect(self) -> None:
        will = (self._topics.of(self._config.peer.name, PRESENCE), encode(self._peer.will()))
        self._credentials = credentials(self._config.broker)
        try:
            self._connection = Connection(self._config.broker, self._config.peer.name, will)
            self._tick_at_s = time.monotonic() + TICK_S
            self._connection.open()
        except ConfigError as error:
            if not self._connected_once:
                raise
            # Certificates that are being replaced at this moment must not end a peer that ran.
            self._on_lost(Lost(str(error)))
        except BrokerError as error:
            self._on_lost(Lost(str(error)))

    def _check_message_bytes(self, run: RunSettings, broker: BrokerSection) -> None:
        """Whether the largest message of a run fits; raises ResourceError."""
        needed = message_bytes(self._artifacts.layout, run) + ENVELOPE_BYTES
        for limit, remedy in (
            (self._broker_bytes_max, "raise max_packet_size in mosquitto.conf"),
            (broker.packet_bytes_max, "raise [broker] packet_bytes_max"),
        ):
            if limit and needed > limit:
                raise ResourceError(f"the model needs messages of {needed} bytes, the limit is {limit}: {remedy}")

    def _on_accepted(self, accepted: Accepted) -> None:
        self._broker_bytes_max = accepted.packet_bytes_max
        self._check_message_bytes(self._config.run, self._config.broker)
        self._accepted = self._connected_once = True
        self._accepted_at_s = time.monotonic()
        LOG.info("connected to %s:%d", *self._config.broker.address)
        self._handle(ev.Connected())

    def _on_refused(self, refused: Refused) -> None:
        now = time.monotonic()
        if now >= self._refusal_at_s:
            self._refusal_at_s = now + COMPLAIN_S
            LOG.error(
                "the broker does not let %s %s (%s): look at its access list; with TLS, the certificate's common name "
                "must be the peer's name",
                self._config.peer.name,
                refused.what,
                refused.reason,
            )

    def _on_lost(self, lost: Lost) -> None:
        now = time.monotonic()
        accepted, steady = self._accepted, self._steady
        self._drop_connection()
        if accepted:
            # The time that it was connected does not count as time away; only a steady connection begins anew.
            self._away_since_s = now if steady else now - (self._accepted_at_s - self._away_since_s)
            if steady:
                LOG.warning("connection lost: %s", lost.reason)
            self._handle(ev.Disconnected(lost.taken_over))
        away_s, limit_s = now - self._away_since_s, self._config.broker.give_up_after_s
        if limit_s and away_s >= limit_s and self._exit is None:
            raise BrokerError(f"no broker for {away_s:.0f} s ([broker] give_up_after_s): {lost.reason}")
        if now >= self._complain_at_s:
            self._complain_at_s = now + COMPLAIN_S
            LOG.warning(
                "no broker (%s); trying again, at most every %g s", lost.reason, self._config.broker.reconnect_s_max
            )
        self._retry_at_s = now + self._retry_s * (0.5 + self._random.random())
        self._retry_s = min(2 * self._retry_s, self._config.broker.reconnect_s_max)

    def _drop_connection(self) -> None:
        """It is no more; what it has carried is counted on."""
        connection, self._connection = self._connection, None
        self._accepted = self._steady = False
        if connection is not None:
            self._past_bytes = (
                self._past_bytes[0] + connection.bytes_sent,
                self._past_bytes[1] + connection.bytes_received,
            )
            connection.close()

    def _hold(self, held: bool) -> None:
        """Whatever one turn of the loop sends goes out together."""
        if self._connection is not None:
            self._connection.hold(held)

    def _online(self, action: Callable[[Connection], None]) -> None:
        """What cannot be said now is said again after the next connection: the protocol sees to that."""
        if self._connection is not None and self._accepted:
            action(self._connection)

    def _send(self, kind: str, payload: bytes, retain: bool, expires: bool = False) -> None:
        topic = self._topics.of(self._config.peer.name, kind)
        self._online(lambda to: to.publish(topic, payload, retain, expires))

    def _flush(self) -> None:
        """Wait until the broker has acknowledged the goodbye, within a bound."""
        end_s = time.monotonic() + FLUSH_S
        while self._connection is not None and self._accepted and not self._connection.idle:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or any(isinstance(it, Lost) for it in self._connection.happened):
                return
            self._select(left_s)

    # ------------------------------------------------------------------ commands

    def _do_subscribe(self, command: do.Subscribe) -> None:
        small = [self._topics.filter(kind) for kind in command.kinds if kind not in TENSORS]
        large = [self._topics.filter(kind) for kind in command.kinds if kind in TENSORS]
        if small:
            self._online(lambda to: to.subscribe(small))
        if large:
            # The echo of a document tells that the broker hears this peer; that of a model would tell no more.
            self._online(lambda to: to.subscribe(large, own=False))

    def _do_publish(self, command: do.Publish) -> None:
        payload = encode(command.document) if command.document is not None else b""
        if command.kind in RETAINED:
            self._store.settle()
        self._send(command.kind, payload, retain=command.kind in RETAINED)

    def _do_publish_model(self, command: do.PublishModel) -> None:
        model = self._vectors.model(command.ref.sha256)
        self._store.settle()
        if model is not None:
            self._send(MODEL, encode_model(self._artifacts.layout, command.ref, model), retain=command.retained)

    def _do_publish_delta(self, command: do.PublishDelta) -> None:
        payload = self._merger.delta(command.ref)
        self._store.settle()
        if payload is not None:
            self._send(DELTA, payload, retain=False, expires=True)

    def _do_publish_update(self, command: do.PublishUpdate) -> None:
        own = self._vectors.own(command.offer.digest)
        if own is not None:
            self._send(UPDATE, encode_update(command.offer, own.encoded), retain=False, expires=True)

    def _do_save_model(self, command: do.SaveModel) -> None:
        model = self._vectors.model(command.ref.sha256)
        if model is not None:
            self._store.save_model(self._artifacts.layout, command.ref, model)

    def _do_start_training(self, command: do.StartTraining) -> None:
        base = self._vectors.model(command.key.base)
        if self._worker is not None and base is not None:
            self._worker.submit(TrainJob(command.key, command.settings, base, command.after))

    def _do_cancel_training(self, command: do.CancelTraining) -> None:
        if self._worker is not None:
            self._worker.cancel(command.key)

    def _do_start_evaluation(self, command: do.StartEvaluation) -> None:
        model = self._vectors.model(command.ref.sha256)
        if self._worker is not None and model is not None:
            self._worker.submit(EvaluateJob(command.ref, model.vector))

    def _do_write_row(self, command: do.WriteRow) -> None:
        sent, received = self._past_bytes
        if self._connection is not None:
            sent, received = sent + self._connection.bytes_sent, received + self._connection.bytes_received
        before = self._row_bytes
        self._row_bytes = (sent, received)
        with self._only_a_record("CSV"):
            self._history.write_row(
                command, sent - before[0], received - before[1], peak_rss_bytes(), self._watch.health
            )

    def _do_keep_updates(self, command: do.KeepUpdates) -> None:
        self._vectors.keep_updates(command.digests)
        if self._kept is not None:
            self._kept.forget(command.digests)

    def _do_aggregate(self, command: do.Aggregate) -> None:
        # On the loop: it takes about a millisecond for a small model, less than a thread's hand-over can.
        event = self._merger.merge(command)
        if self._kept is not None:
            self._kept.merge(command, event)
        self._events.append(event)

    def _do_log_round(self, command: do.LogRound) -> None:
        with self._only_a_record("round log"):
            self._history.log_round(command.run_id, command.event, command.fields)
        if self._kept is not None and command.event == "committed":
            self._kept.commit(str(command.fields["sha256"]))

    def _do_run_finished(self, command: do.RunFinished) -> None:
        model = self._vectors.model(command.ref.sha256)
        with self._only_a_record("final model"):
            folder = self._history.run_folder(command.ref.run_id)
            if model is not None:
                content = encode_model(self._artifacts.layout, command.ref, model)
                write_atomically(folder / "model.safetensors", content)
                self._write_int8(folder / "model.int8.tflite", model.vector)
            write_atomically(folder / "config.toml", to_toml(self._config).encode())

    def _write_int8(self, path: Path, vector: F32) -> None:
        try:
            content = int8_model(self._artifacts, vector)
        except (NotQuantizableError, ResourceError) as error:
            LOG.warning("no int8 model of the final weights: %s", error)
        else:
            if content is not None:
                write_atomically(path, content)

    @contextlib.contextmanager
    def _only_a_record(self, what: str) -> Iterator[None]:
        """A full disk costs a record for people, not the run."""
        try:
            yield
        except OSError as error:
            LOG.error("%s not written: %s", what, error)

    def _do_set_status(self, command: do.SetStatus) -> None:
        LOG.debug("%s", command.text)
        self._notifier.send(STATUS=command.text)

    def _do_exit(self, command: do.Exit) -> None:
        self._exit = command


def message_bytes(layout: Layout, run: RunSettings) -> int:
    """Bytes of the values in the largest message of a run: a whole model with the server's state, or a change."""
    kind = OPTIMIZERS.get(run.server_optimizer)
    slots = (len(kind.slots) if kind is not None else 0) + run.scaffold
    whole = 4 * (layout.size + slots * layout.trained_size)
    codecs = {run.codec, run.downlink} - {WHOLE}
    # A control variate travels as a vector of the whole model's size.
    return max(whole, *(bound(codec, layout) * (1 + run.scaffold) for codec in codecs))


def _stamp() -> str:
    """What a run's name begins with."""
    return datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
