"""A fleet's life by its make targets: blank boards, a run, an upgrade, new certificates, and no trace left.

The tests are steps of one story and stand in its order; `--durations=0` says how long each takes.
"""

from __future__ import annotations

import csv
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from edge_peer.operator.dashboard.site import VIEWER
from edge_peer.operator.live.federation import Federation
from edge_peer.protocol.messages import FINISHED, TRAINING
from tests.boards.board import Board
from tests.boards.boards import Boards
from tests.boards.workstation import CONFIG, FEDERATION, Onlooker, Workstation, network_of
from tests.live.reader import Reader

ROUNDS = 3
#: A run that is on for as long as it takes.
LONG = 1_000_000
EXAMPLES = 320
INVENTORY = f"""
all:
  vars:
    edge_peer_federation: {FEDERATION}
    edge_peer_min_peers: 4
    edge_peer_run: {{rounds_max: {ROUNDS}, rule: median, rule_parameters: {{}}}}
broker:
  hosts:
    board1: {{broker_log_denied: false}}
peers:
  hosts:
    board1: {{ansible_host: 10.77.0.11}}
    board2: {{ansible_host: 10.77.0.12}}
    board3: {{ansible_host: 10.77.0.13, edge_peer_service: {{MemoryMax: 400M}}}}
    board4: {{ansible_host: 10.77.0.14, edge_peer_shard: "", edge_peer_shard_path: /srv/own.safetensors}}
"""


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, boards: Boards) -> Workstation:
    return Workstation.prepare(tmp_path_factory.mktemp("checkout"), boards, INVENTORY, EXAMPLES)


@pytest.fixture(scope="module")
def onlooker(station: Workstation) -> Iterator[Onlooker]:
    it = Onlooker(station, "board1")
    yield it
    it.close()


def round_after(onlooker: Onlooker, run_id: str, after: int) -> int:
    """Wait until a later round of the run is on; returns which."""

    def is_on(it: Federation) -> bool:
        return it.round is not None and it.round.run_id == run_id and it.round.round > after

    document = onlooker.wait_from_now(is_on, f"a round of {run_id} after {after}").round
    assert document is not None
    return document.round


def goes_on(onlooker: Onlooker, run_id: str) -> None:
    """Wait for a round that begins from now on."""
    round_after(onlooker, run_id, round_after(onlooker, run_id, 0))


def release(board: Board) -> str:
    return (board.root / "opt/edge-peer/current").readlink().name


def pid(board: Board) -> str:
    return unit(board, "MainPID")["MainPID"]


def unit(board: Board, *properties: str) -> dict[str, str]:
    text = board.execute("systemctl", "show", f"--property={','.join(properties)}", "edge-peer").stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def traces(board: Board) -> list[str]:
    """What bears the name of the product or of its broker, but for records of what has happened."""
    # Of the system: its account of past packages and boots, and an empty folder for sockets.
    kept = (
        "proc",
        "sys",
        "dev",
        "tmp",
        "run/systemd",
        "srv",
        "var/log/journal",
        "var/cache",
        "var/lib/dpkg",
        "var/lib/apt",
    )
    prune = [word for path in kept for word in ("-path", f"/{path}", "-o")]
    found = board.execute(
        "find", "/", "(", *prune[:-1], ")", "-prune", "-o", "(", "-name", "*edge-peer*", "-o", "-name", "*edge_peer*",
        "-o", "-name", "*mosquitto*", ")", "-print",
    )  # fmt: skip
    users = board.execute("sh", "-c", "getent passwd; getent group").stdout
    return found.stdout.split() + re.findall(r"(?m)^edge-peer:.*$", users)


def test_a_blank_board_can_be_told_what_would_be_done(station: Workstation, boards: Boards) -> None:
    assert not any(traces(board) for board in boards)
    # The data of a board may be there before anything else is.
    own = station.fleet / "shards/board4.safetensors"
    shutil.copyfile(own, boards["board4"].root / "srv/own.safetensors")
    own.unlink()
    assert all(it > 5 for it in station.changes("deploy", "ANSIBLE_OPTIONS=--check").values())
    assert not any(traces(board) for board in boards)


