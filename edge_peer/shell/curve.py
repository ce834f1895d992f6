"""The rounds of a run so far, for onlookers: what a page shows that is opened when half of the run is over."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from edge_peer.protocol.commands import WriteRow
from edge_peer.protocol.onlookers import COLUMNS, History, encode, thinned

#: What histories may take of the connection, bytes a second: a full one of 4 kB is said every 40 seconds.
BYTES_PER_S = 100.0
#: The CSV's columns, in the order of the history's.
IN_CSV = (
    *("round", "global_accuracy", "global_loss", "int8_accuracy", "training_s", "evaluation_s"),
    *("bytes_sent", "bytes_received"),
)
Row = tuple[float | None, ...]


class Curve:
    """The rows of this peer's run, thinned out, and when to say them.

    Args:
        peer: Whose.
        session: This process's.
        runs: The `runs` folder: a process that starts in the middle of a run goes on from the CSV.
    """

    def __init__(self, peer: str, session: str, runs: Path) -> None:
        self._peer = peer
        self._session = session
        self._runs = runs
        self._run_id: str | None = None
        self._test_examples = 0
        self._rows: list[Row] = []
        self._unsaid = False
        self._next_s = -math.inf

    def add(self, row: WriteRow, sent: int, received: int) -> None:
        """Take in a round; to be called when its row is in the CSV, or could not be written."""
        if row.run_id != self._run_id:
            self._run_id, self._rows, self._next_s = row.run_id, [], -math.inf
            for old in read_rows(self._runs / row.run_id / f"{self._peer}.csv"):
                self._append(old)
        report = row.report
        self._append(
            tuple(
                # As the CSV has them: counts whole, and measurements in six digits.
                float(f"{value:.6g}") if isinstance(value, float) else value
                for value in (
                    *(row.round, report.accuracy, report.loss, report.int8_accuracy, row.training_s, row.evaluation_s),
                    *(sent, received),
                )
            )
        )
        self._test_examples = report.examples
        self._unsaid = True

    def _append(self, row: Row) -> None:
        if row[0] is None or (self._rows and row[0] <= (self._rows[-1][0] or 0)):
            return
        self._rows.append(row)
        if (place := thinned([int(it[0] or 0) for it in self._rows])) is not None:
            del self._rows[place]

    def say_again(self) -> None:
        """The broker may have lost it, or the run is over: do not wait."""
        self._unsaid = self._unsaid or bool(self._rows)
        self._next_s = -math.inf

    def due(self, now_s: float) -> bytes | None:
        """What to publish now; None: nothing, or not yet."""
        if not self._unsaid or self._run_id is None or now_s < self._next_s:
            return None
        columns = dict(zip(COLUMNS, zip(*self._rows, strict=True), strict=True))
        payload = encode(History(self._session, self._run_id, self._test_examples, **columns))
        self._unsaid, self._next_s = False, now_s + len(payload) / BYTES_PER_S
        return payload


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV, as far as they can be read; none where there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in csv.DictReader(text.splitlines()):
        try:
            yield tuple(_number(line[name]) for name in IN_CSV)
        except (AttributeError, KeyError, ValueError):
            continue


def _number(text: str) -> float | None:
    if text.isdecimal():
        return int(text)
    return float(text) if text else None
