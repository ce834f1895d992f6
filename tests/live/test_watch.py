"""`edge-peer status --json` and `edge-peer watch` beside a real run, on a terminal and in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_peer.operator.live.view import DOING
from edge_peer.operator.local.broker import LocalBroker
from tests.live.harness import FEDERATION, Live

pytestmark = pytest.mark.live
WAIT_S = 60.0
EDGE_PEER = [sys.executable, "-m", "edge_peer"]
ENDLESS = {"run": {"rounds_max": 100_000}}


class Terminal:
    """A command on a terminal of 80 columns and 24 lines."""

    def __init__(self, command: list[str]) -> None:
        #: What has not been looked at yet, and all that came.
        self.text = self.raw = ""
        self._primary, secondary = pty.openpty()
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"}
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            command,
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            env=environment,
            preexec_fn=on_terminal,  # noqa: PLW1509 - there are no threads here
        )
        os.close(secondary)

    def until(self, pattern: str) -> str:
        """What has come until the pattern is in it; what was matched is not looked at again."""
        end_s = time.monotonic() + WAIT_S
        # Bold and dim stand between words.
        while not (found := re.search(pattern, self._plain())):
            assert time.monotonic() < end_s, f"{pattern} does not come: {self.text[-3000:]}"
            self._read()
        plain = self._plain()
        self.text = plain[found.end() :]
        return plain[: found.end()]

    def _plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.text)

    def _read(self) -> bool:
        if not select.select([self._primary], [], [], 1)[0]:
            return True
        try:
            part = os.read(self._primary, 65536)
        except OSError:
            # Nobody has the other end any more.
            return False
        self.raw += part.decode("utf-8", "replace")
        self.text += part.decode("utf-8", "replace")
        return bool(part)

    def key(self, code: bytes) -> None:
        os.write(self._primary, code)

    def end(self) -> int:
        while self._read():
            if self.process.poll() is not None and not select.select([self._primary], [], [], 0)[0]:
                break
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._primary)


def on_terminal() -> None:
    """In the child: Ctrl-C reaches who has the terminal."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def running(live: Callable[..., Live], small: Path, tmp_path: Path) -> Live:
    it = live(small, 3, ENDLESS)
    it.configure(peer1={"metrics": {"textfile": str(tmp_path / "metrics" / "peer1.prom"), "every_s": 1.0}})
    it.start()
    it.wait_round(3)
    return it


@pytest.fixture
def terminal(running: Live) -> Iterator[Terminal]:
    it = Terminal([*EDGE_PEER, "watch", "--config", str(running.fleet.configuration("peer2"))])
    yield it
    it.close()


def prometheus_sees(running: Live, path: Path) -> None:
    """The file of metrics, as the official parser reads it, says what the CSV of the same peer says."""
    end_s = time.monotonic() + WAIT_S
    found: dict[str, float] = {}
    while found.get("edge_peer_round", 0) < 3:
        assert time.monotonic() < end_s, f"{path} is not renewed: {found}"
        if path.exists():
            families = text_string_to_metric_families(path.read_text())
            found = {it.name: it.value for family in families for it in family.samples if len(it.labels) == 2}
        running.wait_round(running.federation.round.round + 1 if running.federation.round is not None else 1)
    run_id = running.federation.round.run_id if running.federation.round is not None else None
    rows = {int(row["round"]): row for row in running.rows("peer1", run_id or "")}
    row = rows[int(found["edge_peer_round"])]
    assert f"{found['edge_peer_accuracy_ratio']:.6g}" == row["global_accuracy"]
    assert f"{found['edge_peer_loss']:.6g}" == row["global_loss"]
    assert found["edge_peer_rounds_total"] == found["edge_peer_round"] + 1
    assert found["edge_peer_training_seconds_count"] == found["edge_peer_round"]
    trained_s = sum(float(rows[it]["training_s"] or 0) for it in range(1, int(found["edge_peer_round"]) + 1))
    assert found["edge_peer_training_seconds_sum"] == pytest.approx(trained_s, rel=1e-4)
    assert found["edge_peer_connected"] == found["edge_peer_connections_total"] == 1
    assert found["edge_peer_controller"] == (running.federation.controller == "peer1")
    assert found["edge_peer_sent_bytes_total"] > 0
    assert found["edge_peer_disk_free_bytes"] > 0