def test_what_cannot_be_deployed_is_named_with_its_remedy(station: Workstation) -> None:
    def said(*words: str) -> str:
        return station.refused("deploy", *words)

    options = "ANSIBLE_OPTIONS=--check --extra-vars"
    assert "edge_peer_model = no_such: " in said(f"{options} edge_peer_model=no_such", "LIMIT=board2")
    much = "board_base_disk_free_mb_min=99999999"
    assert "less than board_base_disk_free_mb_min = 99999999" in said(f"{options} {much}", "LIMIT=board2")
    shard = station.fleet / "shards/board2.safetensors"
    shard.rename(shard.with_suffix(".away"))
    assert "shards/board2.safetensors is missing; run `make shards`" in said("ANSIBLE_OPTIONS=--check", "LIMIT=board2")
    shard.with_suffix(".away").rename(shard)
    key = station.fleet / "pki/board3.key"
    key.rename(key.with_suffix(".away"))
    assert "run `make certs`" in said("ANSIBLE_OPTIONS=--check", "LIMIT=board3")
    key.with_suffix(".away").rename(key)


def test_blank_boards_become_a_federation_with_a_run(station: Workstation, boards: Boards, onlooker: Onlooker) -> None:
    assert set(station.changes("deploy")) == {board.name for board in boards}
    for board in boards:
        assert board.run("systemctl is-active edge-peer && systemctl is-enabled edge-peer").stdout.split() == [
            "active",
            "enabled",
        ]
        config = board.root / CONFIG[1:]
        assert config.stat().st_mode & 0o777 == 0o640
        assert board.run(f"cat {CONFIG}", check=False).returncode != 0, "not for everybody"
        assert board.run("cat /etc/edge-peer/tls/peer.key", check=False).returncode != 0
        shards = [path.name for path in (board.root / "opt/edge-peer/shards").iterdir()]
        assert shards == ([] if board.name == "board4" else [f"{board.name}.safetensors"]), "no other board's data"
    station.make("start")
    seen = onlooker.wait(lambda it: it.round is not None and it.round.state == FINISHED and it.round.complete, "a run")
    assert seen.online == [board.name for board in boards]
    assert seen.round is not None
    assert seen.round.reason == f"reached {ROUNDS} rounds"


def test_the_live_page_comes_by_ssh_and_reads_only(station: Workstation, boards: Boards) -> None:
    password = (station.fleet / "dashboard/password").read_text()
    words = ["make", "--assume-old=setup-fleet", "--assume-old=setup", "dashboard", "PAGE=9123"]
    with network_of(boards), subprocess.Popen(words, cwd=station.root, stdout=subprocess.PIPE, text=True) as tunnel:
        try:
            assert tunnel.stdout is not None
            assert "http://127.0.0.1:9123/" in tunnel.stdout.readline()
            while True:
                try:
                    page = urlopen("http://127.0.0.1:9123/").read().decode()
                    break
                except URLError:
                    assert tunnel.poll() is None, "it has ended"
            assert password in page
            viewer = Reader(9123, VIEWER, password)
            viewer.until(lambda: viewer.accepted is True)
            viewer.publish(f"fl/v1/{FEDERATION}/board1/presence")
            viewer.until(lambda: viewer.refused == [135])
            viewer.read()
            viewer.until(lambda: len([it for it in viewer.topics if it.endswith("/history")]) == len(list(boards)))
        finally:
            tunnel.terminate()
    # Nobody comes there by the network.
    with network_of(boards), pytest.raises(OSError, match="refused"):
        socket.create_connection((boards["board1"].address, 9001), timeout=5)


