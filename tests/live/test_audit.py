"""What real controllers leave behind, one of them killed: every model can be made again of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_peer.operator.fleet.collect import gather
from edge_peer.protocol.messages import TRAINING, Round
from tests.live.harness import ROOT, Live

pytestmark = pytest.mark.live
Make = Callable[..., Live]


def audit(run: Path) -> tuple[int, list[str]]:
    """In a process of its own, as an operator does."""
    command = [sys.executable, "-m", "edge_peer", "audit", str(run)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def assembled(it: Live, run_id: str, out: Path) -> Path:
    gather({peer: it.fleet.state_dir(peer) for peer in it.peers}, run_id, out / run_id)
    return out / run_id


def test_a_run_whose_controller_was_killed_audits_clean(live: Make, small: Path, tmp_path: Path) -> None:
    """With all that a server remembers: an optimizer's state, control variates, and deltas down."""
    settings = {
        "rounds_max": 6, "updates_min": 3, "codec": "int8", "downlink": "int8", "scaffold": True,
        "server_optimizer": "fedavgm", "server_parameters": {"momentum": 0.5},
    }  # fmt: skip
    it = live(small, 4, {"run": settings, "peer": {"keep_updates": True}})
    it.configure()
    it.start()
    it.wait(lambda doc: doc is not None and doc.state == TRAINING and doc.round >= 3, "round 3")
    killed = str(it.federation.controller)
    it.fleet.kill(killed)
    it.wait(lambda doc: it.federation.controller not in (None, killed), "the next controller")
    it.start(killed)
    end = it.wait_finished()
    it.stop()
    run = assembled(it, str(end.run_id), tmp_path / "runs")
    assert len(list((run / "updates").iterdir())) >= 2, "more than one controller has kept updates"
    code, lines = audit(run)
    assert code == 0, lines
    rounds = [line for line in lines if line.startswith("round ")]
    assert [int(line.split()[1]) for line in rounds] == [1, 2, 3, 4, 5, 6]
    # What the killed one has committed at the very end may not be on its disk yet; the next one has its base.
    assert sum(" recomputed " in line for line in rounds) >= 5
    assert all("its updates were not kept" in line for line in rounds if " recomputed " not in line)
    # One bit of one update, and it is found.
    path = max((run / "updates").glob("*/*/peer*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    code, lines = audit(run)
    assert code == 1
    assert any(line.startswith("FAULT") and path.name in line for line in lines)


def test_a_run_that_keeps_nothing_is_audited_by_digests(live: Make, small: Path, tmp_path: Path) -> None:
    it = live(small, 3, {"run": {"rounds_max": 3, "updates_min": 3, "rule": "qfedavg"}})
    it.configure()
    it.start()
    end = it.wait_finished()
    assert isinstance(end, Round)
    it.stop()
    run = assembled(it, str(end.run_id), tmp_path / "runs")
    code, lines = audit(run)
    assert (code, lines[-1]) == (0, "clean: 3 rounds, 3 digests only")
    log = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for line in (it for it in log if it["event"] == "committed"):
        assert line["population"] == 3 * 320
        for update in line["accepted"].values():
            assert {"digest", "examples", "steps", "codec", "loss", "s", "base_loss"} == set(update)
