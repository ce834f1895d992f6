"""Tell systemd how the daemon is: READY, STATUS, WATCHDOG, STOPPING. Does nothing where systemd did not start it.

Source: sd_notify(3): one datagram of `NAME=value` lines to the socket that $NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import socket


class Notifier:
    """Sends to systemd's notification socket, if there is one."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        active = bool(self._address) and mine and microseconds.isdecimal()
        #: Seconds between pings: half of what systemd allows; None: no watchdog.
        self.interval_s: float | None = int(microseconds) / 2e6 if active else None

    def send(self, **values: str) -> None:
        """Send these fields; a failure is of no consequence to the peer."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in values.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as it:
                it.sendto(text.encode(), self._address)
        except OSError:
            return
