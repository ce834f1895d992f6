"""Notifications over real datagram sockets, such as systemd's."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_peer.shell.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The manager's end; abstract addresses begin with a zero byte, which is written as @."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@edge-peer-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    for variable in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(variable, raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it:
        it.bind(name.replace("@", "\0", 1))
        it.settimeout(10)
        yield it


def test_fields_are_lines_of_one_datagram(systemd: socket.socket) -> None:
    notifier = Notifier()
    notifier.send(READY="1", STATUS="waits for 2 more peers")
    notifier.send(WATCHDOG="1")
    notifier.send(STOPPING="1")
    assert systemd.recv(4096) == b"READY=1\nSTATUS=waits for 2 more peers"
    assert systemd.recv(4096) == b"WATCHDOG=1"
    assert systemd.recv(4096) == b"STOPPING=1"


def test_a_value_cannot_bring_a_field_of_its_own(systemd: socket.socket) -> None:
    Notifier().send(STATUS="controller\nMAINPID=1\rFDSTORE=1")
    assert systemd.recv(4096) == b"STATUS=controller MAINPID=1 FDSTORE=1"


def test_half_of_the_watchdogs_time(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert Notifier().interval_s == 15.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert Notifier().interval_s == 15.0


@pytest.mark.parametrize("value", ["", "0", "-5", "soon", "1.5", "9" * 5000])
def test_no_watchdog(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", value)
    assert Notifier().interval_s is None


def test_the_watchdog_of_another_process(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Notifier().interval_s is None


def test_nobody_reads_and_the_loop_goes_on(systemd: socket.socket) -> None:
    notifier = Notifier()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100_000):
                other.sendto(b"x", systemd.getsockname())
        with pytest.raises(BlockingIOError):
            other.sendto(b"x", systemd.getsockname())
    started = time.monotonic()
    notifier.send(WATCHDOG="1")
    assert time.monotonic() - started < 5


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    notifier = Notifier()
    assert notifier.interval_s is None
    notifier.send(READY="1")


@pytest.mark.parametrize("name", ["/nothing/there", "x" * 300, "@" + "x" * 300])
def test_a_socket_that_is_not_there_is_of_no_consequence(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    Notifier().send(READY="1")
