"""The same federated averaging by this project's processes and by a plain Keras loop: `python -m bench.accuracy`.

Same data, same division, same initial weights; what differs is the order in which an epoch sees its examples. Several
seeds of that order, because one alone is luck of about a point. The Keras loop runs in .venv-models (`make bench` makes
it).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench.federation import federation, shards
from bench.tables import RESULTS, report, spread

ROOT = Path(__file__).resolve().parent.parent
KERAS = ROOT / ".venv-models/bin/python"
SEEDS = (1, 2, 3, 4, 5)
PEERS = 4


def ours(data: Path, seed: int) -> tuple[float, list[float], float]:
    """Accuracy, seconds of each round, and the largest peak of resident memory of a peer, in MB."""
    with federation(data, PEERS, {"run": {"rounds_max": 10, "seed": seed}}) as live:
        live.start()
        end = live.wait_finished()
        live.stop()
        run_id = str(end.run_id)
        seconds = [line["seconds"] for line in live.committed(run_id)]
        peak = max(int(row["rss_peak_bytes"]) for peer in live.peers for row in live.rows(peer, run_id))
        assert end.accuracy is not None
        return end.accuracy, seconds, peak / 1e6


def keras(seed: int) -> tuple[float, list[float], float]:
    """The same of the loop; its division is that of seed 1, like ours."""
    command = [str(KERAS), "-m", "bench.accuracy_keras", "--shuffle-seed", str(seed)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    rows = json.loads((RESULTS / "accuracy_keras.json").read_text())["rows"]
    return rows[-1]["accuracy"], [row["training_s"] for row in rows[1:]], rows[-1]["rss_peak_mb"]


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as name:
        data = shards(Path(name), PEERS, 3000)
        here = [ours(data, seed) for seed in SEEDS]
        there = [keras(seed) for seed in SEEDS]
    rows = []
    for what, runs in (("edge-peer, 4 processes", here), ("Keras loop, 1 process", there)):
        rows.append(
            {
                "what": what,
                "accuracy": spread([accuracy for accuracy, _, _ in runs], 4),
                "mean": statistics.mean(accuracy for accuracy, _, _ in runs),
                "s a round": spread([it for _, seconds, _ in runs for it in seconds], 2),
                "peak RSS MB": max(peak for _, _, peak in runs),
            }
        )
    report(
        "accuracy", f"FedAvg, {PEERS} peers, 3,000 images each, 10 rounds; {len(SEEDS)} seeds; 10,000 test images", rows
    )


if __name__ == "__main__":
    main()
