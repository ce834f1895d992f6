"""How fast a board's trainer is beside Keras, and where its time goes: `python -m bench.training`.

For each model two processes that train one epoch when they are told to, in turns: LiteRTTrainer with one thread, and
Keras's `fit` on TensorFlow with one thread within an operation and one between operations (in .venv-models), both from
the same weights, on the same images in batches of the same size, shuffled. Each has trained one epoch before. A third
process, in turns with them, trains like the first and takes the time of what a step is made of.

Keras has no quantization-aware training: like is compared with like where QAT is "off". With "full", the trainer rounds
weights and activations besides.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.tables import report, spread
from data_shards.build import build
from data_shards.datasets import load_dataset
from data_shards.shard import Shard, read_shard
from edge_peer.shell.memory import keep_little
from edge_peer.shell.telemetry import peak_rss_bytes
from edge_peer.trainers.artifacts import ModelArtifacts, load_artifacts

ROOT = Path(__file__).resolve().parent.parent
TENSORFLOW = ROOT / ".venv-models/bin/python"
#: Model and its QAT -> how many times Keras's images per second the trainer must reach.
MODELS = {
    ("image_cnn", "off"): 3.0,
    ("image_cnn", "full"): None,
    ("mobile_cnn", "off"): 1.5,
    ("mobile_cnn", "full"): None,
}
#: Largest share of Keras's peak memory.
MEMORY_SHARE_MAX = 1 / 8
EXAMPLES = 6400
REPEATS = 9
#: Where the time of a step goes: to the interpreter's call, to filling its inputs, and to what remains.
KERNELS, GATHERING, REST = "kernels", "gathering", "reading, shuffling, copying weights, the loop"

#: Does the work once; says what it has measured.
Work = Callable[[], dict[str, float]]


# ---------------------------------------------------------------------- the processes that work


def trainer_of(artifacts: ModelArtifacts) -> Any:
    """Of a process that keeps as little memory as a peer."""
    keep_little()
    from edge_peer.trainers.litert import LiteRTTrainer  # noqa: PLC0415 - only the processes that use it pay for it

    return LiteRTTrainer(artifacts, threads=1)


def loss_of_epoch(trainer: Any, artifacts: ModelArtifacts, shard: Shard) -> float:
    """One epoch from the initial weights; the images stay in their file."""
    result = trainer.train(
        artifacts.initial(),
        shard.x_train,
        shard.y_train,
        epochs=1,
        learning_rate=artifacts.learning_rate,
        seed=1,
        cancelled=lambda: False,
    )
    return float(result.loss)


def ours(artifacts: ModelArtifacts, shard: Shard, _: Path) -> Work:
    """An epoch of the trainer."""
    trainer = trainer_of(artifacts)
    return lambda: {"loss": loss_of_epoch(trainer, artifacts, shard)}


def theirs(artifacts: ModelArtifacts, shard: Shard, source: Path) -> Work:
    """An epoch of Keras's `fit`."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf  # noqa: PLC0415

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import keras  # noqa: PLC0415

    from models.export import load_module  # noqa: PLC0415

    model = load_module(source).build()
    if getattr(model, "optimizer", None) is None:
        model.compile(
            optimizer=keras.optimizers.SGD(artifacts.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    # What else stands in the vector, such as ranges of activations, is not the Keras model's.
    weights = artifacts.layout.split(artifacts.initial())
    x, y = np.asarray(shard.x_train), shard.y_train

    def epoch() -> dict[str, float]:
        for variable in model.trainable_variables:
            variable.assign(weights[variable.path])
        history = model.fit(x, y, batch_size=artifacts.batch_size, epochs=1, shuffle=True, verbose=0)
        return {"loss": history.history["loss"][-1]}

    return epoch


def watched(artifacts: ModelArtifacts, shard: Shard, _: Path) -> Work:
    """The same epoch, with the time of a step's parts: a little slower for that."""
    trainer = trainer_of(artifacts)
    from edge_peer.trainers import steps  # noqa: PLC0415 - as above

    seconds = {KERNELS: 0.0, GATHERING: 0.0}

    def timed(part: str, call: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            started = time.perf_counter()
            call(*arguments)
            seconds[part] += time.perf_counter() - started

        return run

    trainer._step.run = timed(KERNELS, trainer._step.run)
    steps.gather = timed(GATHERING, steps.gather)

    def epoch() -> dict[str, float]:
        seconds.update(dict.fromkeys(seconds, 0.0))
        loss_of_epoch(trainer, artifacts, shard)
        return dict(seconds)

    return epoch


def serve(kind: str, folder: Path, data: Path, source: Path) -> None:
    """Work once for each line that comes in; answer with a line of JSON."""
    work = {"ours": ours, "theirs": theirs, "watched": watched}[kind](load_artifacts(folder), read_shard(data), source)
    work()
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        started, cpu = time.perf_counter(), time.process_time()
        found = work()
        taken = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        print(json.dumps({**found, **taken, "peak": peak_rss_bytes()}), flush=True)


# ---------------------------------------------------------------------- the process that measures


class Worker:
    """A process that works when it is told to."""

    def __init__(self, python: str, kind: str, paths: list[Path], folder: Path) -> None:
        self._errors = folder / f"{kind}.log"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [python, "-m", "bench.training", kind, *map(str, paths)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._answer()

    def work(self) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Libraries may print, too.
            if line.startswith("{"):
                found: dict[str, float] = json.loads(line)
                return found
        raise RuntimeError(f"a process of this benchmark has ended:\n{self._errors.read_text()}")

    def close(self) -> None:
        """End it, and wait until it is gone."""
        self._process.communicate()


def turns(python: dict[str, str], paths: list[Path], folder: Path) -> Iterator[dict[str, dict[str, float]]]:
    """What each kind of process has measured, one after another, again and again."""
    workers: dict[str, Worker] = {}
    try:
        for kind, executable in python.items():
            workers[kind] = Worker(executable, kind, paths, folder)
        for _ in range(REPEATS):
            yield {kind: worker.work() for kind, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()


def source_of(model: str, qat: str, folder: Path) -> Path:
    """The model's file, with another QAT."""
    source = folder / qat / f"{model}.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text((ROOT / "models" / source.name).read_text() + f'\nQAT = "{qat}"\n')
    return source


def artifacts_of(source: Path) -> Path:
    """The model exported as it is here, not as it was when its artifacts were committed."""
    out = source.with_suffix("")
    command = [str(TENSORFLOW), "-m", "models.export", str(source), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{source}: {done.stderr}")
    return out


def measure(
    model: str, qat: str, target: float | None, data: Path, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row on speed and memory, and one on where a step's time goes."""
    source = source_of(model, qat, folder)
    out = artifacts_of(source)
    python = {"ours": sys.executable, "theirs": str(TENSORFLOW), "watched": sys.executable}
    found = list(turns(python, [out, data, source], folder))
    speed = {kind: [EXAMPLES / it[kind]["seconds"] for it in found] for kind in ("ours", "theirs")}
    ratios = [here / there for here, there in zip(speed["ours"], speed["theirs"], strict=True)]
    peak = {kind: max(it[kind]["peak"] for it in found) / 1e6 for kind in ("ours", "theirs")}
    artifacts = load_artifacts(out)
    row = {
        "model": model,
        "QAT": qat,
        "parameters": artifacts.layout.trained_size,
        "images/s": spread(speed["ours"], 0),
        "Keras": spread(speed["theirs"], 0),
        "times": spread(ratios, 2),
        "target": "" if target is None else f"{target:g}",
        "times, of CPU time": spread([it["theirs"]["cpu"] / it["ours"]["cpu"] for it in found], 2),
        "loss": statistics.median(it["ours"]["loss"] for it in found),
        "Keras's loss": statistics.median(it["theirs"]["loss"] for it in found),
        "peak MB": peak["ours"],
        "Keras's peak MB": peak["theirs"],
        "share": peak["ours"] / peak["theirs"],
        "share allowed": MEMORY_SHARE_MAX,
    }
    shares = []
    for it in (turn["watched"] for turn in found):
        parts = {part: it[part] for part in (KERNELS, GATHERING)}
        parts[REST] = it["seconds"] - sum(parts.values())
        shares.append({part: seconds / it["seconds"] for part, seconds in parts.items()})
    step_s = statistics.median(it["ours"]["seconds"] for it in found) / (EXAMPLES // artifacts.batch_size)
    return row, {
        "model": model,
        "QAT": qat,
        "ms a step": step_s * 1e3,
        **{part: f"{statistics.median(it[part] for it in shares):.1%}" for part in shares[0]},
    }


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(load_dataset("fashion-mnist", say=print), ["peer"], "iid", 1, folder, EXAMPLES, 100)
        data = folder / "peer.safetensors"
        pairs = [measure(*model, target, data, folder) for model, target in MODELS.items()]
    report(
        "training",
        f"Training with one thread: LiteRTTrainer and Keras's fit, epochs of {EXAMPLES:,} images of Fashion-MNIST in "
        f"turns, {REPEATS} each; times: of Keras's images per second",
        [row for row, _ in pairs],
    )
    report("training_shares", "Where the time of a step of LiteRTTrainer goes", [shares for _, shares in pairs])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(sys.argv[1], *map(Path, sys.argv[2:]))
    else:
        main()
