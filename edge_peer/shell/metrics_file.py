"""The file that node_exporter's textfile collector reads: `[metrics] textfile`.

It belongs on a file system in memory, such as /run: it is written every few seconds, and a loss of power may take it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

LOG = logging.getLogger(__name__)
#: Whoever reads it is another user than the one that the peer runs as; there is nothing secret in it.
MODE = 0o644


class MetricsFile:
    """Written anew every so often.

    Args:
        path: Where; its folder is made if it is missing.
        every_s: Seconds between two times.
        text: What to write.
    """

    def __init__(self, path: Path, every_s: float, text: Callable[[], str]) -> None:
        self._path = path
        # The collector reads only what ends in .prom.
        self._temporary = path.with_name(f".{path.name}.new")
        self._every_s = every_s
        self._text = text
        self._failed = False
        #: When it is to be written next, monotonic.
        self.due_s = -math.inf

    def write_if_due(self, now_s: float) -> None:
        """Write it, if it is time to; a failure is said once, and is of no consequence to the peer."""
        if now_s < self.due_s:
            return
        self.due_s = now_s + self._every_s
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                # The process's umask may have taken away what the reader needs.
                os.fchmod(descriptor, MODE)
                file.write(self._text())
            # Nobody ever reads half of it; without fsync, because of an older state of it nobody would know better.
            self._temporary.replace(self._path)
        except OSError as error:
            if not self._failed:
                LOG.error("[metrics] textfile %s: not written: %s", self._path, error)
            self._failed = True
        else:
            if self._failed:
                LOG.info("[metrics] textfile %s: written again", self._path)
            self._failed = False

    def remove(self) -> None:
        """Take it away: numbers of a peer that has ended would stand still and look like those of one that runs."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
