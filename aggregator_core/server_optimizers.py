"""Server optimizers: the mean update of a round is a pseudo-gradient, and an optimizer makes the step of it.

Sources: Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
2019 (arXiv:1909.06335), for FedAvgM; Reddi et al., "Adaptive Federated Optimization", ICLR 2021 (arXiv:2003.00295),
algorithm 2, for FedAdagrad, FedAdam and FedYogi. Like there, nothing is corrected for the first rounds' bias.

An optimizer is frozen; what it remembers are named flat float32 arrays that the caller keeps with the model, so a new
controller goes on exactly where the last one ended. All is elementwise and gives the same bytes on every board.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.checks import RefusedUpdateError, check_update
from aggregator_core.parameters import Parameter, ParameterError, check_all
from aggregator_core.updates import F32

#: What an optimizer remembers: name to array of shape (t,), float32, t values of weights that gradients train.
State = dict[str, F32]

RATE = Parameter("learning_rate", float, 0, 1_000, "of the controller's step", above=True)
MOMENTUM = Parameter("momentum", float, 0, 1, "share of the earlier steps that is kept", below=True)
BETA1 = Parameter("beta1", float, 0, 1, "decay of the mean update", below=True)
BETA2 = Parameter("beta2", float, 0, 1, "decay of the mean square", below=True)
TAU = Parameter("tau", float, 0, 1_000, "adaptivity: what is added to the root of the mean square", above=True)


@dataclass(frozen=True)
class ServerOptimizer(abc.ABC):
    """An optimizer of the controller.

    Attributes:
        learning_rate: Of the controller's step.
    """

    name: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]] = (RATE,)
    #: Names of the arrays that it remembers.
    slots: ClassVar[tuple[str, ...]] = ()

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        check_all(self.name, self.parameters, self)

    def initial(self, size: int) -> State:
        """What is remembered before the first round: arrays of shape (size,), float32."""
        return {slot: np.full(size, self._initial(slot), np.float32) for slot in self.slots}

    def step(self, update: F32, state: Mapping[str, F32]) -> tuple[F32, State]:
        """One round.

        Args:
            update: Shape (p,), float32, finite: what an aggregation rule gave. Not modified.
            state: Of the round before, or `initial(t)`, t <= p; not modified. What stands in the vector behind t values
                is the model's own state; it is taken as it is.

        Returns:
            What is added to the model, shape (p,), float32, and what is to be kept for the next round.

        Raises:
            RefusedUpdateError: A value is not finite, or the state is another optimizer's, or leaves float32.
        """
        check_update(update, update.size)
        size = self._size(update, state)
        change = update.copy()
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            new = self._step(update[:size], state, change[:size])
        for name, value in (("update", change), *new.items()):
            if not np.isfinite(value).all():
                raise RefusedUpdateError(f"optimizer {self.name}: {name} leaves float32; lower learning_rate")
        return change, new

    def _size(self, update: F32, state: Mapping[str, F32]) -> int:
        if set(state) != set(self.slots):
            raise RefusedUpdateError(
                f"optimizer {self.name} remembers {sorted(self.slots)}, the state has {sorted(state)}: begin with "
                "initial()"
            )
        sizes = {value.size for value in state.values()}
        for slot, value in state.items():
            check_update(value, value.size)
            if len(sizes) > 1 or value.size > update.size:
                raise RefusedUpdateError(
                    f"optimizer {self.name}: {slot} has {value.size} values, {update.size} are there"
                )
            if self._initial(slot) > 0 and not (value >= 0).all():
                raise RefusedUpdateError(f"optimizer {self.name}: {slot} is negative somewhere, and its root is needed")
        return sizes.pop() if sizes else update.size

    def _initial(self, slot: str) -> float:  # noqa: ARG002 - the same for all, if a kind does not say otherwise
        """The value with which an array begins."""
        return 0.0

    @abc.abstractmethod
    def _step(self, update: F32, state: Mapping[str, F32], change: F32) -> State:
        """Put the step into `change` and return the new state; shapes (t,), float32."""


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """Momentum: v = momentum * v + update; the step is learning_rate * v."""

    name: ClassVar[str] = "fedavgm"
    parameters: ClassVar[tuple[Parameter, ...]] = (RATE, MOMENTUM)
    slots: ClassVar[tuple[str, ...]] = ("momentum",)

    momentum: float = 0.9

    def _step(self, update: F32, state: Mapping[str, F32], change: F32) -> State:
        velocity = state["momentum"] * np.float32(self.momentum) + update
        np.multiply(velocity, np.float32(self.learning_rate), out=change)
        return {"momentum": velocity}


@dataclass(frozen=True)
class _Adaptive(ServerOptimizer):
    """m = beta1 * m + (1 - beta1) * update; the step is learning_rate * m / (sqrt(v) + tau)."""

    slots: ClassVar[tuple[str, ...]] = ("mean", "square")

    learning_rate: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3

    def _initial(self, slot: str) -> float:
        # The paper's condition: v begins with at least tau squared.
        return self.tau**2 if slot == "square" else 0.0

    def _step(self, update: F32, state: Mapping[str, F32], change: F32) -> State:
        mean = state["mean"] * np.float32(self.beta1) + update * np.float32(1 - self.beta1)
        square = self._square(state["square"], np.square(update))
        np.divide(mean, np.sqrt(square) + np.float32(self.tau), out=change)
        np.multiply(change, np.float32(self.learning_rate), out=change)
        return {"mean": mean, "square": square}

    @abc.abstractmethod
    def _square(self, square: F32, new: F32) -> F32:
        """The next v of this one and of the update's square; shapes (t,), float32."""


