"""The CSV and the round log: documented columns, no round twice, whole lines only, runs apart."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tracemalloc
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_peer.protocol.commands import WriteRow
from edge_peer.protocol.messages import Report
from edge_peer.shell.health import Health
from edge_peer.shell.history import BLOCK, COLUMNS, History, now_utc

HEALTH = Health(61.24, 0, 0.75, 123_456_789_012, 98_765_432_101, 2)


def row(round_: int, run_id: str = "run-1", **values: Any) -> WriteRow:
    facts: dict[str, Any] = {
        "run_id": run_id,
        "term": 2,
        "round": round_,
        "role": "trainer",
        "controller": "roof",
        "report": Report(0.8125, 0.5 + round_, 2500, 0.8),
        "evaluation_s": 0.0625,
        "examples": 3000,
        "train_loss": 0.75,
        "training_s": 0.25,
        "local": Report(0.75, 0.875, 2500),
    }
    return WriteRow(**{**facts, **values})


def write(folder: Path, *rows: WriteRow) -> None:
    history = History(folder, "kitchen")
    for it in rows:
        history.write_row(it, 10, 20, 30, HEALTH)


def read(folder: Path, run_id: str = "run-1") -> list[dict[str, str]]:
    with (folder / run_id / "kitchen.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def rounds(folder: Path, run_id: str = "run-1") -> list[str]:
    return [it["round"] for it in read(folder, run_id)]


def test_a_row_has_every_documented_column(tmp_path: Path) -> None:
    before = datetime.now(timezone.utc)
    write(tmp_path, row(1))
    (found,) = read(tmp_path)
    assert before <= datetime.fromisoformat(found.pop("time_utc")) <= datetime.now(timezone.utc)
    assert found == {
        "run_id": "run-1",
        "peer": "kitchen",
        "term": "2",
        "round": "1",
        "role": "trainer",
        "controller": "roof",
        "examples": "3000",
        "train_loss": "0.75",
        "local_accuracy": "0.75",
        "local_loss": "0.875",
        "test_examples": "2500",
        "global_accuracy": "0.8125",
        "global_loss": "1.5",
        "int8_accuracy": "0.8",
        "training_s": "0.25",
        "evaluation_s": "0.0625",
        "bytes_sent": "10",
        "bytes_received": "20",
        "rss_peak_bytes": "30",
        "temperature_c": "61.24",
        "throttled": "0",
        "load_1m": "0.75",
        "memory_free_bytes": "123456789012",
        "disk_free_bytes": "98765432101",
    }
    header = (tmp_path / "run-1/kitchen.csv").read_text().splitlines()[0]
    assert header == ",".join(COLUMNS)
    assert all(len(meaning) > 5 for meaning in COLUMNS.values())


def test_what_an_observer_does_not_have_is_empty(tmp_path: Path) -> None:
    write(tmp_path, row(1, role="observer", examples=0, train_loss=None, training_s=None, local=None))
    write(tmp_path / "float", row(1, report=Report(0.8, 0.5, 2500)))
    assert read(tmp_path / "float")[0]["int8_accuracy"] == ""
    (found,) = read(tmp_path)
    assert [found[name] for name in ("train_loss", "training_s", "local_accuracy", "local_loss")] == [""] * 4


def test_what_a_board_does_not_tell_is_empty(tmp_path: Path) -> None:
    History(tmp_path, "kitchen").write_row(row(1), 0, 0, 0, Health(disk_free_bytes=0))
    (found,) = read(tmp_path)
    assert [found[name] for name in ("temperature_c", "throttled", "load_1m", "memory_free_bytes")] == [""] * 4
    assert found["disk_free_bytes"] == "0"


def test_a_round_is_written_once(tmp_path: Path) -> None:
    write(tmp_path, row(0), row(1), row(1, examples=9), row(0), row(2))
    assert rounds(tmp_path) == ["0", "1", "2"]
    assert read(tmp_path)[1]["examples"] == "3000"


def test_a_restarted_process_goes_on_in_the_same_file(tmp_path: Path) -> None:
    write(tmp_path, row(0), row(1))
    write(tmp_path, row(1), row(2))
    assert rounds(tmp_path) == ["0", "1", "2"]
    assert (tmp_path / "run-1/kitchen.csv").read_text().count("run_id") == 1


def test_a_rerun_has_a_file_of_its_own(tmp_path: Path) -> None:
    history = History(tmp_path, "kitchen")
    for it in (row(1), row(1, "run-2"), row(2), row(2, "run-2"), row(3, "run-2")):
        history.write_row(it, 0, 0, 0, Health())
    assert rounds(tmp_path) == ["1", "2"]
    assert rounds(tmp_path, "run-2") == ["1", "2", "3"]
    assert {it["run_id"] for it in read(tmp_path)} == {"run-1"}


def test_a_line_torn_anywhere_is_cut_off_and_written_again(tmp_path: Path) -> None:
    write(tmp_path, row(0), row(1))
    path = tmp_path / "run-1/kitchen.csv"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        write(tmp_path, row(0), row(1), row(2))
        assert rounds(tmp_path) == ["0", "1", "2"]
        assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
        assert all(None not in it.values() and None not in it for it in read(tmp_path))


@pytest.mark.parametrize(
    "tail", [bytes(4096), b"\xff\xfe\xfd", b"run-1,kitchen,2,9", b"\0\n" * 3, b"\xff\n", b'"' * 200_000 + b"\n"]
)
def test_what_a_crash_leaves_at_the_end_stops_nobody(tmp_path: Path, tail: bytes) -> None:
    write(tmp_path, row(0), row(1))
    path = tmp_path / "run-1/kitchen.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    write(tmp_path, row(1), row(2))
    assert path.read_bytes().startswith(whole)
    assert path.read_bytes().splitlines()[-1].startswith(b"run-1,kitchen,2,2,trainer")
    if not tail.endswith(b"\n"):
        assert rounds(tmp_path) == ["0", "1", "2"]


def test_a_restart_in_a_long_run_takes_no_more_memory_than_in_a_short_one(tmp_path: Path) -> None:
    write(tmp_path, row(0), row(1))
    path, log = tmp_path / "run-1/kitchen.csv", tmp_path / "run-1/rounds.jsonl"
    header, first, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + first * 40_000 + last + b"torn")
    line = b'{"event": "opened", "round": 1}\n'
    log.write_bytes(line * 200_000 + b'{"event": "comm')
    # What was imported lately is no part of it.
    write(tmp_path / "elsewhere", row(0))
    history = History(tmp_path, "kitchen")
    tracemalloc.start()
    try:
        history.write_row(row(2), 10, 20, 30, HEALTH)
        history.log_round("run-1", "committed", {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 40 * BLOCK
    assert log.stat().st_size > 40 * BLOCK
    assert peak < 10 * BLOCK
    assert [line.split(b",")[3] for line in path.read_bytes().splitlines()[-2:]] == [b"1", b"2"]
    assert [json.loads(it)["event"] for it in log.read_bytes().splitlines()[-2:]] == ["opened", "committed"]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 4096])
def test_lines_are_whole_whatever_blocks_they_are_read_in(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, row(8), row(9), row(10))
    path = tmp_path / "run-1/kitchen.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b"a line that is no row\n\n\nrun-1,kitchen,2,11,torn")
    monkeypatch.setattr("edge_peer.shell.history.BLOCK", block)
    write(tmp_path, row(10), row(11))
    assert path.read_bytes().startswith(whole + b"a line that is no row\n\n\nrun-1,kitchen,2,11,trainer")
    assert path.read_bytes().count(b"\nrun-1,kitchen") == 4


def test_a_file_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run-1"
    folder.mkdir()
    old = b"round,accuracy\n7,0.5\n"
    (folder / "kitchen.csv").write_bytes(old)
    write(tmp_path, row(1), row(2))
    assert rounds(tmp_path) == ["1", "2"]
    assert (folder / "kitchen.csv.other-columns").read_bytes() == old


def disk_full_after(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    left = [length]

    def short_write(descriptor: int, content: Any) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        done = real(descriptor, bytes(content[: left[0]]))
        left[0] -= done
        return done

    monkeypatch.setattr(os, "write", short_write)


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_disk_that_is_full_in_the_middle_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    history = History(tmp_path, "kitchen")
    history.write_row(row(0), 0, 0, 0, Health())
    history.log_round("run-1", "opened", {"round": 1})
    for attempt in (
        lambda: history.write_row(row(1), 0, 0, 0, Health()),
        lambda: history.log_round("run-1", "closed", {}),
    ):
        with monkeypatch.context() as patch:
            disk_full_after(length, patch)
            with pytest.raises(OSError, match="No space left"):
                attempt()
    # There is space again, and the same process goes on.
    history.write_row(row(1), 0, 0, 0, Health())
    history.write_row(row(2), 0, 0, 0, Health())
    history.log_round("run-1", "closed", {"round": 1})
    assert rounds(tmp_path) == ["0", "1", "2"]
    assert [it["event"] for it in log(tmp_path / "run-1")] == ["opened", "closed"]


def test_a_write_that_takes_a_part_at_a_time_is_a_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, bytes(content[:7])))
    write(tmp_path, row(0), row(1))
    assert rounds(tmp_path) == ["0", "1"]


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_the_round_log_has_one_json_object_a_line(tmp_path: Path) -> None:
    history = History(tmp_path, "kitchen")
    history.log_round("run-1", "opened", {"round": 1, "participants": ["a", "b"]})
    history.log_round("run-1", "committed", {"round": 1})
    history.log_round(None, "elected", {"term": 3})
    opened, committed = log(tmp_path / "run-1")
    assert opened.pop("time_utc") <= committed.pop("time_utc")
    assert opened == {"peer": "kitchen", "event": "opened", "round": 1, "participants": ["a", "b"]}
    assert committed == {"peer": "kitchen", "event": "committed", "round": 1}
    assert [it["term"] for it in log(tmp_path)] == [3]


def test_a_torn_line_of_the_round_log_is_cut_off(tmp_path: Path) -> None:
    History(tmp_path, "kitchen").log_round("run-1", "opened", {"round": 1})
    path = tmp_path / "run-1/rounds.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event": "comm')
    History(tmp_path, "kitchen").log_round("run-1", "opened", {"round": 2})
    assert [it["round"] for it in log(tmp_path / "run-1")] == [1, 2]


def test_sync_puts_what_was_written_on_the_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    history = History(tmp_path, "kitchen")
    monkeypatch.setattr(os, "fsync", fsync)
    for number in range(3):
        history.write_row(row(number), 0, 0, 0, Health())
        history.log_round("run-1", "opened", {"round": number})
    assert synced == [], "a line is not worth a block of an SD card"
    history.sync()
    files = [tmp_path / "run-1/kitchen.csv", tmp_path / "run-1/rounds.jsonl"]
    assert sorted(synced) == sorted(path.stat().st_size for path in files)
    history.sync()
    assert len(synced) == 2


def test_a_run_folder_that_somebody_has_removed_is_an_error_once(tmp_path: Path) -> None:
    history = History(tmp_path, "kitchen")
    history.write_row(row(0), 0, 0, 0, Health())
    shutil.rmtree(tmp_path / "run-1")
    with pytest.raises(FileNotFoundError):
        history.sync()
    history.sync()


def test_time_is_utc_with_its_offset() -> None:
    assert datetime.fromisoformat(now_utc()).utcoffset() == timezone.utc.utcoffset(None)
