"""Nodes of one ejabberd on loopback ports, joined to a cluster: an MQTT 5 broker that outlives the death of a node.

`python -m tests.live.ejabberd` installs it from the distribution if it is missing (Debian and Ubuntu have it).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from edge_peer.operator.local import processes
from edge_peer.operator.local.broker import HOST, free_port

VIRTUAL_HOST = "localhost"
#: The Erlang machine and Mnesia take their time, more so on a busy machine.
START_S = 120.0
CONFIGURATION = """hosts:
  - {virtual_host}
certfiles:
  - {certificate}
listen:
  - port: {port}
    ip: "{host}"
    module: mod_mqtt
    backlog: 1000
    tls: true
auth_method: mnesia
modules:
  mod_mqtt:
    # No session outlives its connection: boards that reconnect say everything again.
    session_expiry: 0
    # All that is retained, however many peers there are.
    match_retained_limit: infinity
    max_queue: 10000
    # Everybody reads, and writes under the own name.
    access_publish:
      "fl/v1/+/%u/#":
        - allow: all
"""


def install() -> None:
    """Install it, and leave the service off that its package starts."""
    if shutil.which("ejabberdctl") is not None:
        return
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "--yes", "--no-install-recommends", "ejabberd"], check=True)
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "disable", "--now", "ejabberd"], check=True)


class Cluster:
    """Nodes, and the port mapper by which they find each other.

    Args:
        folder: For everything.
        names: Of the nodes; the others join the first.
        certificate: File with the broker's certificate, its key and its authority.
    """

    def __init__(self, folder: Path, names: list[str], certificate: Path) -> None:
        self._folder = folder
        self.ports = {name: free_port() for name in names}
        self._cookie = secrets.token_hex(16)
        libraries = next(Path("/usr/lib").glob("*/ejabberd-*")).parent
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "ERL_LIBS": str(libraries),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_CRASH_DUMP_BYTES": "0",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, port in self.ports.items():
            (folder / name).mkdir(parents=True)
            (folder / name / "ejabberd.yml").write_text(
                CONFIGURATION.format(virtual_host=VIRTUAL_HOST, port=port, host=HOST, certificate=certificate)
            )

    @property
    def port(self) -> int:
        """Of the first node."""
        return next(iter(self.ports.values()))

    def start(self) -> None:
        """All nodes, joined."""
        port = self._environment["ERL_EPMD_PORT"]
        self._processes["epmd"] = processes.start(["epmd", "-port", port, "-address", HOST], self._folder / "epmd.log")
        first, *others = self.ports
        for name in self.ports:
            self._launch(name)
        for name in self.ports:
            self._await(name)
        for name in others:
            self.control(name, "join_cluster", _node(first))
            self._await(name)
        nodes = self.control(first, "list_cluster").split()
        assert set(nodes) == {_node(name) for name in self.ports}, nodes

    def start_again(self, name: str) -> None:
        """A node that was killed; it finds the others by itself."""
        self._launch(name)
        self._await(name)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._processes[name].kill()
        self._processes[name].wait()

    def register(self, passwords: Mapping[str, str]) -> None:
        """Accounts, for all nodes."""
        for user, password in passwords.items():
            self.control(next(iter(self.ports)), "register", user, VIRTUAL_HOST, password)

    def _launch(self, name: str) -> None:
        folder = self._folder / name
        own = {
            "EJABBERD_CONFIG_PATH": str(folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(folder / "ejabberd.log"),
            "ERL_CRASH_DUMP": str(folder / "dump"),
        }
        # What ejabberdctl starts, but as this user and so that it ends with this process.
        command = ["env", *(f"{key}={value}" for key, value in {**self._environment, **own}.items())]
        command += ["erl", "-sname", _node(name), "-setcookie", self._cookie, "-noinput"]
        command += ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
        command += ["-mnesia", "dir", f'"{folder / "mnesia"}"', "-s", "ejabberd"]
        self._processes[name] = processes.start(command, folder / "console.log")

    def control(self, name: str, *command: str) -> str:
        """What `ejabberdctl` does; returns what it says."""
        done = self._control(name, *command)
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    def _control(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        own = f"control-{secrets.token_hex(4)}@{VIRTUAL_HOST}"
        erl = ["erl", "-sname", own, "-setcookie", self._cookie, "-hidden", "-noinput", "-s", "ejabberd_ctl", "-extra"]
        return subprocess.run(
            [*erl, _node(name), *command], env=self._environment, capture_output=True, text=True, timeout=START_S
        )

    def _await(self, name: str) -> None:
        end_s = time.monotonic() + START_S
        while self._control(name, "status").returncode != 0:
            log = self._folder / name / "ejabberd.log"
            assert time.monotonic() < end_s, log.read_text() if log.exists() else f"{name} does not start"

    def stop(self) -> None:
        """End everything."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def _node(name: str) -> str:
    return f"{name}@{VIRTUAL_HOST}"


if __name__ == "__main__":
    install()
