"""A board's control groups: with them all that it runs is ended at once, whatever it has become."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.boards.host import BoardsError, hierarchies

TOP = "edge-peer-boards"
GONE_S = 20.0


def folders(path: str) -> tuple[Path, ...]:
    """The groups of that path below ours, one a hierarchy."""
    return tuple(hierarchy / TOP / path for hierarchy in hierarchies())


def make(path: str) -> None:
    """Make the groups, with all controllers that this machine gives."""
    for folder in folders(path):
        folder.mkdir(parents=True, exist_ok=True)
    folder = hierarchies()[0]
    for name in ("", TOP, *path.split("/")):
        folder /= name
        for controller in (folder / "cgroup.controllers").read_text().split():
            # One that cannot be given further (as of a container that carries us) is one limit less on the boards.
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def processes(path: str) -> Iterator[int]:
    """Ids of the processes in the group and in those below it."""
    # Groups come and go while this looks, which os.walk takes and Path.rglob does not.
    for name, _, _ in os.walk(folders(path)[0]):
        with contextlib.suppress(OSError):
            yield from map(int, (Path(name) / "cgroup.procs").read_text().split())


def is_populated(path: str) -> bool:
    """Whether anything runs in it."""
    with contextlib.suppress(FileNotFoundError):
        return "populated 1" in (folders(path)[0] / "cgroup.events").read_text()
    return False


def kill(path: str) -> None:
    """End all that runs in it, at once and without a word to it, and wait until it is gone.

    Raises:
        BoardsError: It does not go.
    """
    with contextlib.suppress(FileNotFoundError):
        (folders(path)[0] / "cgroup.kill").write_text("1")
    wait_empty(path, GONE_S)


def wait_empty(path: str, timeout_s: float) -> None:
    """Until nothing runs in it.

    Raises:
        BoardsError: Something still does.
    """
    end_s = time.monotonic() + timeout_s
    while is_populated(path):
        if time.monotonic() > end_s:
            raise BoardsError(f"{path}: processes {list(processes(path))} are still there after {timeout_s:.0f} s")
        time.sleep(0.02)


def remove(path: str) -> None:
    """Remove the empty groups, and ours if nobody else's are in it."""
    for folder in folders(path):
        for name, _, _ in os.walk(folder, topdown=False):
            Path(name).rmdir()
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
