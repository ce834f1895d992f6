"""Runs of many boards that never happened, written by what writes them on boards: `python -m tests.large_runs FOLDER`.

The boards differ as real ones do: in speed, in what they have of each class, in health, in when they were away.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from edge_peer.operator.fleet.collect import gather
from edge_peer.protocol.commands import WriteRow
from edge_peer.protocol.messages import Report
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.shell.class_counts import CLASSES, class_counts
from edge_peer.shell.health import Health
from edge_peer.shell.history import History

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
LABELS = 10
EXAMPLES, TESTED = 400, 100
MODEL_BYTES = 107_000


class LargeRun:
    """One run.

    Args:
        boards: How many.
        rounds: How many.
        seed: Of everything that differs.
        settings: What it was made with.
        level: The accuracy that it comes close to.
    """

    def __init__(
        self,
        boards: int = 200,
        rounds: int = 40,
        seed: int = 1,
        settings: RunSettings | None = None,
        level: float = 0.86,
    ) -> None:
        self.run_id = f"20260101-000000-{seed:06x}"
        self.peers = [f"board{it:03}" for it in range(boards)]
        self.rounds = rounds
        self.settings = settings or RunSettings(target_accuracy=0.8, rounds_max=rounds)
        self._level = level
        self._rng = np.random.default_rng(seed)
        rng = self._rng
        self._speed = rng.lognormal(0.0, 0.35, boards)
        self._share = rng.dirichlet([0.5] * LABELS, boards)
        self._shift = rng.normal(0, 0.025, boards)
        #: A new controller after every twelfth round.
        self._led = [self.peers[it] for it in rng.integers(0, boards, -(-rounds // 12))]
        self._away = rng.random((rounds + 1, boards)) < 0.01

    def accuracy(self, round_: int) -> float:
        return float(0.1 + (self._level - 0.1) * (1 - np.exp(-round_ / 6)))

    def term(self, round_: int) -> int:
        return min(len(self._led), 1 + max(0, round_ - 1) // 12)

    def write(self, folder: Path) -> Path:
        """Every board's state folder, and the run's folder `<folder>/runs/<run id>` as a collection leaves it."""
        now = START
        state_dirs = {peer: folder / "boards" / self.run_id / peer for peer in self.peers}
        writers = {
            peer: History(state_dir / "runs", peer, lambda: now.isoformat(timespec="microseconds"))
            for peer, state_dir in state_dirs.items()
        }
        term = 0
        for round_ in range(self.rounds + 1):
            trained_s = 0.8 * self._speed * self._rng.uniform(0.9, 1.2, len(self.peers))
            took_s = float(trained_s.max()) + 0.6
            began, now = now, now + timedelta(seconds=took_s)
            if self.term(round_) != term:
                term = self.term(round_)
                log = writers[self._led[term - 1]]
                log.log_round(None if term == 1 else self.run_id, "elected", {"term": term})
                if term == 1:
                    fields = {"peers": self.peers, "settings": asdict(self.settings)}
                    log.log_round(self.run_id, "started", {"term": term, **fields})
            self._write_round(writers, round_, trained_s, (now - began).total_seconds())
        log, base = writers[self._led[term - 1]], {"term": term, "round": self.rounds}
        accuracy = self.accuracy(self.rounds)
        log.log_round(self.run_id, "finished", {**base, "reason": f"reached {self.rounds} rounds"})
        log.log_round(self.run_id, "reported", {**base, "accuracy": accuracy, "int8_accuracy": accuracy - 0.004})
        for index, peer in enumerate(self.peers):
            self._write_classes(writers[peer].run_folder(self.run_id), index)
        run = folder / "runs" / self.run_id
        assert gather(state_dirs, self.run_id, run) == []
        (run / "config.toml").write_text('[model]\nartifacts = "/opt/edge-peer/models/image_cnn"\n')
        return run

    def _write_round(
        self,
        writers: dict[str, History],
        round_: int,
        trained_s: np.ndarray[tuple[int], np.dtype[np.float64]],
        took_s: float,
    ) -> None:
        term = self.term(round_)
        controller = self._led[term - 1]
        away = {peer for peer, gone in zip(self.peers, self._away[round_], strict=True) if gone}
        if round_ > 0:
            refused = sorted(away)[:1]
            missing = sorted(away)[1:]
            there = [it for it in self.peers if it not in away]
            base = {"term": term, "round": round_}
            log = writers[controller]
            log.log_round(self.run_id, "committed", {
                **base, "accepted": {it: {"examples": EXAMPLES} for it in there}, "seconds": took_s,
                "refused": dict.fromkeys(refused, "its norm is above update_norm_max"),
                "missing": dict.fromkeys(missing, "no update before the deadline"),
            })  # fmt: skip
            accuracy = self.accuracy(round_)
            log.log_round(self.run_id, "evaluated", {**base, "accuracy": accuracy, "int8_accuracy": accuracy - 0.004})
        for index, peer in enumerate(self.peers):
            if round_ > 0 and peer in away:
                continue
            trained = round_ > 0
            accuracy = float(np.clip(self.accuracy(round_) + self._shift[index] + self._rng.normal(0, 0.01), 0, 1))
            row = WriteRow(
                run_id=self.run_id, term=term, round=round_, controller=controller,
                role="controller" if peer == controller else "trainer" if trained else "observer",
                report=Report(accuracy, 2.3 * (1 - accuracy), TESTED, accuracy - 0.004 if trained else None),
                evaluation_s=0.1 * float(self._speed[index]), examples=EXAMPLES if trained else 0,
                train_loss=2.4 * (1 - accuracy) if trained else None,
                training_s=float(trained_s[index]) if trained else None,
                local=Report(max(0.0, accuracy - 0.05), 1.0, TESTED) if trained else None,
            )  # fmt: skip
            health = Health(45 + 5 * float(self._speed[index]), int(self._speed[index] > 2) * 4, 1.0, 10**9, 10**10)
            many = MODEL_BYTES * len(self.peers) // 4 if peer == controller else 0
            writers[peer].write_row(row, MODEL_BYTES // 4 + many, MODEL_BYTES + many, 65_000_000, health)

    def _write_classes(self, folder: Path, index: int) -> None:
        trained = self._rng.choice(LABELS, EXAMPLES, p=self._share[index]).astype(np.int32)
        tested = self._rng.integers(0, LABELS, TESTED).astype(np.int32)
        wrong = self._rng.random(TESTED) > self._level
        # Who is taken for another is taken for a neighbour.
        predicted = ((tested + wrong * self._rng.choice([-1, 1, 2], TESTED)) % LABELS).astype(np.int32)
        (folder / CLASSES).mkdir()
        peer = self.peers[index]
        content = class_counts(self.run_id, peer, self.rounds, trained, tested, predicted)
        (folder / CLASSES / f"{peer}.csv").write_bytes(content)


if __name__ == "__main__":
    print(LargeRun().write(Path(sys.argv[1])))
