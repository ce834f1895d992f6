"""Federations over several bridged Mosquittos, by the configuration that `edge_peer.operator.sites` writes."""

from __future__ import annotations

import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_peer.errors import BrokerError
from edge_peer.operator.live.session import Session
from edge_peer.operator.local.peers import Tables, merge
from edge_peer.protocol.messages import FINISHED, TRAINING, Round, Start, Stop
from edge_peer.protocol.topics import START, STOP
from edge_peer.shell.mqtt import Accepted, Connection, Message
from tests.live.harness import FEDERATION, TIMEOUT_S
from tests.live.sites import OPERATOR, SOON, Sites

pytestmark = pytest.mark.live
TWO = {"north": ["peer1", "peer2", "peer3"], "south": ["peer4", "peer5"]}
THREE = {"north": ["peer1", "peer2"], "south": ["peer3", "peer4"], "west": ["peer5", "peer6"]}
#: A peer that leads while it can.
LEADS = {"peer": {"priority": 500_000.0}}
DEADLINE_S = 2.0
Make = Callable[..., Sites]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sites") / "pki"


@pytest.fixture
def sites(tmp_path: Path, pki: Path, small: Path) -> Iterator[Make]:
    made: list[Sites] = []

    def make(peers: dict[str, list[str]], common: Tables, **own: Tables) -> Sites:
        it = Sites(tmp_path, pki, small, peers, merge(SOON, common), **own)
        made.append(it)
        it.start()
        return it

    yield make
    for it in made:
        it.stop()


def finished(it: Sites) -> Round:
    """The end of the run, the same at every site, and on every peer's disk."""
    ends = [
        it.wait(site, lambda _, doc: doc.state == FINISHED and doc.complete, "the run's end") for site in it.brokers
    ]
    assert {end.base for end in ends} == {ends[0].base}
    assert set(ends[0].reports) == set(it.live.peers)
    for site in it.brokers:
        it.wait(
            site,
            lambda federation, doc: all(
                federation.presences[peer].newest == doc.base and federation.presences[peer].online
                for peer in it.live.peers
            ),
            "everybody holds the final model",
        )
    return ends[0]


@pytest.mark.parametrize("peers", [TWO, pytest.param(THREE, marks=pytest.mark.again)], ids=["two", "three"])
def test_a_federation_over_sites_trains_and_ends_with_one_model(sites: Make, peers: dict[str, list[str]]) -> None:
    it = sites(peers, {"run": {"rounds_max": 5}})
    it.live.start()
    end = finished(it)
    it.live.stop()
    assert end.reason == "reached 5 rounds"
    lines = it.live.committed(str(end.run_id))
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(set(line["accepted"]) == set(it.live.peers) for line in lines), "everybody trains in every round"
    assert not it.findings()


def led_by(it: Sites, peer: str) -> Round:
    """Start all, until this peer leads: another one has won only if it was there long before, and is started again."""
    it.live.start()
    while True:
        there = it.wait(
            "north", lambda _, doc: doc.round >= 3 and set(doc.participants) == set(it.live.peers), "all train"
        )
        leader = it.views["north"].federation.controller
        if leader == peer:
            return there
        assert leader is not None
        it.live.fleet.kill(leader)
        it.wait("north", lambda _, doc, term=there.term: doc.term > term, "the next one leads")
        it.live.start(leader)


def writes(it: Sites, site: str, certificate: str, name: str) -> bool:
    """Whether a site's broker lets the owner of a certificate write under a name."""
    with Session(it.section(site, certificate), FEDERATION, name) as session:
        try:
            session.publish(START, Start(0))
        except BrokerError:
            return False
        session.publish(START, None)
        return True


def test_everybody_writes_at_the_own_site_alone_and_a_bridge_for_its_own_site_alone(sites: Make) -> None:
    it = sites(TWO, {})
    for site, certificate, name, may in (
        ("north", "peer1", "peer1", True),
        ("north", "peer1", "peer2", False),
        ("south", "peer1", "peer1", False),
        ("south", "peer4", "peer4", True),
        ("north", "peer4", "peer4", False),
        ("north", OPERATOR, OPERATOR, True),
        ("south", OPERATOR, OPERATOR, False),
        ("north", "bridge.south", "peer4", True),
        ("north", "bridge.south", "peer1", False),
        ("north", "bridge.south", OPERATOR, False),
        ("south", "bridge.south", "peer4", False),
    ):
        assert writes(it, site, certificate, name) == may, (site, certificate, name)


