"""The table in docs/guarantees.md: written from a result by `python -m tests.chaos --document`, and read by a test."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.outcome import COLUMNS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/guarantees.md"
BLOCK = re.compile(r"(<!-- chaos -->\n).*?(<!-- end of chaos -->)", re.DOTALL)
WIDTH = 119
FACTS = """\
`make chaos MINUTES={minutes:g} SEED={seed} PEERS={peers}` gave this: {faults} faults on {peers} real peers and their
broker, in {runs} runs of {rounds} rounds. Final accuracy was {lowest:.4f} to {highest:.4f}, undisturbed
{undisturbed:.4f}. An audit of the runs found no fault. It made {recomputed} of {committed} rounds' models again of
their updates, byte for byte."""

COLUMNS_MEAN = """\
A recovery is the next round that anybody commits, and its time runs from the fault's begin. An update is late when the
fault kept its peer away for a part of the round, which closed without it. It is lost when the broker had it, or a
controller had accepted it, before the round closed, and the model lacks it although the peer stayed there, or the
controller that it was sent to did. A run is lost when it has models and no end.
`python -m tests.chaos --document` writes this from `bench/results/chaos.json`, which `make chaos` writes.
"""


def block(result: Mapping[str, Any]) -> str:
    """What stands between the marks.

    Args:
        result: What `tests.chaos.outcome.write` has written.

    Raises:
        ValueError: The checker found something, or faults were left out: that is no table of guarantees.
    """
    if result["findings"]:
        raise ValueError(f"the checker found {len(result['findings'])}, first: {result['findings'][0]}")
    if result["left_out"]:
        raise ValueError(f"this machine does not allow {', '.join(sorted(result['left_out']))}")
    if result["minutes"] is None or result.get("run") or result.get("busy"):
        raise ValueError("`make chaos` does not do that again: it has no --steps, --run or --busy")
    accuracies = [run["accuracy"] for run in result["runs"]]
    facts = FACTS.format(
        minutes=result["minutes"],
        seed=result["seed"],
        peers=result["peers"],
        faults=sum(row["times"] for row in result["rows"]),
        runs=len(result["runs"]),
        rounds=result["runs"][0]["rounds"],
        lowest=min(accuracies),
        highest=max(accuracies),
        undisturbed=result["runs"][0]["undisturbed"],
        committed=result["replayed"]["rounds"],
        recomputed=result["replayed"]["recomputed"],
    )
    how = " ".join(f"{fault.capitalize()}: {means}." for fault, means in sorted(result["means"].items()))
    lines = [f"| {' | '.join(COLUMNS)} |", f"| {' | '.join('---' for _ in COLUMNS)} |"]
    lines += [f"| {' | '.join(_cell(row[column]) for column in COLUMNS)} |" for row in result["rows"]]
    text = textwrap.fill(f"{facts} {how}", WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{text}\n\n" + "\n".join(lines) + f"\n\n{COLUMNS_MEAN}"


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def write(result: Mapping[str, Any], path: Path = DOCUMENT) -> None:
    """Put a result between the marks; raises ValueError."""
    text = path.read_text(encoding="utf-8")
    path.write_text(BLOCK.sub(lambda found: f"{found[1]}{block(result)}{found[2]}", text), encoding="utf-8")


def read(path: Path = DOCUMENT) -> tuple[str, list[dict[str, str]]]:
    """The sentences and the rows that stand there."""
    found = BLOCK.search(path.read_text(encoding="utf-8"))
    assert found is not None, f"{path} has no marks"
    text = found[0]
    table = [[it.strip() for it in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = table or [[], []]
    return text, [dict(zip(head, row, strict=True)) for row in rows]
