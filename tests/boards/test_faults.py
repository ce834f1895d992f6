"""A deployed fleet in trouble: power cuts, pulled cables, a broker that reboots, a daemon that hangs, and strangers.

One deployment for all tests; each has a run of its own. `--durations=0` says how long each takes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_peer.errors import BrokerError
from edge_peer.operator.certificates.folder import Folder, Lifetimes
from edge_peer.operator.certificates.x509 import Wanted
from edge_peer.operator.live.federation import Federation
from edge_peer.operator.live.session import Session
from edge_peer.protocol.messages import FINISHED, TRAINING, Round, Start, Stop
from edge_peer.protocol.topics import START, STOP
from edge_peer.shell.history import now_utc
from tests.boards.board import Board
from tests.boards.boards import Boards
from tests.boards.workstation import CONFIG, FEDERATION, Onlooker, Workstation, network_of

HUB = "hub"
PEERS = ("board1", "board2", "board3")
BOARDS = (HUB, *PEERS)
ROUNDS = 8
MIDDLE = 3
#: A run that is on for as long as it takes.
LONG = 1_000_000
EXAMPLES = 320
#: Every round waits for all boards, so that each board has a row of each round, however long it was away.
INVENTORY = f"""
all:
  vars:
    edge_peer_federation: {FEDERATION}
    edge_peer_min_peers: 3
    edge_peer_run: {{rounds_max: {ROUNDS}, updates_min: 3, epochs: 30}}
    edge_peer_settings:
      broker: {{keepalive_s: 4, reconnect_s_max: 1.0}}
      metrics: {{textfile: /run/edge-peer/edge-peer.prom, every_s: 1.0}}
    edge_peer_service: {{WatchdogSec: 10, RestartSec: 1}}
broker:
  hosts:
    hub: {{ansible_host: 10.77.0.11}}
peers:
  hosts:
    board1: {{ansible_host: 10.77.0.12}}
    board2: {{ansible_host: 10.77.0.13}}
    board3: {{ansible_host: 10.77.0.14}}
"""
MOSQUITTO_SAID = "journalctl --unit=mosquitto --output=cat"


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, boards: Boards) -> Workstation:
    it = Workstation.prepare(tmp_path_factory.mktemp("checkout"), boards, INVENTORY, EXAMPLES)
    it.make("deploy")
    return it


@pytest.fixture(scope="module")
def onlooker(station: Workstation) -> Iterator[Onlooker]:
    it = Onlooker(station, HUB)
    yield it
    it.close()


@pytest.fixture
def run_id(onlooker: Onlooker) -> str:
    """A run that is in its middle."""
    return begin(onlooker)


def begin(onlooker: Onlooker) -> str:
    """Ask for a run when the one before has ended; returns its id when it is in its middle."""

    def idle(federation: Federation) -> bool:
        it = federation.round
        return federation.online == list(PEERS) and it is not None and it.state == FINISHED and it.complete

    after = round_of(onlooker.wait(idle, "the end of the run before")).run_number
    onlooker.say(START, Start(after))

    def begun(federation: Federation) -> bool:
        it = federation.round
        return is_training(federation, MIDDLE) and it is not None and it.run_number > after

    run_id = str(round_of(onlooker.wait(begun, f"round {MIDDLE} of another run")).run_id)
    onlooker.say(START, None)
    return run_id


def round_of(federation: Federation) -> Round:
    assert federation.round is not None
    return federation.round


def is_training(federation: Federation, after: int = 1) -> bool:
    it = federation.round
    return it is not None and it.state == TRAINING and it.round >= after


def wait_finished(onlooker: Onlooker, run_id: str) -> str:
    """Until the run has ended and all have reported; returns why it ended."""

    def finished(federation: Federation) -> bool:
        it = federation.round
        return it is not None and it.run_id == run_id and it.state == FINISHED and it.complete

    document = onlooker.wait(finished, f"the end of run {run_id}").round
    assert document is not None
    assert sorted(document.reports) == list(PEERS)
    return document.reason


def run_folder(board: Board, run_id: str) -> Path:
    return board.root / f"var/lib/edge-peer/runs/{run_id}"


def rows(board: Board, run_id: str) -> list[dict[str, str]]:
    with (run_folder(board, run_id) / f"{board.name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def rounds(board: Board, run_id: str) -> list[int]:
    return [int(row["round"]) for row in rows(board, run_id)]


def assert_whole(boards: Boards, run_id: str, since: str) -> None:
    """Every round once in every board's CSV, the same model on all, and the last round made after the fault."""
    assert {name: rounds(boards[name], run_id) for name in PEERS} == {name: list(range(ROUNDS + 1)) for name in PEERS}
    assert len(models(boards, run_id)) == 1
    assert all(rows(boards[name], run_id)[-1]["time_utc"] > since for name in PEERS), "a fault in the middle of the run"


