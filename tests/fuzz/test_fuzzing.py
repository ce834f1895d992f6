"""Every target, fuzzed for two seconds; `make fuzz` does it for longer, and with other seeds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.session import fuzz, unsupported
from tests.fuzz.target import names

SECONDS = 2
#: Always the same: what fails was broken by the change that is tested.
SEED = 1
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(bool(unsupported()), reason=f"NO FUZZING, only the corpus is replayed: {unsupported()}")


@pytest.mark.parametrize("name", names())
def test_nothing_is_found_in_two_seconds(name: str, tmp_path: Path) -> None:
    (result,) = fuzz([name], SECONDS, tmp_path, 1, SEED, lambda _: None)
    shown = "".join(f"\n{path}: {path.read_bytes()!r}" for path in result.findings)
    assert not result.failed, f"{result.report}{shown}"
    assert result.inputs > 0
    assert result.edges > 0


def test_a_planted_bug_is_found_kept_and_replayed(tmp_path: Path) -> None:
    (result,) = fuzz(["tests.fuzz.planted"], 60, tmp_path, 1, SEED, lambda _: None)
    assert result.failed
    assert "the planted bug" in result.report
    (path,) = result.findings
    assert b"!" in path.read_bytes()
    command = [sys.executable, "-m", "tests.fuzz", "tests.fuzz.planted", "--replay", str(path)]
    replayed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert replayed.returncode == 1
    assert "the planted bug" in replayed.stderr


def test_a_target_that_cannot_be_run_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModuleNotFoundError):
        fuzz(["tests.fuzz.missing"], 1, tmp_path, 1, SEED, lambda _: None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (result,) = fuzz(["topics"], 1, tmp_path, 1, SEED, lambda _: None)
    assert result.failed
    assert "broke down" in result.row()
