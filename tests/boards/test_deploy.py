"""A fleet's life by its make targets: blank boards, a run, an upgrade, new certificates, and no trace left.

The tests are steps of one story and stand in its order; `--durations=0` says how long each takes.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.boards.board import Board, Done
from tests.boards.boards import Boards

ROOT = Path(__file__).parent.parent.parent
#: What a checkout has that these targets use.
SOURCES = ("aggregator_core", "ansible", "data_shards", "edge_peer", "models", "requirements")
FILES = ("LICENSE", "Makefile", "README.md", "pyproject.toml")
ROUNDS = 3
#: A run that is on for as long as it takes.
LONG = 1_000_000
WAIT_S = 120.0
POLL_S = 0.2
INVENTORY = """
all:
  vars:
    ansible_user: {user}
    ansible_ssh_private_key_file: {key}
    edge_peer_federation: test
    edge_peer_min_peers: 4
    edge_peer_run: {{rounds_max: {rounds}, rule: median, rule_parameters: {{}}}}
broker:
  hosts:
    board1:
peers:
  hosts:
    board1: {{ansible_host: 10.77.0.11}}
    board2: {{ansible_host: 10.77.0.12}}
    board3: {{ansible_host: 10.77.0.13, edge_peer_service: {{MemoryMax: 400M}}}}
    board4: {{ansible_host: 10.77.0.14, edge_peer_shard: "", edge_peer_shard_path: /srv/own.safetensors}}
"""
RECAP = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)
CONFIG = "/etc/edge-peer/config.toml"
PROGRAM = "/opt/edge-peer/current/bin/edge-peer"


@dataclass
class Workstation:
    """A checkout of its own, which nobody edits meanwhile, with the fleet's folder in it."""

    root: Path
    boards: Boards

    @property
    def fleet(self) -> Path:
        return self.root / "fleet"

    def here(self, *words: str) -> None:
        """A command with this machine's network: what boards cannot reach is fetched before."""
        done = subprocess.run(words, cwd=self.root, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def make(self, *words: str, check: bool = True) -> Done:
        """A target, on the boards' network. The environments are this checkout's, and up to date."""
        command = ["make", "--assume-old=setup-fleet", "--assume-old=setup", *words]
        done = self.boards.run(command, cwd=self.root, check=False, environment={"LC_ALL": "C.UTF-8"})
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def fill_wheelhouse(self) -> None:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}[self.boards.arch]
        self.here(
            ".venv-fleet/bin/python", "-m", "edge_peer.operator.wheelhouse", "--out", "fleet/wheelhouse",
            f"{machine}-cp311-glibc2.36",
        )  # fmt: skip

    def write_inventory(self, rounds: int) -> None:
        text = INVENTORY.format(user=self.boards.user, key=self.boards.key, rounds=rounds)
        (self.fleet / "inventory.yml").write_text(text)


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, boards: Boards) -> Workstation:
    subprocess.run(["requirements/environment.sh", ".venv-fleet", "fleet", "13"], cwd=ROOT, check=True)
    root = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copyfile(ROOT / name, root / name)
    for name in (".venv", ".venv-fleet"):
        (root / name).symlink_to(ROOT / name)
    it = Workstation(root, boards)
    it.fleet.mkdir()
    it.write_inventory(ROUNDS)
    it.here("make", "--assume-old=setup-fleet", "--assume-old=setup", "certs", "shards", "EXAMPLES=320")
    it.fill_wheelhouse()
    return it


def recap(done: Done) -> dict[str, tuple[int, int, int]]:
    """By host: changed, unreachable, failed."""
    found = {name: (int(it[0]), int(it[1]), int(it[2])) for name, *it in RECAP.findall(done.stdout)}
    assert found, done.stdout + done.stderr
    return found


def changes(done: Done) -> dict[str, int]:
    found = recap(done)
    assert all(it[1:] == (0, 0) for it in found.values()), done.stdout + done.stderr
    return {name: it[0] for name, it in found.items()}


