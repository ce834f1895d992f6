"""What changes in a fleet beside its software: peers that share a board, authorities, members, the broker's place.

The tests are steps of one story and stand in its order.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from edge_peer.errors import BrokerError
from edge_peer.operator.live.federation import Federation
from edge_peer.operator.live.session import Session
from edge_peer.protocol.messages import TRAINING
from tests.boards.board import Board
from tests.boards.boards import Boards
from tests.boards.image import REPOSITORY
from tests.boards.workstation import FEDERATION, Onlooker, Workstation, network_of

HUB, SHARED, JETSON, SPARE = "hub", "shared", "jetson", "spare"
BOARDS = (HUB, SHARED, JETSON, SPARE)
#: Peer -> its board.
PEERS = {"one": SHARED, "two": SHARED, "three": JETSON}
EXAMPLES = 200
#: Longer than the tests: a run that is on for as long as it takes.
LONG = 1_000_000
INVENTORY = f"""
all:
  vars:
    edge_peer_federation: {FEDERATION}
    edge_peer_min_peers: 3
    edge_peer_run: {{rounds_max: {LONG}, epochs: 5}}
broker:
  hosts:
    hub: {{ansible_host: 10.77.0.11, broker_debs: ""}}
peers:
  hosts:
    one: {{ansible_host: 10.77.0.12, edge_peer_several: true}}
    two: {{ansible_host: 10.77.0.12, edge_peer_several: true, edge_peer_control: false}}
    three: {{ansible_host: 10.77.0.13, board_base_device: jetson}}
