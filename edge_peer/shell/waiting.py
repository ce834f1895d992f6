"""What the loop waits for: the broker's socket, another thread or a signal that wakes it, or time."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from typing import Any

from edge_peer.shell.link import Link
from edge_peer.shell.mqtt import Connection


class Waiter:
    """Watches the socket of a link's present connection, and a pipe to wake the loop by.

    Attributes:
        idle_s: For how long there has been nothing to do so far.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._receive, self._send = socket.socketpair()
        self._receive.setblocking(False)
        self._send.setblocking(False)
        self._selector.register(self._receive, selectors.EVENT_READ)
        self._watched: Any = None
        self.idle_s = 0.0

    def wake(self) -> None:
        """End the present wait, or the next one at once; from any thread or signal handler."""
        with contextlib.suppress(BlockingIOError):
            # A full pipe wakes the loop just as well.
            self._send.send(b"\0")

    def wait(self, link: Link, timeout_s: float) -> None:
        """Wait until something is to be read or written, and do so, or until the time is over."""
        connection = link.connection
        self._watch(connection)
        before_s = time.monotonic()
        ready = self._selector.select(timeout_s)
        self.idle_s += time.monotonic() - before_s
        link.hold(True)
        for key, mask in ready:
            if key.fileobj is self._receive:
                with contextlib.suppress(BlockingIOError):
                    self._receive.recv(4096)
            elif connection is not None:
                if mask & selectors.EVENT_READ:
                    connection.read()
                if mask & selectors.EVENT_WRITE:
                    connection.write()
        if connection is not None and connection.unread:
            connection.read()

    def _watch(self, connection: Connection | None) -> None:
        it = connection.socket() if connection is not None else None
        if it is not self._watched:
            if self._watched is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(self._watched)
            self._watched = it
            if it is not None:
                self._selector.register(it, selectors.EVENT_READ)
        if it is not None and connection is not None:
            write = selectors.EVENT_WRITE if connection.wants_write else 0
            self._selector.modify(it, selectors.EVENT_READ | write)

    def fileno(self) -> int:
        """Readable when there is something to read or write: many loops may be watched by one."""
        it: Any = self._selector
        number: int = it.fileno()
        return number

    def watches_writing(self, link: Link) -> bool:
        """Whether it knows of what is to be written on the present connection."""
        connection = link.connection
        it = connection.socket() if connection is not None else None
        if connection is None or it is None or not connection.wants_write:
            return True
        try:
            return bool(self._selector.get_key(it).events & selectors.EVENT_WRITE)
        except KeyError:
            return False
