"""A board: its disk, its clock, and the daemon on it, whose shell is fake and whose protocol is real."""

from __future__ import annotations

import functools
import hashlib
import random
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aggregator_core import RefusedUpdateError, weighted_mean
from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import Document, Report, Round, decode, encode
from edge_peer.protocol.peer import Peer
from edge_peer.protocol.run_settings import WHOLE
from edge_peer.protocol.state import Memory, SavedState
from edge_peer.protocol.tensors import Delta, ModelRef
from edge_peer.protocol.topics import DELTA, MODEL, PRESENCE, RETAINED, UPDATE
from tests.sim import scenario as sc
from tests.sim.arithmetic import INITIAL, WEIGHTS, Disk, advance, digest_of, seen
from tests.sim.broker import Connection, Packet
from tests.sim.checkers import Made, Violation
from tests.sim.clock import BoardClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.world import World

RECONNECT_S = (0.05, 0.5)
#: A timer that is due again at once without anything having changed is a busy loop.
SPINS_MAX = 3


#: A message is read by everybody alike, and what is read is never changed.
read = functools.lru_cache(maxsize=4096)(decode)


class Crash(Exception):  # noqa: N818 - it is no error of the product
    """The process dies at this command."""


class Worker:
    """Trains and evaluates one job after another, as the daemon's thread does; a job takes virtual time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._jobs: deque[do.StartTraining | do.StartEvaluation] = deque()
        self._busy = False
        self._cancelled: set[ev.TrainingKey] = set()

    def submit(self, job: do.StartTraining | do.StartEvaluation) -> None:
        """Add a job behind those that wait."""
        if isinstance(job, do.StartTraining):
            self._cancelled.discard(job.key)
        self._jobs.append(job)
        self._next()

    def cancel(self, key: ev.TrainingKey) -> None:
        """Let go of a training."""
        self._cancelled = {key}

    def _next(self) -> None:
        if self._busy or not self._jobs:
            return
        self._busy = True
        world, board = self._process.world, self._process.board
        low, high = board.facts.training_s
        evaluating = isinstance(self._jobs[0], do.StartEvaluation)
        world.schedule.after(world.rng.uniform(low, high) * (0.1 if evaluating else 1), self._done)

    def _done(self) -> None:
        job = self._jobs.popleft()
        self._busy = False
        if self._process.alive:
            if isinstance(job, do.StartEvaluation):
                self._process.post(ev.ModelEvaluated(job.ref, self._report(job.ref.sha256, job.ref.round), 0.01))
            elif job.key not in self._cancelled:
                try:
                    self._train(job)
                except Crash:
                    self._process.die()
            self._next()

    def _train(self, job: do.StartTraining) -> None:
        process, facts = self._process, self._process.board.facts
        key = job.key
        if process.world.rng.random() < facts.fails:
            process.post(ev.TrainingFailed(key, "the loss diverged"))
            return
        nonce = "" if facts.repeatable else f"{process.session} {process.world.rng.random()}"
        seed = hashlib.sha256(f"{process.name} {key} {nonce}".encode()).digest()[:16]
        trained = np.frombuffer(seed, np.uint32).astype(np.float32) / np.float32(2**32) - np.float32(0.5)
        remembers = job.settings.error_feedback
        whole = trained + self._residual(job.after) if remembers else trained
        change = seen(job.settings.codec, whole)
        digest, examples = digest_of(change), 10 + 7 * int(process.name[1:])
        process.world.checkers.made[digest] = Made(process.name, process.session, key, examples, change, trained)
        if remembers:
            memory, residual = Memory(key.run_id, key.round, digest), whole - change
            process.board.write(process.world, lambda: process.board.disk.put(memory, residual, job.after))
        process.own = (digest, change)
        process.post(ev.TrainingDone(key, digest, examples, 1.0 / key.round, 0.1, remembers=remembers))
        process.post(ev.LocalEvaluated(key, self._report(digest, key.round)))

    def _residual(self, after: str | None) -> np.ndarray:
        residual = self._process.board.disk.residual(after)
        return residual if residual is not None else np.zeros(WEIGHTS, np.float32)

    def _report(self, digest: str, round_: int) -> Report:
        wobble = int(digest[:2], 16) / 2560
        return Report(min(1.0, 0.2 + 0.15 * round_ + wobble), 1.0, 5)


class Board:
    """What outlives a process: the disk and the clock."""

    def __init__(self, facts: sc.Board) -> None:
        self.facts = facts
        self.clock = BoardClock(facts.clock_offset_s, facts.clock_rate)
        self.saved = SavedState()
        self.held: ModelRef | None = None
        self.vector: np.ndarray | None = None
        self.disk = Disk()
        self.starts = 0
        #: The final model that was last handed in to whoever reads the run's folder.
        self.final: ModelRef | None = None
        #: The disk is full: whatever is written ends the process.
        self.full = False
        #: What is written next ends it: `before` the file is renamed, when all or half of it may be in a temporary one;
        #: or `after`, though the process never learns that it is on the disk.
        self.dies_at_write: str | None = None

    def write(self, world: World, write: Callable[[], None]) -> None:
        """Write a file: a temporary one, fsync, rename. So it is the old or the new one, wherever the process dies."""
        when, self.dies_at_write = self.dies_at_write, None
        if self.full:
            world.count("a write that finds the disk full")
            raise Crash
        if when != "before":
            write()
        if when is not None:
            world.count(f"a crash at a write, {when} the rename")
            raise Crash


class Process:
    """One daemon from its start to its end: the fake shell around a real `Peer`."""

    def __init__(self, world: World, board: Board, peer_type: type[Peer]) -> None:
        self.world, self.board, self.name = world, board, board.facts.name
        board.starts += 1
        self.session = f"{self.name}-{board.starts}"
        state = SavedState.decode(board.saved.encode())
        state = replace(state, held=board.held, memories=board.disk.memories)
        world.checkers.restarted(self.name, state.finished, state.elected_term, state.held)
        self.models: dict[str, np.ndarray] = {digest_of(INITIAL): INITIAL}
        if board.held is not None and board.vector is not None:
            self.models[board.held.sha256] = board.vector
        self.updates: dict[str, np.ndarray] = {}
        #: What the disk thread is at.
        self._saving: tuple[ModelRef, np.ndarray] | None = None
        self.own: tuple[str, np.ndarray] | None = None
        #: The model that the last round made: its digest, its base's, and what was changed.
        self._newest: tuple[str, str, np.ndarray] | None = None
        self.peer = peer_type(
            world.settings(board, self.session), state, random.Random(world.rng.random()), world.stamp
        )
        self.alive = True
        self.hung = False
        self.connection: Connection | None = None
        self.accepted = False
        #: Faults that wait for a command: (commands to go, what happens).
        self.trap: tuple[int, str] | None = None
        self._inbox: deque[ev.Event | tuple[ev.Event | tuple[str, Delta], np.ndarray]] = deque()
        self._commands: deque[do.Command] = deque()
        self._running = False
        #: What this board's clock read at the last event.
        self.now_s = float("-inf")
        self._armed_s: float | None = None
        self._spins = 0
        self._worker = Worker(self)
        self._connect()

    # ------------------------------------------------------------------ the connection

    def _connect(self) -> None:
        world = self.world
        if not self.alive or self.connection is not None:
            return
        if self.hung or not world.broker.reachable(self.name):
            world.schedule.after(world.rng.uniform(*RECONNECT_S), self._connect)
            return
        will = (PRESENCE, encode(self.peer.will()))
        self.connection = world.broker.connect(world.topics, self.name, self, will)

    def on_accepted(self, connection: Connection) -> None:
        """CONNACK."""
        if connection is self.connection and self.alive:
            self.accepted = True
            self.post(ev.Connected())

    def on_closed(self, connection: Connection) -> None:
        """The socket is closed."""
        if connection is not self.connection or not self.alive:
            return
        self.connection = None
        if self.accepted:
            self.accepted = False
            self.post(ev.Disconnected())
        self.world.schedule.after(self.world.rng.uniform(*RECONNECT_S), self._connect)

    def on_packet(self, connection: Connection, packet: Packet) -> None:
        """A message: what the daemon's inbox makes of it."""
        if connection is not self.connection or not self.alive:
            return
        peer, kind = self.world.topics.parse(packet.topic)
        if kind == MODEL:
            if packet.payload is not None:
                self.post_with(ev.ModelReceived(peer, packet.payload[0]), packet.payload[1])
        elif kind == DELTA:
            self.post_with((peer, packet.payload[0]), packet.payload[1])
        elif kind == UPDATE:
            offer, change, problem = packet.payload
            self.post_with(ev.UpdateReceived(peer, offer, problem), change)
        else:
            document: Document | None = read(kind, packet.payload) if packet.payload is not None else None
            self.post(ev.DocumentReceived(peer, kind, document, packet.retained))

    def send(self, *item: Any) -> None:
        """To the broker, if there is a connection; what is lost is said again by the protocol."""
        if self.connection is not None and self.accepted:
            self.connection.send(*item)

    # ------------------------------------------------------------------ the loop

    def post_with(self, event: ev.Event | tuple[str, Delta], vector: np.ndarray) -> None:
        """A message with a vector came; it is decoded when its turn comes."""
        self._inbox.append((event, vector))
        self.drain()

    def post(self, event: ev.Event) -> None:
        """Something happened."""
        self._inbox.append(event)
        self.drain()

    def drain(self) -> None:
        """Handle what is in the inbox, unless the process hangs."""
        if self._running or self.hung or not self.alive:
            return
        self._running = True
        try:
            self._run_commands()
            while self._inbox and self.alive and not self.hung:
                posted = self._inbox.popleft()
                event = self._keep_vector(*posted) if isinstance(posted, tuple) else posted
                if event is not None:
                    self._handle(event)
        except Crash:
            self.die()
        finally:
            self._running = False
        self._arm()

    def die(self) -> None:
        """The process ends of itself; systemd starts it again."""
        self.world.kill(self, power=False)
        self.world.revive(self.board)

    def _keep_vector(self, event: ev.Event | tuple[str, Delta], vector: np.ndarray) -> ev.Event | None:
        """What the daemon's inbox does when it decodes a message; None: it is of no use here."""
        if isinstance(event, tuple):
            return self._make_model(*event, vector)
        if isinstance(event, ev.ModelReceived):
            self.models.setdefault(event.ref.sha256, vector)
        elif isinstance(event, ev.UpdateReceived) and not event.problem:
            self.updates[event.offer.digest] = vector
        return event

    def _make_model(self, peer: str, delta: Delta, change: np.ndarray) -> ev.Event | None:
        if delta.ref.sha256 not in self.models:
            base = self.models.get(self._base_of(delta))
            if base is None or (self.board.facts.lacks and delta.codec != "float32"):
                self.world.trace(self, f"can do nothing with the delta of round {delta.ref.round}")
                return None
            vector = advance(base, change, delta.optimizer)
            self.world.checkers.made_of_delta(self, delta, vector)
            self.models[delta.ref.sha256] = vector
        return ev.ModelReceived(peer, delta.ref)

    @staticmethod
    def _base_of(delta: Delta) -> str:
        return delta.base

    def _handle(self, event: ev.Event) -> None:
        self.now_s = max(self.board.clock.read_s(self.world.schedule.now_s), self.now_s)
        if isinstance(event, ev.DocumentReceived) and event.peer == self.name and isinstance(event.document, Round):
            self.world.checkers.echoed(self, event.document)
        elif isinstance(event, ev.Connected):
            self.world.checkers.connected(self)
        self._trace("<-", event)
        commands = self.peer.handle(event, self.now_s)
        self.world.checkers.after(self)
        self._commands.extend(commands)
        self._run_commands()

    def _trace(self, way: str, it: object) -> None:
        """A line for the transcript; putting it into words would take a third of a world's time."""
        if self.world.traced:
            self.world.trace(self, f"{way} {brief(it)}")

    def _run_commands(self) -> None:
        while self._commands and self.alive and not self.hung:
            if self.trap is not None:
                self._spring()
                if self.hung:
                    return
            command = self._commands.popleft()
            if not isinstance(command, do.SetStatus):
                self._trace("->", command)
            self._settle(command)
            self.world.checkers.before(self, command)
            self._do(command)

    def _spring(self) -> None:
        assert self.trap is not None
        left, what = self.trap
        self.trap = (left - 1, what) if left else None
        if left:
            return
        if what == "crash":
            self.world.trace(self, "!! crashes before the next command")
            raise Crash
        self.world.hang(self)

    def _arm(self) -> None:
        """Set the timer for the peer's next deadline."""
        deadline_s = self.peer.next_deadline_s()
        if not self.alive or self.hung or deadline_s is None or deadline_s == self._armed_s:
            return
        self._armed_s = deadline_s

        def fire() -> None:
            if self.alive and not self.hung and self._armed_s == deadline_s:
                self._fire(deadline_s)

        self.world.schedule.at(self.board.clock.world_s(deadline_s), fire)

    def _fire(self, deadline_s: float) -> None:
        self._armed_s = None
        # Rounding between two clocks must not make a timer fire a little early.
        self.now_s = max(self.now_s, deadline_s)
        self.post(ev.TimerFired())
        after_s = self.peer.next_deadline_s()
        self._spins = self._spins + 1 if after_s is not None and after_s <= self.now_s else 0
        if self._spins > SPINS_MAX:
            raise Violation(f"{self.name} ({self.peer.role}) asks for a timer that is due for ever: a busy loop")

    def leap(self, seconds: float) -> None:
        """The board's clock leaps ahead, and every timer with it."""
        self.board.clock.step(seconds)
        self._armed_s = None
        self._arm()

    def resume(self) -> None:
        """SIGCONT: goes on where it was, with either the timer or the messages first."""
        self.hung = False
        self._armed_s = None
        deadline_s = self.peer.next_deadline_s()
        late = deadline_s is not None and self.board.clock.read_s(self.world.schedule.now_s) >= deadline_s
        if late and self.world.rng.random() < 0.5:
            self._inbox.appendleft(ev.TimerFired())
        self.drain()

    # ------------------------------------------------------------------ commands

    def _settle(self, command: do.Command) -> None:
        """A model is written on a thread of its own: it is on the disk before anybody may hear of it."""
        retained = isinstance(command, do.PublishModel | do.PublishDelta) or (
            isinstance(command, do.Publish) and command.kind in RETAINED
        )
        due = retained or isinstance(command, do.SaveModel | do.Exit)
        if self._saving is not None and (due or self.world.rng.random() < 0.3):
            (ref, vector), self._saving = self._saving, None

            def write() -> None:
                self.board.held, self.board.vector = ref, vector
                self.world.checkers.saved(self)

            self.board.write(self.world, write)

    def _do(self, command: do.Command) -> None:
        board = self.board
        if isinstance(command, do.Subscribe):
            self.send("subscribe", [self.world.topics.filter(kind) for kind in command.kinds])
        elif isinstance(command, do.Unsubscribe):
            self.send("unsubscribe", [self.world.topics.filter(kind) for kind in command.kinds])
        elif isinstance(command, do.Publish):
            payload = encode(command.document) if command.document is not None else None
            self.send("publish", command.kind, payload, command.kind in RETAINED)
        elif isinstance(command, do.PublishModel):
            vector = self.models.get(command.ref.sha256)
            if vector is None:
                raise Violation(f"{self.name} publishes a model that it does not hold: {command.ref}")
            self.send("publish", MODEL, (command.ref, vector), command.retained)
        elif isinstance(command, do.PublishDelta):
            self._publish_delta(command.ref)
        elif isinstance(command, do.ClearModel):
            self.send("publish", MODEL, None, True)
        elif isinstance(command, do.PublishUpdate):
            self._publish_update(command)
        elif isinstance(command, do.SaveState):
            board.write(self.world, functools.partial(setattr, board, "saved", replace(command.state, held=None)))
        elif isinstance(command, do.SaveModel):
            vector = self.models.get(command.ref.sha256)
            if vector is None:
                raise Violation(f"{self.name} saves a model that it does not hold: {command.ref}")
            self._saving = (command.ref, vector)
        elif isinstance(command, do.KeepModels):
            keep = command.digests | {digest_of(INITIAL)}
            self.models = {digest: vector for digest, vector in self.models.items() if digest in keep}
        elif isinstance(command, do.KeepUpdates):
            self.updates = {digest: it for digest, it in self.updates.items() if digest in command.digests}
        elif isinstance(command, do.StartTraining | do.StartEvaluation):
            self._submit(command)
        elif isinstance(command, do.CancelTraining):
            self._worker.cancel(command.key)
        elif isinstance(command, do.Aggregate):
            self._aggregate(command)
        elif isinstance(command, do.RunFinished):
            board.final = command.ref
        elif isinstance(command, do.Exit):
            self.send("disconnect")
            self.alive = False
            if command.failed:
                self.world.revive(board)

    def _submit(self, command: do.StartTraining | do.StartEvaluation) -> None:
        digest = command.key.base if isinstance(command, do.StartTraining) else command.ref.sha256
        if digest not in self.models:
            raise Violation(f"{self.name} starts work on a model that it does not hold: {command}")
        self._worker.submit(command)

    def _publish_update(self, command: do.PublishUpdate) -> None:
        if self.own is None or self.own[0] != command.offer.digest:
            raise Violation(f"{self.name} sends an update that it does not hold: {command.offer}")
        bad = self.world.rng.random() < self.board.facts.bad
        self.send("publish", UPDATE, (command.offer, self.own[1], "value 0 is not finite" if bad else ""), False)

    def _publish_delta(self, ref: ModelRef) -> None:
        """As the daemon does: of the newest round only."""
        if self._newest is None or self._newest[0] != ref.sha256:
            return
        _, base, change = self._newest
        run = self.world.scenario.run
        self.send("publish", DELTA, (Delta(ref, base, run.downlink, run.server_optimizer), change), False)

    def _aggregate(self, command: do.Aggregate) -> None:
        own = dict([self.own]) if self.own is not None else {}
        base = self.models.get(command.base)
        changes = [self.updates.get(it.offer.digest, own.get(it.offer.digest)) for it in command.updates]
        try:
            if base is None or any(change is None for change in changes):
                raise RefusedUpdateError("the base or an update is not held any more")
            change = weighted_mean(changes, [it.offer.examples for it in command.updates])
        except RefusedUpdateError as error:
            self._inbox.appendleft(ev.AggregateFailed(command.term, command.run_id, command.round, str(error)))
            return
        if command.settings.downlink != WHOLE:
            change = seen(command.settings.downlink, change)
        vector = advance(base, change, command.settings.server_optimizer)
        digest = digest_of(vector)
        self._newest = (digest, command.base, change)
        self.models[digest] = vector
        self.world.checkers.merged(self, command, digest, vector)
        self._inbox.appendleft(ev.AggregateReady(command.term, command.run_id, command.round, digest))


def brief(it: object) -> str:
    """An event or command in one line."""
    text = repr(it)
    for field in ("model_digest", "parts", "settings", "score", "model_id", "test_examples"):
        start = text.find(f"{field}=")
        while start >= 0:
            end = start
            depth = 0
            while end < len(text) and not (depth == 0 and text[end] in ",)"):
                depth += (text[end] in "({[") - (text[end] in ")}]")
                end += 1
            text = text[:start] + text[end:].removeprefix(", ")
            start = text.find(f"{field}=")
    return text
