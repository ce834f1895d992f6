"""What the loop looks at now and then: whether the board is well, and whether training goes on."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_peer.config import Config
from edge_peer.protocol import events as ev
from edge_peer.shell.health import Health, HealthReader, Strain
from edge_peer.shell.worker import Worker

LOG = logging.getLogger(__name__)


class Watch:
    """Looks, and says once what is wrong and once that it is over.

    Args:
        config: What bounds it; can be set later.
        root: The board's root folder.

    Attributes:
        config: As above.
        health: The board when it was last looked at.
    """

    def __init__(self, config: Config, root: Path = Path("/")) -> None:
        self.config = config
        self.health = Health()
        self._reader = HealthReader(config.peer.state_dir, root)
        self._strain = Strain(config.peer.temperature_c_max)
        self._hung = False

    @property
    def strained(self) -> bool:
        """The board was hot or throttled when it was last looked at, or a short while before."""
        return bool(self._strain.reason)

    def hangs(self, now_s: float, worker: Worker | None) -> bool:
        """Whether its job has not gone on for too long: in the kernel, or on a disk that does not answer."""
        limit_s = self.config.trainer.stall_s
        stalled_s = worker.stalled_s(now_s) if worker is not None else 0.0
        hangs = 0 < limit_s <= stalled_s
        if hangs and not self._hung:
            LOG.error("no batch was finished for %.0f s ([trainer] stall_s): training hangs", stalled_s)
        elif self._hung and not hangs:
            LOG.warning("training goes on")
        self._hung = hangs
        return hangs

    def look(self, now_s: float, worker: Worker | None) -> ev.HealthChanged:
        """Look at everything, and tell the protocol."""
        self.health = self._reader.read()
        self._strain.limit_c = self.config.peer.temperature_c_max
        was, strained = self._strain.reason, self._strain.take(self.health, now_s)
        if strained and not was:
            LOG.warning("the board is strained: %s", self._strain.reason)
        elif was and not strained:
            LOG.info("the board is well again, after %s", was)
        free, needed = self.health.disk_free_bytes or 0, self.config.peer.disk_free_bytes_min
        note = f"disk low: {free // 1_000_000} MB free, {needed // 1_000_000} MB needed" if free < needed else ""
        if self.hangs(now_s, worker):
            note = "training hangs"
        return ev.HealthChanged(not note, note, strained, self.health.numbers())
