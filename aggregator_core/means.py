"""Means of updates: all of them weighted by examples, some also by what is known beside the values.

None of them bears a single bad update. Sources:

    fedavg      McMahan et al., AISTATS 2017 (arXiv:1602.05629)
    staleness   Xie et al., "Asynchronous Federated Optimization", 2019 (arXiv:1903.03934), polynomial weights
    fednova     Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
                NeurIPS 2020 (arXiv:2007.07481)
    qfedavg     Li et al., "Fair Resource Allocation in Federated Learning", ICLR 2020 (arXiv:1905.10497)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.checks import RefusedUpdateError
from aggregator_core.clipping import finite_norms
from aggregator_core.parameters import Parameter, ParameterError
from aggregator_core.rule import Received, Report, Rule
from aggregator_core.sums import float64_sum, weighted_average
from aggregator_core.updates import F32, F64


def momentum_steps(steps: int, momentum: float) -> float:
    """What `steps` local steps of SGD with momentum, 0 to below 1, count for in FedNova."""
    if steps < 1 or not 0 <= momentum < 1:
        raise ParameterError(f"steps is {steps!r}, not from 1, or momentum is {momentum!r}, not from 0 and below 1")
    geometric = momentum * (1 - momentum**steps) / (1 - momentum)
    return (steps - geometric) / (1 - momentum)


def proximal_steps(steps: int, learning_rate: float, proximal: float) -> float:
    """What `steps` local steps of FedProx count for in FedNova: learning_rate * proximal is 0 to below 1."""
    shrink = learning_rate * proximal
    if steps < 1 or not 0 <= shrink < 1:
        raise ParameterError(
            f"steps is {steps!r}, not from 1, or learning_rate * proximal is {shrink!r}, not from 0 and below 1"
        )
    return float(steps) if shrink == 0 else (1 - (1 - shrink) ** steps) / shrink


@dataclass(frozen=True)
class _Mean(Rule):
    """A mean, which one bad update can draw anywhere."""

    def tolerates(self, n: int) -> int:  # noqa: ARG002 - however many there are
        """None."""
        return 0


@dataclass(frozen=True)
class FedAvg(_Mean):
    """The mean weighted by examples; gives the bytes of `weighted_mean`."""

    name: ClassVar[str] = "fedavg"

    def _combine(self, received: Received) -> F32:
        return weighted_average(received.rows, received.counts.astype(np.float64))


@dataclass(frozen=True)
class StalenessWeighted(_Mean):
    """The mean weighted by examples times (1 + staleness) ** -exponent; reads `Report.staleness`."""

    name: ClassVar[str] = "staleness"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("exponent", float, 0, 10, "how fast old updates lose weight; 0: not at all"),
    )

    exponent: float = 0.5

    def _combine(self, received: Received) -> F32:
        ages = read(self.name, "staleness", received.reports)
        return weighted_average(received.rows, received.counts * power(1.0 + ages, -self.exponent))


@dataclass(frozen=True)
class FedNova(_Mean):
    """The mean of updates per local step, times the mean number of steps; reads `Report.steps`.

    A peer with more steps than others does not draw the model towards its own optimum. State is averaged by examples:
    it is not a sum of steps.
    """

    name: ClassVar[str] = "fednova"

    def _combine(self, received: Received) -> F32:
        steps = read(self.name, "steps", received.reports)
        examples = received.counts.astype(np.float64)
        share = examples / float(examples.sum())
        per_step = examples / steps
        trained = self.trained(received.rows)
        mean = weighted_average(trained, per_step)
        # The paper's sum(share * steps) * sum(share / steps * update) is a factor times the mean of these weights.
        factor = float(np.cumsum(share * steps)[-1]) * float(np.cumsum(share / steps)[-1])
        with np.errstate(over="ignore"):
            return finite(self.name, joined(mean * np.float32(factor), received.rows, examples))


@dataclass(frozen=True)
class QFedAvg(_Mean):
    """Updates weighted by loss ** q, so that peers for whom the model is bad count for more; reads `Report.loss`.

    The step is that of q-FedAvg, with the local learning rate as the inverse of its Lipschitz constant. With q of 0 it
    is `FedAvg`. State is averaged by examples.

    Attributes:
        q: 0: as FedAvg; the larger, the more equal the peers' losses become.
        learning_rate: Of the local training.
    """

    name: ClassVar[str] = "qfedavg"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("q", float, 0, 100, "0: as fedavg; the larger, the more equal losses become"),
        Parameter("learning_rate", float, 0, 1_000, "of the local training", above=True),
    )

    q: float = 1.0
    learning_rate: float = 0.1

    def _combine(self, received: Received) -> F32:
        losses = read(self.name, "loss", received.reports)
        examples = received.counts.astype(np.float64)
        if self.q == 0:
            return weighted_average(received.rows, examples)
        trained = self.trained(received.rows)
        # A loss of zero to a power below zero is no number; the paper's code adds the same.
        losses = losses + 1e-10
        # Relative to the largest, powers do not leave float64; numerator and divisor are scaled alike.
        largest = float(losses.max())
        weights = examples * power(losses / largest, self.q)
        norms = finite_norms(trained)
        curvature = (self.q / largest) * power(losses / largest, self.q - 1) * norms * norms / self.learning_rate
        divisor = float(np.cumsum(weights + examples * curvature)[-1])
        total = (float64_sum(trained, weights) / divisor).astype(np.float32)
        return finite(self.name, joined(total, received.rows, examples))


def power(base: F64, exponent: float) -> F64:
    """Powers of positive numbers to 32 bits, shape (n,): in the last of 53 bits C libraries differ."""
    values = np.array([math.pow(value, exponent) for value in base])
    mantissas, exponents = np.frexp(values)
    rounded: F64 = np.ldexp(np.rint(np.ldexp(mantissas, 32)), exponents - 32)
    return rounded


def read(rule: str, field: str, reports: Sequence[Report] | None) -> F64:
    """One field of all reports, shape (n,), float64; raises RefusedUpdateError where it is missing or of no use."""
    if reports is None:
        raise RefusedUpdateError(f"rule {rule} needs a report of each update, for its {field}")
    values = [float(getattr(report, field)) for report in reports]
    for value in values:
        if not math.isfinite(value) or value < 0 or (field == "steps" and value == 0):
            raise RefusedUpdateError(f"{field} is {value!r}, not a number {'above' if field == 'steps' else 'from'} 0")
    return np.array(values, np.float64)


def joined(trained: F32, rows: Sequence[F32], examples: F64) -> F32:
    """The trained part, shape (t,), with the state's mean by examples behind it; shape (p,), float32."""
    if trained.size == rows[0].size:
        return trained
    return np.concatenate([trained, weighted_average([row[trained.size :] for row in rows], examples)])


def finite(rule: str, update: F32) -> F32:
    """The update; raises RefusedUpdateError if a value has left float32."""
    if not np.isfinite(update).all():
        raise RefusedUpdateError(f"rule {rule}: the result leaves float32; reports or updates are too large")
    return update
