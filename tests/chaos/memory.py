"""A limit on a peer's memory: of its control group, where the machine lets us have one; else of its address space."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
#: Less than a peer needs to live, or to start: of memory, and of address space, of which a process has far more.
LIMIT_BYTES = 24_000_000
SPACE_BYTES = 150_000_000
PREFIX = "edge-peer-chaos-"
#: Version of control groups -> (folder of the memory controller, file with the limit, what lifts it).
HIERARCHIES = ((ROOT / "memory", "memory.limit_in_bytes", "-1"), (ROOT, "memory.max", "max"))


class Memory:
    """Limits of this program's peers."""

    def __init__(self, peers: list[str]) -> None:
        self._groups: dict[str, Path] = {}
        self._limited: set[str] = set()
        self._file, self._lifted = "", ""
        for top, file, lifted in HIERARCHIES:
            try:
                self._make(top, file, peers)
            except OSError:
                self.stop()
            else:
                self._file, self._lifted = file, lifted
                break

    def _make(self, top: Path, file: str, peers: list[str]) -> None:
        for old in top.glob(f"{PREFIX}*"):
            # Of a program that was killed; whoever still has processes in it keeps it.
            with contextlib.suppress(OSError):
                old.rmdir()
        for peer in peers:
            group = top / f"{PREFIX}{os.getpid()}-{peer}"
            group.mkdir()
            self._groups[peer] = group
            (group / file).read_text()

    @property
    def by_group(self) -> bool:
        """Whether it is a control group's limit."""
        return bool(self._groups)

    @property
    def how(self) -> str:
        """What the limit is."""
        if self.by_group:
            return f"{LIMIT_BYTES // 10**6} MB for its control group"
        return f"{SPACE_BYTES // 10**6} MB of address space (RLIMIT_AS)"

    def enter(self, peer: str) -> str:
        """A shell command with which a process comes under the peer's limit."""
        if self._groups:
            return f"echo $$ >{self._groups[peer] / 'cgroup.procs'}"
        return f"ulimit -v {SPACE_BYTES // 1024}" if peer in self._limited else ":"

    def limit(self, peer: str) -> bool:
        """Leave the peer less than it has; False: only a process that is started from now on has the limit."""
        if not self._groups:
            self._limited.add(peer)
            return False
        try:
            (self._groups[peer] / self._file).write_text(str(LIMIT_BYTES))
        except OSError:
            # The first version of control groups takes no limit that is below what is used.
            return False
        return True

    def lift(self, peer: str) -> bool:
        """No limit any more; False: only for a process that is started from now on."""
        if self._groups:
            (self._groups[peer] / self._file).write_text(self._lifted)
        self._limited.discard(peer)
        return bool(self._groups)

    def stop(self) -> None:
        """Remove the groups, which must be empty."""
        for group in self._groups.values():
            with contextlib.suppress(OSError):
                group.rmdir()
        self._groups = {}
