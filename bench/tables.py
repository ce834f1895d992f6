"""What every benchmark here does with its figures: print a table, write JSON to bench/results/."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_peer.shell.store import write_atomically

RESULTS = Path(__file__).parent / "results"


def report(name: str, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table and keep them, with what they were measured on, as bench/results/<name>.json."""
    columns = list(rows[0])
    texts = [[_text(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in texts)) for i, column in enumerate(columns)]
    print(f"\n{title}")
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)))
    for line in texts:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps({"name": name, "title": title, "machine": machine, "rows": list(rows)}, indent=2)
    write_atomically(RESULTS / f"{name}.json", content.encode() + b"\n")


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and least to most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
