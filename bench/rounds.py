"""What a round costs: with training, and without; and what a plain loop over the same trainings takes.

`python -m bench.rounds`. Four peers, the default model. The loop without a federation trains the four shards one after
another in one process with the same backend: what a round would cost if there were neither network nor protocol, on one
core. Overhead is measured with shards of two examples: opening, sending four updates of 26,698 values in int8, merging,
publishing, saving and evaluating, less the slowest training.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.federation import federation, shards
from bench.tables import report, spread
from data_shards.shard import read_shard
from edge_peer.trainers.artifacts import load_artifacts
from edge_peer.trainers.litert import LiteRTTrainer
from tests.live.harness import ARTIFACTS, Live

PEERS = 4
#: The first rounds load the interpreter.
WARM = 2


def unwatched_end(live: Live) -> str:
    """Wait for the final model of every peer on the disk: an onlooker on the broker would be part of what is timed."""
    end_s = time.monotonic() + 300
    while time.monotonic() < end_s:
        done = {peer: list(live.fleet.state_dir(peer).glob("runs/*/model.safetensors")) for peer in live.peers}
        if all(done.values()):
            return done[live.peers[0]][0].parent.name
        time.sleep(0.1)
    raise TimeoutError("the run has not ended within 300 s")


def rounds_of(data: Path, rounds: int, trainer: dict[str, Any]) -> tuple[Live, list[float], list[float]]:
    """Seconds of each round after the first ones, and the same less the slowest training of the round."""
    with federation(data, PEERS, {"run": {"rounds_max": rounds}, "trainer": trainer}) as live:
        live.start()
        run_id = unwatched_end(live)
        live.stop()
        whole, rest = [], []
        training = {peer: {row["round"]: row["training_s"] for row in live.rows(peer, run_id)} for peer in live.peers}
        for line in live.committed(run_id)[WARM:]:
            slowest = max(float(training[peer][str(line["round"])]) for peer in live.peers)
            whole.append(line["seconds"] * 1e3)
            rest.append((line["seconds"] - slowest) * 1e3)
        return live, whole, rest


def loop_ms(data: Path) -> float:
    """The same trainings without a federation, one after another."""
    artifacts = load_artifacts(ARTIFACTS)
    trainer = LiteRTTrainer(artifacts)
    weights = artifacts.initial()
    loaded = [read_shard(data / f"peer{number}.safetensors") for number in range(1, PEERS + 1)]
    times = []
    for _ in range(3):
        started = time.perf_counter()
        for it in loaded:
            result = trainer.train(
                weights, it.x_train, it.y_train, epochs=1, learning_rate=0.1, seed=1, cancelled=lambda: False
            )
            assert np.isfinite(result.loss)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as name:
        large = shards(Path(name) / "large", PEERS, 3000)
        tiny = shards(Path(name) / "tiny", PEERS, 2, 2)
        loop = loop_ms(large)
        _, whole, _ = rounds_of(large, 12, {})
        _, _, overhead = rounds_of(tiny, 202, {"evaluate_local": False})
    report(
        "rounds",
        f"Rounds of {PEERS} peers, 26,698 parameters, int8 updates, Mosquitto on loopback",
        [
            {"what": "a round, 3,000 examples a peer", "ms": spread(whole), "target": "350 (a quarter of 1.4 s)"},
            {"what": "the same trainings in a plain loop, one core", "ms": f"{loop:.1f}", "target": ""},
            {"what": "ratio round / loop", "ms": f"{statistics.median(whole) / loop:.2f}", "target": "below 1"},
            {"what": "a round without its training", "ms": spread(overhead), "target": "10"},
        ],
    )


if __name__ == "__main__":
    main()
