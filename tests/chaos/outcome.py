"""What the faults have cost, by kind: recovery times, updates late and lost, runs lost; a table and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_peer.shell.store import write_atomically
from tests.chaos.checker import accuracies
from tests.chaos.losses import LATE, LOST, cause, missed
from tests.chaos.play import End, Injection
from tests.chaos.records import Records

COLUMNS = ("fault", "times", "recoveries", "median s", "worst s", "updates late", "updates lost", "runs lost")
BETWEEN = "(between faults)"


def recovery_s(records: Records, injection: Injection) -> float | None:
    """From the fault's begin to the next commit of anybody; None: there was none."""
    after = [it["at_s"] for it in records.lines if it["event"] == "committed" and it["at_s"] > injection.begun_s]
    return min(after) - injection.begun_s if after else None


def runs_lost(records: Records) -> dict[str, float]:
    """Run -> when its last model was committed, of runs that have models and no end."""
    lost = [run_id for run_id in records.runs() if records.end(run_id) is None and records.committed(run_id)]
    return {run_id: records.committed(run_id)[-1]["at_s"] for run_id in lost}


def table(records: Records) -> list[dict[str, Any]]:
    """A row a kind; what was missed or lost is put down to the fault that was on, of the same peer if there was one."""
    injections = records.played.injections
    blamed: dict[str, Counter[str]] = {what: Counter() for what in (LOST, LATE)}
    for it in missed(records):
        if it.what in blamed:
            blamed[it.what][_kind(cause(records, it.peer, it.closed_s))] += 1
    runs = Counter(_kind(cause(records, None, at_s)) for at_s in runs_lost(records).values())
    kinds = sorted({it.kind for it in injections})
    elsewhere = BETWEEN in runs.keys() | blamed[LOST].keys() | blamed[LATE].keys()
    rows = []
    for kind in [*kinds, *([BETWEEN] if elsewhere else [])]:
        mine = [it for it in injections if it.kind == kind]
        times = [it for it in (recovery_s(records, it) for it in mine) if it is not None]
        values = (
            kind,
            len(mine),
            len(times),
            round(statistics.median(times), 2) if times else None,
            round(max(times), 2) if times else None,
            blamed[LATE][kind],
            blamed[LOST][kind],
            runs[kind],
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _kind(injection: Injection | None) -> str:
    return injection.kind if injection is not None else BETWEEN


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    texts = [["" if row[column] is None else str(row[column]) for column in COLUMNS] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in texts), 0) for i, column in enumerate(COLUMNS)]
    print(f"\n{title}")
    for line in (COLUMNS, *texts):
        cells = [
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def write(
    path: Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    ends: Sequence[End],
    undisturbed: End,
    more: dict[str, Any],
) -> None:
    """As JSON, in the shape of the benchmarks' results, with the runs beside it."""
    runs = []
    for end in ends:
        own, other = accuracies(end, undisturbed)
        runs.append({"run": end.run_id, "rounds": end.rounds, "accuracy": own, "undisturbed": other})
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    document = {"name": path.stem, "title": title, "machine": machine, "rows": list(rows), "runs": runs, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, indent=2).encode() + b"\n")
