"""The playbooks that fetch and ask, by Ansible itself: folders of this machine are boards, and one is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from edge_peer.operator.fleet.boards import Told
from edge_peer.operator.fleet.collect import main as collect
from edge_peer.operator.runs.results import read_results
from tests.run_folders import RUN_ID, Invented

ROOT = Path(__file__).resolve().parent.parent
PEERS = ["attic", "cellar", "roof"]
RUN = Invented(PEERS)
ENVIRONMENT = {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg"), "ANSIBLE_SSH_RETRIES": "0", "LC_ALL": "C.UTF-8"}
INVENTORY = """
broker: {{hosts: {{attic: }}}}
peers:
  vars: {{ansible_python_interpreter: {python}}}
  hosts:
    attic: {{ansible_connection: local}}
    cellar: {{ansible_connection: local}}
    roof: {{ansible_host: 127.0.0.1, ansible_port: 1}}
"""


def play(name: str, folder: Path, boards: Path) -> str:
    variables = {"edge_peer_state": f"{boards}/{{{{ inventory_hostname }}}}", "ansible_become": False}
    done = subprocess.run(
        [
            sys.executable, "-m", "ansible", "playbook", f"--inventory={folder}/inventory.yml", ROOT / "ansible" / name,
            "--extra-vars", json.dumps(variables),
        ],
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_boards_have_is_fetched_once_and_a_board_that_is_away_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "inventory.yml").write_text(INVENTORY.format(python=sys.executable))
    boards = tmp_path / "boards"
    for peer in ("attic", "cellar"):
        RUN.board(boards / peer, peer, range(4))
    secret = tmp_path / "secret.csv"
    secret.write_text("root's")
    (boards / "attic/runs" / RUN_ID / "link.csv").symlink_to(secret)
    said = play("collect.yml", tmp_path, boards)
    assert "roof" in said
    fetched = tmp_path / "collected"
    for peer in ("attic", "cellar"):
        files = {
            it.relative_to(boards / peer) for it in (boards / peer).rglob("*") if it.is_file() and not it.is_symlink()
        }
        assert {it.relative_to(fetched / peer) for it in (fetched / peer).rglob("*") if it.is_file()} - {
            Path("reached.json")
        } == files
        assert all((fetched / peer / it).read_bytes() == (boards / peer / it).read_bytes() for it in files)
    options = ["--collected", str(fetched), "--runs", str(tmp_path / "runs")]
    assert collect(options) == 0
    # The run goes on: one file has grown, one is new.
    RUN.board(boards / "attic", "attic")
    (boards / "cellar/runs" / RUN_ID / "model.int8.tflite").write_bytes(b"a model")
    said = play("collect.yml", tmp_path, boards)
    assert said.count("(item=") == 3, "attic's CSV and log, cellar's model"
    assert collect(options) == 0
    results = read_results(tmp_path / "runs" / RUN_ID)
    assert [len(results.peers[peer]) for peer in ("attic", "cellar")] == [7, 4]
    play("status.yml", tmp_path, boards)
    told = Told.read(tmp_path / "status")
    assert told.hosts == tuple(PEERS)
    assert told.broker == ("attic", 8883)
    assert set(told.boards) == {"attic", "cellar"}
    assert told.boards["attic"]["last_row"]["round"] == "6"
