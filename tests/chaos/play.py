"""Plays a fleet's runs, with the schedule's faults in them or with none, and writes down what it did."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_peer.config import BrokerSection
from edge_peer.operator.live.session import Session
from edge_peer.operator.local import processes
from edge_peer.operator.local.broker import HOST, LocalBroker
from edge_peer.operator.local.peers import Tables, merge
from edge_peer.protocol.messages import FINISHED, TRAINING, Round, Start
from edge_peer.protocol.topics import START
from tests.chaos.broker import BridgedBroker
from tests.chaos.hand import Hand
from tests.chaos.memory import Memory
from tests.chaos.network import GATEWAY, Network
from tests.chaos.schedule import STALE_CONTROLLER, Fault, Step
from tests.live.harness import FEDERATION, Live

#: A fleet that is whole has a new round committed, or a run begun, long before.
RECOVERY_S = 60.0
KEEPALIVE_S = 2
LEASE_S = 2.0
#: Of updates on the small disk.
KEPT_BYTES = 20_000_000
PLAY = "play.json"
WITNESS = "witness.jsonl"
#: Short times, so that many faults fit into a minute; the proportions are those of the defaults.
COMMON: dict[str, dict[str, Any]] = {
    "timing": {"lease_s": LEASE_S, "resend_s": 1.0, "grace_s": 0.3, "final_report_s": 10.0},
    "broker": {"keepalive_s": KEEPALIVE_S, "reconnect_s_max": 1.0, "connect_timeout_s": 2.0},
}


@dataclass(frozen=True)
class Injection:
    """A fault that came.

    Attributes:
        kind: Of the fault.
        victim: Whose.
        run_id, round: What was on.
        begun_s, ended_s: Of the fault, by the clock that the peers' records are written by.
        whole_s: When everybody took part again.
        note: What it did to the process.
    """

    kind: str
    victim: str
    run_id: str
    round: int
    begun_s: float
    ended_s: float
    whole_s: float
    note: str = ""


@dataclass(frozen=True)
class End:
    """A run that has finished.

    Attributes:
        accuracy: Of the final model, of each peer that has reported: accuracy, examples.
    """

    run_id: str
    number: int
    rounds: int
    reason: str
    accuracy: dict[str, tuple[float, int]]


@dataclass
class Played:
    """What was done, for the checker: play.json.

    Attributes:
        ended: Peers whose process ended, though no fault was on them: peer, exit code.
        failures: What should have happened and did not.
    """

    peers: list[str]
    rounds: int
    injections: list[Injection] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """As JSON."""
        (folder / PLAY).write_text(json.dumps(asdict(self), indent=1))


class Play:
    """One fleet in one folder.

    Args:
        folder: For everything.
        live: The fleet, started.
        hand: For faults.
        rounds: Of each run.
        say: Gets a line for each thing that happens.
    """

    def __init__(self, folder: Path, live: Live, hand: Hand, rounds: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._live = live
        self._hand = hand
        self._say = say
        self.played = Played(list(live.peers), rounds)

    def undisturbed(self) -> None:
        """One run, in which nothing happens."""
        self._finish_run()

    def disturbed(self, steps: Iterable[Step], round_s: float, end_s: float) -> None:
        """Runs with faults until `end_s` (monotonic); the last one goes on undisturbed to its end.

        Args:
            steps: What is to happen.
            round_s: How long a round takes.
            end_s: No step begins after this time.
        """
        for step in steps:
            if time.monotonic() >= end_s:
                break
            document = self._wait_whole(0)
            document = self._wait_whole(document.round + step.rounds, document.run_id)
            if document.state == TRAINING:
                document = self._wait_inside(document, step.share * round_s)
            while document.state == FINISHED or document.round >= self.played.rounds:
                # There would be no round to recover in.
                self._finish_run()
                self._start_run()
                document = self._wait_inside(self._wait_whole(0), step.share * round_s)
            self._do(step, document)
        self._wait_whole(0)
        self._finish_run()

    # ------------------------------------------------------------------ faults

    def _do(self, step: Step, document: Round) -> None:
        begun: list[tuple[Fault, str, float]] = []
        for fault in step.faults:
            victim = self._hand.victim(fault)
            if victim in {it[1] for it in begun}:
                continue
            begun.append((fault, victim, time.time()))
            self._hand.begin(fault, victim)
        what = " and ".join(f"{fault.kind} ({victim})" for fault, victim, _ in begun)
        self._say(f"round {document.round}: {what}")
        ended = []
        # A stale controller last: nobody leads in its place before the quorum is there that another fault takes away.
        for fault, victim, begun_s in sorted(begun, key=lambda it: (it[0].kind == STALE_CONTROLLER, it[0].leases)):
            time.sleep(max(0.0, begun_s + fault.leases * LEASE_S - time.time()))
            if fault.kind == STALE_CONTROLLER:
                self._wait_overtaken(document)
            note = self._hand.end(fault, victim)
            ended.append((fault, victim, begun_s, time.time(), note))
        # Of a round that was opened before this, the document still names whoever was in it then.
        now = self._latest() or document
        self._wait_whole(now.round + 1, now.run_id)
        whole_s = time.time()
        self._hand.dying.clear()
        for fault, victim, begun_s, ended_s, note in ended:
            it = Injection(fault.kind, victim, str(document.run_id), document.round, begun_s, ended_s, whole_s, note)
            self.played.injections.append(it)
        notes = [f"{victim}: {note}" for _, victim, _, _, note in ended if note]
        self._say(f"all are back{'; ' if notes else ''}{', '.join(notes)}")
        self.played.write(self._folder)

    def _latest(self) -> Round | None:
        """The controller's document, after all that has come until now; None: there is no controller."""
        self._live.catch_up()
        return self._live.federation.round

    def _wait_inside(self, document: Round, seconds: float) -> Round:
        """Until that time has passed; it goes on looking, because the run may be over meanwhile."""
        end_s = time.monotonic() + seconds

        def over(it: Round | None) -> bool:
            return time.monotonic() >= end_s or (it is not None and it.state == FINISHED)

        self._live.wait(over, "the middle of a round", RECOVERY_S)
        return self._live.federation.round or document

    def _wait_overtaken(self, before: Round) -> None:
        def overtaken(it: Round | None) -> bool:
            return it is not None and it.term > before.term and (it.round > before.round or it.state == FINISHED)

        self._live.wait(overtaken, "a later controller commits a round", RECOVERY_S)

    def _wait_whole(self, round_: int, run_id: str | None = None) -> Round:
        """Until everybody takes part in round `round_` or a later one, or the run is over; notes ended processes."""

        def whole(it: Round | None) -> bool:
            self._note_ended()
            if it is None or it.run_id is None:
                return False
            if run_id not in (None, it.run_id):
                return True
            if it.state == FINISHED:
                return it.complete and self._live.federation.online == sorted(self._live.peers)
            return it.state == TRAINING and it.round >= round_ and set(it.participants) == set(self._live.peers)

        return self._live.wait(whole, f"all take part in round {round_} or a later one", RECOVERY_S)

    def _note_ended(self) -> None:
        for peer, process in self._live.fleet.processes.items():
            code = process.poll()
            if code is not None and peer not in self._hand.down:
                if peer not in self._hand.dying:
                    self.played.ended.append((peer, code))
                self._hand.start(peer)

    # ------------------------------------------------------------------ runs

    def _finish_run(self) -> None:
        document = self._live.wait_finished(timeout_s=self.played.rounds * RECOVERY_S)
        assert document.base is not None
        accuracy = {peer: (it.accuracy, it.examples) for peer, it in document.reports.items()}
        end = End(str(document.run_id), document.run_number, document.base.round, document.reason, accuracy)
        if end.run_id not in {it.run_id for it in self.played.ends}:
            self.played.ends.append(end)
            self._say(f"run {end.run_id} finished: {end.reason}, accuracy {document.accuracy or 0:.4f}")

    def _start_run(self) -> None:
        after = self.played.ends[-1].number
        broker = BrokerSection(host=HOST, port=self._live.broker.port)
        with Session(broker, FEDERATION, "operator") as session:
            session.publish(START, Start(after))
            self._live.wait(lambda it: it is not None and it.run_number > after, "another run", RECOVERY_S)
            # One that stayed would be obeyed again by whoever joins after that run.
            session.publish(START, None)


