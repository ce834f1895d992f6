"""How much differential privacy Gaussian noise gives over many releases: epsilon and delta of their composition.

A release is a vector of bounded L2 sensitivity with Gaussian noise. Its Renyi divergence of order a is at most
a / (2 z**2), where z, the noise multiplier, is the noise's standard deviation over the sensitivity: Mironov, "Renyi
Differential Privacy", CSF 2017, proposition 7 (arXiv:1702.07476). Divergences of releases add up, also when a release
depends on the earlier ones (proposition 1), so that one number describes them all: rho, the sum of 1 / (2 z**2), for
which a * rho bounds the divergence of every order a (Bun and Steinke, TCC 2016, arXiv:1605.02065).

From that, the smallest epsilon for a delta over all real orders: Canonne, Kamath and Steinke, "The Discrete Gaussian
for Differential Privacy", NeurIPS 2020, proposition 12 (arXiv:2004.00010). It is above the exact epsilon of composed
Gaussian noise (Balle and Wang, ICML 2018, arXiv:1805.06530) by some per cent, so what is reported is a bound.

There is no amplification by sampling: who trains in a round is published, and not drawn by independent coins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aggregator_core.parameters import Parameter, ParameterError

#: Halvings of an interval of positive floats after which nothing is between its ends, whatever they are.
HALVINGS = 2_200
NOISE_MULTIPLIER = Parameter(
    "noise_multiplier",
    float,
    1e-3,
    1e3,
    "standard deviation of the noise over the sensitivity, which is twice the clip",
)
DELTA = Parameter("delta", float, 1e-100, 1, "probability with which epsilon may not hold; below 1 / peers", below=True)
ROUNDS = Parameter("rounds", int, 0, 2**53, "releases with noise")
EPSILON = Parameter("epsilon", float, 0, 1e6, "of the whole run", above=True)
NAME = "privacy"


@dataclass(frozen=True, slots=True)
class Spent:
    """What releases have cost so far; it is kept with a run, beside its round.

    Attributes:
        rho: Sum of 1 / (2 z**2) over the releases, z their noise multipliers.
    """

    rho: float = 0.0

    def __post_init__(self) -> None:
        Parameter("rho", float, 0, math.inf, "sum of 1 / (2 z**2)").check(NAME, self.rho)

    def after(self, noise_multiplier: float, rounds: int = 1) -> Spent:
        """What is spent when these releases have been made, too; raises ParameterError."""
        NOISE_MULTIPLIER.check(NAME, noise_multiplier)
        ROUNDS.check(NAME, rounds)
        return Spent(self.rho + rounds / (2 * noise_multiplier**2))

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon known for a delta, at least 0; raises ParameterError."""
        DELTA.check(NAME, delta)
        return max(0.0, epsilon_of_order(self.rho, delta, best_order_above_one(self.rho, delta)))


def epsilon_of_order(rho: float, delta: float, above_one: float) -> float:
    """Epsilon by the divergence of one order, which is 1 + `above_one`: the proposition's formula."""
    log_order = math.log1p(above_one)
    return (1 + above_one) * rho + math.log(above_one) - log_order - (math.log(delta) + log_order) / above_one


def best_order_above_one(rho: float, delta: float) -> float:
    """The order of the smallest epsilon, less one, for rho from 0.

    The formula's derivative is rho + (log(delta) + log(order)) / (order - 1)**2. It is zero where rho * (order - 1)**2,
    which grows, meets -log(delta * order), which falls and is zero at 1 / delta: exactly once.
    """
    log_delta = math.log(delta)
    low, high = 0.0, -math.expm1(log_delta) / delta
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if rho * middle * middle < -log_delta - math.log1p(middle):
            low = middle
        else:
            high = middle
    return high


def epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """Epsilon of a run.

    Args:
        noise_multiplier: Standard deviation of the noise over the sensitivity, the same in all rounds.
        rounds: Releases with noise: models of a run, or updates of one peer. A round that was released twice, because
            another controller took over, counts twice.
        delta: Probability with which it may not hold.

    Raises:
        ParameterError: A value is out of its range.
    """
    return Spent().after(noise_multiplier, rounds).epsilon(delta)


def noise_multiplier_for(epsilon: float, rounds: int, delta: float) -> float:
    """The smallest noise multiplier with which a run has at most this epsilon, to the last bits.

    Args:
        epsilon: Of the whole run, above 0.
        rounds: Releases with noise, at least 1.
        delta: Probability with which it may not hold.

    Raises:
        ParameterError: A value is out of its range, or no noise multiplier within its own is enough.
    """
    EPSILON.check(NAME, epsilon)
    Parameter("rounds", int, 1, ROUNDS.high, ROUNDS.text).check(NAME, rounds)
    low, high = NOISE_MULTIPLIER.low, NOISE_MULTIPLIER.high
    if Spent().after(low, rounds).epsilon(delta) <= epsilon:
        return low
    if Spent().after(high, rounds).epsilon(delta) > epsilon:
        raise ParameterError(
            f"rule {NAME}: epsilon is {epsilon:g}, which {rounds} rounds with delta {delta:g} cannot have with a "
            f"noise_multiplier up to {high:g}; raise it, or lower rounds"
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if Spent().after(middle, rounds).epsilon(delta) > epsilon:
            low = middle
        else:
            high = middle
    return high
