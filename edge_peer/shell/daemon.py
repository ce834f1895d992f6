"""The only loop: broker, worker, timers and signals in; the protocol decides; its commands are run in order."""

from __future__ import annotations

import faulthandler
import gc
import logging
import random
import secrets
import signal
import time
from collections import deque
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_peer import __version__
from edge_peer.config import BrokerSection, Config, load_config
from edge_peer.errors import ConfigError, ResourceError
from edge_peer.protocol import events as ev
from edge_peer.protocol.peer import Peer
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.topics import HISTORY, Topics
from edge_peer.shell.curve import Curve
from edge_peer.shell.effects import Effects
from edge_peer.shell.facts import Facts
from edge_peer.shell.flood import FloodGuard
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.inbox import Inbox
from edge_peer.shell.journal import log_to_journal
from edge_peer.shell.kept_updates import KeptUpdates
from edge_peer.shell.link import Link
from edge_peer.shell.merging import Merger
from edge_peer.shell.message_sizes import ENVELOPE_BYTES, allowance, message_bytes
from edge_peer.shell.metrics import Metrics, Present
from edge_peer.shell.metrics_file import MetricsFile
from edge_peer.shell.mqtt import Accepted, Connection, Lost, Message, Refused
from edge_peer.shell.noise import Noise
from edge_peer.shell.quotas import Quotas
from edge_peer.shell.records import Records
from edge_peer.shell.reload import has_terminal, renewed, same_connection
from edge_peer.shell.remembered import Remembrance
from edge_peer.shell.resources import check_run, load_resources
from edge_peer.shell.store import Store
from edge_peer.shell.systemd import Notifier
from edge_peer.shell.telemetry import peak_rss_bytes
from edge_peer.shell.updates import UpdateMaker
from edge_peer.shell.vectors import Vectors
from edge_peer.shell.waiting import Waiter
from edge_peer.shell.watch import Watch
from edge_peer.shell.worker import Result, Trained, Worker
from edge_peer.trainers.backends import make_trainer

