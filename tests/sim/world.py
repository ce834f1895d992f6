"""The world: boards with disks and daemons, faults for a while, then none, and the question whether the run ends.

Two phases, as in TigerBeetle's VOPR. While faults last only safety is asked for: the checkers hold at every step. Then
everything is healed but for some boards that stay dead, and liveness is asked for: within a bounded time everybody
follows one controller and no run is unfinished.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable

from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import FINISHED, Start, Stop, encode
from edge_peer.protocol.peer import Peer
from edge_peer.protocol.roles import FOLLOWING, LEADING
from edge_peer.protocol.settings import PeerSettings
from edge_peer.protocol.topics import MODEL, START, STOP, Topics
from tests.sim import scenario as sc
from tests.sim.arithmetic import INITIAL, Release, digest_of
from tests.sim.broker import Broker
from tests.sim.checkers import Checkers, Violation
from tests.sim.clock import Schedule
from tests.sim.process import Board, Process
from tests.sim.progress import Progress

ACTIONS_MAX = 400_000
#: So often a world is asked whether it is at rest.
LOOK_EVERY_S = 0.05


class World:
    """A whole federation made from one seed; or two, with one broker.

    Args:
        scenario: What it is like.
        peer_type: The core that the boards run.
        transcript: Takes each line of what happens; None: nothing is written.
        beside: The other federation, whose broker and time this one shares.
    """

    def __init__(
        self,
        scenario: sc.Scenario,
        peer_type: type[Peer] = Peer,
        transcript: Callable[[str], None] | None = None,
        beside: World | None = None,
    ) -> None:
        self.scenario = scenario
        self.topics = Topics("one" if beside is None else "two")
        self.rng = random.Random(f"world {scenario.seed}")
        self.schedule = Schedule() if beside is None else beside.schedule
        self.checkers = Checkers(scenario.roster)
        self.checkers.vectors[digest_of(INITIAL)] = INITIAL
        if beside is None:
            self.broker = Broker(self.schedule, self.rng, scenario.weather, lambda *_: None)
        else:
            self.broker = beside.broker
        self.boards = {facts.name: Board(facts) for facts in scenario.boards}
        self.processes: dict[str, Process] = {}
        self._peer_type = peer_type
        self._transcript = transcript
        self._stamps = 0
        self._healed = False
        self._start_s = 0.0
        #: When something last happened to anybody.
        self.disturbed_s = 0.0
        #: Which faults have really occurred, how often.
        self.counts: Counter[str] = Counter()
        Progress(self)
        self._neighbour = None
        if scenario.neighbour is not None:
            self._neighbour = World(scenario.neighbour, peer_type, transcript, beside=self)

    # ------------------------------------------------------------------ what boards need

    def settings(self, board: Board, session: str) -> PeerSettings:
        """A board's settings for one start."""
        facts, scenario = board.facts, self.scenario
        return PeerSettings(
            peer=facts.name,
            session=session,
            model_id="tiny",
            model_digest=hashlib.sha256(facts.model.encode()).hexdigest(),
            initial_sha256=digest_of(INITIAL),
            control=facts.control,
            train=facts.train,
            score=facts.score,
            examples=10 + 7 * int(facts.name[1:]),
            test_examples=5 if facts.tests else 0,
            roster=tuple(sorted(self.boards)) if scenario.roster else None,
            min_peers=scenario.min_peers,
            run=scenario.run,
            aggregation=Release(facts.lacks),
            timing=scenario.timing,
        )

    def stamp(self) -> str:
        """What the name of a run begins with; boards without a battery-backed clock do not agree on the date."""
        self._stamps += 1
        return f"run{self.rng.randrange(100):02d}-{self._stamps}"

    @property
    def traced(self) -> bool:
        """Whether anybody reads the transcript."""
        return self._transcript is not None

    def trace(self, process: Process | None, text: str) -> None:
        """A line for the transcript."""
        if self._transcript is not None:
            who = f"{process.session:6} {process.peer.role:10}" if process is not None else f"{'world':17}"
            if self.topics.federation != "one":
                who = f"{self.topics.federation}: {who}"
            self._transcript(f"{self.schedule.now_s:9.4f} {who} {text}")

    def count(self, what: str) -> None:
        """A fault has occurred."""
        self.counts[what] += 1

    def occurred(self) -> Counter[str]:
        """All faults that have occurred in this world, and what has happened to messages."""
        both = self.counts + self.broker.counts
        return both + self._neighbour.counts if self._neighbour is not None else both

    # ------------------------------------------------------------------ a whole life

    def run(self) -> float:
        """Faults, then peace; returns the virtual time that the world took.

        Raises:
            Violation: An invariant does not hold, or the run does not end in time.
        """
        worlds = [self] if self._neighbour is None else [self, self._neighbour]
        end_s = max(world._begin() for world in worlds)
        looks_s = 0.0
        for _ in range(ACTIONS_MAX):
            if self.schedule.now_s >= looks_s:
                looks_s = self.schedule.now_s + LOOK_EVERY_S
                why = next((why for world in worlds if (why := world._restless())), "")
                if not why:
                    return self.schedule.now_s
                if self.schedule.now_s > end_s:
                    raise Violation(f"after {self.patience_s():.0f} s without faults: {why}")
            if not self.schedule.step():
                raise Violation("nothing is left to happen")
        raise Violation(f"{ACTIONS_MAX} actions in {self.schedule.now_s:.1f} s: something goes round in circles")

    def _begin(self) -> float:
        """Everything that is known before is in the schedule; returns when all must be at rest."""
        for board in self.boards.values():
            self.schedule.at(board.facts.starts_s, lambda board=board: self.power_on(board))
        if self.scenario.faulty_s:
            self._next_fault()
            self.schedule.at(self.scenario.faulty_s, self._heal)
        else:
            self._healed = True
        self._start_s = max([self.scenario.faulty_s, *(board.facts.starts_s for board in self.boards.values())])
        return self._start_s + self.patience_s()

    def _restless(self) -> str:
        """Why this federation is not at rest; empty: it is."""
        return self.unfinished() if self._healed and self.schedule.now_s >= self._start_s else "faults last"

    def patience_s(self) -> float:
        """The bound: elections, then each round with its deadline and one extension, then the final reports; twice,
        because a run that was begun before may be followed by one that restarted boards still want.
        """
        timing, run = self.scenario.timing, self.scenario.run
        slowest_s = max(board.facts.training_s[1] for board in self.boards.values())
        round_s = 2 * run.round_deadline_s + slowest_s + 2 * timing.resend_s
        elections_s = 2 * timing.lease_s + 20 * (timing.settle_s + 2 * timing.election_timeout_s)
        return elections_s + 2 * ((run.rounds_max + 1) * round_s + timing.final_report_s + timing.lease_s)

    def unfinished(self) -> str:
        """Why the world is not at rest yet; empty: it is."""
        alive = [it for it in self.processes.values() if it.alive]
        leading = [it for it in alive if it.peer.role == LEADING]
        if len(leading) != 1:
            return f"controllers: {[it.name for it in leading]}, roles: { {it.name: it.peer.role for it in alive} }"
        leader = leading[0]
        lost = [it.name for it in alive if it is not leader and it.peer.role != FOLLOWING]
        if lost:
            return f"{lost} do not follow {leader.name}"
        document = leader.peer.controller.document if leader.peer.controller is not None else None
        if document is None:
            return f"{leader.name} has said nothing"
        for it in alive:
            run = it.peer.state.run
            same = it.peer.will().model_digest == document.model_digest
            if same and run is not None and run.number > it.peer.state.finished:
                return f"{it.name} is in run {run.run_id}, which is not finished"
            final = it.board.final
            if same and final is not None and final.run_id == document.run_id and final != document.base:
                return f"{it.name} has handed in {final}, but the run ended with {document.base}"
            took_part = same and run is not None and run.run_id == document.run_id
            ended = document.state == FINISHED and document.complete and document.base is not None
            # Who alone had it may be dead for ever, and the broker may have lost what it kept.
            kept = (it[0].sha256 for _, kind, it in self.broker.retained.values() if kind == MODEL)
            holders = (digest for other in alive for digest in other.models)
            there = ended and document.base.sha256 in {*kept, *holders}
            if took_part and there and final != document.base:
                return f"{it.name} took part in run {document.run_id}, but has not its final model"
        wanting = self._wanting(alive, document.model_digest)
        if wanting >= max(self.scenario.min_peers, 1):
            return f"{wanting} want a run; the controller's document is {document.state} ({document.reason})"
        if document.state != FINISHED or not document.complete:
            newest = max(it.peer.state.finished for it in alive)
            if document.state == FINISHED or document.run_id is not None or newest > document.run_number > 0:
                return f"the controller's document is {document.state}, not complete ({document.reason})"
        return ""

    @staticmethod
    def _wanting(alive: list[Process], digest: str) -> int:
        presences = [it.peer.will() for it in alive]
        return sum(it.wants_run and it.train and it.model_digest == digest for it in presences)

    # ------------------------------------------------------------------ faults

    def power_on(self, board: Board) -> None:
        """systemd starts the daemon."""
        process = self.processes.get(board.facts.name)
        if process is not None and process.alive:
            return
        if self._healed and board.facts.name in self.scenario.dead:
            return
        if board.full:
            # The shell tries the disk before anything else.
            self.count("a start that finds the disk full")
            self.revive(board)
            return
        self.processes[board.facts.name] = process = Process(self, board, self._peer_type)
        self.trace(process, "!! starts")
        process.drain()

    def kill(self, process: Process, power: bool) -> None:
        """SIGKILL, whose socket the kernel closes; or a power cut, which nobody sees."""
        process.alive = False
        self.count("a power cut" if power else "a process that dies")
        connection = process.connection
        if connection is None:
            return
        keep = self.rng.randint(0, len(connection.up)) if len(connection.up) else 0
        if power:
            connection.open_at_client = False
            connection.up.lose(keep)
            self.broker.silence(process.name)
        else:
            connection.close_at_client(keep)

    def hang(self, process: Process) -> None:
        """SIGSTOP."""
        if process.hung or not process.alive:
            return
        process.hung = True
        self.count("a process that hangs")
        self.trace(process, "!! hangs")
        self.broker.silence(process.name)
        seconds = self.rng.choice((0.2, 1.0, 4.0, 9.0))

        def go_on() -> None:
            if process.alive and process.hung:
                self.trace(process, "!! goes on")
                self.broker.speaks(process.name)
                process.resume()

        self.schedule.after(seconds, go_on)

    def _next_fault(self) -> None:
        delay_s = self.rng.expovariate(1 / self.scenario.fault_every_s)

        def fault() -> None:
            if self._healed:
                return
            kinds = list(self.scenario.faults)
            weights = list(self.scenario.faults.values())
            self._fault(self.rng.choices(kinds, weights)[0])
            self._next_fault()

        self.schedule.after(delay_s, fault)

    def _fault(self, kind: str) -> None:
        name = self._victim()
        process = self.processes.get(name)
        self.trace(process, f"!! {kind}")
        self.disturbed_s = self.schedule.now_s
        if kind.startswith("broker restart"):
            self._restart_broker(kind)
        elif kind == "stop":
            self._ask_to_stop()
        elif kind == "start":
            number = max((board.saved.finished for board in self.boards.values()), default=0)
            self.broker.publish_as(self.topics, "operator", START, encode(Start(number)))
        elif process is None or not process.alive:
            return
        elif kind in ("crash", "power cut", "shut down"):
            self._end(process, kind)
        elif kind == "crash between commands":
            process.trap = (self.rng.randrange(12), "crash")
            self.revive(process.board)
        elif kind == "hang":
            self.hang(process)
        elif kind == "hang between commands":
            process.trap = (self.rng.randrange(12), "hang")
        elif kind == "crash at a write":
            process.board.dies_at_write = self.rng.choice(("before", "after"))
        elif kind == "full disk":
            self._fill(process.board)
        elif kind == "clock step":
            self.count("a clock that leaps ahead")
            process.leap(self.rng.choice((0.3, 1.0, 4.0, 30.0)))
        elif kind == "reset":
            self.count("a connection that is reset")
            self.broker.reset(name)
        elif kind == "flap":
            self._flap(name, self.rng.randint(3, 8))
        elif kind == "overflow":
            self.count("a queue that overflows")
            self.broker.overflow(name)
        elif kind in ("cut", "cut up", "cut down"):
            self._cut(name, {"cut": "both", "cut up": "up", "cut down": "down"}[kind])
        elif kind == "health":
            process.post(ev.HealthChanged(False, "disk low", strained=True))
            self.schedule.after(self.rng.uniform(0.5, 5), lambda: process.post(ev.HealthChanged(True, "")))

    def _victim(self) -> str:
        """Mostly the controller, because it matters most."""
        leading = [it.name for it in self.processes.values() if it.alive and it.peer.controller is not None]
        if leading and self.rng.random() < 0.4:
            return self.rng.choice(leading)
        return self.rng.choice(sorted(self.boards))

    def _end(self, process: Process, kind: str) -> None:
        if kind == "shut down":
            process.post(ev.ShutdownRequested())
        else:
            self.kill(process, power=kind == "power cut")
        self.revive(process.board)

    def revive(self, board: Board) -> None:
        """systemd or the grid brings a board back after a while."""

        def check() -> None:
            process = self.processes.get(board.facts.name)
            if process is None or not process.alive:
                self.power_on(board)
            elif process.trap is not None:
                self.schedule.after(1.0, check)

        self.schedule.after(self.rng.choice((0.1, 1.0, 3.0, 8.0)), check)

    def _fill(self, board: Board) -> None:
        board.full = True

        def free() -> None:
            board.full = False

        self.schedule.after(self.rng.choice((1.0, 4.0, 10.0)), free)

    def _flap(self, name: str, times: int) -> None:
        """A link that comes and goes: before anything has settled on the new connection it is gone again."""
        self.count("a link that flaps")
        self.broker.reset(name)
        if times > 1 and not self._healed:
            self.schedule.after(self.rng.uniform(0.05, 0.9), lambda: self._flap(name, times - 1))

    def _cut(self, name: str, ways: str) -> None:
        if name in self.broker.cut_off:
            return
        self.count(f"a link that is cut, {ways}")
        self.broker.cut(name, ways)

        def mend() -> None:
            if name in self.broker.cut_off:
                self.broker.mend(name)
                process = self.processes.get(name)
                if process is not None and process.alive and process.hung:
                    self.broker.silence(name)

        self.schedule.after(self.rng.choice((0.3, 2.0, 5.0, 10.0)), mend)

    def _restart_broker(self, kind: str) -> None:
        if not self.broker.up:
            return
        self.count(kind.replace("broker restart", "a broker that restarts"))
        storage = {"all": "all", "old": "stored", "no": "none"}[kind.split(", ")[1].split(maxsplit=1)[0]]
        self.broker.stop(storage)
        self.schedule.after(self.rng.choice((0.0, 0.5, 3.0)), self.broker.start)

    def _ask_to_stop(self) -> None:
        runs = sorted({board.saved.run.run_id for board in self.boards.values() if board.saved.run is not None})
        if runs:
            self.broker.publish_as(self.topics, "operator", STOP, encode(Stop(self.rng.choice(runs), "enough")))

    def _heal(self) -> None:
        """No fault any more; some boards stay dead."""
        self._healed = True
        self.trace(None, f"!! healed; dead for ever: {sorted(self.scenario.dead)}")
        if not self.broker.up:
            self.broker.start()
        self.scenario.weather.duplicate = 0.0
        for name in sorted(self.boards):
            process = self.processes.get(name)
            self.boards[name].full, self.boards[name].dies_at_write = False, None
            if process is not None and process.alive:
                process.trap = None
                if name in self.scenario.dead:
                    self.kill(process, power=True)
            if name in self.broker.cut_off:
                self.broker.mend(name)
            if process is not None and process.alive and process.hung:
                self.broker.speaks(name)
                process.resume()
            if process is not None and process.alive:
                process.post(ev.HealthChanged(True, ""))
            self.power_on(self.boards[name])
