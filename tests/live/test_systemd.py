"""What the daemon tells systemd's notification socket, and what it does at systemd's signals."""

from __future__ import annotations

import os
import pty
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_peer.operator.local import processes
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


# ---------------------------------------------------------------------- the watchdog


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        yield listener


def start_hanging(it: Live, manager: socket.socket, pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start peer1 as systemd would, with a training that waits for the pipe, and wait until it does."""
    os.mkfifo(pipe)
    it.configure()
    it.start("peer2", "peer3")
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    command = [sys.executable, "-m", "tests.live.hanging", str(it.fleet.configuration("peer1")), str(pipe)]
    it.fleet.processes["peer1"] = processes.start(command, it.fleet.log("peer1"))
    while "training" not in manager.recv(4096).decode():
        pass


def read_all(manager: socket.socket) -> None:
    for _ in range(1000):
        manager.recv(4096)


def let_go(pipe: Path, manager: socket.socket) -> None:
    """Let the training go on: there is nobody else to write to the pipe."""
    descriptor = None
    while descriptor is None:
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            # Nobody reads yet; there are pings until somebody does.
            manager.recv(4096)
    pipe.unlink()
    os.close(descriptor)


def test_a_long_batch_is_no_hang(
    live: Callable[..., Live], small: Path, tmp_path: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = live(small, 3, {"run": {"rounds_max": 2}})
    start_hanging(it, manager, tmp_path / "pipe", monkeypatch)
    # The time of a hundred batches, and of a dozen pings.
    pings = 0
    while pings < 12:
        pings += manager.recv(4096) == b"WATCHDOG=1"
    let_go(tmp_path / "pipe", manager)
    assert it.wait_finished().reason == "reached 2 rounds"
    assert len(it.rows("peer1", it.federation.round.run_id)) == 3  # type: ignore[union-attr, arg-type]


def test_a_training_that_hangs_is_ended_by_the_watchdog(
    live: Callable[..., Live], small: Path, tmp_path: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = live(small, 3, {"run": {"rounds_max": 2, "round_deadline_s": 10}, "trainer": {"stall_s": 0.5}})
    start_hanging(it, manager, tmp_path / "pipe", monkeypatch)
    # As systemd does: no word for ten times as long as between two pings.
    manager.settimeout(1.0)
    with pytest.raises(TimeoutError):
        read_all(manager)
    # The loop itself is well, and answers.
    assert it.fleet.processes["peer1"].poll() is None
    os.kill(it.fleet.processes["peer1"].pid, signal.SIGABRT)
    assert it.fleet.processes["peer1"].wait(30) == -signal.SIGABRT
    log = it.fleet.log("peer1").read_text()
    assert "training hangs" in log
    # Where it was, for whoever looks for the reason.
    assert "in wait_in_the_kernel" in log
    # Started again, it takes part in the run that is on.
    (tmp_path / "pipe").unlink()
    it.start("peer1")
    assert it.wait_finished().reason == "reached 2 rounds"


# ---------------------------------------------------------------------- reload


def reload(it: Live, peer: str, manager: socket.socket) -> None:
    """`systemctl reload`: the signal; the answer is that it reloads, since when, and that it is ready again."""
    os.kill(it.fleet.processes[peer].pid, signal.SIGHUP)
    text = ""
    while not text.startswith("RELOADING=1"):
        text = manager.recv(4096).decode()
    since = int(text.removeprefix("RELOADING=1\nMONOTONIC_USEC="))
    assert 0 < since <= time.monotonic_ns() // 1000
    while text != "READY=1":
        text = manager.recv(4096).decode()


def test_reload_takes_what_can_be_taken_without_leaving_the_run(
    live: Callable[..., Live], small: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = live(small, 3, {"run": {"rounds_max": 400}})
    it.configure()
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    it.start("peer1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    it.start("peer2", "peer3")
    begun = it.wait_round(2)
    session = it.federation.presences["peer1"].session

    # A file that cannot be used changes nothing.
    good = it.fleet.configuration("peer1").read_text()
    it.fleet.configuration("peer1").write_text(good + "\n[run]\nepochs = 3\n")
    reload(it, "peer1", manager)
    it.configure(peer1={"run": {"epochs": 0}})
    reload(it, "peer1", manager)
    assert "[run] epochs = 0: must be from 1 to 1000" in it.fleet.log("peer1").read_text()

    # A message limit that the model does not fit is refused, not run into at the next connection.
    it.configure(peer1={"broker": {"packet_bytes_max": 2000}})
    reload(it, "peer1", manager)
    assert "the limit is 2000: raise [broker] packet_bytes_max" in it.fleet.log("peer1").read_text()

    # What can be taken is: the connection is made anew, and nobody sees the peer go.
    it.configure(
        peer1={
            "peer": {"priority": 5000, "train": False},
            "broker": {"keepalive_s": 9},
            "limits": {"peers_max": 99},
            "log": {"level": "debug"},
        }
    )
    reload(it, "peer1", manager)
    it.wait(lambda _: it.federation.presences["peer1"].score >= 5000, "the new score")
    now = it.wait(lambda now: now is not None and now.participants == ("peer2", "peer3"), "a round without it")
    it.wait_round(now.round + 2)
    presence = it.federation.presences["peer1"]
    assert (presence.session, presence.train, presence.online) == (session, False, True)
    assert presence.health["memory_free_bytes"] > 0
    assert float(it.rows("peer1", begun.run_id or "")[-1]["disk_free_bytes"]) > 0
    said = [document for peer, kind, document in it.seen if (peer, kind) == ("peer1", "presence")]
    assert all(document.online for document in said)  # type: ignore[union-attr]
    log = it.fleet.log("peer1").read_text()
    assert log.count("connected to") == 2
    assert "connection lost" not in log
    assert "not changed until the process is started again: [limits] peers_max" in log
    assert " DEBUG " in log
    document = it.federation.round
    assert document is not None
    assert document.run_id == begun.run_id


def test_a_terminal_that_is_closed_ends_the_peer(live: Callable[..., Live], small: Path) -> None:
    it = live(small, 3, {})
    it.configure()
    command = [sys.executable, "-m", "edge_peer", "run", "--config", str(it.fleet.configuration("peer1"))]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    said = b""
    while b"connected to" not in said:
        said += os.read(terminal, 4096)
    os.kill(pid, signal.SIGHUP)
    # The terminal is there: it is a reload.
    while b"configuration read again" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    it.wait(lambda _: "peer1" in it.federation.presences, "the presence that it left")
    assert not it.federation.presences["peer1"].online
