"""Local training and evaluation as batches through two functions, `train` and `infer`, whatever runs them.

The exported step takes the flat weight vector as an input and gives the new one as an output, so a step is: gather a
batch, call, take the new weights. Batch buffers are made once. All backends share this loop, so they see the same
examples in the same order, and drop the same units.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_peer.trainers.artifacts import ModelArtifacts
from edge_peer.trainers.deployed import load_int8
from edge_peer.trainers.int8 import Int8Scorer, NotQuantizableError
from edge_peer.trainers.interface import (
    F32,
    I32,
    Cancelled,
    EvaluationResult,
    Examples,
    TrainingDivergedError,
    TrainingResult,
)

LOG = logging.getLogger(__name__)
#: Takes and gives arrays by name.
Function = Callable[..., Mapping[str, Any]]


def shuffled(count: int, rng: random.Random) -> npt.NDArray[np.int64]:
    """0 to count - 1 in random order, the same on every board and with every release of numpy.

    Sorted by random bytes: numpy's own generators promise no stable streams (NEP 19), and take 2.4 MB to import.
    """
    keys = np.frombuffer(rng.randbytes(8 * count), "<u8")
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


class StepTrainer:
    """A backend out of the exported functions.

    Args:
        artifacts: The exported model.
        runtime: Name and version of what runs it.
        train: One optimizer step.
        infer: Logits and losses of a batch.
        shapes: Of the inputs of `train`, by name.
    """

    def __init__(
        self,
        artifacts: ModelArtifacts,
        runtime: str,
        train: Function,
        infer: Function,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._artifacts = artifacts
        self.runtime = runtime
        self._train = train
        self._infer = infer
        self._shapes = shapes
        self._int8: Int8Scorer | None = None
        self._int8_known = False

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
        proximal: float = 0.0,
        correction: F32 | None = None,
    ) -> TrainingResult:
        """See `Trainer.train`."""
        started = time.perf_counter()
        examples, batch = len(y), self._artifacts.batch_size
        rng = random.Random(seed)
        inputs: dict[str, Any] = {
            "weights": weights,
            "x": np.zeros((batch, *self._artifacts.input_shape), np.uint8),
            "y": np.zeros(batch, np.int32),
            "sample_weight": np.ones(batch, np.float32),
            "learning_rate": np.float32(learning_rate),
            "proximal": np.float32(proximal),
            "correction": self._constant(weights, proximal, correction),
        }
        if "slots" in self._shapes:
            inputs["slots"] = np.zeros(self._shapes["slots"], np.float32)
        steps, loss = 0, 0.0
        for _ in range(epochs):
            order = shuffled(examples, rng)
            total = 0.0
            for start in range(0, examples, batch):
                if cancelled():
                    raise Cancelled
                picked = order[start : start + batch]
                count = len(picked)
                inputs["x"][:count] = x[picked]
                np.take(y, picked, out=inputs["y"][:count])
                inputs["sample_weight"][:count] = 1.0
                inputs["sample_weight"][count:] = 0.0
                steps += 1
                if "count" in self._shapes:
                    inputs["count"] = np.float32(steps)
                if "noise" in self._shapes:
                    numbers = self._shapes["noise"][0]
                    inputs["noise"] = np.frombuffer(rng.randbytes(4 * numbers), "<i4").astype(np.int32, copy=False)
                outputs = self._train(**inputs)
                inputs["weights"] = outputs["weights"]
                if "slots" in self._shapes:
                    inputs["slots"] = outputs["slots"]
                total += float(outputs["loss"]) * count
            loss = total / examples
        current = inputs["weights"]
        if not (np.isfinite(loss) and np.isfinite(current).all()):
            raise TrainingDivergedError(
                f"loss or weights are not finite with learning_rate {learning_rate:g}; choose a smaller one"
            )
        return TrainingResult(np.array(current, np.float32), loss, examples, steps, time.perf_counter() - started)

    def _constant(self, weights: F32, proximal: float, correction: F32 | None) -> F32:
        """What is added to every gradient, shape (t,), float32."""
        size = self._artifacts.layout.trained_size
        # The constant part of the gradient of the proximal term.
        constant: F32 = np.float32(-proximal) * weights[:size]
        if correction is None:
            return constant
        if correction.shape != (size,) or correction.dtype != np.float32:
            raise ValueError(
                f"correction is {correction.dtype}{list(correction.shape)}, the model trains float32[{size}]: leave "
                "the state out"
            )
        if not np.isfinite(correction).all():
            raise ValueError("correction has values that are not finite: begin with controls of zero")
        return constant + correction

    def evaluate(self, weights: F32, x: Examples, y: I32, *, cancelled: Callable[[], bool]) -> EvaluationResult:
        """See `Trainer.evaluate`."""
        started = time.perf_counter()
        examples, batch = len(y), self._artifacts.evaluation_batch_size
        images = np.zeros((batch, *self._artifacts.input_shape), np.uint8)
        labels = np.zeros(batch, np.int32)
        correct, loss = 0, 0.0
        for start in range(0, examples, batch):
            if cancelled():
                raise Cancelled
            count = min(batch, examples - start)
            images[:count] = x[start : start + count]
            labels[:count] = y[start : start + count]
            outputs = self._infer(weights=weights, x=images, y=labels)
            correct += int((outputs["logits"][:count].argmax(axis=1) == labels[:count]).sum())
            # Huge weights have a loss that is infinite or no number: the caller sees it.
            loss += float(outputs["losses"][:count].sum(dtype=np.float64))
        return EvaluationResult(correct / examples, loss / examples, examples, time.perf_counter() - started)

    def evaluate_int8(self, weights: F32, x: Examples, y: I32, *, cancelled: Callable[[], bool]) -> float | None:
        """See `Trainer.evaluate_int8`."""
        if not self._int8_known:
            self._int8_known = True
            self._int8 = self._make_int8()
        if self._int8 is None:
            return None
        try:
            return self._int8.evaluate(weights, x, y, cancelled)
        except NotQuantizableError as error:
            # As before the first round, when nobody has seen an activation.
            LOG.debug("no int8 model: %s", error)
            return None

    def _make_int8(self) -> Int8Scorer | None:
        loaded = load_int8(self._artifacts)
        if loaded is None:
            return None
        return Int8Scorer(*loaded, self._artifacts.input_shape, self._artifacts.evaluation_batch_size)
