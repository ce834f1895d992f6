"""Tell the C library's allocator to keep less: a board has more use for the memory than for the time that this costs.

Source: mallopt(3). Where there is no glibc, nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
#: What is larger is a mapping of its own, and is given back whole when it goes. Not much smaller: a small model's
#: buffers come and go thirty times a round, and mapping each anew takes 3 ms of it (`python -m bench.rounds`).
LARGE_BYTES = 1024 * 1024


def keep_little() -> None:
    """One arena for both threads, and no large free block kept; call it before much has been allocated."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * LARGE_BYTES)
