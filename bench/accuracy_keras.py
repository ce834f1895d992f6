"""What plain Keras reaches: federated averaging as a loop over `Model.fit`, without a broker, a daemon or TFLite.

    .venv-models/bin/python -m bench.accuracy_keras

The same shards (division and seed) and the same initial weights as the federation's run, so that both can be compared;
the order in which an epoch sees its examples is Keras's own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np

from aggregator_core import Layout, weighted_mean
from bench.tables import report
from data_shards.build import build
from data_shards.datasets import load_dataset
from data_shards.shard import read_shard
from edge_peer.shell.telemetry import peak_rss_bytes
from edge_peer.trainers.artifacts import load_artifacts
from models.export import load_module

ROOT = Path(__file__).parent.parent


def flat(model: Any) -> Any:
    return np.concatenate([value.reshape(-1) for value in model.get_weights()])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy_keras", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--examples", type=int, default=3000)
    parser.add_argument("--split", default="iid")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1, help="of the division")
    parser.add_argument("--shuffle-seed", type=int, default=1, help="of Keras's shuffling")
    options = parser.parse_args()

    dataset = load_dataset(options.dataset, options.seed, print)
    names = [f"peer{number}" for number in range(1, options.peers + 1)]
    with tempfile.TemporaryDirectory() as folder:
        build(dataset, names, options.split, options.seed, Path(folder), options.examples)
        shards = [read_shard(Path(folder) / f"{name}.safetensors") for name in names]
        examples = [(np.asarray(shard.x_train), shard.y_train) for shard in shards]

    artifacts = load_artifacts(ROOT / "models/artifacts/image_cnn")
    keras.utils.set_random_seed(options.shuffle_seed)
    model = load_module(ROOT / "models/image_cnn.py").build()
    model.compile(
        optimizer=keras.optimizers.SGD(options.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # Keras's model has no ranges of activations: those stand behind the weights.
    trained = Layout(tuple(it for it in artifacts.layout.tensors if it.kind != "state"))
    vector = artifacts.initial()[: trained.size]
    rows = []
    for round_ in range(options.rounds + 1):
        started = time.perf_counter()
        if round_:
            updates = []
            for x, y in examples:
                model.set_weights(list(trained.split(vector).values()))
                model.fit(x, y, batch_size=artifacts.batch_size, epochs=options.epochs, verbose=0)
                updates.append(flat(model))
            vector = weighted_mean(updates, [len(y) for _, y in examples])
        seconds = time.perf_counter() - started
        model.set_weights(list(trained.split(vector).values()))
        loss, accuracy = model.evaluate(dataset.x_test, dataset.y_test, batch_size=1000, verbose=0)
        rows.append(
            {
                "round": round_,
                "accuracy": float(accuracy),
                "loss": float(loss),
                "training_s": seconds,
                "rss_peak_mb": peak_rss_bytes() / 1e6,
            }
        )
    report(
        "accuracy_keras",
        f"Keras {keras.__version__}, {options.peers} clients of {options.examples} examples ({options.split}, seed "
        f"{options.seed}), SGD {options.learning_rate:g}: global model on {len(dataset.y_test)} test examples",
        rows,
    )


if __name__ == "__main__":
    main()
