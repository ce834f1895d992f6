"""A fleet's inventory as Ansible reads it: groups of groups, ranges, and files of variables are its business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_peer.errors import ConfigError


def read_hosts(path: Path, *groups: str) -> list[dict[str, Mapping[str, Any]]]:
    """The hosts of each of these groups, those of the groups in it too, with their variables.

    Raises:
        ConfigError: There is no inventory, or Ansible cannot read it.
    """
    if not path.exists():
        raise ConfigError([f"--inventory {path}: no such file; write one as ansible/inventory.example.yml shows"])
    done = subprocess.run(  # noqa: S603 - the command is ours
        [sys.executable, "-m", "ansible", "inventory", "--list", "--inventory", str(path)],
        env={**os.environ, "LC_ALL": "C.UTF-8", "ANSIBLE_INVENTORY_UNPARSED_FAILED": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigError([f"--inventory {path}: {done.stderr.strip()[-500:]}"])
    inventory = json.loads(done.stdout)
    variables: Mapping[str, Mapping[str, Any]] = inventory["_meta"]["hostvars"]
    return [{host: variables.get(host, {}) for host in _hosts(inventory, group)} for group in groups]


def _hosts(inventory: Mapping[str, Any], group: str) -> list[str]:
    there = inventory.get(group, {})
    found = list(there.get("hosts", []))
    for child in there.get("children", []):
        found += _hosts(inventory, child)
    return list(dict.fromkeys(found))