def models(boards: Boards, run_id: str) -> set[str]:
    """Digests of the final models, which each board writes when it has told how well it scores."""
    for name in PEERS:
        boards[name].until(f"test -e /var/lib/edge-peer/runs/{run_id}/model.safetensors")
    files = [run_folder(boards[name], run_id) / "model.safetensors" for name in PEERS]
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def unit(board: Board, name: str) -> str:
    return board.execute("systemctl", "show", f"--property={name}", "--value", "edge-peer").stdout.strip()


def controller_of(federation: Federation) -> str:
    assert federation.controller is not None
    return federation.controller


def lose(board: Board) -> None:
    """A power cut. The cable goes first: the kernel lives on, and would tell the others of each connection's end."""
    board.cut()
    board.power_cut()


@pytest.mark.quick
def test_blank_boards_have_become_services_and_a_second_deployment_changes_nothing(
    station: Workstation, boards: Boards, onlooker: Onlooker
) -> None:
    onlooker.wait(lambda it: it.online == list(PEERS) and it.controller is not None, "all are there, one is controller")
    pids = [unit(boards[name], "MainPID") for name in PEERS]
    for name in PEERS:
        is_up = boards[name].run("systemctl is-active edge-peer; systemctl is-enabled edge-peer").stdout
        assert is_up.split() == ["active", "enabled"]
    assert station.changes("deploy") == dict.fromkeys(BOARDS, 0)
    assert [unit(boards[name], "MainPID") for name in PEERS] == pids


@pytest.mark.quick
def test_a_run_outlives_a_power_cut_of_its_controller(
    station: Workstation, boards: Boards, onlooker: Onlooker, run_id: str
) -> None:
    victim = controller_of(onlooker.federation)
    lose(boards[victim])
    federation = onlooker.wait(lambda it: it.controller not in (None, victim), "another controller")
    assert round_of(federation).run_id == run_id, "it goes on with the same run"
    since = now_utc()
    boards[victim].heal()
    boards[victim].boot(wait=False)
    assert wait_finished(onlooker, run_id) == f"reached {ROUNDS} rounds"
    assert_whole(boards, run_id, since)
    boards[victim].wait_for_ssh()
    assert "collected from 3 of 3 boards" in station.make("collect").stdout
    assert_collected(station, boards, run_id)


@pytest.mark.quick
def test_the_journal_finds_a_run_and_another_user_reads_the_metrics(boards: Boards, onlooker: Onlooker) -> None:
    run_id = round_of(onlooker.federation).run_id
    for name in PEERS:
        board = boards[name]
        said = board.journal("--output=json", "--unit=edge-peer", f"PEER={name}", f"RUN={run_id}")
        entries = [json.loads(line) for line in said.splitlines()]
        assert {(it["FEDERATION"], it["SYSLOG_IDENTIFIER"], it["_TRANSPORT"]) for it in entries} == {
            (FEDERATION, "edge-peer", "journal")
        }
        assert {it["PRIORITY"] for it in entries} <= {"3", "4", "6"}
        # A user that has nothing to do with the peer, as node_exporter's.
        read = "runuser -u nobody -- cat /run/edge-peer/edge-peer.prom"
        board.until(f"{read} | grep --quiet '^edge_peer_connected{{.*}} 1'")
        families = text_string_to_metric_families(board.execute("sh", "-c", read).stdout)
        samples = {it.name: it.value for family in families for it in family.samples}
        assert samples["edge_peer_term"] == round_of(onlooker.federation).term


