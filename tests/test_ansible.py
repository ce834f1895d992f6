"""The playbooks as far as no board is needed: they parse, roles say what they take, and what they write is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_peer.config import load_config

ROOT = Path(__file__).parent.parent
ANSIBLE = ROOT / "ansible"
ROLES = sorted(path.name for path in (ANSIBLE / "roles").iterdir())
PLAYBOOKS = sorted(path.name for path in ANSIBLE.glob("*.yml") if not path.name.startswith("inventory"))
EXAMPLE = ANSIBLE / "inventory.example.yml"
BIN = Path(sys.executable).parent


def run(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_NOCOLOR": "1",
    }
    command = [BIN / program, *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def play(folder: Path, inventory: str | Path, tasks: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """A playbook with these tasks for all hosts, on this machine, with the roles of the project."""
    written = folder / "play.yml"
    written.write_text(
        json.dumps(
            [{"name": "Try", "hosts": "broker:peers", "gather_facts": False, "connection": "local", "tasks": tasks}]
        )
    )
    source = folder / "inventory.yml"
    source.write_text(inventory.read_text() if isinstance(inventory, Path) else inventory)
    return run("ansible-playbook", "--inventory", source, written)


def the_role(name: str, tasks: str) -> dict[str, Any]:
    include = {"name": str(ANSIBLE / "roles" / name), "tasks_from": tasks}
    return {"name": "Use the role", "ansible.builtin.include_role": include}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_specifies_exactly_what_has_a_default(role: str) -> None:
    defaults = yaml.safe_load((ANSIBLE / "roles" / role / "defaults/main.yml").read_text())
    specified = yaml.safe_load((ANSIBLE / "roles" / role / "meta/argument_specs.yml").read_text())
    options = specified["argument_specs"]["main"]["options"]
    assert {name: it["default"] for name, it in options.items()} == defaults
    assert all(it["description"] for it in options.values())
    text = (ANSIBLE / "roles" / role / "defaults/main.yml").read_text()
    assert text.count("\n#") >= len(defaults) // 3, "what they mean stands beside them"


def test_all_playbooks_parse() -> None:
    assert {"collect.yml", "reset.yml", "site.yml", "start.yml", "status.yml", "stop.yml", "upgrade.yml"} <= set(
        PLAYBOOKS
    )
    done = run("ansible-playbook", "--syntax-check", "--inventory", EXAMPLE, *(ANSIBLE / name for name in PLAYBOOKS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_passes_the_checks_of_an_inventory(tmp_path: Path) -> None:
    done = play(tmp_path, EXAMPLE, [the_role("board_base", "inventory")])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("inventory", "why"),
    [
        ("peers: {hosts: {a: , b: }}", "group broker has 0 hosts; list exactly one"),
        ("broker: {hosts: {a: , b: }}\npeers: {hosts: {a: , b: }}", "group broker has 2 hosts"),
        ("broker: {hosts: {a: }}\npeers: {hosts: {a: }}", "group peers has 1 hosts; list at least two"),
        ("broker: {hosts: {a: }}\npeers: {hosts: {a: , operator: }}", "host names operator: "),
        ("broker: {hosts: {a: }}\npeers: {hosts: {a: , broker.a: , ä: }}", "host names broker.a, ä: "),
        ("broker: {hosts: {a: }}\npeers: {hosts: {a: , A: }}", "two differ in case only"),
    ],
)
def test_an_inventory_that_cannot_be_deployed_is_refused(tmp_path: Path, inventory: str, why: str) -> None:
    done = play(tmp_path, inventory, [the_role("board_base", "inventory")])
    assert done.returncode != 0
    assert why in " ".join(done.stdout.split()), done.stdout + done.stderr


BOARDS = """
broker: {hosts: {old: }}
peers:
  hosts:
    old: {board_base_facts: {machine: aarch64, python: "3.9", python_minor: 9, glibc: "2.31"}}
    small: {board_base_facts: {machine: armv7l, python: "3.13", python_minor: 13, glibc: "2.41"}}
    strange: {board_base_facts: {machine: riscv64, python: "3.11", python_minor: 11, glibc: "2.36"}}
    alpine: {board_base_facts: {machine: x86_64, python: "3.12", python_minor: 12, glibc: ""}}
