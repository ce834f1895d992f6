"""What a backend does: train and evaluate the model on flat weight vectors, cancellable between batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]


class Examples(Protocol):
    """uint8 examples, shape (n, ...): a numpy array, or rows that stay in their file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""

    def __getitem__(self, key: Any) -> U8:
        """The rows of a slice or of an array of indices."""


class Cancelled(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The work was cancelled between two batches; nothing of it remains."""


class TrainingDivergedError(Exception):
    """The loss or the weights are not finite any more."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training gave.

    Attributes:
        weights: Shape (p,), float32.
        loss: Mean over the examples of the last epoch.
        examples: In the shard.
        steps: Batches of all epochs.
        seconds: Wall time.
    """

    weights: F32
    loss: float
    examples: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What a model scores: accuracy in 0..1 and mean cross-entropy over `examples`, in `seconds`.

    The loss of a model with huge weights may be no finite number.
    """

    accuracy: float
    loss: float
    examples: int
    seconds: float


class Trainer(Protocol):
    """A backend; not safe for use by several threads at a time."""

    @property
    def runtime(self) -> str:
        """Name and version of the interpreter or framework."""

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
        """Train from `weights` (shape (p,), not modified) on x (n, ...) and y (n,).

        The same arguments give the same bytes on the same kind of processor.

        Args:
            weights: Where training starts, and what the proximal term holds on to.
            x: Examples.
            y: Labels.
            epochs: Passes over the examples.
            learning_rate: Of the model's optimizer.
            seed: Of the order of the examples and of what dropout drops.
            cancelled: Asked before each batch.
            proximal: The strength mu of FedProx's term mu / 2 * |w - weights|^2 (Li et al. 2020).
            correction: Added to the gradient of every step, before clipping and optimizer: shape (t,), float32, finite,
                t values of weights that gradients train; not modified. None: nothing. SCAFFOLD's c - c_i (Karimireddy
                et al. 2020).

        Raises:
            Cancelled: `cancelled()` was true between two batches.
            TrainingDivergedError: The result is not finite.
            ValueError: `correction` has another shape or dtype, or a value that is not finite.
        """

    def evaluate(self, weights: F32, x: Examples, y: I32, *, cancelled: Callable[[], bool]) -> EvaluationResult:
        """Score `weights` on x and y; raises Cancelled."""

    def evaluate_int8(
        self, weights: F32, x: Examples, y: I32, *, cancelled: Callable[[], bool], predicted: I32 | None = None
    ) -> float | None:
        """Accuracy of the int8 model of `weights`, 0..1; None where there is none. Raises Cancelled.

        Args:
            weights: Shape (p,).
            x: Examples, shape (n, ...).
            y: Their classes, shape (n,).
            cancelled: Asked between batches.
            predicted: Where the model's classes are written, shape (n,).
        """
