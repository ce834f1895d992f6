"""Several real Mosquittos as `python -m edge_peer.operator.sites` configures them, and a fleet spread over them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_peer.config import BrokerSection
from edge_peer.operator.live.federation import WATCHED, Federation
from edge_peer.operator.live.session import Session
from edge_peer.operator.local import processes
from edge_peer.operator.local.broker import HOST, STAY_ROOT, LocalBroker, free_port, require_mosquitto
from edge_peer.operator.local.peers import Tables, merge
from edge_peer.operator.sites.__main__ import main
from edge_peer.protocol.messages import Document, Round, Stop, encode
from edge_peer.protocol.topics import STOP
from tests.chaos import checker
from tests.chaos.play import WITNESS, Played
from tests.chaos.records import read
from tests.live.harness import FEDERATION, TIMEOUT_S, Live

HUB = "north"
OPERATOR = "operator"
#: Short, so that a site that is cut off is missed soon; the proportions are those of the defaults.
SOON: dict[str, dict[str, Any]] = {
    "timing": {"lease_s": 2.0, "resend_s": 1.0, "grace_s": 0.3, "final_report_s": 10.0},
    "broker": {"keepalive_s": 2, "reconnect_s_max": 1.0, "connect_timeout_s": 2.0},
}

#: Those of the chaos checker's that look at no schedule of faults.
CHECKS = (
    checker.one_controller_a_term,
    checker.one_vote_a_term,
    checker.one_model_a_round,
    checker.rounds_never_go_back,
    checker.finished_stays,
    checker.counted_once,
    checker.counted_where_made,
    checker.nobody_stops,
)


class Cable:
    """The way of one site's bridge to the hub."""

    def __init__(self, to_port: int, log: Path) -> None:
        self.port = free_port()
        self._to_port = to_port
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def plug(self) -> None:
        """It carries; harmless when it does."""
        if self._process is None:
            command = [sys.executable, "-m", "tests.live.cable", str(self.port), str(self._to_port)]
            self._process = processes.start(command, self._log)
        self._process.send_signal(signal.SIGCONT)

    def cut(self, how: signal.Signals) -> None:
        """SIGKILL: both ends see it break. SIGSTOP: nothing comes through, and nobody is told."""
        assert self._process is not None
        self._process.send_signal(how)
        if how is signal.SIGKILL:
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """No more of it."""
        if self._process is not None:
            processes.stop([self._process])


