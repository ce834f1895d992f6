"""What aggregation costs: `python -m bench.aggregate`, or `make bench-aggregate`.

Every rule on stacks of n updates of p float32 values, in turns with `np.copyto` of the same stack and with the obvious
numpy for the same result. What counts are ratios of one turn, of which the median is told: `copy / it` of 1 is as fast
as copying the stack. Times are of the processor, so that what else runs takes no more than memory's speed. The obvious
numpy is left out for large stacks, and stacks that memory does not hold are skipped.

Targets of 64 x 1,000,000: the mean at the speed of a copy; the stream at 0.7 of it; median and trimmed mean at 4 times
the speed of `np.median` and `np.sort`, for 16 updates too. Bulyan is to take a tenth of what another framework's took
where `np.median` of the same stack took a second: 3 s. So its target is 0.3 times this run's `np.median`.

The stream that looks at every value itself is short of its target, and would be with any arithmetic: either an update
is read twice, or sums go to a second place, since on an error the mean is as before. Beside it stands what one look
costs: `np.max` of each update.

A BLAS has one thread here, as in the daemon.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aggregator_core import StreamingMean, weighted_mean
from aggregator_core.bulyan import select
from aggregator_core.krum import ranking
from aggregator_core.rule import Report
from aggregator_core.rules import RULES, make_rule
from aggregator_core.updates import F32, F64
from bench.tables import report

NUMBERS = (4, 16, 64, 256)
SIZES = (26_698, 1_000_000, 10_000_000)
#: Values of a stack, at most, and with the obvious numpy beside it.
VALUES_MAX = 300_000_000
OBVIOUS_MAX = 70_000_000
#: Stacks that have to fit into free memory: the stack, its copy, float64 in the obvious numpy.
STACKS = 6
#: The stacks that targets are about.
MILLION = 1_000_000
Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        title: What is measured.
        run: Does it once.
        obvious: The same with the obvious numpy; None: not measured.
        beside: What that is.
        copies: Target for `copy / it`.
        times: Target for `obvious / it`.
    """

    title: str
    run: Run
    obvious: Run | None = None
    beside: str = ""
    copies: float | None = None
    times: float | None = None


def distances(stack: F32) -> F64:
    """Squared distances, the obvious way."""
    return np.array([((stack - row) ** 2).sum(1, dtype=np.float64) for row in stack])


def obvious_trimmed(stack: F32) -> F32:
    """Sorted, cut, averaged."""
    return np.sort(stack, axis=0)[1:-1].mean(0)


def obvious_clipped(stack: F32) -> F32:
    """Norms, their median, the mean of what is shortened."""
    norms = np.linalg.norm(stack, axis=1)
    return (stack * np.minimum(1, np.median(norms) / norms)[:, None]).mean(0)


def obvious_krum(stack: F32) -> F32:
    """The update of the smallest score."""
    return stack[ranking(distances(stack), 1)[0]]


def obvious_bulyan(stack: F32) -> F32:
    """Chosen one after another, sorted by their distance to the median."""
    chosen = stack[select(distances(stack), 1)]
    order = np.argsort(np.abs(chosen - np.median(chosen, axis=0)), axis=0)
    return np.take_along_axis(chosen, order[: len(chosen) - 2], axis=0).mean(0)


def obvious_geometric(stack: F32, iterations: int = 10) -> F32:
    """Iterations of Weiszfeld's algorithm."""
    center = stack.mean(0)
    for _ in range(iterations):
        weights = 1 / np.maximum(np.linalg.norm(stack - center, axis=1), 1e-6)
        center = np.average(stack, axis=0, weights=weights)
    return center


OBVIOUS: dict[str, tuple[str, Callable[[F32], Any]]] = {
    "median": ("np.median", lambda stack: np.median(stack, axis=0)),
    "trimmed_mean": ("np.sort", obvious_trimmed),
    "adaptive_clipping": ("norms, product, mean", obvious_clipped),
    "krum": ("a loop of differences", obvious_krum),
    "bulyan": ("the same, np.median, np.argsort", obvious_bulyan),
    "geometric_median": ("10 iterations", obvious_geometric),
}


def streamed(stack: F32, counts: Sequence[int], checked: bool) -> F32:
    """One update after another."""
    stream = StreamingMean(stack.shape[1])
    for row, count in zip(stack, counts, strict=True):
        stream.add(row, count, checked=checked)
    return stream.result()


