"""Whether anything has grown that should not have.

Memory: the slope of a straight line through a process's resident memory over the rounds, by least squares, with the
standard error of that slope. Samples that follow each other are alike, so the error counts only as many of them as
would be worth the same if they were not (by the residuals' correlation from one sample to the next).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.processes import Figures
from bench.soak.samples import BROKER, GROWS, KEPT, KEPT_BYTES_MAX, Samples, Series

KIB = 1024
#: An allocator and an interpreter take what they need in the first rounds, and once more in another role.
WARM_ROUNDS = 100
#: Of fewer samples, those of a third could be all of a moment in which a file is written.
SAMPLES_MIN = 15
#: A slope of fewer rounds says nothing.
ROUNDS_MIN = 400
#: The loop, the training, the interpreter's own, and one each for the disk and for kept updates, made when needed.
THREADS_MAX = 6
#: Of the broker, beside one for each peer: its own, and the onlooker's. It has none of a peer that is away.
BROKER_DESCRIPTORS = 12
#: KiB a hundred rounds that may be there for sure, that is, less twice its error. An allocator touches a page for the
#: first time now and then, for thousands of rounds, though what is in use stays the same (mallinfo2(3) tells both). One
#: small model that stays behind in each round would be a thousand.
SLOPE_KIB_MAX = 50.0
#: Of what has a line for each round: bytes a round. A row of the CSV; a round in the log, for each peer in it.
CSV_BYTES_MAX = 400
LOG_BYTES_MAX = 600
#: What does not grow by design may be so many times as large as early on, and so many bytes.
FILE_TIMES_MAX = 1.5
FILE_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Slope:
    """KiB a hundred rounds, with twice the standard error."""

    kib: float
    error_kib: float
    rounds: int


def slope(series: Series, later: bool = False) -> Slope | None:
    """Of a process's resident memory, once it is warm; None: it was not watched for long enough.

    Args:
        series: Its samples.
        later: Of the second half of its rounds alone.
    """
    if not series.at:
        return None
    first = series.at[0] + (max(WARM_ROUNDS, series.rounds // 2) if later else WARM_ROUNDS)
    taken = [(at, it.rss_bytes / KIB) for at, it in zip(series.at, series.figures, strict=True) if at >= first]
    if len(taken) < SAMPLES_MIN or taken[-1][0] - taken[0][0] < ROUNDS_MIN:
        return None
    x = np.array([at for at, _ in taken], dtype=np.float64) / 100
    y = np.array([rss for _, rss in taken], dtype=np.float64)
    x -= x.mean()
    kib = float(x @ (y - y.mean()) / (x @ x))
    left = y - y.mean() - kib * x
    total = float(left @ left)
    alike = float(left[1:] @ left[:-1]) / total if total > 0 else 0.0
    alike = min(max(alike, 0.0), 0.98)
    worth = max(len(taken) * (1 - alike) / (1 + alike), 3.0)
    error = math.sqrt(total / len(taken) / (worth - 2) * len(taken) / float(x @ x)) if total > 0 else 0.0
    return Slope(kib, 2 * error, taken[-1][0] - taken[0][0])


def after_start(series: Series) -> list[Figures]:
    """The samples once everything is loaded and connected."""
    first = series.at[0] + WARM_ROUNDS
    return [it for at, it in zip(series.at, series.figures, strict=True) if at >= first]


def thirds(values: Sequence[int]) -> tuple[int, int]:
    """The least in the first and in the last third: a file that is written at this very moment is open for that."""
    third = max(1, len(values) // 3)
    return min(values[:third]), min(values[-third:])


def growth(points: Sequence[tuple[int, int]]) -> float:
    """Bytes a round, from the first to the last sample."""
    rounds = points[-1][0] - points[0][0]
    return (points[-1][1] - points[0][1]) / rounds if rounds else 0.0


def findings(samples: Samples, peers: int) -> list[str]:
    """What has grown, each with its name."""
    found = []
    for series in samples.series:
        it = slope(series)
        who = f"{series.name} (process {series.pid})"
        if it is not None and it.kib - it.error_kib > SLOPE_KIB_MAX:
            found.append(
                f"{who}: memory grows by {it.kib:.1f} KiB (+- {it.error_kib:.1f}) a hundred rounds, "
                f"over {it.rounds} rounds"
            )
        most = max(it.descriptors for it in series.figures)
        if series.name == BROKER and most > BROKER_DESCRIPTORS + peers:
            found.append(f"{who}: {most} descriptors, for {peers} peers")
        threads = max(it.threads for it in series.figures)
        if threads > THREADS_MAX:
            found.append(f"{who}: {threads} threads")
        warm = [it.descriptors for it in after_start(series)] if series.name != BROKER else []
        if len(warm) >= SAMPLES_MIN and (change := thirds(warm))[1] > change[0]:
            found.append(f"{who}: descriptors from {change[0]} to {change[1]}")
    for name, kinds in samples.files.items():
        for kind, points in kinds.items():
            found += _file_findings(name, kind, points, peers)
    return found


def _file_findings(name: str, kind: str, points: Sequence[tuple[int, int]], peers: int) -> list[str]:
    if kind in GROWS:
        allowed = CSV_BYTES_MAX if kind == GROWS[0] else LOG_BYTES_MAX * peers
        rate = growth(points)
        if rate > allowed:
            return [f"{name}: {kind} grows by {rate:.0f} bytes a round, more than {allowed}"]
        return []
    late = max(size for _, size in points)
    if kind == KEPT:
        # A new round is written whole before the oldest is gone.
        most = int(FILE_TIMES_MAX * KEPT_BYTES_MAX)
        return [f"{name}: {kind} are {late} bytes, to keep were {KEPT_BYTES_MAX}"] if late > most else []
    early = max(size for _, size in points[: max(1, len(points) // 3)])
    if late > FILE_TIMES_MAX * early and late > FILE_BYTES_MAX:
        return [f"{name}: {kind} was {early} bytes at most in the first third, {late} later"]
    return []