@contextlib.contextmanager
def playing(
    folder: Path,
    program: str,
    shards: Path,
    peers: list[str],
    run: Tables,
    network: Network | None,
    memory: Memory,
    disk: bool,
    say: Callable[[str], None],
) -> Iterator[Play]:
    """A fleet, started and watched; all its processes are ended at the end, and its records whole.

    Args:
        folder: For everything; made.
        program: Mosquitto's path.
        shards: Folder with a shard a peer.
        peers: Names.
        run: Configuration of the run.
        network: The peers' cables.
        memory: The peers' limits.
        disk: Whether the last peer's state is to be on a small disk.
        say: Gets a line for each thing that happens.
    """
    folder.mkdir(parents=True)
    broker: LocalBroker = BridgedBroker(folder, program, GATEWAY if network is not None else None)
    broker.start()
    majority = len(peers) // 2 + 1
    host = {"broker": {"host": GATEWAY}} if network is not None else {}
    common = merge(COMMON, host, {"federation": {"min_peers": majority}}, run)
    live = Live(folder, broker, shards, peers, common)
    hand = Hand(live, broker, network, memory, peers[-1] if disk else None)
    witness = [sys.executable, "-m", "tests.chaos.witness", str(broker.port), FEDERATION, str(folder / WITNESS)]
    watching = processes.start(witness, folder / "logs/witness.log")
    play = Play(folder, live, hand, int(run["run"]["rounds_max"]), say)
    try:
        hand.mount_disk()
        own: dict[str, Any] = {peer: {"peer": {"keep_updates": True}} for peer in peers}
        if disk:
            # It has less free than what a peer asks for by default, and no room for the updates of many runs.
            own[peers[-1]]["peer"] |= {"disk_free_bytes_min": 0, "keep_updates_bytes_max": KEPT_BYTES}
        live.configure(**own)
        for peer in peers:
            hand.start(peer)
        live.watch()
        say(f"{folder.name}: {len(peers)} peers are started")
        yield play
    except AssertionError as error:
        play.played.failures.append(str(error))
    finally:
        live.close()
        live.stop()
        processes.stop([watching])
        broker.stop()
        hand.unmount_disk()
        play.played.write(folder)
