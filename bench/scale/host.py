"""Many peers in one process: `python -m bench.scale.host A.toml B.toml ...`, ended by SIGTERM.

Each is the daemon as it runs on a board, with a connection, a training thread and a state folder of its own. Only the
waiting is shared: one selector watches the daemons' own selectors, which the kernel allows, and whoever has something
to do has its turn. So an interpreter and its libraries are in memory once, and not n times.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import sys
import time
from pathlib import Path

from edge_peer.config import load_config
from edge_peer.shell.daemon import Daemon


class Hosted(Daemon):
    """A daemon that never waits by itself."""

    def _wait_s(self) -> float:
        return 0.0

    def fileno(self) -> int:
        """Readable when this daemon has something to read."""
        return self._waiter.fileno()

    def due_s(self, now_s: float) -> float:
        """When it wants its next turn, whatever comes."""
        return now_s + super()._wait_s()

    @property
    def behind(self) -> bool:
        """Something is to be written, and the selector does not know it yet: the next turn tells it."""
        return not self._waiter.watches_writing(self._link)

    @property
    def ended(self) -> bool:
        """It has told the protocol that it ends."""
        return self._effects.exit is not None

    def turn(self) -> None:
        """Do what there is to do."""
        self._turn()

    def end(self) -> None:
        """Say goodbye at the next turn."""
        self._shutdown = True

    def leave(self) -> None:
        """What a daemon does when its loop has ended."""
        self._store.settle()
        self._flush()
        if self._link.connection is not None:
            self._link.connection.close()
        self._records.sync()
        if self._worker is not None:
            self._worker.stop()


def drive(daemons: list[Hosted], end: int) -> None:
    """Give turns until all have ended; they are to end once the descriptor `end` is readable."""
    selector = selectors.DefaultSelector()
    selector.register(end, selectors.EVENT_READ)
    for i, it in enumerate(daemons):
        selector.register(it.fileno(), selectors.EVENT_READ, i)
    due = dict.fromkeys(range(len(daemons)), 0.0)
    alive = set(due)
    while alive:
        now = time.monotonic()
        wait = max(0.0, min(due[i] for i in alive) - now)
        ready = {key.data for key, _ in selector.select(wait)}
        if None in ready:
            selector.unregister(end)
            ready = set(alive)
            for i in alive:
                daemons[i].end()
        now = time.monotonic()
        for i in sorted(alive):
            if i not in ready and due[i] > now:
                continue
            it = daemons[i]
            it.turn()
            if it.ended:
                it.leave()
                selector.unregister(it.fileno())
                alive.discard(i)
                continue
            due[i] = 0.0 if it.behind else it.due_s(time.monotonic())


def main(paths: list[str]) -> int:
    """Run; returns the exit code."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    end_read, end_write = os.pipe()

    def terminated(_number: int, _frame: object) -> None:
        os.write(end_write, b"\0")

    daemons = [Hosted(load_config(Path(path)), None) for path in paths]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, terminated)
    gc.freeze()
    drive(daemons, end_read)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
