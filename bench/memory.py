"""What a training peer's memory is made of: `python -m bench.memory`.

A process that loads and does, one after another, what a peer does, and tells its resident memory after each step; then
the peaks of a real federation of four. Both with a shard of 3,000 training images.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.federation import federation, shards
from bench.tables import report
from tests.live.harness import ARTIFACTS

STEPS = r"""
import json, sys
steps = []
def step(name):
    with open("/proc/self/status") as file:
        facts = dict(line.split(":", 1) for line in file)
    steps.append((name, *(int(facts[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon", "RssFile"))))
def nothing():
    return False
step("Python")
from edge_peer.shell.memory import keep_little
keep_little()
import paho.mqtt.client
step("paho-mqtt, with ssl and what it imports")
import numpy
step("numpy")
import safetensors.numpy
step("safetensors")
from edge_peer.trainers.litert import LiteRTTrainer
from edge_peer.trainers.runtimes import load_runtime
load_runtime()
step("the interpreter's libraries")
import edge_peer.shell.daemon
step("this project's modules")
from pathlib import Path
from edge_peer.trainers.artifacts import load_artifacts
from data_shards.shard import read_shard
artifacts = load_artifacts(Path(sys.argv[1]))
weights = artifacts.initial()
step("the model's artifacts")
shard = read_shard(Path(sys.argv[2]))
step("the shard (its examples stay in the file)")
trainer = LiteRTTrainer(artifacts)
step("the model in the interpreter")
trainer.evaluate(weights, shard.x_test, shard.y_test, cancelled=nothing)
step("evaluated")
trainer.train(weights, shard.x_train, shard.y_train, epochs=1, learning_rate=0.1, seed=1, cancelled=nothing)
step("trained")
print(json.dumps(steps))
"""


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as name:
        data = shards(Path(name), 4, 3000)
        command = [sys.executable, "-c", STEPS, str(ARTIFACTS), str(data / "peer1.safetensors")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        with federation(data, 4, {"run": {"rounds_max": 10}}) as live:
            live.start()
            end = live.wait_finished()
            live.stop()
            peaks = {
                peer: (live.rows(peer, str(end.run_id))[-1]["role"], max(int(row["rss_peak_bytes"]) for row in rows))
                for peer in live.peers
                if (rows := live.rows(peer, str(end.run_id)))
            }
    rows, before = [], 0
    for what, total, anonymous, file in json.loads(done.stdout.splitlines()[-1]):
        rows.append(
            {
                "what": what,
                "adds MB": (total - before) / 1e6,
                "MB": total / 1e6,
                "own": anonymous / 1e6,
                "files": file / 1e6,
            }
        )
        before = total
    report("memory", "Resident memory of one process, step by step (files: libraries, shared between processes)", rows)
    report(
        "memory_peaks",
        "Peak resident memory of the peers of a real run; target: 60",
        [{"peer": peer, "role": role, "MB": peak / 1e6, "MiB": peak / 2**20} for peer, (role, peak) in peaks.items()],
    )


if __name__ == "__main__":
    main()
