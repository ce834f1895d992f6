"""A run's folder as values: the peers' CSVs and the controllers' round log."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_peer.errors import ResourceError
from edge_peer.operator.runs.files import ROUND_LOG, read_lines, whole_lines

#: Columns that every release has written; the others may be missing.
NEEDED = frozenset({
    "round", "term", "role", "time_utc", "examples", "test_examples", "train_loss", "local_accuracy", "local_loss",
    "global_accuracy", "global_loss", "training_s", "evaluation_s", "bytes_sent", "bytes_received", "rss_peak_bytes",
})  # fmt: skip
#: Other columns that do not tell how the board was.
NOT_OF_BOARD = frozenset({"run_id", "peer", "controller", "int8_accuracy"})
#: More digits than any count has; Python refuses to read far longer ones.
DIGITS_MAX = 18


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a peer's CSV; None where the peer had nothing to say.

    Attributes:
        health: How the board was, by column: `temperature_c`, `throttled` and others, as far as it tells.
    """

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
    health: dict[str, float] = field(default_factory=dict)


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
        return self.mean(lambda row: row.global_accuracy)

    def int8_accuracy(self) -> dict[int, float]:
        """The same of its int8 model, for the rounds that have one."""
        return self.mean(lambda row: row.int8_accuracy)

    def mean(self, value: Callable[[Row], float | None]) -> dict[int, float]:
        """A value by round, weighted by test examples, over the peers that have one."""
        totals: dict[int, list[float]] = {}
        for rows in self.peers.values():
            for row in rows:
                found = value(row)
                if found is not None:
                    total = totals.setdefault(row.round, [0.0, 0.0])
                    total[0] += found * row.test_examples
                    total[1] += row.test_examples
        return {round_: correct / count for round_, (correct, count) in sorted(totals.items()) if count}

    def events(self, name: str) -> Iterator[dict[str, Any]]:
        """The round log's lines of this event, by term."""
        return (line for line in self.log if line.get("event") == name)

    def round_seconds(self) -> dict[int, float]:
        """How long each round took, from its opening to its commit, on its controller's clock."""
        return {
            line["round"]: float(line["seconds"])
            for line in self.events("committed")
            if isinstance(line.get("round"), int) and is_number(line.get("seconds"))
        }

    def elections(self) -> list[tuple[datetime, int, str]]:
        """When who was elected, in which term."""
        return [
            (time, line["term"], line["peer"]) for line in self.events("elected") if (time := time_of(line)) is not None
        ]

    def invited(self) -> list[str]:
        """Everybody of whom there are rows, and whom the round log names as taking part."""
        named = set(self.peers)
        for name, key in (("started", "peers"), ("opened", "participants")):
            for line in self.events(name):
                peers = line.get(key)
                named |= {peer for peer in peers if isinstance(peer, str)} if isinstance(peers, list) else set()
        return sorted(named)

    def end(self) -> str:
        """Why the run ended; empty: it did not."""
        return next((str(line.get("reason")) for line in reversed(list(self.events("finished")))), "")


def by_round(results: Results) -> dict[int, list[Row]]:
    """The rows of all peers, by round."""
    found: dict[int, list[Row]] = {}
    for rows in results.peers.values():
        for row in rows:
            found.setdefault(row.round, []).append(row)
    return dict(sorted(found.items()))


def is_number(value: object) -> bool:
    """Whether a value of a JSON document is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def time_of(line: dict[str, Any]) -> datetime | None:
    """When a line of the round log was written; None where it does not say."""
    try:
        time = datetime.fromisoformat(str(line.get("time_utc")))
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


def read_results(folder: Path) -> Results:
    """Read a run's folder.

    Raises:
        ResourceError: It is not one, or a CSV in it is of another kind; names the file and line.
    """
    if not folder.is_dir():
        raise ResourceError(f"{folder}: no such run; `ls runs` shows those that there are")
    peers = {path.stem: rows for path in sorted(folder.glob("*.csv")) if (rows := read_rows(path))}
    if not peers:
        raise ResourceError(f"{folder}: no peer's CSV in it; collect them from the boards first")
    return Results(folder.resolve().name, peers, read_lines(folder / ROUND_LOG))


def read_rows(path: Path) -> list[Row]:
    """A peer's CSV, by round; raises ResourceError."""
    table = Table.read(path)
    rows = []
    for number, line in enumerate(table.lines, 2):
        try:
            rows.append(row_of(line))
        except ValueError as error:
            raise ResourceError(f"{path}, line {number}: {error}; delete the line or the file") from None
    return sorted(rows, key=lambda row: row.round)


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file as it stands there.

    Attributes:
        columns: Of its first line; none: the file is empty.
        lines: The others, by column.
    """

    columns: tuple[str, ...]
    lines: list[dict[str, str]]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Raises ResourceError for a file that is no peer's CSV."""
        reader = csv.reader(whole_lines(path))
        try:
            columns = tuple(next(reader, ()))
            lines = [dict(zip(columns, line, strict=False)) for line in reader]
        except csv.Error as error:
            raise ResourceError(f"{path}, line {reader.line_num}: {error}; delete the line or the file") from None
        missing = NEEDED - set(columns)
        if columns and missing:
            raise ResourceError(f"{path}: columns {sorted(missing)} are missing; docs/csv.md tells what they are")
        return cls(columns, lines)


def row_of(line: dict[str, str]) -> Row:
    """A line's values; raises ValueError."""
    short = [name for name in NEEDED if name not in line]
    if short:
        raise ValueError(f"it has {len(line)} fields, and none for {min(short)}")
    time = datetime.fromisoformat(line["time_utc"])
    if time.tzinfo is None:
        raise ValueError(f"time_utc is {line['time_utc']!r}, without its zone")
    return Row(
        round=_count(line, "round"),
        term=_count(line, "term"),
        role=line["role"],
        time=time,
        examples=_count(line, "examples"),
        test_examples=_count(line, "test_examples"),
        train_loss=_optional(line, "train_loss"),
        local_accuracy=_optional(line, "local_accuracy"),
        local_loss=_optional(line, "local_loss"),
        global_accuracy=float(line["global_accuracy"]),
        global_loss=float(line["global_loss"]),
        int8_accuracy=_optional(line, "int8_accuracy"),
        training_s=_optional(line, "training_s"),
        evaluation_s=float(line["evaluation_s"]),
        bytes_sent=_count(line, "bytes_sent"),
        bytes_received=_count(line, "bytes_received"),
        rss_peak_bytes=_count(line, "rss_peak_bytes"),
        health=_health(line),
    )


def _optional(line: dict[str, str], name: str) -> float | None:
    return float(text) if (text := line.get(name, "")) else None


def _count(line: dict[str, str], name: str) -> int:
    text = line[name]
    if not (text.isdecimal() and len(text) <= DIGITS_MAX):
        raise ValueError(f"{name} is {text[:40]!r}, which is no count")
    return int(text)


def _health(line: dict[str, str]) -> dict[str, float]:
    """The columns that tell of the board: numbers, where it tells."""
    found = {}
    for name in line.keys() - NEEDED - NOT_OF_BOARD:
        try:
            value = float(line[name])
        except ValueError:
            continue
        if math.isfinite(value):
            found[name] = value
    return found
