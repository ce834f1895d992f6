"""Child processes that end with this one, whatever ends it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

#: prctl(2): the signal that the kernel sends to a child when its parent has died.
PR_SET_PDEATHSIG = 1
STOP_S = 10.0


def _die_with_parent() -> None:
    # Runs between fork and exec. A parent that is killed cannot clean up; the kernel does it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command with its output appended to a file.

    It has a session of its own, so that Ctrl-C reaches only this process, which then ends its children in order.
    """
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603 - the command is ours
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads are running when the demo starts its children
        )


def stop(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float = STOP_S) -> list[subprocess.Popen[bytes]]:
    """SIGTERM, then SIGKILL for those that are still there; returns those that had to be killed."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
            process.terminate()
    killed = []
    for process in processes:
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed.append(process)
    return killed
