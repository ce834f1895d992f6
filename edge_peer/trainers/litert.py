"""Train with a TFLite interpreter alone: `ai-edge-litert`, or `tflite-runtime` where that is what the board has.

The exported model takes the flat weight vector as an input and gives the new one as an output, so a step is: gather a
batch, invoke, take the new weights. Batch buffers are made once.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_peer.errors import ResourceError
from edge_peer.trainers.artifacts import ModelArtifacts, ModelError
from edge_peer.trainers.interface import (
    F32,
    I32,
    Cancelled,
    EvaluationResult,
    Examples,
    TrainingDivergedError,
    TrainingResult,
)

RUNTIMES = (
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter"),
)


def load_runtime() -> tuple[str, Any]:
    """The installed interpreter: (name and version, its module).

    Raises:
        ResourceError: None is installed.
    """
    for package, module in RUNTIMES:
        try:
            runtime = importlib.import_module(module)
        except ImportError:
            continue
        # Not importlib.metadata: that takes most of a megabyte.
        version = getattr(sys.modules[module.partition(".")[0]], "__version__", "of unknown version")
        return f"{package} {version}", runtime
    raise ResourceError(
        "no TFLite interpreter is installed: pip install 'edge-peer[litert]' on 64-bit boards, "
        "'edge-peer[tflite]' on 32-bit ARM"
    )


def shuffled(count: int, rng: random.Random) -> npt.NDArray[np.int64]:
    """0 to count - 1 in random order, the same on every board and with every release of numpy.

    Sorted by random bytes: numpy's own generators promise no stable streams (NEP 19), and take 2.4 MB to import.
    """
    keys = np.frombuffer(rng.randbytes(8 * count), "<u8")
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


class LiteRTTrainer:
    """The backend of boards without TensorFlow.

    Args:
        artifacts: The exported model.
        threads: Of the interpreter; a small model is faster with one.

    Raises:
        ResourceError: No interpreter is installed, or it cannot load the model.
    """

    def __init__(self, artifacts: ModelArtifacts, threads: int = 1) -> None:
        self._artifacts = artifacts
        self.runtime, module = load_runtime()
        try:
            # With its default delegate (XNNPACK): half the time of a step for 3 MB.
            interpreter = module.Interpreter(model_path=str(artifacts.train_path), num_threads=threads)
            self._train = interpreter.get_signature_runner("train")
            self._infer = interpreter.get_signature_runner("infer")
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{artifacts.train_path}: {self.runtime} cannot load it ({reason}); export it again with `make model`"
            ) from None

    def train(
        self,
        weights: F32,
        x: Examples,
        y: I32,
        *,
        epochs: int,
        learning_rate: float,
        seed: int,
        cancelled: Callable[[], bool],
    ) -> TrainingResult:
        """See `Trainer.train`."""
        started = time.perf_counter()
        examples, batch = len(y), self._artifacts.batch_size
        rng = random.Random(seed)
        images = np.zeros((batch, *self._artifacts.input_shape), np.uint8)
        labels = np.zeros(batch, np.int32)
        sample_weight = np.ones(batch, np.float32)
        rate = np.float32(learning_rate)
        current, steps, loss = weights, 0, 0.0
        for _ in range(epochs):
            order = shuffled(examples, rng)
            total = 0.0
            for start in range(0, examples, batch):
                if cancelled():
                    raise Cancelled
                picked = order[start : start + batch]
                count = len(picked)
                images[:count] = x[picked]
                np.take(y, picked, out=labels[:count])
                sample_weight[:count] = 1.0
                sample_weight[count:] = 0.0
                outputs = self._train(
                    weights=current, x=images, y=labels, sample_weight=sample_weight, learning_rate=rate
                )
                current = outputs["weights"]
                total += float(outputs["loss"]) * count
                steps += 1
            loss = total / examples
        if not (np.isfinite(loss) and np.isfinite(current).all()):
            raise TrainingDivergedError(
                f"loss or weights are not finite with learning_rate {learning_rate:g}; choose a smaller one"
            )
        return TrainingResult(np.array(current, np.float32), loss, examples, steps, time.perf_counter() - started)

    def evaluate(self, weights: F32, x: Examples, y: I32, *, cancelled: Callable[[], bool]) -> EvaluationResult:
        """See `Trainer.evaluate`."""
        started = time.perf_counter()
        examples, batch = len(y), self._artifacts.evaluation_batch_size
        images = np.zeros((batch, *self._artifacts.input_shape), np.uint8)
        correct, loss = 0, 0.0
        for start in range(0, examples, batch):
            if cancelled():
                raise Cancelled
            count = min(batch, examples - start)
            images[:count] = x[start : start + count]
            labels = y[start : start + count]
            logits = self._infer(weights=weights, x=images)["logits"][:count].astype(np.float64)
            correct += int((logits.argmax(axis=1) == labels).sum())
            # Huge weights have infinite logits, and then a loss that is no number: the caller sees it.
            with np.errstate(invalid="ignore"):
                logits -= logits.max(axis=1, keepdims=True)
                log_sum = np.log(np.exp(logits).sum(axis=1))
                loss += float((log_sum - logits[np.arange(count), labels]).sum())
        return EvaluationResult(correct / examples, loss / examples, examples, time.perf_counter() - started)