def test_systemd_knows_the_bounds_and_says_how_the_peer_is(boards: Boards) -> None:
    bounds = {
        "MemoryMax": str(400 * 2**20), "CPUWeight": "20", "TasksMax": "256", "WatchdogUSec": "2min",
        "StateDirectoryMode": "0750", "User": "edge-peer",
    }  # fmt: skip
    assert unit(boards["board3"], *bounds) == bounds
    assert int(unit(boards["board2"], "MemoryMax")["MemoryMax"]) > 400 * 2**20, "its own is only its own"
    assert boards["board2"].root.joinpath("var/lib/edge-peer").stat().st_mode & 0o777 == 0o750
    for board in boards:
        said = board.run("systemctl status --lines=0 edge-peer").stdout
        assert re.search(
            rf"Status: \"(leading|following), term \d+, .*round {ROUNDS}/{ROUNDS} finished, accuracy 0\.\d+", said
        ), said


def test_a_stranger_is_in_the_brokers_log_also_without_what_the_access_list_denies(
    station: Workstation, boards: Boards
) -> None:
    board, said = boards["board1"], "journalctl --unit=mosquitto --output=cat"
    hello = f"openssl s_client -brief -ign_eof -CAfile fleet/pki/ca.crt -connect {board.address}:8883 </dev/null"
    assert "certificate required" in station.run("sh", "-c", hello, check=False).stderr
    board.until(f"{said} | grep 'peer did not return a certificate'")
    assert "Received PUBLISH" not in board.execute("sh", "-c", said).stdout, "nothing else fills the journal"


def test_its_results_are_collected_from_all_boards(station: Workstation, boards: Boards) -> None:
    station.make("collect")
    folder = station.root / "runs/latest"
    for board in boards:
        rows = list(csv.DictReader((folder / f"{board.name}.csv").read_text().splitlines()))
        assert [row["round"] for row in rows][-1] == str(ROUNDS)
    assert (folder / "report.html").is_file()
    assert (folder / "model.int8.tflite").is_file()
    told = station.make("status").stdout
    assert all(board.name in told for board in boards)


def test_a_second_deployment_changes_nothing(station: Workstation, boards: Boards) -> None:
    before = [pid(board) for board in boards]
    assert set(station.changes("deploy").values()) == {0}
    assert set(station.changes("deploy", "ANSIBLE_OPTIONS=--check").values()) == {0}
    assert [pid(board) for board in boards] == before


def test_a_board_takes_no_configuration_that_it_cannot_use(station: Workstation, boards: Boards) -> None:
    board = boards["board2"]
    before = (pid(board), (board.root / CONFIG[1:]).read_bytes())
    (station.fleet / "wrong.json").write_text('{"edge_peer_run": {"rounds_max": 0}}')
    said = station.refused("deploy", "LIMIT=board2", "ANSIBLE_OPTIONS=--extra-vars @fleet/wrong.json")
    assert "[run] rounds_max = 0: must be from 1 to 1e+06" in said
    assert (pid(board), (board.root / CONFIG[1:]).read_bytes()) == before


@pytest.fixture(scope="module")
def long_run(station: Workstation, onlooker: Onlooker) -> str:
    """A run that does not end by itself. The change of configuration restarts the boards, one after another."""
    station.write_inventory(INVENTORY.replace(f"rounds_max: {ROUNDS}", f"rounds_max: {LONG}"))
    assert all(station.changes("deploy").values())
    station.make("start")
    seen = onlooker.wait_from_now(lambda it: it.round is not None and it.round.state == TRAINING, "a run is on")
    assert seen.round is not None
    return str(seen.round.run_id)


