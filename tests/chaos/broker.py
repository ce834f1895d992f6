"""A Mosquitto that the peers' networks reach, too."""

from __future__ import annotations

import os
from pathlib import Path

from edge_peer.errors import BrokerError
from edge_peer.operator import processes
from edge_peer.operator.broker import CONFIGURATION, HOST, STAY_ROOT, LocalBroker, free_port

SECOND = "listener {port} {host}\nallow_anonymous true\n"


class BridgedBroker(LocalBroker):
    """One Mosquitto process on the loopback address and on one more.

    Args:
        folder: For its configuration and log.
        program: Path of Mosquitto.
        host: The further address; None: there is none.
    """

    def __init__(self, folder: Path, program: str, host: str | None) -> None:
        super().__init__(folder, program)
        self._host = host

    def start(self) -> None:
        """Start it, again on the port that it had, and wait until it answers; raises BrokerError."""
        if self._host is None:
            super().start()
            return
        # Nobody else is in this network, so a free port stays free.
        self.port = self.port or free_port()
        user = STAY_ROOT if os.geteuid() == 0 else ""
        text = CONFIGURATION.format(port=self.port, host=HOST, user=user, packet_bytes_max=self._packet_bytes_max)
        configuration = self._folder / "mosquitto.conf"
        configuration.write_text(f"{text}{SECOND.format(port=self.port, host=self._host)}")
        log = self._folder / "mosquitto.log"
        self._process = processes.start([self._program, "-c", str(configuration)], log)
        if not self._answers(self._process):
            raise BrokerError(f"mosquitto does not start: {log.read_text(errors='replace').strip()[-500:]}")
