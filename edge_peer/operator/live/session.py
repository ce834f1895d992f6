"""An operator's connection: reads the documents of a federation and says single ones, without being a peer."""

from __future__ import annotations

import contextlib
import logging
import secrets
import selectors
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from edge_peer.config import BrokerSection
from edge_peer.errors import BrokerError, RemoteProtocolError
from edge_peer.protocol.fields import parse_object
from edge_peer.protocol.messages import Document, decode, encode
from edge_peer.protocol.onlookers import History
from edge_peer.protocol.topics import HISTORY, KINDS, RETAINED, Topics
from edge_peer.shell.mqtt import Accepted, Connection, Lost, Message, Refused

LOG = logging.getLogger(__name__)
#: With less, the keepalive of the connection would be late.
TICK_S = 1.0


class Session:
    """One connection to the broker, to be used in a `with` statement.

    Args:
        broker: Where it is.
        federation: Whose documents.
        name: As whom to speak; with TLS the common name of the certificate. The client id differs from it, so that a
            daemon of the same name keeps its own connection.

    Raises:
        BrokerError: There is no broker, or it refuses this client (on entering the `with` statement).
    """

    def __init__(self, broker: BrokerSection, federation: str, name: str) -> None:
        self.name = name
        self._broker = broker
        self._topics = Topics(federation)
        self._connection = Connection(broker, f"{name}.operator.{secrets.token_hex(4)}", None)
        self._selector = selectors.DefaultSelector()
        self._tick_at_s = 0.0

    def __enter__(self) -> Session:
        """Connect, and wait for the broker's answer."""
        connection = self._connection
        connection.open()
        self._selector.register(connection.socket(), selectors.EVENT_READ)
        try:
            self._await(lambda: bool(connection.happened), self._broker.connect_timeout_s, "no answer to CONNECT")
            if isinstance(first := connection.happened.popleft(), Lost):
                raise BrokerError(f"{self._where()}: {first.reason}")
            assert isinstance(first, Accepted)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self.close()

    def close(self) -> None:
        """Disconnect; harmless when that has been done."""
        self._connection.close()
        self._selector.close()

    def _where(self) -> str:
        host, port = self._broker.address
        return f"{host}:{port}"

    def subscribe(self, kinds: Iterable[str]) -> None:
        """Ask for these kinds of documents, of every peer."""
        self._connection.subscribe([self._topics.filter(kind) for kind in kinds])

    def publish(self, kind: str, document: Document | None) -> None:
        """Say a document, or clear it; returns when the broker has it."""
        payload = encode(document) if document is not None else b""
        self._connection.publish(self._topics.of(self.name, kind), payload, retain=kind in RETAINED)
        connection = self._connection
        self._await(lambda: connection.idle, self._broker.connect_timeout_s, f"{kind} was not acknowledged")
        for it in [it for it in connection.happened if isinstance(it, Refused)]:
            connection.happened.remove(it)
            raise BrokerError(
                f"{self._where()} does not let {self.name} {it.what} ({it.reason}): look at its access list; with TLS, "
                "the certificate's common name must be the peer's name"
            )

    def take(self, timeout_s: float) -> list[tuple[str, str, Document | History | None]]:
        """What has come, as (peer, kind, document), after at most `timeout_s`; sooner when there is something.

        Raises:
            BrokerError: The connection is gone.
        """
        end_s = time.monotonic() + timeout_s
        while not self._connection.happened and (left_s := end_s - time.monotonic()) > 0:
            # What wakes us up need not be a document: an acknowledgement does, too.
            self._turn(left_s)
        documents: list[tuple[str, str, Document | History | None]] = []
        while self._connection.happened:
            happened = self._connection.happened.popleft()
            if isinstance(happened, Lost):
                raise BrokerError(f"{self._where()}: connection lost: {happened.reason}")
            if isinstance(happened, Message):
                with contextlib.suppress(RemoteProtocolError):
                    # What a peer drops is nothing to an operator either.
                    peer, kind = self._topics.parse(happened.topic, KINDS | {HISTORY})
                    documents.append((peer, kind, _read(kind, happened.payload)))
        return documents

    def _await(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise BrokerError(f"{self._where()}: {otherwise} within {timeout_s:g} s")
            self._turn(left_s)
            lost = [it for it in self._connection.happened if isinstance(it, Lost)]
            if lost and not condition():
                raise BrokerError(f"{self._where()}: {lost[0].reason}")

    def _turn(self, timeout_s: float) -> None:
        connection = self._connection
        it = connection.socket()
        if it is None:
            return
        write = selectors.EVENT_WRITE if connection.wants_write else 0
        self._selector.modify(it, selectors.EVENT_READ | write)
        if connection.unread:
            connection.read()
            timeout_s = 0.0
        for _, mask in self._selector.select(min(timeout_s, TICK_S)):
            if mask & selectors.EVENT_READ:
                connection.read()
            if mask & selectors.EVENT_WRITE and connection.socket() is not None:
                connection.write()
        if time.monotonic() >= self._tick_at_s:
            self._tick_at_s = time.monotonic() + TICK_S
            connection.tick()


def _read(kind: str, payload: bytes) -> Document | History | None:
    """A document; None: it was cleared. Raises RemoteProtocolError."""
    if not payload:
        return None
    return History.read(parse_object(payload)) if kind == HISTORY else decode(kind, payload)
