"""What one federation of n peers costs: rounds, the end of a run, joins, deaths and elections."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.onlooker import Count, Onlooker
from bench.scale.fleet import FEDERATION, Fleet
from edge_peer.protocol.messages import FINISHED, TRAINING, Round, Stop
from edge_peer.protocol.topics import STOP

Say = Callable[[str], None]
#: Processes that share two cores take a second or two each until they have loaded their libraries.
START_S = 120.0
START_S_PER_PEER = 5.0
EVENT_S = 180.0
WARM_ROUNDS = 3


@dataclass
class Result:
    """Of one size; None: not measured.

    Attributes:
        rounds: Measured in the steady state.
        round_ms: Mean.
        broker_ms, peers_ms: Processor time a round: of the broker, and of all peers together.
    """

    peers: int
    how: str
    rounds: float = 0
    round_ms: float = 0
    broker_ms: float = 0
    peers_ms: float = 0
    received: float = 0
    sent: float = 0
    bytes_received: float = 0
    bytes_sent: float = 0
    broker_rss: int = 0
    peer_rss: int = 0
    end_s: float | None = None
    end_sent: int | None = None
    idle_per_s: float | None = None
    join_sent: list[int] = field(default_factory=list)
    join_bytes: list[int] = field(default_factory=list)
    death_sent: list[int] = field(default_factory=list)
    election_s: list[float] = field(default_factory=list)
    election_sent: list[int] = field(default_factory=list)
    election_in_run_s: list[float] = field(default_factory=list)
    terms: list[int] = field(default_factory=list)


class Measuring:
    """One size.

    Args:
        fleet: Started.
        seconds: How long the steady state is watched.
        events: How many joins, deaths and elections of each kind.
        say: Gets a line for each thing that is found.
    """

    def __init__(self, fleet: Fleet, seconds: float, events: int, say: Say) -> None:
        self._fleet = fleet
        self._seconds = seconds
        self._events = events
        self._say = say
        self._onlooker = Onlooker(fleet.broker.port, FEDERATION)
        self.result = Result(len(fleet.peers), fleet.how)

    def close(self) -> None:
        """End the onlooker's connection."""
        self._onlooker.close()

    def run(self) -> Result:
        """Everything, one after another."""
        self.rounds()
        for _ in range(self._events):
            self.election_in_run()
        self._end()
        self._idle()
        for _ in range(self._events):
            self._death_and_join()
        for _ in range(self._events):
            self._election(self.result.election_s, self.result.election_sent, self._is_finished)
        return self.result

    def rounds(self) -> None:
        """From the start of all peers to the steady state of a run, which is measured."""
        started_s = time.monotonic()
        self._wait_training(START_S + START_S_PER_PEER * len(self._fleet.peers))
        self._say(f"all train after {time.monotonic() - started_s:.1f} s")
        self._steady()

    def election_in_run(self) -> None:
        """A controller's death while a run is on."""
        self._election(self.result.election_in_run_s, None, self._is_training)
        self._wait_training(EVENT_S)

    # ------------------------------------------------------------------ rounds

    def _is_training(self, it: Round) -> bool:
        return it.state == TRAINING

    def _is_finished(self, it: Round) -> bool:
        return it.state == FINISHED

    def _all_train(self, it: Round) -> bool:
        return it.state == TRAINING and len(it.participants) == len(self._fleet.peers)

    def _wait_training(self, timeout_s: float) -> None:
        """Until some rounds with everybody are done."""
        seen: set[int] = set()

        def warm() -> bool:
            latest = self._onlooker.latest()
            if latest is not None and self._all_train(latest[1]):
                seen.add(latest[1].round)
            return len(seen) > WARM_ROUNDS

        self._onlooker.wait(warm, "rounds of all peers", timeout_s)

    def _steady(self) -> None:
        fleet, onlooker, result = self._fleet, self._onlooker, self.result
        before, cpu_before, broker_before = onlooker.count(), self._cpu(), fleet.broker_figures().cpu_s
        taken_s = time.monotonic()
        time.sleep(self._seconds)
        after, cpu, broker = onlooker.count(), self._cpu(), fleet.broker_figures()
        wall_s = time.monotonic() - taken_s
        count = after.since(before)
        rounds = self._place(after.at_s) - self._place(before.at_s)
        result.rounds = rounds
        result.round_ms = count.at_s / rounds * 1e3
        share = count.at_s / wall_s / rounds * 1e3
        result.peers_ms, result.broker_ms = (cpu - cpu_before) * share, (broker.cpu_s - broker_before) * share
        # Each delivery is acknowledged.
        result.received, result.sent = (count.received - count.sent) / rounds, count.sent / rounds
        result.bytes_received, result.bytes_sent = count.bytes_received / rounds, count.bytes_sent / rounds
        result.broker_rss = broker.rss_bytes
        result.peer_rss = sum(it.rss_bytes for it in fleet.figures()) // len(fleet.peers)
        self._say(
            f"{rounds:.1f} rounds: {result.round_ms:.1f} ms a round; processor time {result.peers_ms:.1f} ms of the "
            f"peers, {result.broker_ms:.1f} ms of the broker; {result.received:.1f} messages in, {result.sent:.1f} out"
        )

    def _cpu(self) -> float:
        return sum(it.cpu_s for it in self._fleet.figures())

    def _place(self, at_s: float) -> float:
        """How many rounds were done at a time, parts of one by the time that it took."""
        begun: dict[int, float] = {}
        for when, _, document in self._onlooker.rounds:
            if document.state == TRAINING:
                begun.setdefault(document.round, when)
        current = max(round_ for round_, when in begun.items() if when <= at_s)
        length = statistics.median(begun[i + 1] - begun[i] for i in begun if i + 1 in begun)
        return current + min((at_s - begun[current]) / length, 1.0)

    def _end(self) -> None:
        """A run's end: from the operator's word until all final reports are in."""
        before = self._onlooker.count()
        run_id = str(self._latest().run_id)
        asked_s = time.monotonic()
        self._onlooker.say(STOP, Stop(run_id, "measured"))
        done_s = self._onlooker.wait(
            lambda: (it := self._latest()).state == FINISHED and it.complete, "the end", EVENT_S
        )
        self._onlooker.say(STOP, None)
        count = self._quiet().since(before)
        self.result.end_s, self.result.end_sent = done_s - asked_s, count.sent
        self._say(f"the run's end takes {self.result.end_s:.2f} s, {count.sent} deliveries, {count.bytes_sent} bytes")

    def _latest(self) -> Round:
        latest = self._onlooker.latest()
        assert latest is not None
        return latest[1]

    # ------------------------------------------------------------------ events, while no run is on

    def _quiet(self) -> Count:
        """Nothing but the controller's beats."""
        return self._onlooker.quiet(2 * len(self._fleet.peers) + 10, EVENT_S)

    def _caused(self, before: Count, after: Count) -> int:
        """Deliveries between two counts, without the beats, which come anyway."""
        beats = self._onlooker.beats(before.at_s, after.at_s)
        return after.sent - before.sent - beats * len(self._fleet.peers)

    def _idle(self) -> None:
        before = self._quiet()
        time.sleep(min(self._seconds, 10.0))
        count = self._onlooker.count().since(before)
        self.result.idle_per_s = count.sent / count.at_s
        self._say(f"idle: {self.result.idle_per_s:.1f} deliveries a second")

    def _death_and_join(self) -> None:
        """Of a trainer."""
        fleet, result = self._fleet, self.result
        latest = self._onlooker.latest()
        assert latest is not None
        victim = next(peer for peer in reversed(fleet.alone) if peer != latest[0])
        before = self._quiet()
        fleet.fleet.kill(victim)
        after = self._quiet()
        result.death_sent.append(self._caused(before, after))
        fleet.fleet.start([victim])
        self._await_log(victim, "follows")
        joined = self._quiet()
        result.join_sent.append(self._caused(after, joined))
        result.join_bytes.append(joined.since(after).bytes_sent)
        self._say(
            f"death of a trainer: {result.death_sent[-1]} deliveries; join: {result.join_sent[-1]}, "
            f"{result.join_bytes[-1]} bytes"
        )

    def _await_log(self, peer: str, word: str) -> None:
        """Until the last process of a peer has logged something."""
        path = self._fleet.fleet.log(peer)

        def there() -> bool:
            text = path.read_text(errors="replace")
            return word in text[text.rfind(" of federation ") :]

        self._onlooker.wait(there, f"{peer}: {word}", EVENT_S)

    def _election(self, times: list[float], deliveries: list[int] | None, fits: Callable[[Round], bool]) -> None:
        """From SIGKILL of the controller to the next one's first round document."""
        fleet, onlooker = self._fleet, self._onlooker
        before = self._quiet() if deliveries is not None else None
        latest = onlooker.latest()
        assert latest is not None
        victim, document = latest
        if victim not in fleet.alone:
            self._say(f"no election: {victim} leads after one of several terms, and shares its process with others")
            return
        killed_s = time.monotonic()
        fleet.fleet.kill(victim)

        def next_one() -> bool:
            it = onlooker.latest()
            return it is not None and it[1].term > document.term and fits(it[1])

        took_s = onlooker.wait(next_one, "the next controller", EVENT_S) - killed_s
        times.append(took_s)
        terms = self._latest().term - document.term
        self.result.terms.append(terms)
        text = ""
        if before is not None and deliveries is not None:
            deliveries.append(self._caused(before, self._quiet()))
            text = f", {deliveries[-1]} deliveries"
        self._say(f"election: {took_s:.2f} s, {terms} terms{text}")
        fleet.fleet.start([victim])
        if before is not None:
            self._await_log(victim, "follows")
            self._quiet()