def assert_collected(station: Workstation, boards: Boards, run_id: str) -> None:
    """All that a run is on its boards, and what is made of it."""
    folder = station.root / "runs" / run_id
    for name in PEERS:
        assert (folder / f"{name}.csv").read_text() == (run_folder(boards[name], run_id) / f"{name}.csv").read_text()
    assert (folder / "model.safetensors").read_bytes() == (
        run_folder(boards[PEERS[0]], run_id) / "model.safetensors"
    ).read_bytes()
    assert (folder / "model.int8.tflite").stat().st_size > 0
    assert [line for line in (folder / "rounds.jsonl").read_text().splitlines() if '"committed"' in line]
    report = (folder / "report.html").read_text()
    assert run_id in report
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", report), "opens without a network"
    assert any(path.stat().st_size > 0 for path in (folder / "graphs").iterdir())


def test_a_board_whose_cable_is_pulled_is_missed_and_comes_back(boards: Boards, onlooker: Onlooker) -> None:
    configure(boards, {f"rounds_max = {ROUNDS}": f"rounds_max = {LONG}", "updates_min = 3": "updates_min = 2"})
    run_id = begin(onlooker)
    federation = onlooker.federation
    victim = next(name for name in PEERS if name != federation.controller)
    boards[victim].cut()
    federation = onlooker.wait(
        lambda it: it.round is not None and it.round.missing.get(victim) == "offline", f"{victim} is missed"
    )
    since = round_of(federation).round
    federation = onlooker.wait(lambda it: is_training(it, since + 2), "the others go on")
    assert victim not in round_of(federation).participants
    boards[victim].heal()
    federation = onlooker.wait(
        lambda it: it.round is not None and victim in it.round.participants, f"{victim} trains again"
    )
    back = round_of(federation).round
    onlooker.wait(lambda it: is_training(it, back + 2), "rounds with all of them")
    onlooker.say(STOP, Stop(run_id, "enough"))
    assert wait_finished(onlooker, run_id) == "stopped by operator: enough"
    onlooker.say(STOP, None)
    configure(boards, {f"rounds_max = {LONG}": f"rounds_max = {ROUNDS}", "updates_min = 2": "updates_min = 3"})
    was_there = {line["round"] for line in committed(boards, run_id) if victim in line["accepted"]}
    last = max(max(rounds(boards[name], run_id)) for name in PEERS)
    for name in PEERS:
        found = rounds(boards[name], run_id)
        assert found == sorted(set(found)), "no row twice"
        # Who trains a round has evaluated the one before.
        assert {it - 1 for it in was_there} <= set(found) if name == victim else found == list(range(last + 1))
    assert set(range(last + 1)) - set(rounds(boards[victim], run_id)), "it was away"
    assert len(models(boards, run_id)) == 1


