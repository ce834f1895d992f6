"""A federation whose peers are killed, leave and come back by a seed, for as many rounds as one likes."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Callable
from pathlib import Path

from bench.onlooker import COUNTED, Onlooker
from bench.small import ARTIFACTS, shards
from bench.soak.samples import BROKER, KEPT_BYTES_MAX, Samples
from edge_peer.operator.local.broker import HOST, LocalBroker, require_mosquitto
from edge_peer.operator.local.peers import LocalFleet
from edge_peer.protocol.messages import FINISHED, Round

FEDERATION = "soak"
#: These two live all along: a trainer, and one that is controller at times.
TRAINER, STEADY = "p1", "p2"
#: Rounds from one event to the next, and until whoever is away comes back.
GAP = (10, 40)
AWAY = (5, 60)
AWAY_MAX = 2
STALL_S = 120.0
SAMPLES = 500
KILL, LEAVE, RESIGN = "kill", "leave", "resign"
#: Documents that are kept; a long soak must not fill the memory of who watches it.
SEEN_MAX = 1000


class Soak:
    """One federation and what is seen of it.

    Args:
        folder: For everything.
        peers: How many, at least 5.
        rounds: Of its one run.
        seed: Of the events.
        examples: For training, a peer.
        gap: Rounds from one event to the next, at least and at most.
        away: Rounds until whoever was killed or has left comes back.
        say: Gets a line for each thing that happens.

    Attributes:
        events: How often what was done.
        failures: What should have happened and did not.
    """

    def __init__(
        self,
        folder: Path,
        peers: int,
        rounds: int,
        seed: int,
        examples: int,
        say: Callable[[str], None],
        gap: tuple[int, int] = GAP,
        away: tuple[int, int] = AWAY,
    ) -> None:
        self.samples = Samples()
        self.events = {KILL: 0, LEAVE: 0, "join": 0, RESIGN: 0, "controllers": 0}
        self.failures: list[str] = []
        self.round = 0
        self._rounds = rounds
        self._rng = random.Random(seed)
        self._gap, self._stays_away = gap, away
        self._kinds: list[str] = []
        self._say = say
        self._folder = folder
        self._peers = [f"p{number}" for number in range(1, peers + 1)]
        #: Until which round.
        self._away: dict[str, int] = {}
        self._willing = True
        self._term = 0
        self._broker = LocalBroker(folder, require_mosquitto(say), more=COUNTED)
        self._broker.start()
        self._fleet = LocalFleet(
            folder,
            {
                "federation": {"name": FEDERATION, "roster": tuple(self._peers), "min_peers": peers // 2 + 1},
                "broker": {"host": HOST, "port": self._broker.port},
                "model": {"artifacts": str(ARTIFACTS)},
                # Whatever has a memory of its own is on.
                "run": {
                    "rounds_max": rounds,
                    "learning_rate": 0.01,
                    "codec": "int8",
                    "downlink": "int8",
                    "error_feedback": True,
                    "scaffold": True,
                    "round_deadline_s": 10.0,
                },
                "timing": {"grace_s": 0.2, "resend_s": 1.0},
            },
        )
        self._data = shards(folder / "shards", self._peers, examples, 10)
        for peer in self._peers:
            self._configure(peer)
        self._onlooker = Onlooker(self._broker.port, FEDERATION)

    def _configure(self, peer: str) -> None:
        control = {TRAINER: False, STEADY: self._willing}.get(peer, True)
        own = {"control": control, "keep_updates": True, "keep_updates_bytes_max": KEPT_BYTES_MAX}
        self._fleet.configure(peer, {"shard": {"path": str(self._data / f"{peer}.safetensors")}, "peer": own})

    def run(self) -> None:
        """Play to the end of the run."""
        self._fleet.start(self._peers)
        every = max(1, self._rounds // SAMPLES)
        sample_at = event_at = 0
        said_at = 0
        while not self._over():
            self._go_on(min(sample_at, event_at))
            if self.round >= sample_at:
                sample_at = self.round + every
                self._sample()
            if self.round >= event_at:
                if event_at:
                    self._event()
                event_at = self.round + self._rng.randint(*self._gap)
            self._bring_back()
            self._note_ended()
            if self.round >= said_at:
                said_at = self.round + max(1, self._rounds // 20)
                self._progress()
        self._sample()
        last = self._latest()
        if last is None or last.round != self._rounds:
            self.failures.append(f"the run ended after round {last.round if last else 0}: {last and last.reason}")

    def close(self) -> None:
        """End all."""
        self._onlooker.close()
        self._fleet.stop()
        self._broker.stop()

    # ------------------------------------------------------------------ what is seen

    def _latest(self) -> Round | None:
        it = self._onlooker.latest()
        return it[1] if it is not None else None

    def _over(self) -> bool:
        it = self._latest()
        return it is not None and it.state == FINISHED and it.complete

    def _go_on(self, round_: int) -> None:
        """Wait for a round, or the end."""

        def there() -> bool:
            it = self._latest()
            return it is not None and it.run_id is not None and (it.round >= round_ or self._over())

        self._onlooker.wait(there, f"round {round_}", STALL_S)
        it = self._latest()
        assert it is not None
        self.round = max(self.round, it.round)
        self.events["controllers"] += it.term > self._term
        self._term = max(self._term, it.term)
        del self._onlooker.rounds[:-SEEN_MAX]

    def _sample(self) -> None:
        pids = {peer: process.pid for peer, process in self._fleet.processes.items() if peer not in self._away}
        folders = {peer: (self._fleet.state_dir(peer), self._fleet.log(peer)) for peer in self._peers}
        self.samples.take(self.round, {**pids, BROKER: self._broker.pid}, folders)

    def _progress(self) -> None:
        figures = {it.name: it.figures[-1] for it in self.samples.series}
        text = ", ".join(f"{name} {it.rss_bytes / 2**20:.1f} MiB" for name, it in sorted(figures.items()))
        self._say(f"round {self.round}: {text}; away: {', '.join(self._away) or 'nobody'}")

    def _note_ended(self) -> None:
        for peer, code in self._fleet.exited().items():
            if peer not in self._away:
                self.failures.append(f"{peer} ended by itself with exit code {code}:\n{self._fleet.last_lines(peer)}")
                self._fleet.start([peer])

    # ------------------------------------------------------------------ what is done

    def _event(self) -> None:
        if not self._kinds:
            self._kinds = [KILL, KILL, LEAVE, LEAVE, RESIGN]
            self._rng.shuffle(self._kinds)
        kind = self._kinds.pop()
        if kind == RESIGN:
            # Whoever is never killed would lead for ever.
            self._willing = not self._willing
            self._configure(STEADY)
            self._fleet.processes[STEADY].send_signal(signal.SIGHUP)
            self.events[RESIGN] += 1
            return
        latest = self._onlooker.latest()
        assert latest is not None
        controller, document = latest
        # Whoever is still loading is no part of the federation yet, nor does it take signals as it will.
        there = [peer for peer in document.participants if peer not in (TRAINER, STEADY, *self._away)]
        if len(self._away) >= AWAY_MAX or not there:
            self._kinds.append(kind)
            return
        victim = controller if controller in there and self._rng.random() < 0.5 else self._rng.choice(there)
        process = self._fleet.processes[victim]
        self._away[victim] = self.round + self._rng.randint(*self._stays_away)
        process.send_signal(signal.SIGKILL if kind == KILL else signal.SIGTERM)
        code = process.wait(STALL_S)
        if kind == LEAVE and code != 0:
            self.failures.append(f"{victim} left with exit code {code}:\n{self._fleet.last_lines(victim)}")
        self.events[kind] += 1

    def _bring_back(self) -> None:
        for peer in [peer for peer, round_ in self._away.items() if self.round >= round_]:
            del self._away[peer]
            self._fleet.start([peer])
            self.events["join"] += 1

    def complaints(self) -> dict[str, int]:
        """Kinds of warnings and errors in the processes' logs, with numbers left out, the most frequent first."""
        found: dict[str, int] = {}
        for peer in self._peers:
            for line in self._fleet.log(peer).read_text(errors="replace").splitlines():
                if " ERROR " in line or "Traceback" in line:
                    text = re.sub(r"[0-9a-f]{12,}|\d+(\.\d+)?", "#", line.partition(" ERROR ")[2] or line).strip()
                    found[text[:160]] = found.get(text[:160], 0) + 1
        return dict(sorted(found.items(), key=lambda it: -it[1]))
