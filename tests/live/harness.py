"""Real Mosquitto, real peer processes, real data; a test waits for what it reads from the broker, never for a time."""

from __future__ import annotations

import csv
import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_peer.config import BrokerSection
from edge_peer.operator.live.federation import WATCHED, Federation
from edge_peer.operator.live.session import Session
from edge_peer.operator.local.broker import HOST, LocalBroker
from edge_peer.operator.local.peers import LocalFleet, Tables, merge
from edge_peer.protocol.messages import FINISHED, TRAINING, Document, Round

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "models/artifacts/image_cnn"
FEDERATION = "live"
TIMEOUT_S = 60.0
#: When nothing comes for this long, all is here that was sent until now.
QUIET_S = 0.1


class Live:
    """A broker and a fleet in a folder, watched.

    Args:
        folder: For everything.
        broker: Running.
        shards: Folder with a shard a peer.
        peers: Their names.
        common: Configuration beside the harness's.
    """

    def __init__(self, folder: Path, broker: LocalBroker, shards: Path, peers: list[str], common: Tables) -> None:
        self.broker = broker
        self.peers = peers
        self.shards = shards
        tables = {
            "federation": {"name": FEDERATION, "roster": tuple(peers), "min_peers": len(peers)},
            "broker": {"host": HOST, "port": broker.port},
            "model": {"artifacts": str(ARTIFACTS)},
        }
        self.fleet = LocalFleet(folder, merge(tables, common))
        self.federation = Federation()
        #: Every document that came, in order.
        self.seen: list[tuple[str, str, Document | None]] = []
        #: Came, and not looked at yet: who waits for one document must not lose those that came with it.
        self._come: deque[tuple[str, str, Document | None]] = deque()
        self._session: Session | None = None

    def configure(self, **own: Tables) -> None:
        """Write the configurations; `own` by peer."""
        for peer in self.peers:
            shard = {"shard": {"path": str(self.shards / f"{peer}.safetensors")}}
            self.fleet.configure(peer, merge(shard, own.get(peer, {})))

    def start(self, *peers: str) -> None:
        """Start peers, all unless named."""
        self.fleet.start(peers or self.peers)

    def watch(self) -> None:
        """(Re)connect to the broker as an onlooker."""
        self.close()
        self._come.clear()
        self.federation = Federation()
        self._session = Session(BrokerSection(host=HOST, port=self.broker.port), FEDERATION, "onlooker").__enter__()
        self._session.subscribe(WATCHED)

    def close(self) -> None:
        """Stop watching."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def wait(self, condition: Callable[[Round | None], bool], what: str, timeout_s: float = TIMEOUT_S) -> Round:
        """Until the controller's document (or whatever the condition looks at) is so; fails with the logs' ends."""
        if self._session is None:
            self.watch()
        assert self._session is not None
        end_s = time.monotonic() + timeout_s
        while not condition(self.federation.round):
            left_s = end_s - time.monotonic()
            ended = self.fleet.processes and len(self.fleet.exited()) == len(self.fleet.processes)
            if left_s <= 0 or ended:
                logs = "\n".join(f"--- {peer}\n{self.fleet.last_lines(peer)}" for peer in self.fleet.processes)
                raise AssertionError(f"not within {timeout_s:g} s: {what}; {self.federation.round}\n{logs}")
            if not self._come:
                self._come.extend(self._session.take(min(left_s, 1.0)))
            if self._come:
                self._take_next()
        document = self.federation.round
        assert document is not None or self.federation.controller is None
        return document  # type: ignore[return-value]

    def _take_next(self) -> None:
        document = self._come.popleft()
        self.seen.append(document)
        self.federation.take(*document)

    def catch_up(self) -> None:
        """Look at all that has come until now."""
        if self._session is None:
            self.watch()
        assert self._session is not None
        self._come.extend(self._session.take(QUIET_S))
        while self._come:
            self._take_next()
            if not self._come:
                self._come.extend(self._session.take(QUIET_S))

    def wait_round(self, number: int) -> Round:
        """Until round `number` or a later one is being trained."""
        return self.wait(lambda it: it is not None and it.state == TRAINING and it.round >= number, f"round {number}")

    def wait_finished(self, run_id: str | None = None, timeout_s: float = TIMEOUT_S) -> Round:
        """Until the run has finished and all reports are in."""
        return self.wait(
            lambda it: it is not None and it.state == FINISHED and it.complete and run_id in (None, it.run_id),
            "the run's end",
            timeout_s,
        )

    # ------------------------------------------------------------------ what is left on disk

    def run_folder(self, peer: str, run_id: str) -> Path:
        """Where a peer keeps a run."""
        return self.fleet.state_dir(peer) / "runs" / run_id

    def rows(self, peer: str, run_id: str) -> list[dict[str, str]]:
        """A peer's CSV."""
        with (self.run_folder(peer, run_id) / f"{peer}.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def log_lines(self, peer: str, run_id: str) -> list[dict[str, Any]]:
        """A controller's round log."""
        path = self.run_folder(peer, run_id) / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def committed(self, run_id: str) -> list[dict[str, Any]]:
        """What all controllers have committed, by term and round."""
        lines = [line for peer in self.peers for line in self.log_lines(peer, run_id) if line["event"] == "committed"]
        return sorted(lines, key=lambda line: (line["round"], line["term"]))

    def stop(self) -> None:
        """End the peers in order, so that their files are whole."""
        self.fleet.stop()
