"""What a round writes to a board's SD card: `python -m bench.writes`.

Four peers of the default model. The controller and a trainer have each a file system of its own, ext4 with journal, on
a device that counts all sectors: data, journal and metadata. Which files were written, and how often, the kernel tells
(inotify). So that rounds are as long as a board's, one of the other peers is stopped for a while in each of them.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import card
from bench.inotify import Watch
from bench.soak.samples import GROWS, kind_of
from bench.tables import report
from data_shards.build import build
from data_shards.datasets import load_dataset
from edge_peer.config import BrokerSection
from edge_peer.operator.live.session import Session
from edge_peer.operator.local.broker import HOST, LocalBroker, require_mosquitto
from edge_peer.operator.local.peers import Tables
from edge_peer.protocol.messages import TRAINING, Stop
from edge_peer.protocol.topics import STOP
from edge_peer.shell.daemon import SYNC_S
from tests.live.harness import FEDERATION, Live

PEERS = ("controller", "trainer", "other", "slow")
WATCHED = PEERS[:2]
EXAMPLES = 3000
#: The examples of all but the slow one are so few that it is the last to answer.
FEW = 300
#: Long enough for whatever is due by the clock, such as health, to be due.
IDLE_S = 40.0
#: Name -> what is on beside the defaults.
SETTINGS: dict[str, Tables] = {
    "defaults": {},
    "all": {
        "run": {"error_feedback": True, "scaffold": True, "downlink": "int8"},
        "peer": {"keep_updates": True},
    },
}
HOUR_S = 3600.0


@dataclass
class Written:
    """By one board, in some rounds, or in some time without a run.

    Attributes:
        kinds: Kind of file -> (writes, bytes), as the process wrote them.
        device: Bytes and write requests of its card; None: it has none of its own.
    """

    kinds: dict[str, tuple[int, int]]
    device: tuple[int, int] | None


class Boards:
    """A federation whose first two peers are watched.

    Args:
        folder: For everything.
        data: Shards.
        settings: See `SETTINGS`.
        cards: Whether the two have file systems of their own.
    """

    def __init__(self, folder: Path, data: Path, settings: Tables, cards: bool) -> None:
        self._broker = LocalBroker(folder, require_mosquitto(print))
        self._cards: dict[str, card.Card] = {}
        self._watches: dict[str, Watch] = {}
        self._sizes: dict[Path, int] = {}
        run = {"rounds_max": 1_000_000, "round_deadline_s": 600.0, "epochs": 8, **settings.get("run", {})}
        self._broker.start()
        self.live = Live(folder, self._broker, data, list(PEERS), {"run": run})
        own = settings.get("peer", {})
        priority = {PEERS[0]: 1e5}
        self.live.configure(**{it: {"peer": {**own, "priority": priority.get(it, 0.0)}} for it in PEERS})
        if cards:
            for peer in WATCHED:
                self._cards[peer] = card.Card(folder, self.live.fleet.state_dir(peer))

    def close(self) -> None:
        """End everything."""
        self.live.close()
        self.live.stop()
        self._broker.stop()
        for watch in self._watches.values():
            watch.close()
        for it in self._cards.values():
            it.remove()

    def start(self) -> None:
        """Start the peers, and wait for the second round."""
        self.live.start()
        self.live.wait_round(2)
        self._watches = {peer: Watch(self.live.fleet.state_dir(peer)) for peer in WATCHED}

    def rounds(self, count: int, round_s: float) -> tuple[int, float, dict[str, Written]]:
        """Play rounds that take so long at least; returns how many, seconds of one, and what was written by whom."""
        first = self._slow_round(0, round_s)
        before, started_s = self._look(), time.monotonic()
        last = first
        for _ in range(count):
            last = self._slow_round(last + 1, round_s)
        written, took_s = self._since(before), time.monotonic() - started_s
        return last - first, took_s / (last - first), written

    def idle(self) -> tuple[float, dict[str, Written]]:
        """End the run and wait; returns for how long, and what was written by whom."""
        document = self.live.federation.round
        assert document is not None
        with Session(BrokerSection(host=HOST, port=self._broker.port), FEDERATION, "operator") as session:
            session.publish(STOP, Stop(str(document.run_id), "measured"))
            self.live.wait_finished(document.run_id)
            session.publish(STOP, None)
        for peer in PEERS:
            self._wait_for_final_model(peer, str(document.run_id))
        # What was appended last is synced after five seconds.
        time.sleep(2 * SYNC_S)
        before, started_s = self._look(), time.monotonic()
        time.sleep(IDLE_S)
        return time.monotonic() - started_s, self._since(before)

    def _wait_for_final_model(self, peer: str, run_id: str) -> None:
        path = self.live.run_folder(peer, run_id) / "config.toml"
        end_s = time.monotonic() + 60
        while not path.exists():
            if time.monotonic() > end_s:
                raise TimeoutError(f"{path} is not there")
            time.sleep(0.1)

    def _slow_round(self, number: int, round_s: float) -> int:
        """Wait for a round, and let it end no sooner; returns which it was."""
        document = self.live.wait(
            lambda it: it is not None and it.state == TRAINING and it.round >= number, f"round {number}"
        )
        pid = self.live.fleet.processes[PEERS[-1]].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(round_s)
        finally:
            os.kill(pid, signal.SIGCONT)
        return document.round

    def _look(self) -> dict[str, tuple[int, int]]:
        """What the cards have written so far; what files are written is counted from here on."""
        devices = {peer: it.written() for peer, it in self._cards.items()}
        for watch in self._watches.values():
            watch.clear()
        self._sizes = self._appended()
        return devices

    def _appended(self) -> dict[Path, int]:
        files = [path for peer in WATCHED for path in self.live.fleet.state_dir(peer).rglob("*") if path.is_file()]
        return {path: path.stat().st_size for path in files if kind_of(path) in GROWS}

    def _since(self, before: dict[str, tuple[int, int]]) -> dict[str, Written]:
        found = {}
        sizes = self._appended()
        for peer, watch in self._watches.items():
            device = None
            if peer in self._cards:
                now = self._cards[peer].written()
                device = (now[0] - before[peer][0], now[1] - before[peer][1])
            watch.take()
            kinds: dict[str, tuple[int, int]] = {}
            for path, times in watch.replaced.items():
                _count(kinds, path, times, watch.replaced_bytes[path])
            for path, times in watch.modified.items():
                _count(kinds, path, times, sizes.get(path, 0) - self._sizes.get(path, 0))
            found[peer] = Written(kinds, device)
        return found


def _count(kinds: dict[str, tuple[int, int]], path: Path, times: int, size: int) -> None:
    before = kinds.get(kind_of(path), (0, 0))
    kinds[kind_of(path)] = (before[0] + times, before[1] + size)


def rows_of(name: str, rounds: int, round_s: float, written: dict[str, Written]) -> list[dict[str, Any]]:
    """One a board and kind of file, and one for its card."""
    rows = []
    for peer, it in written.items():
        each: list[tuple[str, tuple[int, int]]] = sorted(it.kinds.items())
        total = sum(size for _, (_, size) in each)
        each.append(("all files", (sum(times for _, (times, _) in each), total)))
        if it.device is not None:
            each.append(("the card", (it.device[1], it.device[0])))
        for kind, (times, size) in each:
            rows.append(
                {
                    "settings": name,
                    "board": peer,
                    "what": kind,
                    "writes/round": round(times / rounds, 2),
                    "bytes/round": round(size / rounds),
                    "MB/hour": round(size / rounds * HOUR_S / round_s / 1e6, 2),
                }
            )
    return rows


def main() -> None:
    """Measure and report."""
    it = argparse.ArgumentParser(prog="python -m bench.writes", description=__doc__.splitlines()[0])
    it.add_argument("--rounds", type=int, default=10, help="of each settings (default: %(default)s)")
    it.add_argument("--seconds", type=float, default=6.0, help="of a round, at least (default: %(default)g)")
    it.add_argument("--settings", default="", help=f"only these, with commas between: {', '.join(SETTINGS)}")
    options = it.parse_args()
    why = card.why_not()
    if why:
        print(f"without cards: {why}")
    rows: list[dict[str, Any]] = []
    lengths = []
    with tempfile.TemporaryDirectory() as name:
        dataset = load_dataset("fashion-mnist", say=print)
        data = Path(name) / "shards"
        build(dataset, [PEERS[-1]], "iid", 1, data, EXAMPLES, 200)
        slow = (data / f"{PEERS[-1]}.safetensors").read_bytes()
        build(dataset, PEERS, "iid", 2, data, FEW, 200)
        (data / f"{PEERS[-1]}.safetensors").write_bytes(slow)
        for wanted in options.settings.split(",") if options.settings else SETTINGS:
            folder = Path(name) / wanted.replace(" ", "-")
            folder.mkdir()
            boards = Boards(folder, data, SETTINGS[wanted], cards=not why)
            try:
                boards.start()
                rounds, round_s, written = boards.rounds(options.rounds, options.seconds)
                print(f"{wanted}: {rounds} rounds of {round_s:.1f} s", flush=True)
                lengths.append(round_s)
                rows += rows_of(wanted, rounds, round_s, written)
                idle_s, written = boards.idle()
                rows += rows_of(f"{wanted}, no run", 1, idle_s, written)
            finally:
                boards.close()
    length = sum(lengths) / len(lengths)
    report("writes", f"Written by a board, rounds of {length:.1f} s, 26,698 parameters, {len(PEERS)} peers", rows)


if __name__ == "__main__":
    main()
