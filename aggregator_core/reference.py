"""The same arithmetic as obvious loops: too slow to use, plain enough to believe; the tests compare with it."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from fractions import Fraction

Row = Sequence[float]


def weighted_mean(updates: Sequence[Row], counts: Sequence[float]) -> list[float]:
    """Exact weighted mean, value by value, rounded once at the end."""
    weights = [Fraction(count) for count in counts]
    total = sum(weights)
    result = []
    for values in zip(*updates, strict=True):
        exact = sum((Fraction(value) * weight for value, weight in zip(values, weights, strict=True)), Fraction(0))
        result.append(float(exact / total))
    return result


def plain_mean(updates: Sequence[Row]) -> list[float]:
    """The mean of all updates alike."""
    return weighted_mean(updates, [1] * len(updates))


def staleness(updates: Sequence[Row], counts: Sequence[int], staleness: Sequence[int], exponent: float) -> list[float]:
    """Mean weighted by examples and by a power of the age."""
    return weighted_mean(
        updates, [count * (1 + age) ** -exponent for count, age in zip(counts, staleness, strict=True)]
    )


def fednova(updates: Sequence[Row], counts: Sequence[int], steps: Sequence[float]) -> list[float]:
    """Mean of the updates per step, times the mean number of steps."""
    shares = [count / sum(counts) for count in counts]
    effective = sum(share * step for share, step in zip(shares, steps, strict=True))
    return [
        effective * math.fsum(share * value / step for share, value, step in zip(shares, values, steps, strict=True))
        for values in zip(*updates, strict=True)
    ]


def qfedavg(
    updates: Sequence[Row], counts: Sequence[int], losses: Sequence[float], q: float, learning_rate: float
) -> list[float]:
    """As in the paper: delta is L (w - w_k), h is q F^(q-1) |delta|^2 + L F^q, the step is sum F^q delta / sum h."""
    smoothness = 1 / learning_rate
    losses = [loss + 1e-10 for loss in losses]
    divisor = 0.0
    sums = [0.0] * len(updates[0])
    for update, count, loss in zip(updates, counts, losses, strict=True):
        delta = [smoothness * value for value in update]
        square = math.fsum(value * value for value in delta)
        divisor += count * (q * loss ** (q - 1) * square + smoothness * loss**q)
        sums = [total + count * loss**q * value for total, value in zip(sums, delta, strict=True)]
    return [total / divisor for total in sums]


def median(updates: Sequence[Row]) -> list[float]:
    """Median of each coordinate."""
    return [statistics.median(values) for values in zip(*updates, strict=True)]


def trimmed_mean(updates: Sequence[Row], f: int) -> list[float]:
    """Mean of each coordinate without its f smallest and f largest values."""
    return [float(statistics.fmean(sorted(values)[f : len(values) - f])) for values in zip(*updates, strict=True)]


def distance(a: Row, b: Row) -> float:
    """Euclidean distance."""
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def clipped_mean(updates: Sequence[Row], bound: float) -> list[float]:
    """Mean of the updates, those longer than the bound shortened to it."""
    shortened = []
    for update in updates:
        norm = distance(update, [0.0] * len(update))
        shortened.append([value * min(1.0, bound / norm) if norm > 0 else value for value in update])
    return plain_mean(shortened)


def krum_order(updates: Sequence[Row], f: int) -> list[int]:
    """Indices from the smallest of Krum's scores on; then the smaller sum of all distances, then the index."""
    n = len(updates)
    keys = []
    for i in range(n):
        squares = sorted(distance(updates[i], updates[j]) ** 2 for j in range(n) if j != i)
        keys.append((math.fsum(squares[: max(1, n - f - 2)]), math.fsum(squares), i))
    return [i for _, _, i in sorted(keys)]


def krum(updates: Sequence[Row], f: int) -> list[float]:
    """The update of the smallest score."""
    return list(updates[krum_order(updates, f)[0]])


def multi_krum(updates: Sequence[Row], f: int) -> list[float]:
    """The mean of the n - f - 2 updates of the smallest scores."""
    return plain_mean([updates[i] for i in krum_order(updates, f)[: max(1, len(updates) - f - 2)]])


def bulyan(updates: Sequence[Row], f: int) -> list[float]:
    """Krum's choice n - 2f times, without what is chosen already; then the mean of the values nearest to the median."""
    left, chosen = list(updates), []
    for _ in range(len(updates) - 2 * f):
        chosen.append(left.pop(krum_order(left, f)[0]))
    result = []
    for values in zip(*chosen, strict=True):
        center = statistics.median(values)
        nearest = sorted(values, key=lambda value: (abs(value - center), value))[: len(values) - 2 * f]
        result.append(float(statistics.fmean(nearest)))
    return result


def sum_of_distances(point: Row, updates: Sequence[Row]) -> float:
    """What the geometric median makes smallest."""
    return math.fsum(distance(point, update) for update in updates)


def centered_clipping(updates: Sequence[Row], radius: float | None, iterations: int) -> list[float]:
    """From the median on: the mean of the steps to all updates, none longer than the radius."""
    center = median(updates)
    for _ in range(iterations):
        away = [distance(update, center) for update in updates]
        if radius is None:
            radius = sorted(away)[(len(away) - 1) // 2]
        steps = [1.0 if far <= radius else radius / far for far in away]
        center = [
            middle + math.fsum(step * (value - middle) for step, value in zip(steps, values, strict=True)) / len(steps)
            for middle, values in zip(center, zip(*updates, strict=True), strict=True)
        ]
    return center


def zero_one(network: Sequence[tuple[int, int]], n: int) -> list[list[int]]:
    """What a network makes of each sequence of n zeros and ones: a network that sorts these sorts everything."""
    results = []
    for values in itertools.product((0, 1), repeat=n):
        rows = list(values)
        for i, j in network:
            rows[i], rows[j] = min(rows[i], rows[j]), max(rows[i], rows[j])
        results.append(rows)
    return results