def test_an_operator_is_told_whether_a_site_has_its_bridge(sites: Make) -> None:
    it = sites(TWO, {})
    topic, said = "$SYS/broker/connection/bridge.south/state", []
    connection = Connection(it.section("south", OPERATOR), "onlooker", None)
    connection.open()
    try:
        for wanted in (b"1", b"0", b"1"):
            while not said or said[-1] != wanted:
                assert select.select([connection.socket()], [], [], TIMEOUT_S)[0], f"nothing of {wanted!r}: {said}"
                connection.read()
                while connection.happened:
                    happened = connection.happened.popleft()
                    if isinstance(happened, Accepted):
                        connection.subscribe([topic])
                    elif isinstance(happened, Message):
                        said.append(happened.payload)
            if wanted == b"1" and len(said) == 1:
                it.cables["south"].cut(signal.SIGKILL)
            elif wanted == b"0":
                it.cables["south"].plug()
    finally:
        connection.close()


def test_a_death_at_one_site_is_heard_at_the_other_and_a_stop_too(sites: Make) -> None:
    it = sites(TWO, {"run": {"rounds_max": 100_000}}, peer4=LEADS)
    before = led_by(it, "peer4")
    # The hub tells of the death of a leaf's peer, which leads, and the leaf of one of the hub's.
    it.live.fleet.kill("peer4")
    after = it.wait("north", lambda _, doc: doc.term > before.term and doc.round > before.round, "the next one leads")
    assert after.missing["peer4"] == "offline"
    it.live.fleet.kill("peer1")
    it.wait("south", lambda there, doc: "peer1" not in there.online and doc.round > after.round, "peer1 is missed")
    it.live.start("peer1", "peer4")
    back = it.wait("south", lambda _, doc: {"peer1", "peer4"} <= set(doc.participants), "both are back")
    it.say("north", STOP, Stop(str(back.run_id), "enough"))
    end = finished(it)
    it.live.stop()
    assert end.reason == "stopped by operator: enough"
    assert not it.findings()


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.again)], ids=["broken", "silent"]
)
def test_a_site_that_is_cut_off_waits_and_comes_by_the_others_model(sites: Make, how: signal.Signals) -> None:
    """The controller is at that site: its own broker lives, and sends back what it says."""
    it = sites(TWO, {"run": {"rounds_max": 100_000, "round_deadline_s": DEADLINE_S, "updates_min": 1}}, peer4=LEADS)
    before = led_by(it, "peer4")
    it.cables["south"].cut(how)
    cut = it.wait("north", lambda _, doc: doc.term > before.term and doc.state == TRAINING, "the majority elects")
    it.wait("north", lambda _, doc: doc.round >= cut.round + 20, "the majority goes on")
    waits = it.wait(
        "south",
        lambda there, doc: there.controller == "peer4" and "not heard" in doc.missing.get("peer1", ""),
        "peer4 says that it leads, and whom it waits for",
    )
    assert waits.term == before.term
    assert waits.state == TRAINING, "it has not ended the run"
    it.cables["south"].plug()
    it.wait("south", lambda there, doc: doc.term > before.term and doc.round >= cut.round + 20, "peer4 steps down")
    healed = it.wait("north", lambda _, doc: set(doc.participants) == set(it.live.peers), "everybody trains")
    it.say("north", STOP, Stop(str(healed.run_id), "enough"))
    end = finished(it)
    it.live.stop()
    lines = [line for line in it.live.log_lines("peer4", str(end.run_id)) if line["event"] == "committed"]
    alone = [line["round"] for line in lines if set(line["accepted"]) <= set(TWO["south"])]
    # What ends within a lease of the cut, and the round that is open then.
    assert len(alone) <= SOON["timing"]["lease_s"] // DEADLINE_S + 1, alone
    assert not it.findings()
