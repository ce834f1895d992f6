"""`make demo`'s program: what it shows, what it leaves, and that nothing of it stays behind."""

from __future__ import annotations

import csv
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edge_peer.operator.graphs import main as graphs
from edge_peer.operator.runs.classes import read_class_counts
from edge_peer.operator.runs.results import read_results

pytestmark = pytest.mark.live
COMMAND = [sys.executable, "-m", "edge_peer.operator.demo", "--examples", "320", "--rounds", "4"]


def children_of(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line:
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, "--rounds", "100000", "--runs", str(tmp_path / "runs"), "--shards", str(tmp_path / "shards")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Tests that a shell has started in the background ignore Ctrl-C, and so would this one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - there are no threads here
    )
    yield process
    process.kill()
    process.wait()


def test_the_demo_kills_the_controller_and_leaves_everything(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = subprocess.run(
        [*COMMAND, "--runs", str(runs), "--shards", str(tmp_path / "shards")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert re.search(r"peer\d, the controller, is killed \(SIGKILL\) in round 2", said)
    assert re.search(r"peer\d goes on with the run \d+\.\d\d s after the kill", said)
    assert "is finished after round 4: reached 4 rounds" in said
    folder = (runs / "latest").resolve()
    assert [path.name for path in runs.iterdir() if path.name != "latest"] == [folder.name], "no other folder is left"
    peers = ["peer1", "peer2", "peer3", "peer4"]
    for peer in peers:
        with (folder / f"{peer}.csv").open(newline="") as file:
            assert {row["run_id"] for row in csv.DictReader(file)} == {folder.name}
        assert (folder / "logs" / f"{peer}.log").stat().st_size > 0
    pictures = ["accuracy", "loss", "time", "bytes", "elections", *(f"accuracy_{peer}" for peer in peers)]
    for name in pictures:
        content = (folder / "graphs" / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000, f"{name} is not an empty picture"
    assert sum(value.size for value in load_file(folder / "model.safetensors").values()) == 26_706
    assert (folder / "model.int8.tflite").stat().st_size > 26_698
    assert "rounds_max = 4" in (folder / "config.toml").read_text()
    results = read_results(folder)
    counted, problems = read_class_counts(folder)
    assert problems == []
    # The one that was killed may come back when all is over.
    assert sorted(counted) == [peer for peer in results.peers if results.peers[peer][-1].round == 4]
    for peer, counts in counted.items():
        last = results.peers[peer][-1]
        assert sum(counts.trained.values()) == 320
        assert sum(counts.tested.values()) == last.test_examples
        hits = sum(count for (label, taken_for), count in counts.confusion.items() if label == taken_for)
        assert round(hits / last.test_examples, 6) == last.int8_accuracy, "the CSV has six digits"
    assert len(results.elections()) == 2
    assert sorted(results.round_seconds()) == [1, 2, 3, 4]
    assert results.end() == "reached 4 rounds"
    assert np.isfinite(list(results.accuracy().values())).all()
    assert children_of(tmp_path) == []
    report = folder / "report.html"
    assert said.splitlines()[-1] == f"the whole run on one page: {runs / folder.name / report.name}"
    assert f"<code>{folder.name}</code>" in report.read_text()
    for path in (*(folder / "graphs").iterdir(), report):
        path.unlink()
    assert graphs([str(folder)]) == 0
    assert report.is_file()
    assert len(list((folder / "graphs").iterdir())) == len(pictures)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(demo: subprocess.Popen[str], tmp_path: Path, number: int) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if re.search(r"round \d+: accuracy", line):
            break
    assert len(children_of(tmp_path)) >= 6, "the demo, a broker and four peers"
    demo.send_signal(number)
    rest = demo.stdout.read()
    assert demo.wait(30) == 130
    assert "interrupted" in rest
    assert children_of(tmp_path) == []
    assert len(list((tmp_path / "runs" / "latest").glob("peer*.csv"))) == 4, "what there was of the run is kept"


def test_a_killed_demo_takes_its_processes_with_it(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if re.search(r"round \d+: accuracy", line):
            break
    demo.kill()
    # The kernel ends the others; wait for each.
    for pid in children_of(tmp_path):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([descriptor], [], [], 10)[0], f"process {pid} is still there"
        os.close(descriptor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peers", "1"], "--peers 1: choose 2 to 256"),
        (["--peers", "2", "--kill", "1"], "none would be left to elect"),
        (["--kill", "99"], "--kill '99': choose auto, none, or a round from 1 to 4"),
        (["--split", "odd"], "split 'odd'"),
        (["--model", "nowhere"], "make the artifacts with `make model`"),
        (["--model", "models/mine.py"], "models/artifacts/mine/manifest.json: cannot be read"),
        (["--dataset", "nowhere"], "--dataset 'nowhere'"),
        (["--learning-rate", "-1"], "learning_rate = -1.0"),
    ],
)
def test_a_wrong_option_is_named(options: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *options, "--runs", str(tmp_path / "runs"), "--shards", str(tmp_path / "shards")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert children_of(tmp_path) == []
