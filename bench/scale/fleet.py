"""n peers of the smallest model and their broker, on this machine: each a process, or most of them some a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench.onlooker import COUNTED
from bench.processes import Figures, figures
from bench.small import ARTIFACTS, shards
from edge_peer.operator.local import processes
from edge_peer.operator.local.broker import HOST, LocalBroker, require_mosquitto
from edge_peer.operator.local.peers import LocalFleet, Tables, merge

FEDERATION = "scale"
#: Up to so many, every peer is a process; of more, these lead and the others are hosted.
PROCESSES_MAX = 64
LEADERS = 4
HOSTED_MAX = 32
#: Of peers that share a process, and with it a core: one that waits for the others is not gone.
PATIENT: Tables = {"broker": {"keepalive_s": 60}, "timing": {"lease_s": 90.0}}
#: Leaders rank above whatever a hosted peer's score is.
PRIORITY = 1000.0


class Fleet:
    """One federation.

    Args:
        folder: For everything; best in memory: the boards of a fleet do not share a disk.
        count: Peers.
        processes_max: Up to so many peers, each is a process.
        run: Further keys of [run].
    """

    def __init__(self, folder: Path, count: int, processes_max: int, run: dict[str, object]) -> None:
        self.folder = folder
        self.peers = [f"p{number:03}" for number in range(1, count + 1)]
        self.broker = LocalBroker(folder, require_mosquitto(print), more=COUNTED)
        self.broker.start()
        common: Tables = {
            "federation": {"name": FEDERATION, "roster": tuple(self.peers), "min_peers": count},
            "broker": {"host": HOST, "port": self.broker.port},
            "model": {"artifacts": str(ARTIFACTS)},
            "trainer": {"evaluate_local": False},
            "run": {"rounds_max": 1_000_000, **run},
        }
        self.fleet = LocalFleet(folder, merge(common, PATIENT) if count > processes_max else common)
        alone = self.peers if count <= processes_max else self.peers[:LEADERS]
        hosted = self.peers[len(alone) :]
        self.alone = list(alone)
        #: Processes of many peers.
        self.hosted = [hosted[start : start + HOSTED_MAX] for start in range(0, len(hosted), HOSTED_MAX)]
        self._hosts: list[subprocess.Popen[bytes]] = []
        data = shards(folder / "shards", self.peers)
        for peer in self.peers:
            own: dict[str, dict[str, object]] = {"shard": {"path": str(data / f"{peer}.safetensors")}}
            if hosted and peer in self.alone:
                own["peer"] = {"priority": PRIORITY}
            self.fleet.configure(peer, own)

    @property
    def how(self) -> str:
        """How the peers are spread over processes."""
        if not self.hosted:
            return f"{len(self.alone)} processes"
        return f"{len(self.alone)} processes, {len(self.hosted)} more with {len(self.hosted[0])} each"

    def start(self) -> None:
        """Start all."""
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        self.fleet.start(self.alone)
        for number, peers in enumerate(self.hosted, 1):
            command = [sys.executable, "-m", "bench.scale.host"]
            command += [str(self.fleet.configuration(peer)) for peer in peers]
            self._hosts.append(processes.start(command, self.fleet.log(f"host{number}")))

    def pid(self, peer: str) -> int:
        """Of a peer that is a process."""
        return self.fleet.processes[peer].pid

    def figures(self) -> list[Figures]:
        """Of the processes that are there, hosts too."""
        all_of_them = [*self.fleet.processes.values(), *self._hosts]
        return [it for process in all_of_them if (it := figures(process.pid)) is not None]

    def broker_figures(self) -> Figures:
        """Of the broker."""
        it = figures(self.broker.pid)
        assert it is not None, "the broker is gone"
        return it

    def stop(self) -> None:
        """End all."""
        processes.stop(self._hosts)
        self.fleet.stop()
        self.broker.stop()