class SiteBroker(LocalBroker):
    """One site's Mosquitto, with the files that the command has made for it."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, require_mosquitto(print))
        self.port = port

    def start(self) -> None:
        """Start it, and wait until it listens."""
        # Ending with this process, which a change of user would prevent.
        (self._folder / "mosquitto.conf").write_text((self._folder / "edge-peer.conf").read_text() + STAY_ROOT)
        command = [self._program, "-c", str(self._folder / "mosquitto.conf")]
        self._process = processes.start(command, self._folder / "mosquitto.log")
        assert self._answers(self._process), self.log

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self._folder / "mosquitto.log").read_text()


class View:
    """What an onlooker at one site sees."""

    def __init__(self, broker: BrokerSection) -> None:
        self.federation = Federation()
        self.seen: list[dict[str, Any]] = []
        self._session = Session(broker, FEDERATION, OPERATOR).__enter__()
        self._session.subscribe(WATCHED)

    def look(self, timeout_s: float) -> None:
        """Take what has come."""
        for peer, kind, document in self._session.take(timeout_s):
            self.federation.take(peer, kind, document)
            said = json.loads(encode(document)) if document is not None else None
            self.seen.append({"peer": peer, "kind": kind, "document": said})

    def close(self) -> None:
        """Disconnect."""
        self._session.close()


class Sites:
    """Brokers, cables between them, and peers.

    Args:
        folder: For everything.
        pki: The authority's; may be there already.
        shards: Folder with a shard a peer.
        peers: By site; the first site is the hub.
        common: Configuration of all peers beside the harness's.
        own: Configuration by peer.
    """

    def __init__(
        self, folder: Path, pki: Path, shards: Path, peers: dict[str, list[str]], common: Tables, **own: Tables
    ) -> None:
        self.peers = peers
        self._folder = folder
        self._pki = pki
        hub, *leaves = peers
        ports = {site: free_port() for site in peers}
        self.cables = {site: Cable(ports[hub], folder / "cables.log") for site in leaves}
        self._write(ports)
        self.brokers = {site: SiteBroker(folder / "sites" / site, ports[site]) for site in peers}
        self.views: dict[str, View] = {}
        everybody = [peer for there in peers.values() for peer in there]
        self.live = Live(folder, self.brokers[hub], shards, everybody, common)
        self.live.configure(
            **{peer: merge(self._tls(site, peer), own.get(peer, {})) for site, there in peers.items() for peer in there}
        )

    def _write(self, ports: dict[str, int]) -> None:
        hub = next(iter(self.peers))
        lines = [f'hub = "{hub}"']
        for site, there in self.peers.items():
            lines += [
                f"[sites.{site}]",
                f'host = "{HOST}"\nport = {ports[site]}\nbind_address = "{HOST}"',
                f"peers = {json.dumps(there)}",
                f"operators = {json.dumps([OPERATOR] if site == hub else [])}",
                f'folder = "{self._folder / "sites" / site}"',
            ]
        path = self._folder / "sites.toml"
        path.write_text("\n".join(lines))
        assert main([str(path), "--out", str(self._folder / "sites"), "--pki", str(self._pki)]) == 0
        for site, cable in self.cables.items():
            conf = self._folder / "sites" / site / "edge-peer.conf"
            text = conf.read_text()
            assert text.count(f"address {HOST}:{ports[hub]}\n") == 1
            conf.write_text(text.replace(f"address {HOST}:{ports[hub]}\n", f"address {HOST}:{cable.port}\n"))

    def _tls(self, site: str, name: str) -> dict[str, dict[str, Any]]:
        files = {"tls_ca": "ca.crt", "tls_certificate": f"{name}.crt", "tls_key": f"{name}.key"}
        paths = {key: str(self._pki / file) for key, file in files.items()}
        return {"broker": {"host": HOST, "port": self.brokers[site].port, **paths}}

    def section(self, site: str, name: str) -> BrokerSection:
        """How somebody connects to a site's broker."""
        values = self._tls(site, name)["broker"]
        return BrokerSection(**{key: Path(it) if key.startswith("tls") else it for key, it in values.items()})

    def start(self) -> None:
        """Brokers, cables and onlookers."""
        for cable in self.cables.values():
            cable.plug()
        for broker in self.brokers.values():
            broker.start()
        self.views = {site: View(self.section(site, OPERATOR)) for site in self.peers}
        # A word that crosses all bridges, and is taken back.
        hub = next(iter(self.peers))
        for said in (Stop("none", "the bridge is up"), None):
            self.say(hub, STOP, said)
            end_s = time.monotonic() + TIMEOUT_S
            while any(view.federation.stops.get(OPERATOR) != said for view in self.views.values()):
                assert time.monotonic() < end_s, f"no bridge: {[broker.log for broker in self.brokers.values()]}"
                for view in self.views.values():
                    view.look(0.01)

    def say(self, site: str, kind: str, document: Document | None) -> None:
        """As the operator, at one site."""
        with Session(self.section(site, OPERATOR), FEDERATION, OPERATOR) as session:
            session.publish(kind, document)

    def wait(
        self, site: str, condition: Callable[[Federation, Round], bool], what: str, timeout_s: float = TIMEOUT_S
    ) -> Round:
        """Until what an onlooker at one site sees is so; fails with the logs' ends."""
        view = self.views[site]
        end_s = time.monotonic() + timeout_s
        while (document := view.federation.round) is None or not condition(view.federation, document):
            if time.monotonic() > end_s:
                logs = "\n".join(f"--- {it}\n{self.live.fleet.last_lines(it)}" for it in self.live.fleet.processes)
                raise AssertionError(f"not within {timeout_s:g} s at {site}: {what}; {document}\n{logs}")
            view.look(0.1)
            for other in self.views.values():
                if other is not view:
                    other.look(0.002)
        return document

    def findings(self) -> list[str]:
        """What is wrong by what the stopped peers have left, and by what was seen at each site."""
        found = []
        Played(self.live.peers, 0).write(self._folder)
        for site, view in self.views.items():
            (self._folder / WITNESS).write_text("".join(json.dumps(it) + "\n" for it in view.seen))
            records = read(self._folder)
            found += [f"{site}: {check.__name__}: {it}" for check in CHECKS for it in check(records)]
        return found

    def stop(self) -> None:
        """End everything."""
        for view in self.views.values():
            view.close()
        self.live.stop()
        for it in [*self.brokers.values(), *self.cables.values()]:
            it.stop()