LOG = logging.getLogger(__name__)
HEALTH_S = 30.0
#: What a loss of power may cost of the CSV and the round log.
SYNC_S = 5.0
FLUSH_S = 2.0
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
        peers = max(len(config.federation.roster or ()), config.federation.min_peers)
        self._quotas = Quotas(lambda count: allowance(layout, config.timing, count), peers, config.limits.peers_max)
        self._guard = FloodGuard(self._topics, self._quotas)
        self._records = Records(config, self._artifacts)
        self._kept = self._keeper() if config.peer.keep_updates else None
        self._random = random.Random(secrets.randbits(64))
        self._facts = Facts(config, self._artifacts, shard)
        facts = self._facts.told(config)
        self._curve = Curve(config.peer.name, facts.session, config.peer.state_dir / "runs")
        self._peer = Peer(facts, state, self._random, _stamp)
        self._watch = Watch(config)
        self._metrics = Metrics(
            config.federation.name,
            config.peer.name,
            __version__,
            self._artifacts.model_id,
            {"train": facts.examples, "test": facts.test_examples},
        )
        self._metrics_file: MetricsFile | None = None
        if config.metrics.textfile is not None:
            self._metrics_file = MetricsFile(config.metrics.textfile, config.metrics.every_s, self._metrics_text)
        self._notifier = Notifier()
        self._waiter = Waiter()
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
        self._link = Link(config.broker, config.peer.name, self._topics, self._peer.will, self._random)
        self._shutdown = self._reload = False
        self._status = self._cut_off = ""
        self._terminal = has_terminal()
        self._ping_at_s = self._health_at_s = self._sync_at_s = 0.0
        self._effects = Effects(
            artifacts=self._artifacts,
            link=self._link,
            store=self._store,
            vectors=self._vectors,
            merger=self._merger,
            worker=self._worker,
            quotas=self._quotas,
            records=self._records,
            curve=self._curve,
            metrics=self._metrics,
            watch=self._watch,
            kept=self._kept,
            private=config.run.privacy != "none",
            say=self._say,
        )

    def _keeper(self) -> KeptUpdates:
        peer = self._config.peer
        return KeptUpdates(
            peer.state_dir / "runs",
            self._artifacts.layout,
            self._vectors,
            peer.keep_updates_bytes_max,
            lambda: self._peer.led,
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
        log_to_journal(self._log_fields)
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
            while self._effects.exit is None:
                self._turn()
            self._store.settle()
            self._flush()
            if self._link.connection is not None:
                # Only here: after anything else the socket just closes, and the broker publishes the will.
                self._link.connection.close()
        finally:
            self._notifier.send(STOPPING="1")
            self._records.sync()
            if self._metrics_file is not None:
                self._metrics_file.remove()
            if self._kept is not None:
                self._kept.stop()
            if self._worker is not None:
                self._worker.stop()
        LOG.info("ends: %s", self._effects.exit.reason)
        return NAME_TAKEN if self._effects.exit.failed else 0

    def _turn(self) -> None:
        """Wait for something to happen, and deal with it."""
        self._link.go_on()
        self._waiter.wait(self._link, self._wait_s())
        self._take_in()
        if self._shutdown:
            self._shutdown = False
            self._handle(ev.ShutdownRequested())
        if self._reload and self._effects.exit is None:
            self._reload = False
            self._read_again()
        self._periodic()
        deadline = self._peer.next_deadline_s()
        if deadline is not None and time.monotonic() >= deadline and self._effects.exit is None:
            self._handle(ev.TimerFired())
        self._link.hold(False)

    def _wait_s(self) -> float:
        now = time.monotonic()
        times: list[float] = [now + HEALTH_S, self._health_at_s, self._link.next_deadline_s()]
        if self._notifier.interval_s is not None:
            times.append(self._ping_at_s)
        if self._metrics_file is not None:
            times.append(self._metrics_file.due_s)
        deadline = self._peer.next_deadline_s()
        if deadline is not None:
            times.append(deadline)
        if self._results or self._link.waits:
            return 0.0
        return max(0.0, min(times) - now)

    def _take_in(self) -> None:
        connection = self._link.connection
        while connection is not None and connection.happened and self._effects.exit is None:
            happened = connection.happened.popleft()
            if isinstance(happened, Message):
                if not self._guard.admits(happened, time.monotonic(), self._waiter.idle_s):
                    continue
                event = self._inbox.read(happened)
                if self._kept is not None and isinstance(event, ev.UpdateReceived) and not event.problem:
                    self._kept.receive(event.offer, happened.payload)
                if event is not None:
                    self._handle(event)
            elif isinstance(happened, Accepted):
                self._on_accepted(happened)
            elif isinstance(happened, Refused):
                self._link.on_refused(happened)
            else:
                self._tell(self._link.on_lost(happened))
                return
        while self._results and self._effects.exit is None:
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
        if now >= self._sync_at_s:
            self._sync_at_s = now + SYNC_S
            self._records.sync()
        self._store.settle(wait=False)
        self._guard.tick(now, self._waiter.idle_s)
        if self._guard.status != self._cut_off:
            self._cut_off = self._guard.status
            self._tell_status()
        if self._link.accepted and (history := self._curve.due(now)) is not None:
            self._link.send(HISTORY, history, retain=True)
        interval = self._notifier.interval_s
        if interval is not None and now >= self._ping_at_s:
            self._ping_at_s = now + interval
            if not self._watch.hangs(now, self._worker):
                self._notifier.send(WATCHDOG="1")
        if now >= self._health_at_s:
            self._health_at_s = now + HEALTH_S
            self._handle(self._watch.look(now, self._worker))
        if self._metrics_file is not None:
            self._metrics_file.write_if_due(now)

    def _metrics_text(self) -> str:
        sent, received = self._link.carried
        return self._metrics.text(
            Present(
                connected=self._link.accepted,
                controller=self._peer.controller is not None,
                term=self._peer.term,
                sent=sent,
                received=received,
                dropped=self._inbox.dropped,
                health=self._watch.health,
                strained=self._watch.strained,
                memory_peak=peak_rss_bytes(),
            )
        )

    def _log_fields(self) -> dict[str, str]:
        """What is so now, for the journal."""
        config, state = self._config, self._peer.state
        fields = {
            "FEDERATION": config.federation.name,
            "PEER": config.peer.name,
            "ROLE": self._peer.role,
            "TERM": str(state.elected_term),
        }
        if state.held is not None:
            fields |= {"RUN": state.held.run_id, "ROUND": str(state.held.round)}
        return fields

    def _handle(self, event: ev.Event) -> None:
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            # A command may give an event (Aggregate does): it is handled after the commands before it.
            for command in self._peer.handle(self._events[0], time.monotonic()):
                follows = self._effects.run(command)
                if follows is not None:
                    self._events.append(follows)
            self._events.popleft()

    def _say(self, doing: str) -> None:
        self._status = doing
        self._tell_status()

    def _tell_status(self) -> None:
        self._notifier.send(STATUS="; ".join(filter(None, (self._status, self._cut_off))))

    def _tell(self, event: ev.Event | None) -> None:
        """Handle what the link says, if it says something."""
        if event is not None:
            self._handle(event)

    def _post(self, result: Result) -> None:
        """Called on the worker's thread."""
        self._results.append(result)
        self._waiter.wake()

    def _on_signal(self, number: int, _frame: Any) -> None:
        # A terminal that is closed sends the same signal, and the process must not stay behind.
        if number == signal.SIGHUP and (not self._terminal or has_terminal()):
            self._reload = True
        else:
            self._shutdown = True
        self._waiter.wake()

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
        self._watch.config = self._records.config = config
        if self._worker is not None:
            self._worker.evaluate_local = config.trainer.evaluate_local
        self._health_at_s = 0.0
        LOG.info(
            "configuration read again: %s", f"changed {', '.join(taken)}" if taken else "nothing new for this process"
        )
        if left:
            LOG.warning("not changed until the process is started again: %s", ", ".join(left))
        self._effects.private = config.run.privacy != "none"
        self._handle(ev.Reconfigured(self._facts.told(config)))
        self._link.broker = config.broker
        if not same_connection(before.broker, config.broker) or self._link.credentials_changed:
            self._tell(self._link.renew())

    # ------------------------------------------------------------------ the broker

    def _check_message_bytes(self, run: RunSettings, broker: BrokerSection) -> None:
        """Whether the largest message of a run fits; raises ResourceError."""
        needed = message_bytes(self._artifacts.layout, run) + ENVELOPE_BYTES
        for limit, remedy in (
            (self._link.bytes_max, "raise max_packet_size in mosquitto.conf"),
            (broker.packet_bytes_max, "raise [broker] packet_bytes_max"),
        ):
            if limit and needed > limit:
                raise ResourceError(f"the model needs messages of {needed} bytes, the limit is {limit}: {remedy}")

    def _on_accepted(self, accepted: Accepted) -> None:
        self._metrics.connected()
        self._link.on_accepted(accepted)
        self._check_message_bytes(self._config.run, self._config.broker)
        self._curve.say_again()
        self._handle(ev.Connected())

    def _flush(self) -> None:
        """Wait until the broker has acknowledged the goodbye, within a bound."""
        end_s = time.monotonic() + FLUSH_S
        link = self._link
        while link.connection is not None and link.accepted and not link.connection.idle:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or any(isinstance(it, Lost) for it in link.connection.happened):
                return
            self._waiter.wait(link, left_s)


def _stamp() -> str:
    """What a run's name begins with."""
    return datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
