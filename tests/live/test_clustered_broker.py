"""A federation on a cluster of two ejabberds, one of which is killed in the middle: `make test-brokers`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge_peer.config import BrokerSection
from edge_peer.errors import BrokerError
from edge_peer.operator.certificates.folder import Folder, Lifetimes
from edge_peer.operator.certificates.x509 import Wanted
from edge_peer.operator.live.federation import Federation
from edge_peer.operator.live.session import Session
from edge_peer.operator.local.broker import HOST
from edge_peer.operator.local.peers import Tables, merge
from edge_peer.protocol.messages import FINISHED, Round, Start, Stop
from edge_peer.protocol.topics import START, STOP
from tests.chaos.play import WITNESS, Played
from tests.chaos.records import read
from tests.live.ejabberd import VIRTUAL_HOST, Cluster
from tests.live.harness import FEDERATION, Live
from tests.live.sites import CHECKS, OPERATOR, SOON, View

pytestmark = [pytest.mark.live, pytest.mark.brokers, pytest.mark.timeout(900)]
PEERS = ["peer1", "peer2", "peer3", "peer4", "peer5"]
#: Where each begins; the other node is its alternative.
HOME = {"peer1": "one", "peer2": "one", "peer3": "one", "peer4": "two", "peer5": "two", OPERATOR: "one"}
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "pki"
    wanted = [Wanted("broker.cluster", server=True, addresses=(HOST, VIRTUAL_HOST)), *map(Wanted, [*PEERS, OPERATOR])]
    Folder(folder, datetime.now(timezone.utc), Lifetimes(), print).make(wanted)
    return folder


@pytest.fixture(scope="module")
def cluster(pki: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    together = pki / "cluster.pem"
    parts = ("broker.cluster.crt", "broker.cluster.key", "ca.crt")
    together.write_text("".join((pki / it).read_text() for it in parts))
    it = Cluster(tmp_path_factory.mktemp("nodes"), ["one", "two"], together)
    try:
        it.start()
        it.register({name: f"secret of {name}" for name in [*PEERS, OPERATOR]})
        yield it
    finally:
        it.stop()


class Fleet:
    """Peers at both nodes, and an onlooker at the first."""

    def __init__(self, folder: Path, pki: Path, cluster: Cluster, shards: Path) -> None:
        self._folder = folder
        self._pki = pki
        self._cluster = cluster
        run = {"rounds_max": 100_000, "updates_min": 2}
        common = merge(SOON, {"run": run, "federation": {"min_peers": 3, "roster": tuple(PEERS)}})
        self.live = Live(folder, cluster, shards, PEERS, common)  # type: ignore[arg-type]
        # The controller will be at the node that dies.
        self.live.configure(
            **{peer: merge(self.tables(peer), {"peer": {"priority": 500_000.0 * (peer == "peer4")}}) for peer in PEERS}
        )
        self.view = View(self.section(OPERATOR))

    def tables(self, name: str) -> Tables:
        """How somebody connects."""
        password = self._folder / f"{name}.password"
        password.write_text(f"secret of {name}")
        first, other = HOME[name], next(it for it in self._cluster.ports if it != HOME[name])
        return {
            "broker": {
                "host": HOST,
                "port": self._cluster.ports[first],
                "alternatives": (f"{HOST}:{self._cluster.ports[other]}",),
                "username": name,
                "password_file": str(password),
                "tls_ca": str(self._pki / "ca.crt"),
                "tls_certificate": str(self._pki / f"{name}.crt"),
                "tls_key": str(self._pki / f"{name}.key"),
            }
        }

    def section(self, name: str) -> BrokerSection:
        """The same, for a session."""
        values = dict(self.tables(name)["broker"])
        return BrokerSection(**{key: Path(it) if key.startswith(("tls", "pass")) else it for key, it in values.items()})

    def wait(self, condition: Callable[[Federation, Round], bool], what: str) -> Round:
        """Until what the onlooker sees is so."""
        end_s = time.monotonic() + TIMEOUT_S
        while (document := self.view.federation.round) is None or not condition(self.view.federation, document):
            if time.monotonic() > end_s:
                logs = "\n".join(f"--- {it}\n{self.live.fleet.last_lines(it)}" for it in self.live.fleet.processes)
                raise AssertionError(f"not within {TIMEOUT_S:g} s: {what}; {document}\n{logs}")
            self.view.look(0.1)
        return document

    def findings(self) -> list[str]:
        """What is wrong by what the stopped peers have left."""
        Played(PEERS, 0).write(self._folder)
        (self._folder / WITNESS).write_text("".join(json.dumps(it) + "\n" for it in self.view.seen))
        records = read(self._folder)
        return [f"{check.__name__}: {it}" for check in CHECKS for it in check(records)]


@pytest.fixture
def fleet(tmp_path: Path, pki: Path, cluster: Cluster, small: Path) -> Iterator[Fleet]:
    it = Fleet(tmp_path, pki, cluster, small)
    yield it
    it.view.close()
    it.live.stop()


def test_nobody_writes_under_another_name(fleet: Fleet, cluster: Cluster) -> None:
    with Session(fleet.section("peer1"), FEDERATION, "peer2") as session, pytest.raises(BrokerError, match="not let"):
        session.publish(START, Start(0))


def test_a_federation_outlives_the_death_of_a_node(fleet: Fleet, cluster: Cluster) -> None:
    # A federation at one node, and then peers at the other one, which has kept nothing of it for them.
    fleet.live.start("peer1", "peer2", "peer3")
    fleet.wait(lambda _, doc: doc.round >= 3, "three of them train")
    fleet.live.start("peer4", "peer5")
    joined = fleet.wait(lambda _, doc: set(doc.closed_accepted) == set(PEERS), "all of them train")
    # The board with the higher score takes over when another controller goes; now and then somebody is faster.
    while (leader := fleet.view.federation.controller) != "peer4":
        assert leader is not None
        fleet.live.fleet.kill(leader)
        joined = fleet.wait(lambda _, doc, term=joined.term: doc.term > term, "the next one leads")
        fleet.live.start(leader)
    before = fleet.wait(lambda _, doc: set(doc.closed_accepted) == set(PEERS) and doc.term == joined.term, "all again")
    cluster.kill("two")
    # Its node has not told anybody of its end.
    after = fleet.wait(
        lambda _, doc: set(doc.closed_accepted) == set(PEERS) and doc.round > before.round + 5, "on one node"
    )
    assert after.run_id == before.run_id
    cluster.start_again("two")
    fleet.live.fleet.kill("peer5")
    shutil.rmtree(fleet.live.fleet.state_dir("peer5"))
    late = fleet.wait(lambda it, doc: "peer5" not in doc.participants, "peer5 is gone")
    fleet.live.start("peer5")
    fleet.wait(
        lambda _, doc: "peer5" in doc.closed_accepted and doc.round > late.round, "peer5 is back, at its first node"
    )
    assert f":{cluster.ports['two']}" in fleet.live.fleet.last_lines("peer5", 100)
    with Session(fleet.section(OPERATOR), FEDERATION, OPERATOR) as session:
        session.publish(STOP, Stop(str(before.run_id), "enough"))
    end = fleet.wait(lambda _, doc: doc.state == FINISHED and doc.complete, "the run's end")
    assert end.run_id == before.run_id
    assert set(end.reports) == set(PEERS)
    fleet.wait(
        lambda it, doc: all(it.presences[peer].newest == doc.base for peer in PEERS), "everybody has the final model"
    )
    fleet.live.stop()
    assert not fleet.findings()
