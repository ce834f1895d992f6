"""Aggregation rules by name, with their parameters and what these may be.

    rule = make_rule("trimmed_mean", byzantine=2, trained_size=layout.trained_size)
    rule.tolerates(n)                        bad updates that it bears among n
    rule.aggregate(updates, counts)          shape (p,), float32

The order of the updates decides the last bits of a result and the choice between equal ones: callers sort by peer. Then
every board gets the same bytes, for every rule: nothing depends on how a processor sums.
"""

from __future__ import annotations

from aggregator_core.bulyan import Bulyan
from aggregator_core.centered_clipping import CenteredClipping
from aggregator_core.clipping import AdaptiveClipping, NormClipping
from aggregator_core.geometric_median import GeometricMedian
from aggregator_core.krum import Krum, MultiKrum
from aggregator_core.means import FedAvg, FedNova, QFedAvg, StalenessWeighted
from aggregator_core.median import CoordinateMedian, TrimmedMean
from aggregator_core.parameters import ParameterError
from aggregator_core.rule import Rule

RULES: dict[str, type[Rule]] = {
    it.name: it
    for it in (
        FedAvg,
        StalenessWeighted,
        FedNova,
        QFedAvg,
        CoordinateMedian,
        TrimmedMean,
        NormClipping,
        AdaptiveClipping,
        Krum,
        MultiKrum,
        Bulyan,
        GeometricMedian,
        CenteredClipping,
    )
}


def make_rule(name: str, /, *, trained_size: int | None = None, **parameters: float | None) -> Rule:
    """A rule by name.

    Args:
        name: One of RULES.
        trained_size: Values at the vector's beginning that gradients train, `Layout.trained_size`; None: all.
        parameters: Those of its `parameters` that are not to have their default.

    Raises:
        ParameterError: The name or a parameter is unknown, or a value is out of its range.
    """
    kind = RULES.get(name)
    if kind is None:
        raise ParameterError(f"rule {name[:80]!r} is not one of {', '.join(RULES)}")
    known = [it.name for it in kind.parameters]
    for unknown in sorted(set(parameters) - set(known)):
        raise ParameterError(f"rule {name}: {unknown[:80]!r} is not one of {', '.join(known) or 'none'}")
    return kind(trained_size=trained_size, **parameters)
