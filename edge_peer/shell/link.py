"""The connection to the broker, made again whenever it is lost, not too often, and complained of now and then."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from edge_peer.config import BrokerSection
from edge_peer.errors import BrokerError, ConfigError
from edge_peer.protocol.events import Disconnected
from edge_peer.protocol.messages import Presence, encode
from edge_peer.protocol.topics import PRESENCE, TENSORS, Topics
from edge_peer.shell.mqtt import Accepted, Connection, Lost, Refused
from edge_peer.shell.reload import credentials

LOG = logging.getLogger(__name__)
TICK_S = 1.0
#: A connection that has lasted so long is no sign of a broker that accepts and drops, again and again.
STEADY_S = 5.0
COMPLAIN_S = 60.0


class Link:
    """One peer's way to its broker; used by the loop alone.

    Args:
        broker: Where it is; may be replaced, and holds from the next connection on.
        peer: This peer's name.
        topics: The federation's.
        will: What the broker is to say when a connection breaks; asked for at each.
        rng: Spreads the tries of many peers.

    Attributes:
        connection: The present one, also while the broker has not accepted it; None: the next try is due later.
        accepted: The broker has accepted it.
        bytes_max: The largest message that the broker takes; 0: it has not said.
    """

    def __init__(
        self, broker: BrokerSection, peer: str, topics: Topics, will: Callable[[], Presence], rng: random.Random
    ) -> None:
        self.broker = broker
        self.connection: Connection | None = None
        self.accepted = False
        self.bytes_max = 0
        self._peer = peer
        self._topics = topics
        self._will = will
        self._rng = rng
        #: Digest of the files that the connection was made with.
        self._credentials = b""
        self._connected_once = False
        #: Which of the broker's addresses is tried first.
        self._turn = 0
        #: The present connection has lasted.
        self._steady = False
        self._past_bytes = (0, 0)
        self._retry_at_s = self._tick_at_s = 0.0
        self._retry_s = broker.reconnect_s_min
        self._away_since_s = time.monotonic()
        self._accepted_at_s = 0.0
        self._refusal_at_s = self._complain_at_s = float("-inf")

    @property
    def carried(self) -> tuple[int, int]:
        """Topic and payload bytes sent and received so far, over all connections."""
        sent, received = self._past_bytes
        if self.connection is not None:
            sent, received = sent + self.connection.bytes_sent, received + self.connection.bytes_received
        return sent, received

    @property
    def waits(self) -> bool:
        """Whether something has come that nobody has taken."""
        return self.connection is not None and bool(self.connection.happened or self.connection.unread)

    @property
    def credentials_changed(self) -> bool:
        """Whether certificates or password on the disk are not those of the present connection."""
        return credentials(self.broker) != self._credentials

    def next_deadline_s(self) -> float:
        """When `go_on` must be called again at the latest."""
        return self._retry_at_s if self.connection is None else self._tick_at_s

    def go_on(self) -> None:
        """Make a connection, or see to the present one, if it is time.

        Raises:
            BrokerError: The broker was away for longer than the configuration allows.
            ConfigError: The very first connection cannot be tried, because a certificate is of no use.
        """
        now = time.monotonic()
        if self.connection is None:
            if now >= self._retry_at_s:
                self._connect()
            return
        if now >= self._tick_at_s:
            self._tick_at_s = now + TICK_S
            self.connection.tick()
        if self.accepted and not self._steady and now >= self._accepted_at_s + STEADY_S:
            # Not at once: a broker that accepts and drops, again and again, must not be asked ten times a second.
            self._steady = True
            self._retry_s = self.broker.reconnect_s_min
            self._complain_at_s = float("-inf")

    def _connect(self) -> None:
        will = (self._topics.of(self._peer, PRESENCE), encode(self._will()))
        self._credentials = credentials(self.broker)
        try:
            self.connection = Connection(self.broker, self._peer, will, self._turn)
            self._tick_at_s = time.monotonic() + TICK_S
            self.connection.open()
        except ConfigError as error:
            if not self._connected_once:
                raise
            # Certificates that are being replaced at this moment must not end a peer that ran.
            self.on_lost(Lost(str(error)))
        except BrokerError as error:
            self.on_lost(Lost(str(error)))

    def on_accepted(self, accepted: Accepted) -> None:
        """The broker has accepted the connection."""
        self.bytes_max = accepted.packet_bytes_max
        self.accepted = self._connected_once = True
        self._accepted_at_s = time.monotonic()
        if self.connection is not None:
            LOG.info("connected to %s:%d", *self.connection.address)

    def on_refused(self, refused: Refused) -> None:
        """The broker does not let this peer do something; said now and then."""
        now = time.monotonic()
        if now >= self._refusal_at_s:
            self._refusal_at_s = now + COMPLAIN_S
            LOG.error(
                "the broker does not let %s %s (%s): look at its access list; with TLS, the certificate's common name "
                "must be the peer's name",
                self._peer,
                refused.what,
                refused.reason,
            )

    def on_lost(self, lost: Lost) -> Disconnected | None:
        """The connection is no more; returns what the protocol must hear of it.

        Raises:
            BrokerError: The broker was away for longer than the configuration allows.
        """
        now = time.monotonic()
        accepted, steady = self.accepted, self._steady
        self._drop()
        if not steady:
            # A node that hangs takes connections and answers nothing: one after another must have its turn.
            self._turn += 1
        if accepted:
            # The time that it was connected does not count as time away; only a steady connection begins anew.
            self._away_since_s = now if steady else now - (self._accepted_at_s - self._away_since_s)
            if steady:
                LOG.warning("connection lost: %s", lost.reason)
        away_s, limit_s = now - self._away_since_s, self.broker.give_up_after_s
        if limit_s and away_s >= limit_s:
            raise BrokerError(f"no broker for {away_s:.0f} s ([broker] give_up_after_s): {lost.reason}")
        if now >= self._complain_at_s:
            self._complain_at_s = now + COMPLAIN_S
            LOG.warning("no broker (%s); trying again, at most every %g s", lost.reason, self.broker.reconnect_s_max)
        self._retry_at_s = now + self._retry_s * (0.5 + self._rng.random())
        self._retry_s = min(2 * self._retry_s, self.broker.reconnect_s_max)
        return Disconnected(lost.taken_over) if accepted else None

    def renew(self) -> Disconnected | None:
        """Make a new connection at once, with a goodbye to the broker: it is to tell nobody that the peer is gone."""
        self._retry_at_s = 0.0
        self._retry_s = self.broker.reconnect_s_min
        if self.connection is None:
            return None
        LOG.info("connects anew, with the broker, certificates and password as they are now")
        accepted = self.accepted
        self.connection.leave()
        self._drop()
        self._away_since_s = time.monotonic()
        return Disconnected() if accepted else None

    def _drop(self) -> None:
        """What the connection has carried is counted on."""
        self._past_bytes = self.carried
        connection, self.connection = self.connection, None
        self.accepted = self._steady = False
        if connection is not None:
            connection.close()

    # ------------------------------------------------------------------ saying something

    def hold(self, held: bool) -> None:
        """Whatever one turn of the loop sends goes out together."""
        if self.connection is not None:
            self.connection.hold(held)

    def send(self, kind: str, payload: bytes, retain: bool, expires: bool = False) -> None:
        """Publish under this peer's name. What cannot be said now the protocol says again after the next connection."""
        if self.connection is not None and self.accepted:
            self.connection.publish(self._topics.of(self._peer, kind), payload, retain, expires)

    def subscribe(self, kinds: tuple[str, ...]) -> None:
        """Subscribe to these kinds of all peers."""
        if self.connection is None or not self.accepted:
            return
        small = [self._topics.filter(kind) for kind in kinds if kind not in TENSORS]
        large = [self._topics.filter(kind) for kind in kinds if kind in TENSORS]
        if small:
            self.connection.subscribe(small)
        if large:
            # The echo of a document tells that the broker hears this peer; that of a model would tell no more.
            self.connection.subscribe(large, own=False)

    def unsubscribe(self, kinds: tuple[str, ...]) -> None:
        """End the subscriptions to these kinds."""
        if self.connection is not None and self.accepted:
            self.connection.unsubscribe([self._topics.filter(kind) for kind in kinds])