def row(it: Result) -> dict[str, Any]:
    """For the table."""
    n = it.peers

    def median(values: list[Any]) -> Any:
        return statistics.median(values) if values else "-"

    return {
        "peers": n,
        "how": it.how,
        "ms/round": round(it.round_ms, 1),
        "ms/round/peer": round(it.round_ms / n, 2),
        "peer CPU ms/round": round(it.peers_ms / n, 2),
        "broker CPU ms/round": round(it.broker_ms, 2),
        "broker MB": round(it.broker_rss / 1e6, 1),
        "MB/peer": round(it.peer_rss / 1e6, 1),
        "messages/peer/round": round(it.received / n, 2),
        "deliveries/peer/round": round(it.sent / n, 2),
        "kB out/peer/round": round(it.bytes_received / n / 1e3, 2),
        "kB in/peer/round": round(it.bytes_sent / n / 1e3, 2),
        "end s": "-" if it.end_s is None else round(it.end_s, 2),
        "end deliveries": it.end_sent,
        "idle deliveries/s": "-" if it.idle_per_s is None else round(it.idle_per_s, 1),
        "join deliveries": median(it.join_sent),
        "death deliveries": median(it.death_sent),
        "election deliveries": median(it.election_sent),
        "election s": "-" if not it.election_s else round(max(it.election_s), 2),
        "election in a run s": "-" if not it.election_in_run_s else round(max(it.election_in_run_s), 2),
        "terms": max(it.terms, default=0),
    }
