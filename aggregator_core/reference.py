"""The same arithmetic as obvious loops: too slow to use, plain enough to believe; the tests compare with it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def weighted_mean(updates: Sequence[Sequence[float]], counts: Sequence[int]) -> list[float]:
    """Exact weighted mean, value by value, rounded once at the end."""
    total = sum(counts)
    result = []
    for values in zip(*updates, strict=True):
        exact = sum((Fraction(value) * count for value, count in zip(values, counts, strict=True)), Fraction(0))
        result.append(float(exact / total))
    return result
