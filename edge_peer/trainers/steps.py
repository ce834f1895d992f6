"""Local training and evaluation as batches through two functions, `train` and `infer`, whatever runs them.

The exported step takes the flat weight vector as an input and gives the new one as an output, so a step is: gather a
batch into its input, run, copy the new weights from output to input. All backends share this loop, so they see the same
examples in the same order, and drop the same units.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

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
#: Gives the memory of an array; of a number, a copy. Ask each time: no interpreter runs while somebody keeps an array.
Buffer = Callable[[], npt.NDArray[Any]]
#: Examples up to this size are in memory while a training is on: a picked row then takes 0.1 us, and 0.7 from its file,
#: which is a twentieth of a small model's step. A peer's peak, about 60 MiB, rises by as much.
HELD_BYTES_MAX = 5 * 2**20
#: What a step takes and gives.
CARRIED = ("weights", "slots")


def shuffled(count: int, rng: random.Random) -> npt.NDArray[np.int64]:
    """0 to count - 1 in random order, the same on every board and with every release of numpy.

    Sorted by random bytes: numpy's own generators promise no stable streams (NEP 19), and take 2.4 MB to import.
    """
    keys = np.frombuffer(rng.randbytes(8 * count), "<u8")
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def gather(x: Examples, picked: npt.NDArray[np.int64], out: Buffer) -> None:
    """Copy the picked examples to where a batch of them begins."""
    if isinstance(x, np.ndarray):
        # With "raise", numpy would write to a copy first.
        np.take(x, picked, axis=0, out=out()[: len(picked)], mode="clip")
    else:
        # The right side first: with an error of the disk, nobody has the buffer.
        out()[: len(picked)] = x[picked]


class Step(Protocol):
    """One optimizer step, on memory that stays where it is: what is not written is the same in the next run."""

    @property
    def inputs(self) -> Mapping[str, Buffer]:
        """To be written to; numbers by `set`."""

    @property
    def outputs(self) -> Mapping[str, Buffer]:
        """Of the last run."""

    def set(self, name: str, value: npt.ArrayLike) -> None:
        """Write an input, all of it: a value for each place, or one for all."""

    def run(self) -> None:
        """Compute the outputs from the inputs."""


class StepTrainer:
    """A backend out of the exported functions.

    Args:
        artifacts: The exported model.
        runtime: Name and version of what runs it.
        step: One optimizer step.
        infer: Logits and losses of a batch.
    """

    def __init__(self, artifacts: ModelArtifacts, runtime: str, step: Step, infer: Function) -> None:
        self._artifacts = artifacts
        self.runtime = runtime
        self._step = step
        self._infer = infer
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
        constants = (learning_rate, proximal, self._constant(weights, proximal, correction))
        self._start(weights, *constants)
        step, inputs, outputs = self._step, self._step.inputs, self._step.outputs
        carried = [(outputs[name], inputs[name]) for name in CARRIED if name in inputs]
        if math.prod(x.shape) <= HELD_BYTES_MAX:
            # Read, not mapped: a failing SD card then raises OSError here, and does not kill the process.
            x = x[:]
        steps, weighted, loss = 0, batch, 0.0
        for _ in range(epochs):
            order = shuffled(examples, rng)
            total = 0.0
            for start in range(0, examples, batch):
                if cancelled():
                    raise Cancelled
                picked = order[start : start + batch]
                count = len(picked)
                gather(x, picked, inputs["x"])
                gather(y, picked, inputs["y"])
                if count != weighted:
                    step.set("sample_weight", np.arange(batch) < count)
                    weighted = count
                steps += 1
                self._renew(steps, rng)
                step.run()
                for given, taken in carried:
                    taken()[:] = given()
                total += float(outputs["loss"]()) * count
            loss = total / examples
        current: F32 = inputs["weights"]().copy()
        if not (np.isfinite(loss) and np.isfinite(current).all()):
            raise TrainingDivergedError(
                f"loss or weights are not finite with learning_rate {learning_rate:g}; choose a smaller one"
            )
        return TrainingResult(current, loss, examples, steps, time.perf_counter() - started)

    def _start(self, weights: F32, learning_rate: float, proximal: float, constant: F32) -> None:
        """Write all inputs, so that nothing of a training before is left."""
        given: dict[str, npt.ArrayLike] = {
            "weights": weights,
            "sample_weight": 1.0,
            "learning_rate": learning_rate,
            "proximal": proximal,
            "correction": constant,
        }
        for name in self._step.inputs:
            self._step.set(name, given.get(name, 0))

    def _renew(self, steps: int, rng: random.Random) -> None:
        """Write what is new in each step of some models: its number, and random ones for dropout."""
        inputs = self._step.inputs
        if "count" in inputs:
            self._step.set("count", steps)
        if "noise" in inputs:
            numbers = inputs["noise"]().size
            self._step.set("noise", np.frombuffer(rng.randbytes(4 * numbers), "<i4"))

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

    def evaluate_int8(
        self, weights: F32, x: Examples, y: I32, *, cancelled: Callable[[], bool], predicted: I32 | None = None
    ) -> float | None:
        """See `Trainer.evaluate_int8`."""
        if not self._int8_known:
            self._int8_known = True
            self._int8 = self._make_int8()
        if self._int8 is None:
            return None
        try:
            return self._int8.evaluate(weights, x, y, cancelled, predicted)
        except NotQuantizableError as error:
            # As before the first round, when nobody has seen an activation.
            LOG.debug("no int8 model: %s", error)
            return None

    def _make_int8(self) -> Int8Scorer | None:
        loaded = load_int8(self._artifacts)
        if loaded is None:
            return None
        return Int8Scorer(*loaded, self._artifacts.input_shape, self._artifacts.evaluation_batch_size)
