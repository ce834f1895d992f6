"""`edge-peer check` tries everything that a peer needs, and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_peer.__main__ import main
from edge_peer.operator.local.broker import free_port
from tests.live.harness import Live

pytestmark = pytest.mark.live
Make = Callable[..., Live]


def check(it: Live, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    code = main(["check", "--config", str(it.fleet.configuration("peer1"))])
    lines = capsys.readouterr().out.splitlines()
    return code, {line.split(":")[0].split(None, 1)[1]: line for line in lines}


def test_all_is_well(live: Make, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = live(small, 3, {})
    it.configure()
    code, lines = check(it, capsys)
    assert code == 0
    assert all(line.startswith("ok ") for line in lines.values())
    assert "320 training and 100 test examples" in lines["model and shard"]
    assert "26698 parameters" in lines["model and shard"]


def test_a_missing_broker(live: Make, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = live(small, 3, {"broker": {"port": free_port()}})
    it.configure()
    code, lines = check(it, capsys)
    assert code == 3
    assert lines["broker"].startswith("FAIL")
    assert [name for name, line in lines.items() if line.startswith("FAIL")] == ["broker"]


def test_a_damaged_shard(live: Make, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = live(small, 3, {})
    it.configure()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((small / "peer1.safetensors").read_bytes()[:1000])
    it.fleet.configure("peer1", {"shard": {"path": str(damaged)}})
    code, lines = check(it, capsys)
    assert code == 2
    assert "damaged.safetensors" in lines["model and shard"]
    assert "python -m data_shards" in lines["model and shard"]


def test_missing_artifacts(live: Make, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = live(small, 3, {"model": {"artifacts": str(small / "nowhere")}})
    it.configure()
    code, lines = check(it, capsys)
    assert code == 2
    assert "make model" in lines["model and shard"]


def test_a_state_folder_that_cannot_be_made(live: Make, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = live(small, 3, {})
    it.configure()
    shard = {"path": str(small / "peer1.safetensors")}
    it.fleet.configure("peer1", {"peer": {"state_dir": "/proc/nowhere"}, "shard": shard})
    code, lines = check(it, capsys)
    assert code == 2
    assert "state_dir" in lines["state folder"]