def status(board: Board) -> dict[str, Any]:
    """What the federation says to a board; empty without a broker."""
    done = board.execute(PROGRAM, "status", "--config", CONFIG, "--json", check=False)
    return json.loads(done.stdout) if done.stdout.startswith("{") else {}


def until(board: Board, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first status for which it holds."""
    end_s = time.monotonic() + WAIT_S * board.patience
    while not condition(seen := status(board)):
        assert time.monotonic() < end_s, seen
        time.sleep(POLL_S)
    return seen


def a_round_of(run_id: str, after: int) -> Callable[[dict[str, Any]], bool]:
    return lambda it: bool(it.get("round")) and it["round"]["run_id"] == run_id and it["round"]["round"] > after


def release(board: Board) -> str:
    return (board.root / "opt/edge-peer/current").readlink().name


def pid(board: Board) -> str:
    return board.execute("systemctl", "show", "--property=MainPID", "--value", "edge-peer").stdout.strip()


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
    assert all(it > 5 for it in changes(station.make("deploy", "ANSIBLE_OPTIONS=--check")).values())
    assert not any(traces(board) for board in boards)


def test_what_cannot_be_deployed_is_named_with_its_remedy(station: Workstation) -> None:
    def said(*words: str) -> str:
        done = station.make("deploy", *words, check=False)
        assert done.returncode != 0
        # Messages are folded by the playbook's language and by its output.
        return " ".join((done.stdout + done.stderr).split())

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


def test_blank_boards_become_a_federation_with_a_run(station: Workstation, boards: Boards) -> None:
    assert set(changes(station.make("deploy"))) == {board.name for board in boards}
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
    assert "MemoryMax=400M" in boards["board3"].execute("systemctl", "cat", "edge-peer").stdout
    station.make("start")
    run_id = until(boards["board1"], lambda it: bool(it.get("round")) and it["round"]["run_id"] is not None)["round"][
        "run_id"
    ]
    seen = until(boards["board1"], lambda it: bool(it["round"]) and it["round"]["state"] == "finished")
    assert sorted(peer for peer, it in seen["peers"].items() if it["online"]) == [board.name for board in boards]
    assert run_id <= seen["round"]["run_id"]
    assert seen["round"]["reason"] == f"reached {ROUNDS} rounds"


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
    assert set(changes(station.make("deploy")).values()) == {0}
    assert set(changes(station.make("deploy", "ANSIBLE_OPTIONS=--check")).values()) == {0}
    assert [pid(board) for board in boards] == before


def test_a_board_takes_no_configuration_that_it_cannot_use(station: Workstation, boards: Boards) -> None:
    board = boards["board2"]
    before = (pid(board), (board.root / CONFIG[1:]).read_bytes())
    (station.fleet / "wrong.json").write_text('{"edge_peer_run": {"rounds_max": 0}}')
    done = station.make("deploy", "LIMIT=board2", "ANSIBLE_OPTIONS=--extra-vars @fleet/wrong.json", check=False)
    assert done.returncode != 0
    assert "[run] rounds_max = 0: must be from 1 to 1e+06" in " ".join((done.stdout + done.stderr).split())
    assert (pid(board), (board.root / CONFIG[1:]).read_bytes()) == before


@pytest.fixture(scope="module")
def long_run(station: Workstation, boards: Boards) -> str:
    """A run that does not end by itself. The change of configuration restarts the boards, one after another."""
    station.write_inventory(LONG)
    changed = changes(station.make("deploy"))
    assert all(changed.values())
    station.make("start")
    seen = until(boards["board2"], lambda it: bool(it.get("round")) and it["round"]["state"] == "training")
    return str(seen["round"]["run_id"])


def test_a_run_goes_on_while_boards_are_upgraded(station: Workstation, boards: Boards, long_run: str) -> None:
    before = {board.name: release(board) for board in boards}
    wheel = boards["board1"].root / "opt/edge-peer/wheels"
    numpy = next(wheel.glob("numpy-*.whl")).stat().st_mtime_ns
    with (station.root / "edge_peer/__init__.py").open("a") as file:
        file.write("# another release\n")
    station.fill_wheelhouse()
    since = until(boards["board2"], a_round_of(long_run, 0))["round"]["round"]
    station.make("upgrade")
    for board in boards:
        assert release(board) != before[board.name]
        assert (board.root / "opt/edge-peer/previous").readlink().name == before[board.name], "it can go back"
        assert len(list((board.root / "opt/edge-peer/releases").iterdir())) == 2
    assert next(wheel.glob("numpy-*.whl")).stat().st_mtime_ns == numpy, "only what is new was sent"
    until(boards["board2"], a_round_of(long_run, since))


def test_a_release_that_does_not_come_up_is_taken_back(station: Workstation, boards: Boards, long_run: str) -> None:
    before = {board.name: release(board) for board in boards}
    pids = {board.name: pid(board) for board in boards}
    daemon = station.root / "edge_peer/shell/daemon.py"
    with daemon.open("a") as file:
        file.write("\nraise RuntimeError('of no use')\n")
    station.fill_wheelhouse()
    done = station.make("upgrade", check=False)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "board1 did not come back with release" in said
    assert "of no use" in said
    assert {board.name: release(board) for board in boards} == before
    assert {board.name: pid(board) for board in boards if board.name != "board1"} == {
        name: it for name, it in pids.items() if name != "board1"
    }, "the others were not touched"
    since = until(boards["board2"], a_round_of(long_run, 0))["round"]["round"]
    until(boards["board2"], a_round_of(long_run, since))


def test_boards_are_not_restarted_below_quorum(station: Workstation, boards: Boards, long_run: str) -> None:
    # The release that was taken back is still the one to come.
    boards["board4"].execute("systemctl", "stop", "edge-peer")
    pids = {board.name: pid(board) for board in boards}
    hurry = "ANSIBLE_OPTIONS=--extra-vars edge_peer_quorum_s=2"
    done = station.make("upgrade", "LIMIT=board1,board2", hurry, check=False)
    assert done.returncode != 0
    assert "3 are a majority" in " ".join(done.stdout.split())
    assert "BELOW_QUORUM=yes" in done.stdout
    assert {board.name: pid(board) for board in boards} == pids
    boards["board4"].execute("systemctl", "start", "edge-peer")


def test_certificates_are_renewed_during_a_run(station: Workstation, boards: Boards, long_run: str) -> None:
    pids = {board.name: pid(board) for board in boards}
    old = {board.name: (board.root / "etc/edge-peer/tls/peer.crt").read_bytes() for board in boards}
    broker = boards["board1"].execute("systemctl", "show", "--property=MainPID", "--value", "mosquitto").stdout
    station.make("rotate-certs")
    for board in boards:
        assert (board.root / "etc/edge-peer/tls/peer.crt").read_bytes() != old[board.name]
        board.until("journalctl --unit=edge-peer --output=cat | grep --quiet 'configuration read again'")
    assert {board.name: pid(board) for board in boards} == pids, "no process was restarted"
    assert boards["board1"].execute("systemctl", "show", "--property=MainPID", "--value", "mosquitto").stdout == broker
    since = until(boards["board2"], a_round_of(long_run, 0))["round"]["round"]
    until(boards["board3"], a_round_of(long_run, since))


def test_stopped_peers_have_ended_their_run(station: Workstation, boards: Boards, long_run: str) -> None:
    station.make("stop", "END_RUN=yes")
    for board in boards:
        assert board.execute("systemctl", "is-active", "edge-peer", check=False).stdout.strip() == "inactive"
        model = board.root / "var/lib/edge-peer/runs" / long_run / "model.safetensors"
        assert model.is_file()


def test_nothing_stays_after_a_reset(station: Workstation, boards: Boards) -> None:
    done = station.make("reset", check=False)
    assert done.returncode != 0
    assert "make reset CONFIRM=yes" in " ".join(done.stdout.split())
    assert all(traces(board) for board in boards)
    station.make("reset", "CONFIRM=yes")
    assert {board.name: traces(board) for board in boards} == {board.name: [] for board in boards}
    assert set(changes(station.make("reset", "CONFIRM=yes")).values()) == {0}
