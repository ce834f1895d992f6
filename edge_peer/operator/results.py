"""A run's folder as values: the peers' CSVs and the controllers' round log."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_peer.errors import ResourceError
from edge_peer.operator.collect import ROUND_LOG, read_lines
from edge_peer.shell.history import COLUMNS


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a peer's CSV; None where the peer had nothing to say."""

    round: int
    term: int
    role: str
    time: datetime
    examples: int
    test_examples: int
    train_loss: float | None
    local_accuracy: float | None
    local_loss: float | None
    global_accuracy: float
    global_loss: float
    int8_accuracy: float | None
    training_s: float | None
    evaluation_s: float
    bytes_sent: int
    bytes_received: int
    rss_peak_bytes: int


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run.

    Attributes:
        peers: Rows of each peer, by round.
        log: The controllers' round log, by term.
    """

    run_id: str
    peers: dict[str, list[Row]]
    log: list[dict[str, Any]]

    def accuracy(self) -> dict[int, float]:
        """Accuracy of the global model by round: the mean over the peers' test splits, weighted by their examples."""
        return self._mean(lambda row: row.global_accuracy)

    def int8_accuracy(self) -> dict[int, float]:
        """The same of its int8 model, for the rounds that have one."""
        return self._mean(lambda row: row.int8_accuracy)

    def _mean(self, value: Callable[[Row], float | None]) -> dict[int, float]:
        totals: dict[int, list[float]] = {}
        for rows in self.peers.values():
            for row in rows:
                found = value(row)
                if found is not None:
                    total = totals.setdefault(row.round, [0.0, 0.0])
                    total[0] += found * row.test_examples
                    total[1] += row.test_examples
        return {round_: correct / count for round_, (correct, count) in sorted(totals.items())}

    def round_seconds(self) -> dict[int, float]:
        """How long each round took, from its opening to its commit, on its controller's clock."""
        return {line["round"]: line["seconds"] for line in self.log if line.get("event") == "committed"}

    def elections(self) -> list[tuple[datetime, int, str]]:
        """When who was elected, in which term."""
        return [
            (datetime.fromisoformat(line["time_utc"]), line["term"], line["peer"])
            for line in self.log
            if line.get("event") == "elected"
        ]

    def end(self) -> str:
        """Why the run ended; empty: it did not."""
        return next((line["reason"] for line in reversed(self.log) if line.get("event") == "finished"), "")


def read_results(folder: Path) -> Results:
    """Read a run's folder.

    Raises:
        ResourceError: It is not one, or a CSV in it is of another kind; names the file and line.
    """
    if not folder.is_dir():
        raise ResourceError(f"{folder}: no such run; `ls runs` shows those that there are")
    peers = {}
    for path in sorted(folder.glob("*.csv")):
        peers[path.stem] = _read_rows(path)
    peers = {peer: rows for peer, rows in peers.items() if rows}
    if not peers:
        raise ResourceError(f"{folder}: no peer's CSV in it; collect them from the boards first")
    return Results(folder.resolve().name, peers, read_lines(folder / ROUND_LOG))


def _read_rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ResourceError(f"{path}: columns {sorted(missing)} are missing; docs/csv.md tells what they are")
        for number, line in enumerate(reader, 2):
            try:
                rows.append(_row(line))
            except (ValueError, TypeError) as error:
                raise ResourceError(f"{path}, line {number}: {error}; delete the line or the file") from None
    return sorted(rows, key=lambda row: row.round)


def _row(line: dict[str, str]) -> Row:
    def optional(name: str) -> float | None:
        return float(line[name]) if line[name] else None

    return Row(
        round=int(line["round"]),
        term=int(line["term"]),
        role=line["role"],
        time=datetime.fromisoformat(line["time_utc"]),
        examples=int(line["examples"]),
        test_examples=int(line["test_examples"]),
        train_loss=optional("train_loss"),
        local_accuracy=optional("local_accuracy"),
        local_loss=optional("local_loss"),
        global_accuracy=float(line["global_accuracy"]),
        global_loss=float(line["global_loss"]),
        int8_accuracy=optional("int8_accuracy"),
        training_s=optional("training_s"),
        evaluation_s=float(line["evaluation_s"]),
        bytes_sent=int(line["bytes_sent"]),
        bytes_received=int(line["bytes_received"]),
        rss_peak_bytes=int(line["rss_peak_bytes"]),
    )
