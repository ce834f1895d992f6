"""What int8 costs in accuracy, trained to be quantized and quantized afterwards: `python -m bench.quantization`.

Federated averaging as a bare loop over LiteRTTrainer, with every way that a model's file can ask for: QAT = "full",
"weights" and "off", and weights of four bits. The float model's accuracy and the int8 model's are those of the same
weights on the whole test set. QAT = "off" has no int8 model of its own: there TensorFlow quantizes the trained weights,
with training images of all peers as its representative data set, which no board of a real federation has together. A
seed is one of the division and of the order in which epochs see their examples; the differences are paired by seed.

Exports and conversions run in .venv-models (`make bench` makes it).
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aggregator_core import weighted_mean
from bench.tables import report, spread
from data_shards.datasets import Dataset, load_dataset
from data_shards.split import divide, limit
from edge_peer.trainers.artifacts import ModelArtifacts, load_artifacts
from edge_peer.trainers.interface import F32, I32, Examples
from edge_peer.trainers.litert import LiteRTTrainer
from edge_peer.trainers.runtimes import load_runtime

ROOT = Path(__file__).resolve().parent.parent
KERAS = ROOT / ".venv-models/bin/python"
SEEDS = (1, 2, 3, 4, 5)
PEERS = 4
EXAMPLES = 3000
ROUNDS = 10
#: Training images that TensorFlow sees when it quantizes afterwards.
REPRESENTATIVE = 200
#: Test images of an invocation.
SCORED = 100
AFTERWARDS = "off"

Shards = list[tuple[Examples, I32]]


@dataclass(frozen=True)
class Job:
    """A model and what it is trained on.

    Attributes:
        model: Name of its source in models/.
        dataset: As `load_dataset` takes it.
        divisions: As `data_shards.split` has them.
        epochs: Of a round.
        ways: Pairs of QAT and bits of a weight.
        allowed: Points that int8 may lose on the mean with QAT = "full" and 8 bits.
    """

    model: str
    dataset: str
    divisions: tuple[str, ...]
    epochs: int
    ways: tuple[tuple[str, int], ...]
    allowed: float


WAYS = (("full", 8), ("weights", 8), (AFTERWARDS, 8))
JOBS = (
    Job("image_cnn", "fashion-mnist", ("iid", "dirichlet:0.3"), 1, (*WAYS, ("full", 4)), 0.3),
    Job("mobile_cnn", "fashion-mnist", ("iid", "dirichlet:0.3"), 1, WAYS, 1.0),
    Job("sensor_cnn", "shoulder-watch", ("subjects",), 3, WAYS, 1.0),
)


def never() -> bool:
    """Nobody interrupts a benchmark."""
    return False


def run_keras(*arguments: str | Path) -> None:
    """Run a module with TensorFlow; raises CalledProcessError, with what it has said on the terminal."""
    done = subprocess.run([KERAS, "-m", *arguments], cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr)
        done.check_returncode()


def variant(model: str, qat: str, bits: int, folder: Path) -> ModelArtifacts:
    """A model's source with another QAT, exported into a folder."""
    source = folder / f"{qat}{bits}" / f"{model}.py"
    source.parent.mkdir()
    settings = f'\nQAT = "{qat}"\nWEIGHT_BITS = {bits}\n'
    source.write_text((ROOT / "models" / source.name).read_text() + settings)
    run_keras("models.export", source, "--out", source.parent / "artifacts")
    return load_artifacts(source.parent / "artifacts")


def shards_of(dataset: Dataset, division: str, seed: int) -> Shards:
    """Training examples of each peer."""
    rng = np.random.default_rng(seed)
    parts = divide(division, dataset.y_train, PEERS, rng, dataset.subjects_train)
    limited = [limit(part, EXAMPLES, rng) for part in parts]
    return [(dataset.x_train[part], dataset.y_train[part]) for part in limited]


def federate(trainer: LiteRTTrainer, artifacts: ModelArtifacts, shards: Shards, epochs: int, seed: int) -> F32:
    """The global weights after all rounds, shape (p,)."""
    weights = artifacts.initial()
    for round_ in range(ROUNDS):
        updates = []
        for peer, (x, y) in enumerate(shards):
            result = trainer.train(
                weights,
                x,
                y,
                epochs=epochs,
                learning_rate=artifacts.learning_rate,
                seed=(seed * ROUNDS + round_) * PEERS + peer,
                cancelled=never,
            )
            updates.append(result.weights)
        weights = weighted_mean(updates, [len(y) for _, y in shards])
    return weights