"""
WITH_SPARE = INVENTORY + "    spare: {ansible_host: 10.77.0.14}\n"


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, boards: Boards) -> Workstation:
    # With the shard of a peer that comes later.
    it = Workstation.prepare(tmp_path_factory.mktemp("checkout"), boards, WITH_SPARE, EXAMPLES)
    for path in (it.fleet / "pki").glob("spare.*"):
        path.unlink()
    it.write_inventory(INVENTORY)
    return it


@pytest.fixture(scope="module")
def onlooker(station: Workstation) -> Iterator[Onlooker]:
    it = Onlooker(station, HUB)
    yield it
    it.close()


def goes_on(onlooker: Onlooker, names: list[str]) -> str:
    """Wait for a round that begins from now on, with all of them; returns the run."""

    def is_on(federation: Federation) -> bool:
        it = federation.round
        return it is not None and it.state == TRAINING and federation.online == names

    document = onlooker.wait_from_now(is_on, f"a round of {names}").round
    assert document is not None
    since, run_id = document.round, document.run_id

    def later(federation: Federation) -> bool:
        it = federation.round
        return it is not None and it.run_id == run_id and it.round > since and sorted(it.participants) == names

    onlooker.wait(later, f"a round of {names} after {since}")
    return str(run_id)


def processes(boards: Boards) -> dict[str, str]:
    return {name: pid(boards[board], unit_of(name)) for name, board in PEERS.items()}


def unit_of(peer: str) -> str:
    return f"edge-peer@{peer}" if PEERS.get(peer) == SHARED else "edge-peer"


def pid(board: Board, unit: str) -> str:
    return board.execute("systemctl", "show", "--property=MainPID", "--value", unit).stdout.strip()


def test_a_broker_without_a_package_source_says_what_to_do_and_takes_packages_from_a_folder(
    station: Workstation, boards: Boards
) -> None:
    hub = boards[HUB]
    wanted = hub.run("apt-get install --quiet=2 --no-install-recommends --print-uris mosquitto").stdout
    folder = station.fleet / "debs"
    folder.mkdir()
    for name in re.findall(rf"file:/{REPOSITORY}/(?:\./)?(\S+\.deb)'", wanted):
        shutil.copy(hub.root / REPOSITORY / unquote(name), folder)
    assert list(folder.glob("mosquitto_*.deb"))
    assert len(list(folder.iterdir())) > 1, "with what it needs"
    shutil.rmtree(hub.root / REPOSITORY)
    (hub.root / "etc/apt/sources.list").unlink()
    said = station.refused("deploy", "LIMIT=hub")
    assert "the board's apt cannot install mosquitto" in said
    assert "broker_debs" in said
    station.write_inventory(INVENTORY.replace('broker_debs: ""', f"broker_debs: {folder}"))
    station.make("deploy", "LIMIT=hub")
    assert hub.execute("systemctl", "is-active", "mosquitto").stdout == "active\n"


def test_several_peers_share_a_board_and_another_is_a_jetson(
    station: Workstation, boards: Boards, onlooker: Onlooker
) -> None:
    station.make("deploy")
    goes_on(onlooker, sorted(PEERS))
    shared, jetson = boards[SHARED], boards[JETSON]
    for name in ("one", "two"):
        assert shared.run(f"systemctl is-active edge-peer@{name}; systemctl is-enabled edge-peer@{name}").stdout == (
            "active\nenabled\n"
        )
        assert (shared.root / f"var/lib/edge-peer-{name}/state.json").is_file()
    assert len(list((shared.root / "opt/edge-peer/releases").iterdir())) == 1, "one release for both"
    assert sorted(path.name for path in (shared.root / "etc/edge-peer/tls").glob("*.key")) == ["one.key", "two.key"]
    # There is no graphics processor here: what is shown is that systemd takes the drop-in, and the daemon runs with it.
    said = jetson.execute("systemctl", "show", "--property=SupplementaryGroups,DeviceAllow,DropInPaths", "edge-peer")
    assert "SupplementaryGroups=video render" in said.stdout
    assert "/dev/nvmap rw" in said.stdout
    assert "jetson.conf" in said.stdout
    groups = jetson.execute("sh", "-c", f"id --groups --name; grep Groups /proc/{pid(jetson, 'edge-peer')}/status")
    ids = jetson.execute("getent", "group", "video", "render").stdout
    for line in ids.splitlines():
        assert line.split(":")[2] in groups.stdout.split("Groups:")[1].split(), groups.stdout
    table = station.make("status").stdout
    assert re.findall(r"(?m)^ (\w+) +up ", table) == sorted(PEERS)
    assert station.changes("deploy") == dict.fromkeys(("hub", *PEERS), 0)


def test_a_backend_that_the_board_lacks_is_refused_before_anything_has_changed(
    station: Workstation, boards: Boards
) -> None:
    board = boards[JETSON]
    before = (pid(board, "edge-peer"), (board.root / "etc/edge-peer/config.toml").read_bytes())
    said = station.refused("deploy", "LIMIT=three", "ANSIBLE_OPTIONS=--extra-vars edge_peer_backend=keras")
    assert "TensorFlow" in said
    assert (pid(board, "edge-peer"), (board.root / "etc/edge-peer/config.toml").read_bytes()) == before
    assert not (board.root / "etc/systemd/system/edge-peer.service.d/keras.conf").exists()


def test_another_authority_takes_over_during_a_run(
    station: Workstation, boards: Boards, onlooker: Onlooker, tmp_path: Path
) -> None:
    run_id = goes_on(onlooker, sorted(PEERS))
    before = processes(boards)
    former = tmp_path / "former"
    shutil.copytree(station.fleet / "pki", former)
    authority = (former / "ca.crt").read_bytes()
    for step in ("trust", "switch", "forget"):
        station.make("rotate-certs", f"CERTS_WITH=--authority {step}")
        assert goes_on(onlooker, sorted(PEERS)) == run_id, step
    assert processes(boards) == before, "no peer was restarted"
    now = (station.fleet / "pki/ca.crt").read_bytes()
    assert authority not in now
    for board, path in ((HUB, "etc/mosquitto/edge-peer/ca.crt"), (SHARED, "etc/edge-peer/tls/ca.crt")):
        assert (boards[board].root / path).read_bytes() == now
    # Who has a certificate of the former authority only is nobody any more.
    with network_of(boards), pytest.raises(BrokerError, match="refuses this peer's certificate"):
        Session(station.broker(HUB, "one", former), FEDERATION, "one").__enter__()
    assert station.changes("deploy") == dict.fromkeys(("hub", *PEERS), 0)


def test_a_board_is_added_during_a_run(station: Workstation, boards: Boards, onlooker: Onlooker) -> None:
    run_id = goes_on(onlooker, sorted(PEERS))
    station.write_inventory(WITH_SPARE)
    station.here("make", "--assume-old=setup-fleet", "certs")
    station.make("deploy")
    assert goes_on(onlooker, sorted([*PEERS, "spare"])) == run_id


def test_a_peer_that_shares_its_board_goes_alone(station: Workstation, boards: Boards, onlooker: Onlooker) -> None:
    station.make("reset", "CONFIRM=yes", "LIMIT=two")
    shared = boards[SHARED]
    left = [folder for name in ("etc", "opt", "var/lib") for folder in (shared.root / name).glob("edge-peer*")]
    assert len(left) == 3, left
    assert not [path for folder in left for path in folder.glob("**/*") if re.fullmatch(r"two(\..*)?", path.name)]
    assert shared.execute("systemctl", "is-active", "edge-peer@one").stdout == "active\n"
    station.write_inventory(WITH_SPARE.replace(re.findall(r"    two: .*\n", WITH_SPARE)[0], ""))
    for path in (station.fleet / "pki").glob("two.*"):
        path.unlink()
    station.make("deploy")
    goes_on(onlooker, ["one", "spare", "three"])


def test_another_board_becomes_the_broker(station: Workstation, boards: Boards, onlooker: Onlooker) -> None:
    run_id = goes_on(onlooker, ["one", "spare", "three"])
    onlooker.close()
    inventory = (station.fleet / "inventory.yml").read_text()
    line = re.findall(r"    hub: .*\n", inventory)[0]
    station.write_inventory(inventory.replace(line, "    spare:\n"))
    station.here("make", "--assume-old=setup-fleet", "certs")
    station.make("deploy", "BELOW_QUORUM=yes")
    there = Onlooker(station, SPARE)
    assert goes_on(there, ["one", "spare", "three"]) == run_id
    there.close()
    # The former one is cleared, from a folder of its own.
    old = station.root / "old"
    shutil.copytree(station.fleet / "group_vars", old / "group_vars")
    (old / "inventory.yml").write_text(f"broker:\n  hosts:\n{line}")
    station.make("reset", "CONFIRM=yes", "FLEET=old")
    assert not (boards[HUB].root / "etc/mosquitto").exists()
    assert boards[HUB].execute("sh", "-c", "ss -ltn | grep :8883", check=False).returncode != 0
