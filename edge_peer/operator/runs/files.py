"""The files of a run's folder: their names, and how to read those that somebody else may be writing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ROUND_LOG = "rounds.jsonl"
MODEL = "model.safetensors"
INT8_MODEL = "model.int8.tflite"
CONFIG = "config.toml"
REPORT = "report.html"
#: Which boards a collection has reached; only in the folders of collected runs.
COLLECTION = "collection.json"
#: Added to the name of a CSV that a release with other columns has written, see `edge_peer.shell.history`.
OTHER_COLUMNS = ".other-columns"


def whole_lines(path: Path) -> list[str]:
    """The lines of a text file; a torn last one, of a board that lost power or is writing it now, is left out."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    # Not splitlines: a reason from the network can hold other line ends than ours.
    return text.split("\n")[:-1]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a round log that tell who wrote them in which term."""
    lines = []
    for text in whole_lines(path):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("term"), int) and isinstance(line.get("peer"), str):
            lines.append(line)
    return lines


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def point_latest(runs: Path, folder: Path) -> None:
    """Make `<runs>/latest` point to a run's folder."""
    link = runs / ".latest"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(runs / "latest")
