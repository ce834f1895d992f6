"""Tell systemd how the daemon is: READY, STATUS, WATCHDOG, STOPPING. Does nothing where systemd did not start it.

Source: sd_notify(3): one datagram of `NAME=value` lines to the socket that $NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import socket

SEND_TIMEOUT_S = 0.2


class Notifier:
    """Sends to systemd's notification socket, if there is one."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        allowed = int(microseconds) if microseconds.isdecimal() and len(microseconds) < 20 else 0
        #: Seconds between pings: half of what systemd allows; None: no watchdog.
        self.interval_s: float | None = allowed / 2e6 if self._address and mine and allowed else None

    def send(self, **values: str) -> None:
        """Send these fields; a failure is of no consequence to the peer."""
        if not self._address:
            return
        # A line is a field: a value must not bring lines of its own.
        text = "\n".join(f"{name}={' '.join(value.splitlines())}" for name, value in values.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as it:
                # The loop must not hang because nobody reads.
                it.settimeout(SEND_TIMEOUT_S)
                it.sendto(text.encode(), self._address)
        except OSError:
            return
