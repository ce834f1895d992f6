"""A short chaos, by a seed; and that nothing stays behind of one that is interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.schedule import CUT_TRAINER, KILL_BROKER, KILL_CONTROLLER, PAUSE_SHORT
from tests.live.harness import ROOT

pytestmark = pytest.mark.live

SEED = 1
KINDS = (KILL_CONTROLLER, KILL_BROKER, PAUSE_SHORT, CUT_TRAINER)
#: A short run's accuracy still rises from round to round: what one peer's missing update costs is no matter here. And
#: other tests run beside this one.
SHORT = ("--seed", SEED, "--rounds", 8, "--examples", 1500, "--epochs", 1, "--points", 10, "--busy")


def command(folder: Path, *more: object) -> list[str]:
    where = ("--out", folder / "chaos.json", "--folder", folder / "chaos")
    return [sys.executable, "-m", "tests.chaos", *map(str, (*SHORT, *where, *more))]


def left(folder: Path) -> list[str]:
    """Command lines of processes that have to do with the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.mark.again
def test_every_invariant_holds_under_chaos(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--steps", len(KINDS), "--faults", ",".join(KINDS)), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    result = json.loads((tmp_path / "chaos.json").read_text())
    assert result["findings"] == []
    allowed = set(KINDS) - result["left_out"].keys()
    assert {row["fault"] for row in result["rows"]} == allowed
    assert all(row["recoveries"] == row["times"] for row in result["rows"])
    assert all(run["rounds"] == 8 for run in result["runs"])
    assert all(row["updates lost"] == row["runs lost"] == 0 for row in result["rows"])
    assert result["replayed"]["rounds"] == 8 * len(result["runs"])
    # Whoever is killed may not have written its last round's updates yet.
    assert result["replayed"]["recomputed"] > 0
    assert left(tmp_path) == []
    assert not any((tmp_path / "chaos").iterdir()), "what succeeds leaves no folder"


def test_an_interrupted_one_ends_all_that_it_started(tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any("peers are started" in line for line in process.stdout)
    assert any("edge_peer" in line for line in left(tmp_path))
    process.send_signal(signal.SIGINT)
    # Read to its end, so that it never writes to a closed pipe.
    process.stdout.read()
    assert process.wait(60) == 130
    assert left(tmp_path) == []