@dataclass(frozen=True)
class FedAdagrad(_Adaptive):
    """v grows by the square of the update."""

    name: ClassVar[str] = "fedadagrad"
    parameters: ClassVar[tuple[Parameter, ...]] = (RATE, BETA1, TAU)

    beta1: float = 0.0

    def _square(self, square: F32, new: F32) -> F32:
        return square + new


@dataclass(frozen=True)
class FedAdam(_Adaptive):
    """v = beta2 * v + (1 - beta2) * square of the update."""

    name: ClassVar[str] = "fedadam"
    parameters: ClassVar[tuple[Parameter, ...]] = (RATE, BETA1, BETA2, TAU)

    beta2: float = 0.99

    def _square(self, square: F32, new: F32) -> F32:
        moved: F32 = square * np.float32(self.beta2) + new * np.float32(1 - self.beta2)
        return moved


@dataclass(frozen=True)
class FedYogi(_Adaptive):
    """v moves towards the square of the update by (1 - beta2) of that square, not of the difference."""

    name: ClassVar[str] = "fedyogi"
    parameters: ClassVar[tuple[Parameter, ...]] = (RATE, BETA1, BETA2, TAU)

    beta2: float = 0.99

    def _square(self, square: F32, new: F32) -> F32:
        moved: F32 = square - new * np.float32(1 - self.beta2) * np.sign(square - new)
        return moved


OPTIMIZERS: dict[str, type[ServerOptimizer]] = {it.name: it for it in (FedAvgM, FedAdagrad, FedAdam, FedYogi)}


def make_optimizer(name: str, /, **parameters: float) -> ServerOptimizer:
    """A server optimizer by name.

    Args:
        name: One of OPTIMIZERS.
        parameters: Those of its `parameters` that are not to have their default.

    Raises:
        ParameterError: The name or a parameter is unknown, or a value is out of its range.
    """
    kind = OPTIMIZERS.get(name)
    if kind is None:
        raise ParameterError(f"optimizer {name[:80]!r} is not one of {', '.join(OPTIMIZERS)}")
    known = [it.name for it in kind.parameters]
    for unknown in sorted(set(parameters) - set(known)):
        raise ParameterError(f"optimizer {name}: {unknown[:80]!r} is not one of {', '.join(known)}")
    return kind(**parameters)