def test_a_run_goes_on_while_boards_are_upgraded(
    station: Workstation, boards: Boards, onlooker: Onlooker, long_run: str
) -> None:
    before = {board.name: release(board) for board in boards}
    wheel = boards["board1"].root / "opt/edge-peer/wheels"
    numpy = next(wheel.glob("numpy-*.whl")).stat().st_mtime_ns
    with (station.root / "edge_peer/__init__.py").open("a") as file:
        file.write("# another release\n")
    station.fill_wheelhouse()
    since = round_after(onlooker, long_run, 0)
    station.make("upgrade")
    for board in boards:
        assert release(board) != before[board.name]
        assert (board.root / "opt/edge-peer/previous").readlink().name == before[board.name], "it can go back"
        assert len(list((board.root / "opt/edge-peer/releases").iterdir())) == 2
    assert next(wheel.glob("numpy-*.whl")).stat().st_mtime_ns == numpy, "only what is new was sent"
    round_after(onlooker, long_run, since)


def test_a_release_that_does_not_come_up_is_taken_back(
    station: Workstation, boards: Boards, onlooker: Onlooker, long_run: str
) -> None:
    before = {board.name: release(board) for board in boards}
    pids = {board.name: pid(board) for board in boards}
    daemon = station.root / "edge_peer/shell/daemon.py"
    with daemon.open("a") as file:
        file.write("\nraise RuntimeError('of no use')\n")
    station.fill_wheelhouse()
    said = station.refused("upgrade")
    assert "board1 did not come back with release" in said
    assert "of no use" in said
    assert {board.name: release(board) for board in boards} == before
    assert {board.name: pid(board) for board in boards if board.name != "board1"} == {
        name: it for name, it in pids.items() if name != "board1"
    }, "the others were not touched"
    goes_on(onlooker, long_run)


def test_boards_are_not_restarted_below_quorum(
    station: Workstation, boards: Boards, onlooker: Onlooker, long_run: str
) -> None:
    # The release that was taken back is still the one to come.
    boards["board4"].execute("systemctl", "stop", "edge-peer")
    pids = {board.name: pid(board) for board in boards}
    hurry = "ANSIBLE_OPTIONS=--extra-vars edge_peer_quorum_s=2"
    said = station.refused("upgrade", "LIMIT=board1,board2", hurry)
    assert "3 are a majority" in said
    assert "BELOW_QUORUM=yes" in said
    assert {board.name: pid(board) for board in boards} == pids
    boards["board4"].execute("systemctl", "start", "edge-peer")


def test_certificates_are_renewed_during_a_run(
    station: Workstation, boards: Boards, onlooker: Onlooker, long_run: str
) -> None:
    pids = {board.name: pid(board) for board in boards}
    old = {board.name: (board.root / "etc/edge-peer/tls/peer.crt").read_bytes() for board in boards}
    broker = boards["board1"].execute("systemctl", "show", "--property=MainPID", "--value", "mosquitto").stdout
    station.make("rotate-certs")
    for board in boards:
        assert (board.root / "etc/edge-peer/tls/peer.crt").read_bytes() != old[board.name]
        board.until("journalctl --unit=edge-peer --output=cat | grep --quiet 'configuration read again'")
    assert {board.name: pid(board) for board in boards} == pids, "no process was restarted"
    assert boards["board1"].execute("systemctl", "show", "--property=MainPID", "--value", "mosquitto").stdout == broker
    goes_on(onlooker, long_run)


def test_stopped_peers_have_ended_their_run(
    station: Workstation, boards: Boards, onlooker: Onlooker, long_run: str
) -> None:
    station.make("stop", "END_RUN=yes")
    for board in boards:
        assert board.execute("systemctl", "is-active", "edge-peer", check=False).stdout.strip() == "inactive"
        model = board.root / "var/lib/edge-peer/runs" / long_run / "model.safetensors"
        assert model.is_file()


def test_nothing_stays_after_a_reset(station: Workstation, boards: Boards) -> None:
    assert "make reset CONFIRM=yes" in station.refused("reset")
    assert all(traces(board) for board in boards)
    station.make("reset", "CONFIRM=yes")
    assert {board.name: traces(board) for board in boards} == {board.name: [] for board in boards}
    assert set(station.changes("reset", "CONFIRM=yes").values()) == {0}
