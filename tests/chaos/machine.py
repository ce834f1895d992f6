"""What this machine allows, and a network and mount table of our own, which are gone with the last of our processes.

The faults of network and disk need both. They are taken for this process alone (unshare(2)), so there is nothing to
clean up, whatever ends it, and nothing on the machine's own network to be in the way of.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def run(*command: str, text: str | None = None) -> None:
    """Run a command; raises OSError with what it said."""
    environment = {**os.environ, "PATH": PATH, "LC_ALL": "C"}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")


def works(*command: str, text: str | None = None) -> bool:
    """Whether a command succeeds."""
    try:
        run(*command, text=text)
    except OSError:
        return False
    return True


def missing(programs: Sequence[str]) -> list[str]:
    """Which of these programs are not installed."""
    return [program for program in programs if shutil.which(program, path=PATH) is None]


def isolate() -> str:
    """Give this process a network and a mount table of its own; returns why that cannot be, or nothing."""
    if os.geteuid() != 0:
        return "only root can have a network of its own"
    if gone := missing(("ip", "nsenter", "unshare", "mount")):
        return f"{', '.join(gone)} not installed (apt-get install iproute2 util-linux)"
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET | CLONE_NEWNS):
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    # Else what is mounted here would be seen outside.
    run("mount", "--make-rprivate", "/")
    run("ip", "link", "set", "lo", "up")
    return ""