def cases_of(stack: F32) -> list[Case]:
    """Everything that is measured with a stack."""
    n, size = stack.shape
    counts = [1000 + 7 * i for i in range(n)]
    reports = [Report(steps=1.0 + i, staleness=i % 3, loss=1.0 + i) for i in range(n)]
    judged = n == 64 and size == MILLION
    small = stack.size <= OBVIOUS_MAX
    one = 1.0 if judged else None
    average: Run | None = (lambda: np.average(stack, axis=0, weights=counts)) if small else None
    mean: Run | None = (lambda: stack.mean(0)) if small else None
    cases = [
        Case("mean, counts that differ", lambda: weighted_mean(stack, counts), average, "np.average", one),
        Case("mean, equal counts", lambda: weighted_mean(stack, [100] * n), mean, "np.mean", one),
        Case("stream", lambda: streamed(stack, counts, False), average, "np.average", 0.7 if judged else None),
        Case(
            "stream of checked updates",
            lambda: streamed(stack, counts, True),
            average,
            "np.average",
            0.7 if judged else None,
        ),
    ]
    cases.append(Case("one look at every value", lambda: [row.max() for row in stack]))
    for name in RULES:
        rule = make_rule(name)
        if name == "fedavg" or rule.tolerates(n) < rule.required:
            continue
        beside, obvious = OBVIOUS.get(name, ("", None)) if small else ("", None)
        run = None if obvious is None else partial(obvious, stack)
        network = name in {"median", "trimmed_mean"} and size == MILLION and n in {16, 64}
        own = partial(rule.aggregate, stack, counts, reports)
        cases.append(Case(name, own, run, beside, times=4.0 if network else None))
    return cases


def seconds(run: Run) -> float:
    """What one run takes of the processor: everything measured here is of one thread."""
    started = time.thread_time()
    run()
    return time.thread_time() - started


def rows_of(n: int, size: int, turns: int) -> list[dict[str, Any]]:
    """Lines of the table for stacks of n updates."""
    stack = np.random.default_rng(1).standard_normal((n, size), np.float32)
    target = np.zeros_like(stack)
    rows = []
    reference = None
    for case in cases_of(stack):
        case.run()
        copies, own = [], []
        for _ in range(turns):
            copies.append(seconds(lambda: np.copyto(target, stack)))
            own.append(seconds(case.run))
        # Memory that was never touched is slow: where there is a target, both have been run before.
        if case.times and case.obvious is not None:
            case.obvious()
        # The obvious way takes so much longer that it is measured once, but for small stacks.
        others = [] if case.obvious is None else [seconds(case.obvious) for _ in range(turns if size < MILLION else 1)]
        took = statistics.median(own)
        ratio = statistics.median(copy / it for copy, it in zip(copies, own, strict=True))
        times = statistics.median(others) / took if others else None
        if case.title == "median" and others:
            reference = statistics.median(others)
        wanted = [f"{case.copies:g} copies"] if case.copies else [f"{case.times:g} times"] if case.times else []
        reached = [ratio >= case.copies] if case.copies else [times >= case.times] if case.times and times else []
        if case.title == "bulyan" and n == 64 and size == MILLION and reference is not None:
            wanted, reached = [f"{0.3 * reference * 1e3:.0f} ms"], [took <= 0.3 * reference]
        rows.append(
            {
                "n": n,
                "p": size,
                "rule": case.title,
                "ms": round(took * 1e3, 3),
                "GB/s": round(stack.nbytes / took / 1e9, 2),
                "copy / it": round(ratio, 3),
                "obvious": case.beside if others else "",
                "obvious / it": "" if times is None else round(times, 2),
                "target": "".join(wanted),
                "reached": "".join("yes" if it else "NO" for it in reached),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.aggregate", description="speed of aggregation rules")
    parser.add_argument("--numbers", type=int, nargs="+", default=NUMBERS, help="of updates")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of an update")
    parser.add_argument("--turns", type=int, default=5, help="of each measurement (default %(default)s)")
    parser.add_argument("--values-max", type=int, default=VALUES_MAX, help="of a stack (default %(default)s)")
    options = parser.parse_args(arguments)
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        # numpy reads it while it is loaded.
        command = [sys.executable, "-m", "bench.aggregate", *(sys.argv[1:] if arguments is None else arguments)]
        subprocess.run(command, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, check=True)
        return
    rows = []
    for size in options.sizes:
        for n in options.numbers:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            if n * size > options.values_max or STACKS * 4 * n * size > free:
                print(f"{n} x {size}: skipped, too large")
                continue
            rows += rows_of(n, size, options.turns)
            print(f"{n} x {size}: measured", flush=True)
    report("aggregate", "Aggregation of n updates of p float32 values, beside a copy of the stack and numpy", rows)


if __name__ == "__main__":
    main()
