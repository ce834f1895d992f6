"""A peer's rounds for onlookers: which rows, how often, and after a restart."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edge_peer.protocol.commands import WriteRow
from edge_peer.protocol.fields import parse_object
from edge_peer.protocol.messages import Report
from edge_peer.protocol.onlookers import NEWEST, ROWS_MAX, History
from edge_peer.shell.curve import BYTES_PER_S, Curve
from edge_peer.shell.health import Health
from edge_peer.shell.history import History as Files

ROW = WriteRow("run", 1, 0, "trainer", "hub", Report(0.5, 1.25, 100, 0.25), 0.125, 320, 1.0, 0.5, None)


def row(number: int, run_id: str = "run", **changes: Any) -> WriteRow:
    return replace(ROW, run_id=run_id, round=number, report=Report(number / 1000, 1.0, 100), **changes)


def said(curve: Curve, now_s: float) -> dict[str, Any] | None:
    payload = curve.due(now_s)
    return None if payload is None else json.loads(payload)


def test_a_row_is_said_as_it_stands_in_the_csv(tmp_path: Path) -> None:
    curve = Curve("roof", "session", tmp_path)
    assert curve.due(0.0) is None
    curve.add(replace(ROW, round=3, report=Report(1 / 3, 2 / 3, 100)), 12_345_678, 2000)
    found = said(curve, 0.0)
    assert found == {
        "session": "session",
        "run_id": "run",
        "test_examples": 100,
        "rounds": [3.0],
        "accuracy": [0.333333],
        "loss": [0.666667],
        "int8_accuracy": [None],
        "training_s": [0.5],
        "evaluation_s": [0.125],
        "bytes_sent": [12_345_678],
        "bytes_received": [2000.0],
    }
    read = History.read(parse_object(json.dumps(found).encode()))
    assert read.rounds == (3.0,)
    assert read.int8_accuracy == (None,)


def test_it_takes_a_bounded_share_of_the_connection(tmp_path: Path) -> None:
    curve = Curve("roof", "session", tmp_path)
    sent, now_s = 0, 0.0
    for number in range(3000):
        curve.add(row(number), 1, 1)
        payload = curve.due(now_s)
        sent += len(payload or b"")
        now_s += 0.1
    assert 0 < sent <= now_s * BYTES_PER_S * 1.1
    payload = curve.due(now_s + 1000)
    assert payload is not None
    assert len(payload) < 4500


def test_the_newest_rounds_are_all_there_and_the_older_ones_spread_evenly(tmp_path: Path) -> None:
    curve = Curve("roof", "session", tmp_path)
    for number in range(1000):
        curve.add(row(number), 1, 1)
    found = said(curve, 0.0)
    assert found is not None
    rounds = found["rounds"]
    assert len(rounds) == ROWS_MAX
    assert rounds[0] == 0
    assert rounds[-NEWEST:] == list(range(1000 - NEWEST, 1000))
    gaps = [after - before for before, after in pairwise(rounds)]
    assert max(gaps) <= 4 * 1000 / ROWS_MAX
    assert found["accuracy"] == [number / 1000 for number in rounds]


def test_what_was_said_is_said_again_only_when_it_may_be_lost(tmp_path: Path) -> None:
    curve = Curve("roof", "session", tmp_path)
    curve.say_again()
    assert curve.due(0.0) is None, "there is nothing to say"
    curve.add(row(1), 1, 1)
    assert curve.due(0.0) is not None
    assert curve.due(1e6) is None
    curve.add(row(2), 1, 1)
    assert curve.due(0.1) is None, "not so soon"
    curve.say_again()
    assert curve.due(0.1) is not None


def test_another_run_begins_anew_and_at_once(tmp_path: Path) -> None:
    curve = Curve("roof", "session", tmp_path)
    curve.add(row(1), 1, 1)
    assert curve.due(0.0) is not None
    curve.add(row(0, "later"), 1, 1)
    found = said(curve, 0.1)
    assert found is not None
    assert (found["run_id"], found["rounds"]) == ("later", [0])


def test_a_process_that_starts_in_the_middle_goes_on_from_the_csv(tmp_path: Path) -> None:
    files = Files(tmp_path, "roof")
    for number in range(5):
        files.write_row(row(number), 10 + number, 20, 1, Health())
    with (tmp_path / "run/roof.csv").open("a") as file:
        file.write("torn, line\nrun,roof,x")
    curve = Curve("roof", "session", tmp_path)
    # The row of round 4 was in the file before the process ended.
    curve.add(row(4), 14, 20)
    curve.add(row(5), 15, 20)
    found = said(curve, 0.0)
    assert found is not None
    assert found["rounds"] == [0, 1, 2, 3, 4, 5]
    assert found["bytes_sent"] == [10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\0\xff", "run_id\n" * 3])
def test_a_file_that_is_no_csv_costs_nothing_but_its_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/roof.csv").write_text(text, encoding="latin-1")
    curve = Curve("roof", "session", tmp_path)
    curve.add(row(7), 1, 1)
    found = said(curve, 0.0)
    assert found is not None
    assert found["rounds"] == [7]
