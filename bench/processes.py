"""What Linux tells of processes: memory, processor time, descriptors, threads, bytes written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Figures:
    """One process at one time.

    Attributes:
        cpu_s: Processor time so far, in the kernel too.
        rss_bytes: Resident memory.
        threads: How many.
        descriptors: Open files, sockets and the like.
    """

    cpu_s: float
    rss_bytes: int
    threads: int
    descriptors: int


def figures(pid: int) -> Figures | None:
    """Of a process; None: it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        # The name, in brackets, may have spaces; fields are counted behind it, from the third.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        descriptors = len(list((folder / "fd").iterdir()))
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Figures(
        cpu_s=(int(fields[11]) + int(fields[12])) * TICK_S,
        rss_bytes=int(fields[21]) * PAGE_BYTES,
        threads=int(fields[17]),
        descriptors=descriptors,
    )
