"""Each peer in a network of its own, on a bridge with the broker: cables that can be cut, slowed down or made lossy."""

from __future__ import annotations

import time
from pathlib import Path

from edge_peer.operator import processes
from tests.chaos.machine import run, works

BRIDGE = "br0"
GATEWAY = "10.99.0.1"
START_S = 10.0
DELAY = "150ms"
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
        for number, peer in enumerate(peers):
            self._connect(peer, f"10.99.1.{number + 1}/16")
        #: Whether this kernel can delay packets; else a slow cable is one with little bandwidth.
        probe = self._devices[peers[0]]
        self.delays = works("tc", "qdisc", "add", "dev", probe, "root", "netem", "delay", DELAY)
        if self.delays:
            run("tc", "qdisc", "del", "dev", probe, "root")
        self.slows = self.delays or works("tc", "qdisc", "add", "dev", probe, *_tbf())
        if self.slows and not self.delays:
            run("tc", "qdisc", "del", "dev", probe, "root")
        self.loses = works("nft", "--file", "-", text=_loss(probe))
        if self.loses:
            run("nft", "delete", "table", "netdev", f"loss-{probe}")

    @property
    def how_slow(self) -> str:
        """What a slow cable is like."""
        return f"{DELAY} more each way (netem)" if self.delays else f"{RATE} each way (tbf, for want of netem)"

    def enter(self, peer: str) -> str:
        """What a command begins with that is to run in the peer's network."""
        return f"nsenter --net=/proc/{self._holders[peer].pid}/ns/net"

    def _connect(self, peer: str, address: str) -> None:
        holder, device = self._holders[peer].pid, self._devices[peer]
        own, theirs = Path("/proc/self/ns/net"), Path(f"/proc/{holder}/ns/net")
        end_s = time.monotonic() + START_S
        while theirs.readlink() == own.readlink():
            if time.monotonic() > end_s:
                raise OSError(f"process {holder} has no network of its own after {START_S:g} s")
            time.sleep(0.01)
        run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(holder))
        run("ip", "link", "set", device, "master", BRIDGE, "up")
        for command in (f"addr add {address} dev eth0", "link set eth0 up", "link set lo up"):
            run(*self.enter(peer).split(), "ip", *command.split())

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
        for enter, device in ((), self._devices[peer]), (self.enter(peer).split(), "eth0"):
            how = ("root", "netem", "delay", DELAY, "50ms") if self.delays else _tbf()
            run(*enter, "tc", "qdisc", "add", "dev", device, *how)

    def quicken(self, peer: str) -> None:
        """No more of that."""
        run("tc", "qdisc", "del", "dev", self._devices[peer], "root")
        run(*self.enter(peer).split(), "tc", "qdisc", "del", "dev", "eth0", "root")

    def lose(self, peer: str) -> None:
        """Drop a share of what the peer sends and gets."""
        run("nft", "--file", "-", text=_loss(self._devices[peer]))

    def lose_no_more(self, peer: str) -> None:
        """No more of that."""
        run("nft", "delete", "table", "netdev", f"loss-{self._devices[peer]}")

    def stop(self) -> None:
        """Let go of the networks."""
        processes.stop(list(self._holders.values()))


def _tbf() -> tuple[str, ...]:
    return ("root", "tbf", "rate", RATE, "burst", "4kb", "latency", "2000ms")


def _loss(device: str) -> str:
    return LOSS.format(table=f"loss-{device}", device=device, percent=LOSS_PERCENT)
