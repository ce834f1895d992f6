"""Peers as processes on this machine, each with a configuration, a state folder and a log: for demo, tests, bench."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_peer.config import literal
from edge_peer.operator.local import processes

Tables = Mapping[str, Mapping[str, Any]]


def merge(*layers: Tables) -> dict[str, dict[str, Any]]:
    """One configuration of several: later ones win, key by key."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.items():
            merged.setdefault(section, {}).update(values)
    return merged


class LocalFleet:
    """Peers on this machine.

    Args:
        folder: Gets `<peer>.toml`, `<peer>/` (its state) and `logs/<peer>.log`.
        common: Configuration of all, as TOML tables.
        python: The interpreter that runs them; None: this one.
    """

    def __init__(self, folder: Path, common: Tables, python: str | None = None) -> None:
        self._folder = folder
        self._common = common
        self._python = python or sys.executable
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def configuration(self, peer: str) -> Path:
        """The peer's TOML file."""
        return self._folder / f"{peer}.toml"

    def state_dir(self, peer: str) -> Path:
        """The peer's state folder."""
        return self._folder / peer

    def log(self, peer: str) -> Path:
        """The peer's log."""
        return self._folder / "logs" / f"{peer}.log"

    def configure(self, peer: str, own: Tables) -> Path:
        """Write a peer's configuration: the common one, and what is its own."""
        tables = merge(self._common, {"peer": {"name": peer, "state_dir": str(self.state_dir(peer))}}, own)
        lines = []
        for section, values in tables.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {literal(value)}" for key, value in values.items() if value is not None]
            lines.append("")
        path = self.configuration(peer)
        path.write_text("\n".join(lines))
        return path

    def start(self, peers: Sequence[str], python: str | None = None) -> None:
        """Start configured peers, for the first time or again; with another interpreter, if one is given."""
        for peer in peers:
            command = [python or self._python, "-m", "edge_peer", "run", "--config", str(self.configuration(peer))]
            self.processes[peer] = processes.start(command, self.log(peer))

    def kill(self, peer: str) -> None:
        """SIGKILL: what it had in memory is gone."""
        self.processes[peer].kill()
        self.processes[peer].wait()

    def exited(self) -> dict[str, int]:
        """Peers that have ended by themselves, with their exit codes."""
        return {
            peer: process.returncode for peer, process in self.processes.items() if process.poll() not in (None, -9)
        }

    def stop(self) -> None:
        """End all, as systemd would."""
        processes.stop(list(self.processes.values()))

    def last_lines(self, peer: str, count: int = 15) -> str:
        """The end of a peer's log."""
        return "\n".join(self.log(peer).read_text(errors="replace").splitlines()[-count:])
