"""Log to systemd's journal with fields of its own, so that `journalctl RUN=...` finds what belongs to a run.

Only where standard error is the journal anyway, as in a service. What cannot be sent goes to standard error as before.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/; $JOURNAL_STREAM is described in systemd.exec(5).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
#: Syslog's numbers.
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
DEBUG = 7
IDENTIFIER = "edge-peer"


def is_journal(descriptor: int) -> bool:
    """Whether systemd has connected this descriptor with the journal."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def entry(fields: Mapping[str, str]) -> bytes:
    """One entry of the journal's native protocol.

    Args:
        fields: Their names are capital letters, digits and underscores.
    """
    parts = []
    for name, text in fields.items():
        value = text.encode("utf-8", "replace")
        if b"\n" in value:
            parts.append(b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value))
        else:
            parts.append(b"%s=%s\n" % (name.encode(), value))
    return b"".join(parts)


class JournalHandler(logging.Handler):
    """Sends each record as an entry.

    Args:
        fields: Gives what is so now, such as run and round; called with each record, from any thread.
        otherwise: Takes the records that the journal does not.
        path: Of the journal's socket.
    """

    def __init__(
        self, fields: Callable[[], Mapping[str, str]], otherwise: logging.Handler, path: Path = SOCKET
    ) -> None:
        super().__init__()
        self._fields = fields
        self._otherwise = otherwise
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # The loop must not hang because the journal is busy.
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Send it, or hand it on."""
        try:
            # With the traceback, if there is one.
            message = logging.Formatter("%(message)s").format(record)
            fields = {
                "MESSAGE": message,
                "PRIORITY": str(next((number for level, number in PRIORITIES if record.levelno >= level), DEBUG)),
                "SYSLOG_IDENTIFIER": IDENTIFIER,
                "LOGGER": record.name,
                "CODE_FILE": record.pathname,
                "CODE_LINE": str(record.lineno),
                "CODE_FUNC": record.funcName or "",
                "THREAD_NAME": record.threadName or "",
                **self._fields(),
            }
            self._socket.sendto(entry(fields), self._path)
        except Exception:  # noqa: BLE001 - a full queue, a journal that is away, a text that is too long for a datagram
            self._otherwise.handle(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def log_to_journal(fields: Callable[[], Mapping[str, str]]) -> bool:
    """Let everything that is logged go to the journal, if standard error is the journal; returns whether it is."""
    if not is_journal(sys.stderr.fileno()) or not SOCKET.exists():
        return False
    root = logging.getLogger()
    for handler in [it for it in root.handlers if isinstance(it, logging.StreamHandler)]:
        root.removeHandler(handler)
        root.addHandler(JournalHandler(fields, handler))
    return True