def representative(shards: Shards) -> Examples:
    """As many training images of each peer, or all where it has fewer."""
    return np.concatenate([x[: REPRESENTATIVE // len(shards)] for x, _ in shards])


def quantized_afterwards(model: str, artifacts: ModelArtifacts, trained: list[F32], images: list[Examples]) -> Any:
    """An int8 file of each of these weights, by TensorFlow's converter with these images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, (weights, shown) in enumerate(zip(trained, images, strict=True)):
            np.savez(folder / f"{index}.npz", weights=weights, images=shown)
        run_keras("bench.quantization_keras", ROOT / "models" / f"{model}.py", artifacts.folder, folder)
        return [(folder / f"{index}.tflite").read_bytes() for index in range(len(trained))]


def score(content: bytes, x: Examples, y: I32) -> float:
    """Accuracy of an int8 file, 0..1."""
    _, module = load_runtime()
    interpreter = module.Interpreter(model_content=content, num_threads=1)
    details = interpreter.get_input_details()[0]
    entry, result = details["index"], interpreter.get_output_details()[0]["index"]
    # Where the representative examples do not reach 0 and 255, a byte is not what it was.
    scale, zero_point = details["quantization"]
    correct = 0
    for start in range(0, len(y), SCORED):
        given = np.round(x[start : start + SCORED] / scale) + zero_point
        images = np.clip(given, 0, 255).astype(np.uint8)
        interpreter.resize_tensor_input(entry, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry, images)
        interpreter.invoke()
        correct += int((interpreter.get_tensor(result).argmax(axis=1) == y[start : start + SCORED]).sum())
    return correct / len(y)


def measure(
    job: Job, artifacts: ModelArtifacts, dataset: Dataset, division: str, afterwards: bool
) -> tuple[list[float], list[float]]:
    """Accuracies of the float models and of the int8 models, one a seed."""
    trainer = LiteRTTrainer(artifacts)
    x, y = dataset.x_test, dataset.y_test
    divided = [shards_of(dataset, division, seed) for seed in SEEDS]
    trained = [
        federate(trainer, artifacts, shards, job.epochs, seed) for shards, seed in zip(divided, SEEDS, strict=True)
    ]
    floats = [trainer.evaluate(weights, x, y, cancelled=never).accuracy for weights in trained]
    if afterwards:
        images = [representative(shards) for shards in divided]
        return floats, [score(it, x, y) for it in quantized_afterwards(job.model, artifacts, trained, images)]
    integers = []
    for weights in trained:
        accuracy = trainer.evaluate_int8(weights, x, y, cancelled=never)
        if accuracy is None:
            raise RuntimeError(f"{job.model}: the trained weights have no int8 form")
        integers.append(accuracy)
    return floats, integers


def rows_of(job: Job) -> list[dict[str, Any]]:
    """A row for each division and way."""
    dataset = load_dataset(job.dataset, say=print)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        variants = {way: variant(job.model, *way, Path(name)) for way in job.ways}
        for division in job.divisions:
            for qat, bits in job.ways:
                floats, integers = measure(job, variants[qat, bits], dataset, division, qat == AFTERWARDS)
                points = [100 * (integer - exact) for integer, exact in zip(integers, floats, strict=True)]
                rows.append(
                    {
                        "model": job.model,
                        "division": division,
                        "QAT": qat,
                        "int8 by": "TensorFlow, afterwards" if qat == AFTERWARDS else f"a board, {bits} bits",
                        "float": spread(floats, 4),
                        "int8": spread(integers, 4),
                        "points": spread(points, 2),
                        "mean float": round(statistics.mean(floats), 4),
                        "mean int8": round(statistics.mean(integers), 4),
                        "mean points": round(statistics.mean(points), 2),
                        "allowed": str(-job.allowed) if (qat, bits) == ("full", 8) else "",
                    }
                )
                print(
                    f"{job.model}, {division}, QAT {qat}, {bits} bits: {rows[-1]['mean points']:+.2f} points",
                    flush=True,
                )
    return rows


def main() -> None:
    """Measure and report."""
    rows = [row for job in JOBS for row in rows_of(job)]
    report(
        "quantization",
        f"Accuracy in float and int8 after {ROUNDS} rounds of {PEERS} peers with up to {EXAMPLES:,} examples each, and "
        f"the difference in points; median (least to most) of {len(SEEDS)} seeds, whole test sets",
        rows,
    )


if __name__ == "__main__":
    main()
