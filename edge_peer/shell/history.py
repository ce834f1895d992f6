"""The files of a run that people read: the peer's CSV, the controller's round log, the final model."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from edge_peer.protocol.commands import WriteRow
from edge_peer.shell.health import Health

#: Of a file, read at a time.
BLOCK = 16_384
#: Column -> what it means. docs/csv.md is made from this table.
COLUMNS: dict[str, str] = {
    "run_id": "the run",
    "peer": "who wrote this row",
    "term": "term of the controller that committed this round's model",
    "round": "rounds done; 0 is the initial model",
    "role": "controller, trainer, or observer (evaluated only)",
    "controller": "who was controller when the row was written",
    "time_utc": "when, ISO 8601, by this board's clock",
    "examples": "training examples that its update was made from; 0: no update in this round",
    "train_loss": "mean loss over the last local epoch",
    "local_accuracy": "accuracy of its own model after training, on its own test split, 0..1",
    "local_loss": "loss of the same",
    "test_examples": "examples of its test split",
    "global_accuracy": "accuracy of the global model after this round, on its own test split, 0..1",
    "global_loss": "loss of the same",
    "int8_accuracy": "global accuracy of its int8 model, on the same examples; empty before there is one",
    "training_s": "seconds of local training",
    "evaluation_s": "seconds of evaluating the global model",
    "bytes_sent": "topic and payload bytes published since the row before",
    "bytes_received": "topic and payload bytes received since the row before",
    "rss_peak_bytes": "largest resident memory of the process so far",
    "temperature_c": "of the hottest part of the processor, degrees Celsius; this and the following: at most half a "
    "minute old, empty where the board does not tell",
    "throttled": "why the board runs slower than it could: the sum of 1 (low voltage), 2 (frequency capped), "
    "4 (throttled), 8 (temperature limit); 0: it does not",
    "load_1m": "processes that run or want to, mean over a minute",
    "memory_free_bytes": "what programs could still get of the memory",
    "disk_free_bytes": "free disk where the peer's state is",
}


def now_utc() -> str:
    """The time as ISO 8601 with microseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


class History:
    """Writes below `<state_dir>/runs/<run id>/`; a rerun has another run id, so runs never mix.

    Args:
        folder: The `runs` folder.
        peer: Whose rows they are.
        clock: The time as ISO 8601.
    """

    def __init__(self, folder: Path, peer: str, clock: Callable[[], str] = now_utc) -> None:
        self._folder = folder
        self._clock = clock
        self._peer = peer
        self._last_round: dict[str, int] = {}
        self._logs: set[Path] = set()
        #: Written to since the last `sync`.
        self._unsynced: set[Path] = set()

    def run_folder(self, run_id: str) -> Path:
        """The run's folder; made if it is not there."""
        return _made(self._folder / run_id)

    def write_row(self, row: WriteRow, sent: int, received: int, rss_peak: int, health: Health) -> None:
        """Append the row of one round, unless this round is in the file already; raises OSError."""
        path = self.run_folder(row.run_id) / f"{self._peer}.csv"
        # Not known again until the row is there whole: what a failed write left behind is mended before the next one.
        last = self._last_round.pop(row.run_id, None)
        if last is None:
            last = _last_round(path)
        if row.round <= last:
            self._last_round[row.run_id] = last
            return
        values = {
            "run_id": row.run_id,
            "peer": self._peer,
            "term": row.term,
            "round": row.round,
            "role": row.role,
            "controller": row.controller,
            "time_utc": self._clock(),
            "examples": row.examples,
            "train_loss": _number(row.train_loss),
            "local_accuracy": _number(row.local.accuracy if row.local else None),
            "local_loss": _number(row.local.loss if row.local else None),
            "test_examples": row.report.examples,
            "global_accuracy": _number(row.report.accuracy),
            "global_loss": _number(row.report.loss),
            "int8_accuracy": _number(row.report.int8_accuracy),
            "training_s": _number(row.training_s),
            "evaluation_s": _number(row.evaluation_s),
            "bytes_sent": sent,
            "bytes_received": received,
            "rss_peak_bytes": rss_peak,
            "temperature_c": _number(health.temperature_c),
            "throttled": _count(health.throttled),
            "load_1m": _number(health.load_1m),
            "memory_free_bytes": _count(health.memory_free_bytes),
            "disk_free_bytes": _count(health.disk_free_bytes),
        }
        text = io.StringIO()
        writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
        if not path.exists() or path.stat().st_size == 0:
            writer.writeheader()
        writer.writerow(values)
        self._append(path, text.getvalue().encode())
        self._last_round[row.run_id] = row.round

    def log_round(self, run_id: str | None, event: str, fields: Mapping[str, object]) -> None:
        """Append one line to the controller's round log; what belongs to no run goes beside the runs."""
        line = {"time_utc": self._clock(), "peer": self._peer, "event": event, **fields}
        folder = self.run_folder(run_id) if run_id is not None else _made(self._folder)
        path = folder / "rounds.jsonl"
        if path not in self._logs:
            _mend(path)
        self._logs.discard(path)
        self._append(path, json.dumps(line, sort_keys=True).encode() + b"\n")
        self._logs.add(path)

    def _append(self, path: Path, content: bytes) -> None:
        self._unsynced.add(path)
        _append(path, content)

    def sync(self) -> None:
        """Have everything that was written on the disk; raises OSError.

        To be called every few seconds and at the end, not for each line: each call costs an SD card some blocks, and a
        loss of power may cost a few lines for people. A run goes on from its checkpoint, not from these files.
        """
        while self._unsynced:
            descriptor = os.open(self._unsynced.pop(), os.O_WRONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _made(folder: Path) -> Path:
    """The folder; made if it is not there."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _append(path: Path, content: bytes) -> None:
    """Append: after a crash the last line is whole, or torn and cut off by `_mend`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        left = memoryview(content)
        while left:
            # A disk that fills up takes a part, and refuses the rest at the next call.
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def _mend(path: Path) -> None:
    """Cut a torn last line off a file, wherever there is one."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            whole = _whole(file, size)
    except FileNotFoundError:
        return
    if whole != size:
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


def _whole(file: BinaryIO, size: int) -> int:
    """How many bytes whole lines take; from the end, because a long run's file is large and a board's memory is not."""
    end = size
    while end > 0:
        start = max(0, end - BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file of whole lines, the last one first, without their ends."""
    place = file.seek(0, os.SEEK_END)
    rest = b""
    while place > 0:
        start = max(0, place - BLOCK)
        file.seek(start)
        first, *lines = (file.read(place - start) + rest).split(b"\n")
        yield from reversed(lines)
        # It may have begun in the block before.
        rest, place = first, start
    yield rest


def _last_round(path: Path) -> int:
    """The last round in a CSV file, mended first; -1 where there is none."""
    _mend(path)
    header = ",".join(COLUMNS).encode()
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return -1
    with file:
        first = file.readline(len(header) + 1)
        if first == b"":
            return -1
        if first != header + b"\n":
            # Written by a release with other columns: rows of two kinds in one file could not be read.
            path.replace(path.with_name(f"{path.name}.other-columns"))
            return -1
        place = list(COLUMNS).index("round")
        for line in _lines_backwards(file):
            fields = line.decode("utf-8", "replace").split(",")
            # Rounds only rise in a file, so the last one is the highest; what is no row a crash has left.
            if len(fields) == len(COLUMNS) and fields[place].isdecimal() and len(fields[place]) < 16:
                return int(fields[place])
    return -1