def committed(boards: Boards, run_id: str) -> list[dict[str, Any]]:
    """What all controllers of a run have committed."""
    files = [run_folder(boards[name], run_id) / "rounds.jsonl" for name in PEERS]
    lines = [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
    return [line for line in lines if line["event"] == "committed"]


def configure(boards: Boards, changes: dict[str, str]) -> None:
    """Other settings for the next run, as an administrator sets them: an edited file and a reload."""
    for name in PEERS:
        path = boards[name].root / CONFIG[1:]
        text = path.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        told = "journalctl --unit=edge-peer --output=cat | grep --count 'configuration read again'"
        before = int(boards[name].execute("sh", "-c", told, check=False).stdout)
        boards[name].execute("systemctl", "reload", "edge-peer")
        boards[name].until(f"test $({told}) -gt {before}")


def test_a_run_outlives_a_reboot_of_the_broker(boards: Boards, onlooker: Onlooker, run_id: str) -> None:
    pids = [unit(boards[name], "MainPID") for name in PEERS]
    boards[HUB].reboot(wait=False)
    since = now_utc()
    assert wait_finished(onlooker, run_id) == f"reached {ROUNDS} rounds"
    assert_whole(boards, run_id, since)
    assert [unit(boards[name], "MainPID") for name in PEERS] == pids, "no daemon minds"


def test_a_daemon_that_hangs_is_killed_by_the_watchdog_and_trains_again(
    boards: Boards, onlooker: Onlooker, run_id: str
) -> None:
    victim = next(name for name in PEERS if name != controller_of(onlooker.federation))
    board = boards[victim]
    before, main = int(unit(board, "NRestarts")), unit(board, "MainPID")
    board.execute("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "edge-peer")
    board.until(f"test $(systemctl show --property=NRestarts --value edge-peer) = {before + 1}")
    since = now_utc()
    assert wait_finished(onlooker, run_id) == f"reached {ROUNDS} rounds"
    assert_whole(boards, run_id, since)
    assert unit(board, "NRestarts") == str(before + 1), "once is enough"
    assert unit(board, "MainPID") != main
    assert "Watchdog timeout" in board.journal("--unit=edge-peer", "--boot")


@pytest.mark.quick
def test_strangers_are_refused_and_the_brokers_log_says_why(
    station: Workstation, boards: Boards, tmp_path: Path
) -> None:
    now = datetime.now(timezone.utc)
    Folder(tmp_path / "other", now, Lifetimes(), print).make([Wanted("board1")])
    expired = tmp_path / "expired"
    expired.mkdir()
    for name in ("ca.crt", "ca.key"):
        shutil.copy(station.fleet / "pki" / name, expired / name)
    Folder(expired, now - timedelta(days=40), Lifetimes(days=30, renew_days=1), print).make([Wanted("board1")])
    board = boards[HUB]

    ca, address = station.fleet / "pki/ca.crt", board.address
    hello = f"openssl s_client -brief -ign_eof -CAfile {ca} -connect {address}:8883 </dev/null"
    done = station.run("sh", "-c", hello, check=False)
    assert "certificate required" in done.stderr
    board.until(f"{MOSQUITTO_SAID} | grep 'peer did not return a certificate'")
    for pki, why in (
        (tmp_path / "other", "refuses this peer's certificate"),
        (expired, "refuses this peer's certificate.*expired"),
    ):
        before = len(board.execute("sh", "-c", MOSQUITTO_SAID).stdout)
        with network_of(boards), pytest.raises(BrokerError, match=why):
            Session(station.broker(HUB, "board1", pki), FEDERATION, "board1").__enter__()
        board.until(f"{MOSQUITTO_SAID} | tail --bytes=+{before} | grep 'certificate verify failed'")


@pytest.mark.quick
def test_a_peer_cannot_speak_for_another(station: Workstation, boards: Boards, onlooker: Onlooker) -> None:
    with (
        network_of(boards),
        Session(station.broker(HUB, "board1"), FEDERATION, "board2") as session,
        pytest.raises(BrokerError, match=r"does not let board2 write fl/v1/test/board2/stop \(Not authorized\)"),
    ):
        session.publish(STOP, Stop("no-run", "not mine to say"))
    boards[HUB].until(f"{MOSQUITTO_SAID} | grep 'Denied PUBLISH from board2.operator'")
    assert "board2" not in onlooker.federation.stops


def test_status_and_collections_tell_of_a_board_that_is_off(
    station: Workstation, boards: Boards, onlooker: Onlooker, run_id: str
) -> None:
    # The workstation has a connection to it that is open yet.
    station.make("status")
    lose(boards["board3"])
    onlooker.wait(lambda it: "board3" not in it.online, "board3 is offline")
    done = station.make("status", check=False)
    assert done.returncode != 0, "for scripts: not all is well"
    told = done.stdout
    table = {line.split()[0]: line for line in told.splitlines() if line.strip()}
    assert table["board1"].split()[1] == "up"
    assert "no answer" in table["board3"]
    assert "board3: does not answer to SSH" in told
    by_what_was_asked = station.run(
        ".venv-fleet/bin/python", "-m", "edge_peer.operator.fleet.status", "--status", "fleet/status",
        "--pki", "fleet/pki", "--json", check=False,
    )  # fmt: skip
    assert by_what_was_asked.returncode == 1
    assert json.loads(by_what_was_asked.stdout)["boards"]["board3"]["state"] == "no answer"
    assert "collected from 2 of 3 boards; not reached: board3" in station.make("collect").stdout
    folder = station.root / "runs" / run_id
    assert sorted(path.name for path in folder.glob("*.csv")) == ["board1.csv", "board2.csv"]
    boards["board3"].heal()
    boards["board3"].boot(wait=False)
    assert wait_finished(onlooker, run_id) == f"reached {ROUNDS} rounds"
    boards["board3"].wait_for_ssh()
    told = station.make("collect").stdout
    assert "collected from 3 of 3 boards" in told
    assert re.search(rf"^run {run_id}: 3 peers, round {ROUNDS}, reached {ROUNDS} rounds\nresults", told, re.MULTILINE)
    assert_collected(station, boards, run_id)
    assert_whole(boards, run_id, "")
