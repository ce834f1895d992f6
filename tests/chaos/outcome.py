"""What the faults have cost, by kind: recovery times, updates and runs lost; a table and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_peer.shell.store import write_atomically
from tests.chaos.checker import accuracies
from tests.chaos.play import End, Injection
from tests.chaos.records import Records

COLUMNS = ("fault", "times", "recoveries", "median s", "worst s", "updates lost", "runs lost")
BETWEEN = "(between faults)"


def recovery_s(records: Records, injection: Injection) -> float | None:
    """From the fault's begin to the next commit of anybody; None: there was none."""
    after = [it["at_s"] for it in records.lines if it["event"] == "committed" and it["at_s"] > injection.begun_s]
    return min(after) - injection.begun_s if after else None


def updates_lost(records: Records) -> dict[tuple[str, str], float]:
    """(run, digest) -> when it was accepted, of updates that a controller has accepted and no final model has in it."""
    accepted: dict[tuple[str, str], float] = {}
    for line in records.lines:
        if line["event"] == "committed":
            for it in line["accepted"].values():
                accepted.setdefault((line["run_id"], it["digest"]), line["at_s"])
    for it in records.seen:
        if it["kind"] == "round" and it["document"] is not None and it["document"]["state"] == "training":
            for digest in it["document"]["accepted"].values():
                accepted.setdefault((it["document"]["run_id"], digest), it["at_s"])
    counted = {
        (run_id, it["digest"])
        for run_id in records.runs()
        for line in records.chain(run_id)
        for it in line["accepted"].values()
    }
    return {key: at_s for key, at_s in accepted.items() if key not in counted}


def runs_lost(records: Records) -> dict[str, float]:
    """Run -> when its last model was committed, of runs that have models and no end."""
    lost = [run_id for run_id in records.runs() if records.end(run_id) is None and records.committed(run_id)]
    return {run_id: records.committed(run_id)[-1]["at_s"] for run_id in lost}


def table(records: Records) -> list[dict[str, Any]]:
    """A row a kind. What was lost while a fault was on, or before all were back, is put down to it."""
    injections = records.played.injections
    kinds = sorted({it.kind for it in injections})
    updates = [_cause(injections, at_s) for at_s in updates_lost(records).values()]
    runs = [_cause(injections, at_s) for at_s in runs_lost(records).values()]
    rows = []
    for kind in [*kinds, *([BETWEEN] if BETWEEN in (*updates, *runs) else [])]:
        mine = [it for it in injections if it.kind == kind]
        times = [it for it in (recovery_s(records, it) for it in mine) if it is not None]
        rows.append(
            {
                "fault": kind,
                "times": len(mine),
                "recoveries": len(times),
                "median s": round(statistics.median(times), 2) if times else None,
                "worst s": round(max(times), 2) if times else None,
                "updates lost": updates.count(kind),
                "runs lost": runs.count(kind),
            }
        )
    return rows


def _cause(injections: Sequence[Injection], at_s: float) -> str:
    # A round that was open when the fault began was accepted before it.
    near = [it for it in injections if it.begun_s - 1 <= at_s <= it.whole_s]
    return near[0].kind if near else BETWEEN


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
