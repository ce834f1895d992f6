"""What codecs of updates save in bytes and cost in accuracy: `python -m bench.codecs`, or `make bench-codecs`.

Federated averaging as a bare loop over LiteRTTrainer and aggregator_core, ten peers, every codec on the same divisions,
initial weights and orders of examples: differences are paired by division and seed. A peer's update goes through the
codec to the mean; nothing else is compressed. Two trainings that differ by as little as a rounding are soon two
different trainings, so a single difference says little: the mean over divisions and seeds counts.

A second table is of the lossless step alone: the same integers by zlib as the codecs use it, by zlib's default, and by
other compressors, beside the entropy of their bytes. `zstandard` is compared where it is installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import lzma
import random
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aggregator_core import weighted_mean
from aggregator_core.codecs import bound, decode, encode, encode_with_feedback
from aggregator_core.codecs.entropy import deflate, inflate
from aggregator_core.codecs.plan import plan_of
from aggregator_core.codecs.reader import Reader
from bench.tables import report
from data_shards.datasets import Dataset, load_dataset
from data_shards.split import divide, limit
from edge_peer.trainers.artifacts import ModelArtifacts, load_artifacts
from edge_peer.trainers.interface import F32, I32, Examples
from edge_peer.trainers.litert import LiteRTTrainer

ARTIFACTS = Path(__file__).resolve().parent.parent / "models/artifacts/image_cnn"
DIVISIONS = ("iid", "dirichlet:0.3")
PEERS = 10
EXAMPLES = 3000
ROUNDS = 20
SEEDS = 3
#: Points that a codec with a target may lose on the mean.
ALLOWED = 0.3

Shards = list[tuple[Examples, I32]]


@dataclass(frozen=True)
class Way:
    """How updates are sent.

    Attributes:
        codec: Its name.
        stochastic: How integers are rounded.
        feedback: Whether what a payload leaves out is added to the next.
        ratio: How many times smaller than float32 payloads are to be; None: no target.
    """

    codec: str
    stochastic: bool = False
    feedback: bool = False
    ratio: float | None = None

    @property
    def title(self) -> str:
        """For a row."""
        return f"{self.codec}{', stochastic' if self.stochastic else ''}{', error feedback' if self.feedback else ''}"


FLOAT32 = Way("float32")
WAYS = (
    FLOAT32,
    Way("float16"),
    Way("int8", stochastic=True, ratio=4.5),
    Way("int4", stochastic=True),
    Way("int4", stochastic=True, feedback=True),
    Way("int4", feedback=True, ratio=9),
    Way("topk-0.1", feedback=True),
    Way("topk-0.01", feedback=True),
)


@dataclass
class Measured:
    """What one federation gave.

    Attributes:
        accuracy: Of its last model, 0..1.
        lengths: Bytes of each payload.
        samples: A payload of each round.
        encode_s: Seconds that each payload took to be made.
        decode_s: Seconds that each took to be read.
    """

    accuracy: float = 0.0
    lengths: list[int] = field(default_factory=list)
    samples: list[bytes] = field(default_factory=list)
    encode_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)


def never() -> bool:
    """Nobody interrupts a benchmark."""
    return False


def shards_of(dataset: Dataset, division: str, seed: int, examples: int) -> Shards:
    """Training examples of each peer."""
    rng = np.random.default_rng(seed)
    parts = [limit(it, examples, rng) for it in divide(division, dataset.y_train, PEERS, rng, dataset.subjects_train)]
    return [(dataset.x_train[part], dataset.y_train[part]) for part in parts]


def federate(
    way: Way, trainer: LiteRTTrainer, artifacts: ModelArtifacts, shards: Shards, rounds: int, seed: int
) -> tuple[F32, Measured]:
    """The global weights after all rounds, shape (p,), and what was sent for them; its accuracy is not set yet."""
    layout = artifacts.layout
    measured = Measured()
    weights = artifacts.initial()
    residuals = [np.zeros_like(weights) for _ in shards]
    for round_ in range(rounds):
        changes = []
        for peer, (x, y) in enumerate(shards):
            draw = (seed * rounds + round_) * PEERS + peer
            result = trainer.train(
                weights, x, y, epochs=1, learning_rate=artifacts.learning_rate, seed=draw, cancelled=never
            )
            change = result.weights - weights
            rng = random.Random(draw) if way.stochastic else None
            started = time.perf_counter()
            if way.feedback:
                payload, residuals[peer] = encode_with_feedback(way.codec, change, residuals[peer], layout, rng)
            else:
                payload = encode(way.codec, change, layout, rng)
            encoded = time.perf_counter()
            changes.append(decode(way.codec, payload, layout))
            measured.decode_s.append(time.perf_counter() - encoded)
            measured.encode_s.append(encoded - started)
            measured.lengths.append(len(payload))
        measured.samples.append(payload)
        weights = weights + weighted_mean(changes, [len(y) for _, y in shards])
    return weights, measured


def row_of(way: Way, runs: dict[str, list[Measured]], exact: dict[str, list[Measured]], size: int) -> dict[str, Any]:
    """A row of the table; runs by division, one a seed."""
    whole = [run for division in runs.values() for run in division]
    points = {
        division: statistics.mean(
            100 * (run.accuracy - other.accuracy) for run, other in zip(found, exact[division], strict=True)
        )
        for division, found in runs.items()
    }
    length = statistics.mean(it for run in whole for it in run.lengths)
    mean_points = statistics.mean(points.values())
    ratio = 4 * size / length
    reached = way.ratio is None or (ratio >= way.ratio and mean_points >= -ALLOWED)
    return {
        "codec": way.title,
        "bytes": round(length),
        "float32 / it": round(ratio, 2),
        **{
            f"accuracy {division}": round(statistics.mean(run.accuracy for run in found), 4)
            for division, found in runs.items()
        },
        **{f"points {division}": round(it, 2) for division, it in points.items()},
        "points": round(mean_points, 2),
        "target": "" if way.ratio is None else f"{way.ratio:g} times, {-ALLOWED:g} points",
        "reached": "" if way.ratio is None else "yes" if reached else "NO",
        "encode ms": round(1e3 * statistics.median(it for run in whole for it in run.encode_s), 2),
        "decode ms": round(1e3 * statistics.median(it for run in whole for it in run.decode_s), 2),
    }


def contents(payloads: Sequence[bytes], artifacts: ModelArtifacts, bits: int) -> list[bytes]:
    """The integers of payloads as they are before the lossless step."""
    plan = plan_of(artifacts.layout)
    start = 4 * (plan.exact_size + plan.scales)
    size = (plan.coded_size * bits + 7) // 8
    return [bytes(inflate(Reader(memoryview(it)[start:]), size, "integers")) for it in payloads]


def entropy(content: bytes) -> float:
    """Bytes that independent symbols of these frequencies need: no code of single bytes takes fewer."""
    counts = np.bincount(np.frombuffer(content, np.uint8))
    shares = counts[counts > 0] / len(content)
    return float(-(shares * np.log2(shares)).sum()) * len(content) / 8


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    """Lossless compressors by title."""
    found: dict[str, Callable[[bytes], bytes]] = {
        "zlib, Z_RLE (the codecs')": deflate,
        "zlib, default": lambda content: zlib.compress(content, 6),
        "zlib, default, level 9": lambda content: zlib.compress(content, 9),
        "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    }
    if importlib.util.find_spec("zstandard") is not None:
        zstandard = importlib.import_module("zstandard")
        for level in (3, 19):
            found[f"zstandard, level {level}"] = zstandard.ZstdCompressor(level=level).compress
    return found


def lossless_rows(kept: dict[str, list[bytes]]) -> list[dict[str, Any]]:
    """A row for each compressor; contents by codec."""
    rows: list[dict[str, Any]] = [{"compressor": "none"}, {"compressor": "entropy of the bytes"}]
    for name, parts in kept.items():
        rows[0][f"{name} bytes"] = round(statistics.mean(map(len, parts)))
        rows[1][f"{name} bytes"] = round(statistics.mean(map(entropy, parts)))
        rows[0][f"{name} ms"] = rows[1][f"{name} ms"] = 0.0
    for title, compress in compressors().items():
        row: dict[str, Any] = {"compressor": title}
        for name, parts in kept.items():
            sizes, seconds = [], []
            for part in parts:
                started = time.perf_counter()
                sizes.append(len(compress(part)))
                seconds.append(time.perf_counter() - started)
            row[f"{name} bytes"] = round(statistics.mean(sizes))
            row[f"{name} ms"] = round(1e3 * statistics.median(seconds), 2)
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description="codecs of updates: bytes and accuracy")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each federation (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of division and order (default %(default)s)")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of a peer, at most (default %(default)s)")
    parser.add_argument("--codecs", nargs="+", help="only these beside float32, such as int8 topk-0.1")
    options = parser.parse_args(arguments)
    artifacts = load_artifacts(ARTIFACTS)
    for codec in options.codecs or ():
        bound(codec, artifacts.layout)
    known = {way.codec for way in WAYS}
    ways = [way for way in WAYS if way is FLOAT32 or options.codecs is None or way.codec in options.codecs]
    ways += [Way(codec, feedback=True) for codec in options.codecs or () if codec not in known]

    dataset = load_dataset("fashion-mnist", say=print)
    trainer = LiteRTTrainer(artifacts)
    runs: dict[Way, dict[str, list[Measured]]] = {way: {division: [] for division in DIVISIONS} for way in ways}
    kept: dict[str, list[bytes]] = {}
    for division in DIVISIONS:
        for seed in range(1, options.seeds + 1):
            shards = shards_of(dataset, division, seed, options.examples)
            for way in ways:
                weights, measured = federate(way, trainer, artifacts, shards, options.rounds, seed)
                score = trainer.evaluate(weights, dataset.x_test, dataset.y_test, cancelled=never)
                measured.accuracy = score.accuracy
                runs[way][division].append(measured)
                print(f"{division}, seed {seed}, {way.title}: {score.accuracy:.4f}", flush=True)
                if way.codec in {"int8", "int4"}:
                    integers = contents(measured.samples, artifacts, int(way.codec[3:]))
                    kept.setdefault(way.codec, []).extend(integers)
    settings = f"{PEERS} peers with up to {options.examples:,} images, {options.rounds} rounds, {options.seeds} seeds"
    report(
        "codecs",
        f"Bytes of an update and accuracy by codec, image_cnn on Fashion-MNIST, {settings}; points beside float32",
        [row_of(way, found, runs[FLOAT32], artifacts.layout.size) for way, found in runs.items()],
    )
    if kept:
        report("codecs_lossless", f"The integers of updates by lossless compressors, {settings}", lossless_rows(kept))


if __name__ == "__main__":
    main()