"""


def test_a_board_that_cannot_be_a_peer_is_told_why_and_what_would_do(tmp_path: Path) -> None:
    done = play(tmp_path, BOARDS, [the_role("edge_peer", "preflight")])
    assert done.returncode != 0
    said = {it.split("]")[0]: " ".join(it.split()) for it in done.stdout.split("fatal: [")[1:]}
    for board, why, remedy in (
        ("old", "is Python 3.9; a peer needs 3.10 to 3.13", "Debian 12 has 3.11"),
        ("small", "needs 3.10 to 3.11 with tflite-runtime, which 32-bit ARM needs", "Debian 12 has 3.11"),
        ("strange", "the board's processor is riscv64, for which no TFLite interpreter has wheels", "aarch64, x86_64"),
        ("alpine", "the board's C library is not glibc", "Debian or Raspberry Pi OS"),
    ):
        assert why in said[board]
        assert remedy in said[board]


VARIABLES = """
broker: {hosts: {hub: {ansible_host: 192.0.2.1, broker_port: 8884}}}
peers:
  hosts:
    one:
      edge_peer_run:
        rounds_max: 7
        updates_min: 3
        target_accuracy: 0.5
        scaffold: false
        rule: trimmed_mean
        rule_parameters: {byzantine: 1}
        server_parameters: {}
      edge_peer_settings: {timing: {lease_s: 30}, broker: {keepalive_s: 20}, log: {level: debug}, trainer: {threads: 2}}
    two: {edge_peer_several: true, edge_peer_train: false, edge_peer_shard: "", edge_peer_priority: 2}
    three: {edge_peer_shard_path: '/srv/a "quoted" ü/shard', edge_peer_control: false}
"""


def test_what_the_inventory_says_is_what_a_board_reads(tmp_path: Path) -> None:
    # The role, with its template written here instead of all that it does on a board.
    role = tmp_path / "edge_peer"
    (role / "tasks").mkdir(parents=True)
    for name in ("defaults", "templates", "vars"):
        (role / name).symlink_to(ANSIBLE / "roles/edge_peer" / name)
    target = {"src": "config.toml.j2", "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}.toml", "mode": "0600"}
    write = {"name": "Write it", "ansible.builtin.template": target, "when": "inventory_hostname in groups['peers']"}
    (role / "tasks/main.yml").write_text(json.dumps([write]))
    done = play(tmp_path, VARIABLES, [{"name": "Use it", "ansible.builtin.include_role": {"name": str(role)}}])
    assert done.returncode == 0, done.stdout + done.stderr
    one, two, three = (load_config(tmp_path / f"{name}.toml") for name in ("one", "two", "three"))
    assert [it.peer.name for it in (one, two, three)] == ["one", "two", "three"]
    assert one.federation.roster == ("one", "two", "three")
    assert one.broker.address == ("192.0.2.1", 8884)
    assert (one.run.rounds_max, one.run.target_accuracy, one.run.scaffold) == (7, 0.5, False)
    assert (one.run.rule, one.run.rule_parameters) == ("trimmed_mean", {"byzantine": 1})
    assert (one.timing.lease_s, one.broker.keepalive_s, one.log.level, one.trainer.threads) == (30.0, 20, "debug", 2)
    assert one.broker.tls_key == Path("/etc/edge-peer/tls/peer.key"), "a section's other keys stay"
    assert one.shard.path == Path("/opt/edge-peer/shards/one.safetensors")
    assert two.broker.tls_key == Path("/etc/edge-peer/tls/two.key")
    assert two.peer.state_dir == Path("/var/lib/edge-peer-two")
    assert (two.peer.train, two.peer.priority, two.shard.path) == (False, 2.0, None)
    assert three.shard.path == Path('/srv/a "quoted" ü/shard')
    assert three.run == type(three.run)(), "what the inventory does not say has its default"
