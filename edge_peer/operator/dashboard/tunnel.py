"""`make dashboard`: the live page of a fleet's broker on this machine, over SSH.

Mosquitto serves the page on its own host's loopback only. SSH, by which the fleet is deployed, knows both sides: the
board by its host key, and the operator by theirs. See docs/decisions/0011-how-a-browser-reaches-the-page.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_peer.errors import ConfigError, EdgePeerError
from edge_peer.operator.fleet.inventory import read_hosts

HOST = "127.0.0.1"
PORT = 9001
ROLE_PORT = "broker_dashboard_port"


def choose(brokers: Mapping[str, Mapping[str, Any]], name: str | None) -> tuple[str, Mapping[str, Any]]:
    """The broker to go to; raises ConfigError."""
    if name is None and len(brokers) == 1:
        name = next(iter(brokers))
    if name is None or name not in brokers:
        what = f"no broker {name!r}" if name else f"{len(brokers)} brokers" if brokers else "no broker"
        raise ConfigError([f"{what} in the inventory: choose one by its host's name ({', '.join(sorted(brokers))})"])
    if int(brokers[name].get(ROLE_PORT, PORT)) == 0:
        raise ConfigError([f"{name}: {ROLE_PORT} is 0, so there is no page; change it, and `make deploy`"])
    return name, brokers[name]


def command(name: str, variables: Mapping[str, Any], port: int, known_hosts: Path) -> list[str]:
    """How SSH is asked to carry the page's port here.

    Args:
        name: The host's.
        variables: Its variables in the inventory, those of Ansible's connection among them.
        port: On this machine.
        known_hosts: The fleet's own; another key of the board than before is refused.
    """
    options = {
        "UserKnownHostsFile": known_hosts.resolve(),
        "StrictHostKeyChecking": "accept-new",
        # Without the port there is nothing to stay for.
        "ExitOnForwardFailure": "yes",
        "ServerAliveInterval": 15,
        "ControlPath": "none",
    }
    words = ["ssh", "-N", "-L", f"{HOST}:{port}:{HOST}:{variables.get(ROLE_PORT, PORT)}"]
    words += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    if key_file := variables.get("ansible_ssh_private_key_file", variables.get("ansible_private_key_file")):
        words += ["-i", str(Path(str(key_file)).expanduser())]
    if remote := variables.get("ansible_port"):
        words += ["-p", str(remote)]
    words += shlex.split(str(variables.get("ansible_ssh_common_args", "")))
    user, address = variables.get("ansible_user"), str(variables.get("ansible_host", name))
    return [*words, "--", f"{user}@{address}" if user else address]


def main(arguments: list[str] | None = None) -> int:
    """Say where the page is, and become SSH; returns only where that is not possible."""
    it = argparse.ArgumentParser(prog="make dashboard", description=__doc__)
    it.add_argument("--inventory", type=Path, default=Path("fleet/inventory.yml"), metavar="FILE")
    it.add_argument("--known-hosts", type=Path, default=Path("fleet/known_hosts"), metavar="FILE")
    it.add_argument("--broker", metavar="HOST", help="which, if there are several")
    it.add_argument("--port", type=int, default=PORT, help="on this machine (default: %(default)s)")
    options = it.parse_args(arguments)
    try:
        [brokers] = read_hosts(options.inventory, "broker")
        name, variables = choose(brokers, options.broker)
        words = command(name, variables, options.port, options.known_hosts)
        print(f"the live page: http://{HOST}:{options.port}/ as long as this runs; Ctrl-C ends it", flush=True)
        os.execvp(words[0], words)  # noqa: S606 - the command is ours, and no shell reads it
    except (EdgePeerError, OSError) as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
