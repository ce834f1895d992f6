"""What a round costs on the wire, up and down, beside float32 and whole models: `python -m bench.wire`.

Ten real processes on one Mosquitto, Fashion-MNIST, the image CNN. Bytes are those of topics and payloads that each peer
counts itself (the CSV's bytes_sent and bytes_received), over all peers and all rounds after the first: elections, JSON
documents and reports are in them. The accuracy is the federation's, of the last model, and beside it that of the mean
over seeds.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench.federation import federation, shards
from bench.rounds import unwatched_end
from bench.tables import report

PEERS = 10
ROUNDS = 12
EXAMPLES = 1000
SEEDS = (1, 2, 3)
#: Up and down, from the plain one on.
RUNS: tuple[dict[str, Any], ...] = (
    {"codec": "float32", "downlink": "whole"},
    {"codec": "float16", "downlink": "float16"},
    {"codec": "int8", "downlink": "int8"},
    {"codec": "int4", "error_feedback": True, "downlink": "int8"},
    {"codec": "int4", "error_feedback": True, "downlink": "int4"},
    {"codec": "topk-0.05", "error_feedback": True, "downlink": "int8"},
)


def measure(data: Path, settings: dict[str, Any], seed: int) -> tuple[float, float]:
    """Kilobytes of a peer and round, and the final accuracy."""
    run = {"rounds_max": ROUNDS, "updates_min": PEERS, "seed": seed, **settings}
    with federation(data, PEERS, {"run": run, "trainer": {"evaluate_local": False}}) as live:
        live.start()
        run_id = unwatched_end(live)
        live.stop()
        total = 0
        for peer in live.peers:
            # What came before the first round's end is the start: presences, votes, and the first opening.
            rows = [row for row in live.rows(peer, run_id) if int(row["round"]) > 1]
            total += sum(int(row["bytes_sent"]) + int(row["bytes_received"]) for row in rows)
        final = live.rows("peer1", run_id)[-1]
        assert int(final["round"]) == ROUNDS
        scores = [live.rows(peer, run_id)[-1] for peer in live.peers]
        examples = sum(int(row["test_examples"]) for row in scores)
        right = sum(int(row["test_examples"]) * float(row["global_accuracy"]) for row in scores)
        return total / 1e3 / PEERS / (ROUNDS - 1), right / examples


def main() -> None:
    """Measure and report."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        data = shards(Path(name), PEERS, EXAMPLES)
        plain = (0.0, 0.0)
        for settings in RUNS:
            found = [measure(data, settings, seed) for seed in SEEDS]
            kilobytes = statistics.mean(it[0] for it in found)
            accuracy = statistics.mean(it[1] for it in found)
            if not rows:
                plain = (kilobytes, accuracy)
            rows.append(
                {
                    "up": settings["codec"] + (" + feedback" if settings.get("error_feedback") else ""),
                    "down": settings["downlink"],
                    "kB a peer and round": f"{kilobytes:.1f}",
                    "times fewer": f"{plain[0] / kilobytes:.1f}",
                    "accuracy": f"{accuracy:.4f}",
                    "points": f"{100 * (accuracy - plain[1]):+.2f}",
                }
            )
            print(rows[-1], flush=True)
    report("wire", f"Bytes of {PEERS} peers, 26,698 parameters, {ROUNDS} rounds, {len(SEEDS)} seeds", rows)


if __name__ == "__main__":
    main()