def test_a_run_is_seen_by_status_and_on_a_terminal(
    running: Live, terminal: Terminal, broker: LocalBroker, tmp_path: Path
) -> None:
    assert f"{FEDERATION}: 3 of 3 boards up" in terminal.until(r"board +role +does")
    pipe = subprocess.Popen(
        [*EDGE_PEER, "watch", "--config", str(running.fleet.configuration("peer1"))],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - there are no threads here
    )  # fmt: skip
    # As scripts see it: what the documents say that an onlooker has.
    command = [*EDGE_PEER, "status", "--json", "--config", str(running.fleet.configuration("peer1"))]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    document = json.loads(said.stdout)
    assert document["schema"] == 1
    assert document["federation"] == FEDERATION
    # Nobody has served the test's own connection meanwhile: the broker may have given it up.
    running.watch()
    seen = running.wait_round(document["run"]["round"])
    assert (document["controller"], document["term"]) == (running.federation.controller, seen.term)
    assert (document["run"]["run_id"], document["run"]["state"]) == (seen.run_id, "training")
    assert document["run"]["rounds_max"] == 100_000
    assert [it["name"] for it in document["boards"]] == ["peer1", "peer2", "peer3"]
    for board in document["boards"]:
        assert board["online"]
        assert board["doing"] in DOING
        assert board["examples"] == 320
        # A presence that is said before the board was first looked at has none yet.
        assert board["health"].get("disk_free_bytes", 1) > 0
        # Who looks once knows it, too, because the history is retained.
        assert 0 < board["accuracy"] <= 1
        assert board["curve"][0][0] == 0
    prometheus_sees(running, tmp_path / "metrics" / "peer1.prom")
    # As lines: each an event with its time, as soon as it happens.
    assert pipe.stdout is not None
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d "
    assert re.fullmatch(stamp + r"controller peer\d, term \d; run .*\n", pipe.stdout.readline())
    for line in pipe.stdout:
        assert re.match(stamp, line)
        if re.search(r"round \d+: accuracy 0\.\d{4}", line):
            break
    pipe.send_signal(signal.SIGINT)
    assert pipe.wait(WAIT_S) == 0
    pipe.stdout.close()
    # As a picture: through a peer's death, a broker's death, and Ctrl-C.
    controller = document["controller"]
    victim = next(it for it in running.peers if it != controller)
    running.fleet.kill(victim)
    terminal.until(rf"{victim} +offline +offline")
    terminal.until(rf"{victim} is gone")
    broker.stop()
    terminal.until("no connection to the broker")
    broker.start()
    running.fleet.start([victim])
    terminal.until("connected again")
    terminal.until(rf"{victim} +(trainer|controller) +(training|accepted)")
    terminal.until(r"round \d+: accuracy")
    terminal.key(b"\x03")
    assert terminal.end() == 0
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l"), "the cursor is there again"
    assert "Traceback" not in terminal.raw
    assert "\x1b[1m" in terminal.raw, "bold is no colour"
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]m", terminal.raw), "no colours"
    running.stop()
    assert list((tmp_path / "metrics").iterdir()) == [], "who has ended has no numbers any more"


def test_without_a_broker_it_is_said(tmp_path: Path, small: Path) -> None:
    path = tmp_path / "config.toml"
    own = '[peer]\nname = "a"\nstate_dir = "."\ntrain = false\n[model]\nartifacts = "."\n'
    path.write_text(own + '[broker]\nhost = "127.0.0.1"\nport = 1\n')
    done = subprocess.run([*EDGE_PEER, "watch", "--config", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    # A board without the package: said, with what to do.
    program = (
        "import sys; sys.modules['rich'] = None; from edge_peer.__main__ import main; "
        f"sys.exit(main(['watch', '--config', {str(path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "edge-peer: watch needs rich, which is not installed: pip install 'edge-peer[operator]'\n"
