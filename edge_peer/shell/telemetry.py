"""What the board is and what it uses: capability score, memory, free disk."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    return kibibytes(Path("/proc/self/status"), "VmHWM:")


def memory_available_bytes() -> int:
    """Memory that programs could still get."""
    return kibibytes(Path("/proc/meminfo"), "MemAvailable:")


def disk_free_bytes(folder: Path) -> int:
    """Free space where `folder` is."""
    return shutil.disk_usage(folder).free


def kibibytes(path: Path, name: str) -> int:
    """Bytes of a line `name 12 kB` in one of the kernel's files; 0 where there is none."""
    try:
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name):
                return max(0, int(line.split()[1])) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def capability(priority: float) -> tuple[float, dict[str, float]]:
    """A board's score, higher is better, and the measurements that it is made of.

    The score is the number of cores, times the speed of float32 sums of products, weighed down where memory is short;
    plus the configured priority. It is rounded, so that equal boards come out equal.
    """
    cores = float(os.cpu_count() or 1)
    # Small enough for a first-level cache. No matrix product: BLAS would keep megabytes of buffers for it.
    vector, product = np.ones(2048, np.float32), np.empty(2048, np.float32)
    best = float("inf")
    for _ in range(32):
        started = time.perf_counter()
        np.multiply(vector, vector, out=product)
        np.add(product, vector, out=product)
        best = min(best, max(time.perf_counter() - started, 1e-9))
    gflops = 2 * len(vector) / best / 1e9
    memory = memory_available_bytes() / 1e9
    score = cores * min(gflops, 1000.0) * min(1.0, memory / 0.5)
    rounded = round(score, 1 - len(str(int(score)))) if score >= 1 else round(score, 1)
    parts = {"cores": cores, "gflops": round(gflops, 2), "memory_gb": round(memory, 2), "priority": priority}
    return max(0.0, float(rounded)) + priority, parts
