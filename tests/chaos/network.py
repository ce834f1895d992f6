"""Each peer in a network of its own, on a bridge with the broker: cables that can be cut, slowed down or made lossy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edge_peer.operator.local import processes
from tests.chaos.delay import tap
from tests.chaos.machine import run, works

BRIDGE = "br0"
GATEWAY = "10.99.0.1"
START_S = 10.0
#: Ways to make a cable slow.
NETEM, PROCESS, TBF = "netem", "process", "tbf"
DELAY_S, JITTER_S = 0.15, 0.05
RATE = "200kbit"
LOSS_PERCENT = 20
LOSS = """table netdev {table} {{
  chain from {{ type filter hook ingress device "{device}" priority 0; numgen random mod 100 < {percent} drop; }}
  chain to {{ type filter hook egress device "{device}" priority 0; numgen random mod 100 < {percent} drop; }}
}}
"""


class Network:
    """Cables from peers to the broker's network, which this process is in.

    Args:
        peers: Names; `isolate` must have been called.
        folder: For logs.
    """

    def __init__(self, peers: list[str], folder: Path) -> None:
        self._devices = {peer: f"cable{number}" for number, peer in enumerate(peers)}
        run("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "stp_state", "0")
        run("ip", "addr", "add", f"{GATEWAY}/16", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        # A network lives as long as a process in it: this one only sleeps, and dies with us.
        self._holders = {
            peer: processes.start(["unshare", "--net", "sleep", "infinity"], folder / "network.log") for peer in peers
        }
        self._addresses = {peer: f"10.99.1.{number + 1}/16" for number, peer in enumerate(peers)}
        self._hardware = {peer: f"02:00:0a:63:01:{number + 1:02x}" for number, peer in enumerate(peers)}
        for peer in peers:
            self._connect(peer)
        self._folder = folder
        #: What delays a peer's packets, where the kernel cannot.
        self._delays: dict[str, subprocess.Popen[bytes]] = {}
        probe = self._devices[peers[0]]
        #: How a cable is made slow; None: not at all.
        self._slow_by: str | None = None
        if works("tc", "qdisc", "add", "dev", probe, *_netem()):
            self._slow_by = NETEM
        elif _has_taps():
            self._slow_by = PROCESS
        elif works("tc", "qdisc", "add", "dev", probe, *_tbf()):
            self._slow_by = TBF
        if self._slow_by in (NETEM, TBF):
            run("tc", "qdisc", "del", "dev", probe, "root")
        self.loses = works("nft", "--file", "-", text=_loss(probe))
        if self.loses:
            run("nft", "delete", "table", "netdev", f"loss-{probe}")

    @property
    def how_slow(self) -> str:
        """What a slow cable is like."""
        delay = f"{1000 * DELAY_S:g} ms more each way, {1000 * JITTER_S:g} ms more or less"
        return {
            NETEM: f"{delay} (netem)",
            PROCESS: f"{delay} (by a process that holds the frames, for want of netem)",
            TBF: f"{RATE} each way (tbf, for want of netem)",
        }[self._slow_by or TBF]

    @property
    def slows(self) -> bool:
        """Whether a cable can be made slow."""
        return self._slow_by is not None

    def enter(self, peer: str) -> str:
        """What a command begins with that is to run in the peer's network."""
        return f"nsenter --net=/proc/{self._holders[peer].pid}/ns/net"

    def _connect(self, peer: str) -> None:
        holder, device = self._holders[peer].pid, self._devices[peer]
        own, theirs = Path("/proc/self/ns/net"), Path(f"/proc/{holder}/ns/net")
        _await(lambda: theirs.readlink() != own.readlink(), f"network of process {holder}")
        run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(holder))
        run("ip", "link", "set", device, "master", BRIDGE, "up")
        hardware, address = self._hardware[peer], self._addresses[peer]
        self._in(
            peer,
            f"link set eth0 address {hardware}",
            f"addr add {address} dev eth0",
            "link set eth0 up",
            "link set lo up",
        )

    def cut(self, *peers: str) -> None:
        """Pull the cables: nothing comes through, and nobody is told."""
        for peer in peers:
            run("ip", "link", "set", self._devices[peer], "down")

    def heal(self, *peers: str) -> None:
        """Plug them again."""
        for peer in peers:
            run("ip", "link", "set", self._devices[peer], "up")

    def slow(self, peer: str) -> None:
        """Delay what reaches the peer, and what it sends."""
        if self._slow_by == PROCESS:
            self._lay_slow_cable(peer)
            return
        how = _netem() if self._slow_by == NETEM else _tbf()
        for enter, device in ((), self._devices[peer]), (self.enter(peer).split(), "eth0"):
            run(*enter, "tc", "qdisc", "add", "dev", device, *how)

    def quicken(self, peer: str) -> None:
        """No more of that."""
        if self._slow_by == PROCESS:
            # Its devices go with it.
            processes.stop([self._delays.pop(peer)])
            self._in(peer, f"addr add {self._addresses[peer]} dev eth0", "link set eth0 up")
            return
        run("tc", "qdisc", "del", "dev", self._devices[peer], "root")
        run(*self.enter(peer).split(), "tc", "qdisc", "del", "dev", "eth0", "root")

    def _lay_slow_cable(self, peer: str) -> None:
        """Another cable in place of the peer's own, with the same addresses at its end: connections stay."""
        near, far = f"slow-{self._devices[peer]}", f"far-{self._devices[peer]}"
        command = [sys.executable, "-m", "tests.chaos.delay", near, far, str(DELAY_S), str(JITTER_S)]
        self._delays[peer] = processes.start(command, self._folder / "network.log")
        _await(lambda: {near, far} <= _devices(), f"devices {near} and {far}")
        run("ip", "link", "set", near, "master", BRIDGE, "up")
        run("ip", "link", "set", far, "netns", str(self._holders[peer].pid))
        # With the same address on it, so that whoever knows it finds it there.
        hardware = self._hardware[peer]
        self._in(
            peer,
            "link set eth0 down",
            f"addr del {self._addresses[peer]} dev eth0",
            f"link set {far} address {hardware}",
            f"addr add {self._addresses[peer]} dev {far}",
            f"link set {far} up",
        )

    def _in(self, peer: str, *commands: str) -> None:
        """Run commands of ip(8) in the peer's network."""
        for command in commands:
            run(*self.enter(peer).split(), "ip", *command.split())

    def lose(self, peer: str) -> None:
        """Drop a share of what the peer sends and gets."""
        run("nft", "--file", "-", text=_loss(self._devices[peer]))

    def lose_no_more(self, peer: str) -> None:
        """No more of that."""
        run("nft", "delete", "table", "netdev", f"loss-{self._devices[peer]}")

    def stop(self) -> None:
        """Let go of the networks."""
        processes.stop([*self._delays.values(), *self._holders.values()])


def _await(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > end_s:
            raise OSError(f"no {what} after {START_S:g} s")
        time.sleep(0.01)


def _devices() -> set[str]:
    """Names of the network devices of this network."""
    return {line.partition(":")[0].strip() for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]}


def _has_taps() -> bool:
    try:
        os.close(tap("probe"))
    except OSError:
        return False
    return True


def _netem() -> tuple[str, ...]:
    return ("root", "netem", "delay", f"{1000 * DELAY_S:g}ms", f"{1000 * JITTER_S:g}ms")


def _tbf() -> tuple[str, ...]:
    return ("root", "tbf", "rate", RATE, "burst", "4kb", "latency", "2000ms")


def _loss(device: str) -> str:
    return LOSS.format(table=f"loss-{device}", device=device, percent=LOSS_PERCENT)
