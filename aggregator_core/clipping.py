"""Norm clipping: no update goes farther than a bound; then their mean.

Sources: Sun et al., "Can You Really Backdoor Federated Learning?", 2019 (arXiv:1911.07963), for a fixed bound; Andrew
et al., "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021 (arXiv:1905.03871), for a quantile of the
norms as the bound. Theirs is estimated over rounds, because nobody may see the norms; here the controller sees them,
and the quantile is the round's own, so that a new controller needs no state.

It bounds what bad updates do; it does not find them. A minority can slow the training, not end it.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.checks import l2_norm
from aggregator_core.median import with_state
from aggregator_core.parameters import Parameter
from aggregator_core.rule import Received, RobustRule, majority
from aggregator_core.sums import weighted_sum
from aggregator_core.updates import F32, F64, refuse_non_finite


def finite_norms(rows: Sequence[F32]) -> F64:
    """L2 norms of rows, shape (n,), float64; raises RefusedUpdateError if a value is not finite."""
    with np.errstate(invalid="ignore"):
        norms = np.array([l2_norm(row) for row in rows])
    # Squares of float32 values and sums of them stay in float64, so only such values make such norms.
    if not np.isfinite(norms).all():
        refuse_non_finite(rows)
    return norms


@dataclass(frozen=True)
class _Clipping(RobustRule):
    """What fixed and adaptive clipping share."""

    def tolerates(self, n: int) -> int:
        """Below half: a majority of any size decides the direction."""
        return majority(n)

    @abc.abstractmethod
    def _bound(self, norms: F64) -> float:
        """The largest norm that stays; norms of shape (n,), float64."""

    def _combine(self, received: Received) -> F32:
        trained = self.trained(received.rows)
        norms = finite_norms(trained)
        bound = self._bound(norms)
        factors = np.ones(len(received.rows), np.float32)
        long = norms > bound
        factors[long] = (bound / norms[long]).astype(np.float32)
        return with_state(weighted_sum(trained, factors, float(len(received.rows))), received.rows)


@dataclass(frozen=True)
class NormClipping(_Clipping):
    """The mean of the updates, those with a larger L2 norm than `norm_max` shortened to it."""

    name: ClassVar[str] = "norm_clipping"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *RobustRule.parameters,
        Parameter("norm_max", float, 0, np.inf, "largest L2 norm of an update", above=True),
    )

    norm_max: float = 1.0

    def _bound(self, norms: F64) -> float:  # noqa: ARG002 - the same whatever they are
        return self.norm_max


@dataclass(frozen=True)
class AdaptiveClipping(_Clipping):
    """The mean of the updates, those longer than a quantile of the round's own norms shortened to it.

    A quantile of more than 1 - f / n could be a bad update's norm; then the smaller quantile counts.
    """

    name: ClassVar[str] = "adaptive_clipping"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *RobustRule.parameters,
        Parameter("quantile", float, 0, 1, "share of the updates that are not shortened", above=True, below=True),
    )

    quantile: float = 0.5

    def _bound(self, norms: F64) -> float:
        n = len(norms)
        rank = min(int(self.quantile * n), n - 1 - self.byzantine)
        return float(np.sort(norms)[rank])
