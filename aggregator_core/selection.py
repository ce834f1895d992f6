"""Order statistics of many columns at once: networks of comparators on rows instead of a sort of every column.

A comparator of rows i < j puts the smaller values into row i and the larger into row j: one `np.minimum` and one
`np.maximum` over a block of columns, which processors do many values at a time and without branches. Which comparators
are needed depends on n alone.

Sources: Batcher, "Sorting networks and their applications", AFIPS 1968; Knuth, "The Art of Computer Programming",
volume 3, 5.2.2, algorithm M (merge exchange), for any n.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from aggregator_core.updates import F32


class Comparator(NamedTuple):
    """Of rows i < j, which of its two outputs somebody uses, and which of the rows no later comparator touches."""

    i: int
    j: int
    low: bool
    high: bool
    last: tuple[int, ...]


def merge_exchange(n: int) -> list[tuple[int, int]]:
    """Comparators that sort n rows, the smallest values into row 0."""
    pairs: list[tuple[int, int]] = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top
    while p > 0 and n > 1:
        q, r, d = top, 0, p
        while True:
            pairs.extend((i, i + d) for i in range(n - d) if i & p == r)
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs


def extremes_outward(n: int, f: int) -> list[tuple[int, int]]:
    """Comparators that put the f smallest values into the first f rows and the f largest into the last f.

    What is between them stays in no order. For small f these are fewer than those of a sort. Rows go in by pairs, from
    the ends to the middle, and a pair passes all f extremes before the next goes in: few rows are worked on at a time.
    """
    pairs: list[tuple[int, int]] = []
    f = min(f, n // 2)
    for i in range(n // 2):
        j = n - 1 - i
        # The smaller value of a pair is no candidate for the largest, nor the larger for the smallest.
        for k in range(min(f, i)):
            pairs += [(i, j), (k, i), (j, n - 1 - k)]
        if i < f:
            pairs.append((i, j))
    if n % 2:
        for k in range(f):
            pairs += [(k, n // 2), (n // 2, n - 1 - k)]
    return pairs


def prune(pairs: Sequence[tuple[int, int]], wanted: Iterable[int]) -> tuple[Comparator, ...]:
    """Without the comparators and the halves of comparators on which no wanted row depends."""
    live = set(wanted)
    touched: set[int] = set()
    kept: list[Comparator] = []
    for i, j in reversed(pairs):
        if i in live or j in live:
            kept.append(Comparator(i, j, i in live, j in live, tuple(row for row in (i, j) if row not in touched)))
            live.update((i, j))
            touched.update((i, j))
    return tuple(reversed(kept))


def cost(network: Sequence[Comparator]) -> int:
    """Operations on a row that a network does."""
    return sum(it.low + it.high for it in network)


@lru_cache(maxsize=64)
def sorting(n: int, first: int, stop: int) -> tuple[Comparator, ...]:
    """The network that puts the values of ranks first to stop - 1, of which 0 is the smallest, into these rows.

    The smallest and the largest values come to their rows too: there, what is not finite is seen.
    """
    return prune(merge_exchange(n), {0, *range(first, stop), n - 1})


@lru_cache(maxsize=64)
def trimming(n: int, f: int) -> tuple[Comparator, ...]:
    """The cheaper network after which rows f to n - f - 1 hold all but the f smallest and the f largest values.

    The smallest and the largest values come to the ends, as with `sorting`; so f is at least one.
    """
    wanted = {0, *range(f, n - f), n - 1}
    return min(prune(extremes_outward(n, max(1, f)), wanted), prune(merge_exchange(n), wanted), key=cost)


@lru_cache(maxsize=64)
def sorting_ends_and_middle(n: int, k: int) -> tuple[Comparator, ...]:
    """The network that puts the k smallest, the k largest and the middle values into their rows, in order.

    The other values stay in no order, and none of them is lost: a comparator on which no wanted row depends is left
    out, not halved.
    """
    wanted = {*range(k), (n - 1) // 2, n // 2, *range(n - k, n)}
    live = wanted | {0, n - 1}
    kept: list[tuple[int, int]] = []
    for pair in reversed(merge_exchange(n)):
        if not live.isdisjoint(pair):
            kept.append(pair)
            live.update(pair)
    return prune(kept[::-1], range(n))


def run(network: Sequence[Comparator], rows: list[F32], pool: list[F32]) -> Iterator[int]:
    """Run a network, and tell which row has its result as soon as it has.

    Who needs no more of a row may then append its memory to the pool: what is worked on stays in a cache.

    Args:
        network: From `sorting` or `trimming` for n rows.
        rows: n arrays of shape (b,), float32; they are not modified. The list gets the results in their places; a row
            that no comparator has touched stays what it is, and is not told.
        pool: n + 1 arrays of shape (b,), float32, overwritten, in which results are; the list is used up.

    Yields:
        Indices of rows.
    """
    minimum, maximum = np.minimum, np.maximum
    own = [False] * len(rows)
    for i, j, low, high, last in network:
        a, b = rows[i], rows[j]
        # In place where there is a row of ours to overwrite; the first result of two must leave both inputs alone.
        if low:
            rows[i] = pool.pop() if high or not own[i] else a
            minimum(a, b, out=rows[i])
        if high:
            rows[j] = b if own[j] else pool.pop()
            maximum(a, b, out=rows[j])
        if low and high and own[i]:
            pool.append(a)
        own[i], own[j] = own[i] or low, own[j] or high
        yield from last


def apply(network: Sequence[Comparator], rows: list[F32], pool: list[F32]) -> None:
    """Run a network to its end, with the arguments of `run`."""
    for _ in run(network, rows, pool):
        pass
