"""The hand that does what the schedule says: how each kind of fault begins and ends."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from edge_peer.operator.local.broker import LocalBroker
from tests.chaos import schedule as kinds
from tests.chaos.machine import run
from tests.chaos.memory import Memory
from tests.chaos.network import Network
from tests.chaos.schedule import ALL, CONTROLLER, DISK, Fault
from tests.live.harness import Live

DISK_BYTES = 32_000_000
BALLAST = "ballast"
Act = Callable[[str], None]


class Hand:
    """Begins and ends faults in one fleet.

    Args:
        live: The fleet, configured.
        broker: Its broker.
        network: The peers' cables; None: there are none.
        memory: The peers' limits.
        disk_peer: Whose state folder is a small disk; None: nobody's.
    """

    def __init__(
        self, live: Live, broker: LocalBroker, network: Network | None, memory: Memory, disk_peer: str | None
    ) -> None:
        self._live = live
        self._broker = broker
        self._network = network
        self._memory = memory
        self._disk_peer = disk_peer
        #: Whom a fault may end: a process of these that has ended is started again when the fault ends.
        self.down: set[str] = set()
        #: Whose process may still end of what was done to it, though that is over: the player forgets them.
        self.dying: set[str] = set()
        start, kill = self.start, self._kill
        self._acts: dict[str, tuple[Act, Act]] = {
            kinds.KILL_TRAINER: (kill, start),
            kinds.KILL_CONTROLLER: (kill, start),
            kinds.PAUSE_SHORT: (self._pause, self._wake),
            kinds.PAUSE_LONG: (self._pause, self._wake),
            kinds.STALE_CONTROLLER: (self._pause, self._wake),
            kinds.KILL_BROKER: (self._kill_broker, self._start_broker),
            kinds.FULL_DISK: (self._fill_disk, self._empty_disk),
            kinds.MEMORY_LIMIT: (self._limit_memory, self._lift_memory),
        }
        if network is not None:
            self._acts |= {
                kinds.CUT_TRAINER: (network.cut, network.heal),
                kinds.CUT_CONTROLLER: (network.cut, network.heal),
                kinds.CUT_ALL: (lambda _: network.cut(*live.peers), lambda _: network.heal(*live.peers)),
                kinds.LATENCY: (network.slow, network.quicken),
                kinds.LOSS: (network.lose, network.lose_no_more),
            }

    def victim(self, fault: Fault) -> str:
        """Who it is for, now; "all" where it is nobody in particular."""
        controller = self._live.federation.controller
        if fault.whom == ALL:
            return ALL
        if fault.whom == DISK:
            assert self._disk_peer is not None
            return self._disk_peer
        if fault.whom == CONTROLLER and controller is not None:
            return controller
        others = [peer for peer in self._live.peers if peer != controller]
        return others[fault.index % len(others)]

    def begin(self, fault: Fault, victim: str) -> None:
        """Let it happen."""
        self.down.add(victim)
        self._acts[fault.kind][0](victim)

    def end(self, fault: Fault, victim: str) -> str:
        """Undo it; returns what it did to the process, where that is known."""
        code = self._live.fleet.processes[victim].poll() if victim != ALL else None
        self._acts[fault.kind][1](victim)
        if code is not None:
            self.start(victim)
        self.down.discard(victim)
        if fault.kind in (kinds.FULL_DISK, kinds.MEMORY_LIMIT):
            self.dying.add(victim)
        return "" if code is None else f"exit {code}"

    # ------------------------------------------------------------------ processes

    def launcher(self, peer: str) -> str:
        """A program that is the interpreter, in the peer's network and under its limit."""
        path = self._live.fleet.configuration(peer).with_suffix(".sh")
        enter = self._network.enter(peer) if self._network is not None else ""
        path.write_text(f'#!/bin/sh\n{self._memory.enter(peer)}\nexec {enter} {sys.executable} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def start(self, peer: str) -> None:
        """Start a peer's process, unless it is there."""
        process = self._live.fleet.processes.get(peer)
        if process is None or process.poll() is not None:
            self._live.fleet.start([peer], self.launcher(peer))

    def _kill(self, peer: str) -> None:
        self._live.fleet.kill(peer)

    def _signal(self, peer: str, number: signal.Signals) -> None:
        self._live.fleet.processes[peer].send_signal(number)

    def _pause(self, peer: str) -> None:
        self._signal(peer, signal.SIGSTOP)

    def _wake(self, peer: str) -> None:
        self._signal(peer, signal.SIGCONT)

    def _kill_broker(self, _: str) -> None:
        self._live.close()
        self._broker.kill()

    def _start_broker(self, _: str) -> None:
        self._broker.start()
        self._live.watch()

    # ------------------------------------------------------------------ disk and memory

    def mount_disk(self) -> None:
        """Put the state of one peer on a small disk."""
        if self._disk_peer is not None:
            folder = self._live.fleet.state_dir(self._disk_peer)
            folder.mkdir()
            run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder))

    def unmount_disk(self) -> None:
        """Keep what is on it."""
        if self._disk_peer is not None:
            folder = self._live.fleet.state_dir(self._disk_peer)
            aside = folder.with_name(f"{folder.name}.disk")
            run("cp", "--archive", str(folder), str(aside))
            run("umount", str(folder))
            folder.rmdir()
            aside.rename(folder)

    def _fill_disk(self, peer: str) -> None:
        with contextlib.suppress(OSError), (self._ballast(peer)).open("wb", buffering=0) as file:
            size = 1 << 16
            while size:
                try:
                    file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 16

    def _empty_disk(self, peer: str) -> None:
        self._ballast(peer).unlink(missing_ok=True)

    def _ballast(self, peer: str) -> Path:
        return self._live.fleet.state_dir(peer) / BALLAST

    def _limit_memory(self, peer: str) -> None:
        if not self._memory.limit(peer):
            self._kill(peer)
            self._memory.limit(peer)
            self.start(peer)

    def _lift_memory(self, peer: str) -> None:
        if not self._memory.lift(peer):
            self._kill(peer)
            self.start(peer)
