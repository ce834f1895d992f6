"""What the daemon tells systemd's notification socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import Live

pytestmark = pytest.mark.live


def test_ready_status_watchdog_and_stopping(
    live: Callable[..., Live], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        it = live(small, 3, {"run": {"rounds_max": 2}})
        it.configure()
        it.start("peer2", "peer3")
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        it.start("peer1")
        first = listener.recv(4096).decode()
        assert "READY=1" in first
        pings, statuses = 0, []
        while pings < 5 or not any("finished" in status for status in statuses):
            text = listener.recv(4096).decode()
            pings += text == "WATCHDOG=1"
            statuses += [text] if text.startswith("STATUS=") else []
        assert any("round 1/2 training" in status for status in statuses)
        it.stop()
        last = ""
        while "STOPPING=1" not in last:
            last = listener.recv(4096).decode()
