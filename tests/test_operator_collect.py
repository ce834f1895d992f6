"""Collecting a run from boards: again and again, during it and after, from boards that come, go and are set up anew."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.errors import ResourceError
from edge_peer.operator.fleet.collect import gather, main, renewed_runs, runs_of, state_folders
from edge_peer.operator.fleet.collection import Collection
from edge_peer.operator.runs.files import read_lines, whole_lines
from edge_peer.operator.runs.results import read_results
from edge_peer.shell.history import COLUMNS
from tests.run_folders import RUN_ID, Invented, csv_text, log_text

PEERS = ["attic", "cellar", "roof"]
RUN = Invented(PEERS, led=[(1, "attic"), (4, "roof")], missing={(4, "attic"): "offline"})


def fetched(folder: Path, hosts: list[str], reached: list[str] | None = None, rounds: range | None = None) -> Path:
    """What fetching leaves: a state folder a host, and who was asked."""
    for host in hosts:
        (folder / host / "reached.json").unlink(missing_ok=True)
    for host in hosts if reached is None else reached:
        RUN.board(folder / host, host, rounds)
        (folder / host / "reached.json").write_text("{}")
    (folder / "asked.json").write_text(json.dumps(hosts))
    return folder


def rounds_in(path: Path) -> list[int]:
    with path.open(newline="") as file:
        return [int(row["round"]) for row in csv.DictReader(file)]


def test_a_collection_leaves_what_the_demo_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collected, runs = fetched(tmp_path / "collected", PEERS), tmp_path / "runs"
    for peer in PEERS:
        model = collected / peer / "runs" / RUN_ID / "model.int8.tflite"
        model.write_bytes(peer.encode())
    assert main(["--collected", str(collected), "--runs", str(runs)]) == 0
    folder = runs / RUN_ID
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "collected from 3 of 3 boards"
    assert said[1] == f"run {RUN_ID}: 3 peers, round 6, reached 6 rounds"
    assert said[-1].endswith(f"open {folder}/report.html")
    assert len(said) == 3, "nothing is missing, and nothing is said of it"
    assert (runs / "latest").resolve() == folder.resolve()
    names = {path.name for path in folder.iterdir()}
    others = {"rounds.jsonl", "config.toml", "config", "graphs", "report.html", "model.int8.tflite", "collection.json"}
    assert names == {*(f"{peer}.csv" for peer in PEERS), *others}
    assert (folder / "attic.csv").read_text() == RUN.rows("attic"), "byte for byte"
    # The last controller's word counts: it certainly has the end.
    assert (folder / "model.int8.tflite").read_bytes() == b"roof"
    assert (folder / "config.toml").read_text() == '[peer]\nname = "roof"\n'
    expected = [
        (line["term"], line["event"], line.get("round")) for peer in ("attic", "roof") for line in RUN.log(peer)
    ]
    assert [(it["term"], it["event"], it.get("round")) for it in read_lines(folder / "rounds.jsonl")] == expected


def test_boards_that_are_missed_are_named_and_come_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collected, runs = tmp_path / "collected", tmp_path / "runs"
    arguments = ["--collected", str(collected), "--runs", str(runs)]
    fetched(collected, PEERS, ["attic", "cellar"], range(4))
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "collected from 2 of 3 boards; not reached: roof" in said
    assert "  roof: nothing of this run was collected from it" in said
    assert "round 3, not finished" in said
    fetched(collected, PEERS, ["roof"])
    fetched(collected, PEERS, ["cellar"])
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "not reached: attic, roof" in said, "the last collection counts"
    assert "  attic: no row of rounds 4-6" in said
    assert "reached 6 rounds" in said
    assert rounds_in(runs / RUN_ID / "attic.csv") == [0, 1, 2, 3]
    log = read_lines(runs / RUN_ID / "rounds.jsonl")
    assert [it["round"] for it in log if it["event"] == "committed"] == [1, 2, 3, 4, 5, 6]
    assert [it["event"] for it in log if it["term"] == 2][:2] == ["elected", "resumed"]


def test_what_was_collected_is_never_lost(tmp_path: Path) -> None:
    """A board that was set up anew during the run: its file begins later, its log is gone."""
    collected, runs = fetched(tmp_path / "collected", PEERS, rounds=range(5)), tmp_path / "runs"
    arguments = ["--collected", str(collected), "--runs", str(runs)]
    assert main(arguments) == 0
    shutil.rmtree(collected / "attic")
    again = collected / "attic/runs" / RUN_ID
    again.mkdir(parents=True)
    fetched(collected, PEERS, ["cellar", "roof"])
    # What it says anew of a round that is known counts: it is the later word.
    row = {**RUN.row("attic", 4), "bytes_sent": 7}
    (again / "attic.csv").write_text(csv_text([row, RUN.row("attic", 6)]))
    assert main(arguments) == 0
    results = read_results(runs / RUN_ID)
    assert [it.round for it in results.peers["attic"]] == [0, 1, 2, 3, 4, 6]
    assert [it.bytes_sent for it in results.peers["attic"]] == [100_000] * 4 + [7, 100_000]
    assert [it["round"] for it in results.events("committed")] == [1, 2, 3, 4, 5, 6]
    before = {
        path: path.read_bytes() for path in (runs / RUN_ID).iterdir() if path.is_file() and path.suffix != ".html"
    }
    assert main(arguments) == 0
    assert {path: path.read_bytes() for path in before} == before, "once more changes nothing"


def test_a_shorter_file_replaces_no_longer_one(tmp_path: Path) -> None:
    collected, out = fetched(tmp_path / "collected", PEERS), tmp_path / "out"
    assert gather(state_folders(collected), RUN_ID, out) == []
    for path in (collected / "roof/runs" / RUN_ID).iterdir():
        path.write_bytes(path.read_bytes()[:-60])
    (collected / "cellar/runs" / RUN_ID / "cellar.csv").write_text("")
    whole = {path.name: path.read_bytes() for path in out.glob("*.csv")} | {"log": (out / "rounds.jsonl").read_bytes()}
    assert gather(state_folders(collected), RUN_ID, out) == []
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == {
        k: v for k, v in whole.items() if k != "log"
    }
    assert (out / "rounds.jsonl").read_bytes() == whole["log"]


def test_a_file_that_is_being_written_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    collected = fetched(tmp_path / "collected", PEERS)
    path = collected / "attic/runs" / RUN_ID / "attic.csv"
    path.write_bytes(path.read_bytes()[:-5])
    log = collected / "roof/runs" / RUN_ID / "rounds.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    assert gather(state_folders(collected), RUN_ID, tmp_path / "out") == []
    assert rounds_in(tmp_path / "out/attic.csv") == [0, 1, 2, 3, 4, 5]
    assert read_lines(tmp_path / "out/rounds.jsonl")[-1]["event"] == "finished"


def test_rows_of_two_releases_become_one_file(tmp_path: Path) -> None:
    """An upgrade during the run has begun a file with other columns, and set the other one aside."""
    collected = fetched(tmp_path / "collected", PEERS)
    run = collected / "attic/runs" / RUN_ID
    older = [it for it in COLUMNS if it not in ("int8_accuracy", "temperature_c")]
    (run / "attic.csv.other-columns").write_text(csv_text([RUN.row("attic", it) for it in range(3)], older))
    (run / "attic.csv").write_text(csv_text([RUN.row("attic", it) for it in range(3, 7)]))
    assert gather(state_folders(collected), RUN_ID, tmp_path / "out") == []
    rows = read_results(tmp_path / "out").peers["attic"]
    assert [(it.round, it.int8_accuracy is not None) for it in rows] == [(it, it > 2) for it in range(7)]


def test_a_damaged_file_costs_its_own_lines_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collected, runs = fetched(tmp_path / "collected", PEERS), tmp_path / "runs"
    path = collected / "attic/runs" / RUN_ID / "attic.csv"
    path.write_text(path.read_text().replace(",300,", ",\x1b[2J,", 1))
    (collected / "cellar/runs" / RUN_ID / "cellar.csv").write_bytes(bytes(range(256)) * 8 + b"\n")
    assert main(["--collected", str(collected), "--runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert "attic.csv, line 3: examples is " in said
    assert re.search(r"/cellar\.csv(, line \d+)?: ", said), "csv.reader of each Python version has its own objection"
    assert "  attic: no row of round 1\n" in said
    assert "  cellar: nothing of this run was collected from it\n" in said
    assert "\x1b" not in said
    assert set(read_results(runs / RUN_ID).peers) == {"attic", "roof"}


def test_only_peers_folders_are_peers(tmp_path: Path) -> None:
    collected = fetched(tmp_path / "collected", PEERS)
    (collected / ".hidden/runs").mkdir(parents=True)
    (collected / "a name/runs").mkdir(parents=True)
    (collected / "never-reached").mkdir()
    (collected / "file").write_text("")
    assert list(state_folders(collected)) == PEERS


def test_runs_that_have_not_grown_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collected, runs = fetched(tmp_path / "collected", PEERS), tmp_path / "runs"
    state = collected / "attic/runs"
    for run_id in ("20250101-000000-old", "20250601-000000-mid"):
        shutil.copytree(state / RUN_ID, state / run_id)
    arguments = ["--collected", str(collected), "--runs", str(runs)]
    assert main(arguments) == 0
    dirs = state_folders(collected)
    assert runs_of(dirs) == ["20250101-000000-old", "20250601-000000-mid", RUN_ID]
    assert renewed_runs(dirs, runs) == [RUN_ID]
    report = runs / "20250101-000000-old/report.html"
    grown = state / "20250101-000000-old/attic.csv"
    os.utime(grown, ns=(report.stat().st_mtime_ns + 1,) * 2)
    assert renewed_runs(dirs, runs) == ["20250101-000000-old", RUN_ID]
    capsys.readouterr()
    assert main([*arguments, "--run", "20250601-000000-mid"]) == 0
    assert "run 20250601-000000-mid: 1 peers" in capsys.readouterr().out
    assert (runs / "latest").resolve().name == RUN_ID


@pytest.mark.parametrize("run", ["20250101-000000-none", "../../etc", ""])
def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str) -> None:
    collected = fetched(tmp_path / "collected", PEERS) if run else tmp_path / "nothing"
    assert (
        main(["--collected", str(collected), "--runs", str(tmp_path / "runs"), *(["--run", run] if run else [])]) == 2
    )
    assert (RUN_ID if run else "no board has files of a run yet") in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_without_a_row_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collected = tmp_path / "collected"
    run = collected / "attic/runs" / RUN_ID
    run.mkdir(parents=True)
    (run / "rounds.jsonl").write_text(log_text(RUN.log("attic")[:2]))
    assert main(["--collected", str(collected), "--runs", str(tmp_path / "runs")]) == 2
    assert "no peer's CSV in it" in capsys.readouterr().err
    with pytest.raises(ResourceError, match="there are none"):
        gather({}, RUN_ID, tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[]", '{"hosts": 3, "reached": []}', '{"hosts": [1]}', "[" * 9999, "\udcff"])
def test_a_collection_of_another_kind_is_none(tmp_path: Path, text: str) -> None:
    for name in ("collection.json", "asked.json"):
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    assert Collection.read(tmp_path).missed == Collection.fetched(tmp_path).missed == []
    assert Collection.read(tmp_path / "elsewhere").missed == []


@given(st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=1, max_size=4))
def test_rows_are_the_union_of_all_that_came(tmp_path_factory: pytest.TempPathFactory, visits: list[set[int]]) -> None:
    folder = tmp_path_factory.mktemp("union")
    seen: set[int] = set()
    for visit in visits:
        RUN.board(folder / "attic", "attic", sorted(visit))
        gather(state_folders(folder), RUN_ID, folder / "out")
        seen |= visit
        assert rounds_in(folder / "out/attic.csv") == sorted(seen)
        log = [json.dumps(line, sort_keys=True) for line in read_lines(folder / "out/rounds.jsonl")]
        assert len(set(log)) == len(log)


def test_lines_end_where_a_line_ends(tmp_path: Path) -> None:
    """A reason with other line ends than ours in it is one line."""
    path = tmp_path / "rounds.jsonl"
    path.write_bytes('{"peer": "a", "term": 1, "reason": "one\u2028two\x85"}\n{"peer": "a", "term": 2}\n{"to'.encode())
    assert [line["term"] for line in read_lines(path)] == [1, 2]
    assert len(whole_lines(path)) == 2
    assert whole_lines(tmp_path / "none") == []
