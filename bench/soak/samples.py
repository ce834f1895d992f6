"""What is looked at all along: every process's memory, descriptors and threads, and every file's size."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import Figures, figures

BROKER = "broker"
#: What peers are told to keep of updates at most.
KEPT_BYTES_MAX = 200_000
#: A file's kind by how its name ends; the first that fits. What stands under `GROWS` has a line for each round.
CSV, ROUND_LOG, KEPT, PROCESS_LOG = "CSV", "round log", "kept updates", "process log"
GROWS = (CSV, ROUND_LOG, PROCESS_LOG)
#: What the final model takes examples for: written once.
CLASSES = "classes"
KINDS = (
    (".csv", CSV),
    (".log", PROCESS_LOG),
    ("rounds.jsonl", ROUND_LOG),
    ("state.json", "state"),
    ("checkpoint.safetensors", "checkpoint"),
    ("memory-0.safetensors", "memory"),
    ("memory-1.safetensors", "memory"),
    ("model.safetensors", "final model"),
    ("model.int8.tflite", "final model"),
    ("config.toml", "configuration"),
)


def kind_of(path: Path) -> str:
    """What a file is; one that is being written counts as what it will be."""
    if "updates" in path.parts:
        return KEPT
    if path.parent.name == CLASSES:
        return CLASSES
    name = path.name.removeprefix(".").removesuffix(".new")
    return next((kind for end, kind in KINDS if name.endswith(end)), name)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of all files below a folder, by kind."""
    found: dict[str, int] = {}
    # What is renamed or removed meanwhile is passed over, folders too.
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            found[kind_of(path)] = found.get(kind_of(path), 0) + _size(path)
    return found


@dataclass
class Series:
    """One process, from its first sample to its last.

    Attributes:
        name: Of the peer, or `broker`.
        at: Round of each sample.
    """

    name: str
    pid: int
    at: list[int] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How many rounds it was watched for."""
        return self.at[-1] - self.at[0] if self.at else 0


class Samples:
    """Everything that was seen."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, int], Series] = {}
        #: Name -> kind of file -> (round, bytes) of each sample.
        self.files: dict[str, dict[str, list[tuple[int, int]]]] = {}

    @property
    def series(self) -> list[Series]:
        """One for each process, in the order of their first samples."""
        return list(self._series.values())

    def take(self, round_: int, pids: Mapping[str, int], folders: Mapping[str, tuple[Path, ...]]) -> None:
        """Look at processes and files once."""
        for name, pid in pids.items():
            it = figures(pid)
            if it is not None:
                series = self._series.setdefault((name, pid), Series(name, pid))
                series.at.append(round_)
                series.figures.append(it)
        for name, paths in folders.items():
            found: dict[str, int] = {}
            for path in paths:
                for kind, size in (sizes(path) if path.is_dir() else {kind_of(path): _size(path)}).items():
                    found[kind] = found.get(kind, 0) + size
            for kind, size in found.items():
                self.files.setdefault(name, {}).setdefault(kind, []).append((round_, size))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
