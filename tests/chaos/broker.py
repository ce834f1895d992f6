"""A Mosquitto that the peers' networks reach, too."""

from __future__ import annotations

from pathlib import Path

from edge_peer.operator.local.broker import LocalBroker

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

    def _configuration(self) -> str:
        own = super()._configuration()
        # Nobody else is in this network: the port is free there, too.
        return own if self._host is None else own + SECOND.format(port=self.port, host=self._host)
