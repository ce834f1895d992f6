"""What every benchmark here does with its figures: print a table, write JSON to bench/results/."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_peer.shell.store import write_atomically

RESULTS = Path(__file__).parent / "results"


def report(
    name: str,
    title: str,
    rows: Sequence[dict[str, Any]],
    more: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> None:
    """Print rows as a table and keep them, with what they were measured on.

    Args:
        name: Of the benchmark.
        title: Stands above the table.
        rows: All with the same keys.
        more: Kept with them, and not printed.
        out: The file; None: bench/results/<name>.json.
    """
    show(title, rows)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    kept = {"name": name, "title": title, "machine": machine, "rows": list(rows), **(more or {})}
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(kept, indent=2).encode() + b"\n")


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table."""
    columns = list(rows[0])
    texts = [[_text(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in texts)) for i, column in enumerate(columns)]
    print(f"\n{title}")
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)))
    for line in texts:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and least to most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
