"""Runs side by side: what differs, and which is better in what."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.operator.report.compare import Figure, comparison, differences, figures, level_of, main, read_runs
from edge_peer.protocol.run_settings import RunSettings
from tests.large_runs import LargeRun
from tests.test_operator_report import HOSTILE, Page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One that learns more, one of more boards that says more of itself."""
    folder = tmp_path_factory.mktemp("runs")
    better = LargeRun(4, 20, seed=1, level=0.9, settings=RunSettings(codec="int8", learning_rate=0.1, rounds_max=20))
    larger = LargeRun(
        30, 12, seed=2, level=0.8, settings=RunSettings(codec="float16", learning_rate=0.1, rounds_max=12)
    )
    return [better.write(folder), larger.write(folder)]


def test_the_better_one_is_named(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(it) for it in runs]) == 0
    out = Path(capsys.readouterr().out.strip())
    assert out == runs[0].parent / "compare.html"
    page = Page(out.read_text())
    one = runs[0].name
    assert page.row("accuracy at the end")[1:] == ["0.8715 best", "0.7053"]
    assert f"most accurate: {one} (0.8715)" in page.text
    # What differs, and nothing else.
    assert page.row("codec")[1:] == ["int8", "float16"]
    assert page.row("boards")[1:] == ["4", "30"]
    assert page.row("rounds_max")[1:] == ["20", "12"]
    assert "learning_rate" not in page.text
    assert not [attributes for tag, attributes in page.tags if tag == "script"]
    assert sum(tag == "figure" for tag, _ in page.tags) == 3


def test_the_level_is_one_that_all_reach(runs: list[Path]) -> None:
    read = read_runs(runs)
    level = level_of(read)
    assert level is not None
    assert level == max(read[1].accuracy.values())
    found = {it.name: it for it in figures(read)}
    first = found[f"rounds to accuracy {level:.4f}, which all reach"].values
    for run, round_ in zip(read, first, strict=True):
        assert round_ is not None
        assert run.accuracy[int(round_)] >= level
        assert all(accuracy < level for at, accuracy in run.accuracy.items() if at < round_)
    assert first[1] == 12
    # By hand: everything that rows up to that round say was sent.
    sent = found["sent by all boards until then"].values
    rows = [row for rows in read[0].results.peers.values() for row in rows if row.round <= (first[0] or 0)]
    assert sent[0] == sum(row.bytes_sent for row in rows)
    assert found["time to it"].values[0] == read[0].findings.scored_s[int(first[0] or 0)]


def test_a_run_is_like_itself(runs: list[Path], tmp_path: Path) -> None:
    page = Page(comparison(read_runs([runs[0], runs[0]])))
    assert "They are alike in all that is compared." in page.text
    assert "None: model, boards, examples and every setting of the run are the same." in page.text
    assert page.text.count(str(runs[0])) > 3, "the same id twice: by their paths"
    assert differences(read_runs([runs[0], runs[0]])) == []


def test_without_a_round_log(runs: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in runs[1].glob("*.csv"):
        (bare / path.name).write_bytes(path.read_bytes())
    page = Page(comparison(read_runs([runs[0], bare])))
    assert page.row("codec")[1:] == ["int8", "unknown"]
    assert page.row("time of a round, mean")[2] == ""


def test_names_are_text(runs: list[Path], tmp_path: Path) -> None:
    named = tmp_path / HOSTILE.replace("/", "_").replace("\x1b", "").replace("\u202e", "")
    named.mkdir()
    for path in runs[0].glob("*.csv"):
        (named / path.name).write_bytes(path.read_bytes())
    page = Page(comparison(read_runs([runs[1], named])))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "0 runs given: name 2 to 12"),
        (["runs/nowhere", "runs/nobody"], "runs/nowhere: no such run"),
    ],
)
def test_what_cannot_be_compared_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@given(st.lists(st.none() | st.floats(0, 1), min_size=2, max_size=6), st.sampled_from([max, min, None]))
def test_winners_are_those_with_the_best_number_that_is_shown(values: list[float | None], best: object) -> None:
    figure = Figure("x", values, "{:.2f}".format, best)  # type: ignore[arg-type]
    won = figure.winners()
    known = [it for it in values if it is not None]
    assert len(won) < max(len(known), 1)
    if best is None:
        assert won == []
    for place in won:
        value = values[place]
        assert value is not None
        assert f"{value:.2f}" == f"{best(known):.2f}"  # type: ignore[operator]


def test_make_compares() -> None:
    root = Path(__file__).parent.parent
    plan = ["make", "-n", "--no-print-directory", "compare", "RUNS=runs/a runs/b"]
    said = subprocess.run(plan, cwd=root, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == ".venv/bin/python -m edge_peer.operator.report.compare runs/a runs/b"
