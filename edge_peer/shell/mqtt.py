"""One connection to the broker: paho's client driven from our loop. It translates and decides nothing.

paho runs without a thread of its own here: the loop calls `read`, `write` and `tick`. So a loop that hangs stops the
keepalive too, and the broker tells the others.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_peer.config import BrokerSection
from edge_peer.errors import BrokerError, ConfigError

SESSION_TAKEN_OVER = 0x8E
#: A lost update is sent again by the protocol; the broker need not keep it longer.
UPDATE_EXPIRY_S = 300
#: Read before what came is acted upon, so that a flood does not keep the timers waiting.
PACKETS_A_TURN = 16
#: Linux alone has it; elsewhere every packet goes on its own.
CORK: int | None = getattr(socket, "TCP_CORK", None)
#: Publishes that wait for their acknowledgement at a time; more are queued by paho.
INFLIGHT_MAX = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """What arrived. `retained`: the broker kept it from before the subscription."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker accepted the connection; `packet_bytes_max` is the largest message it takes, 0: no limit told."""

    packet_bytes_max: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone, or was refused."""

    reason: str
    taken_over: bool = False


def read_password(broker: BrokerSection) -> str | None:
    """The password from its file; raises ConfigError."""
    if broker.password_file is None:
        return None
    try:
        return broker.password_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError([f"[broker] password_file = {str(broker.password_file)!r}: {error.strerror}"]) from None


class Connection:
    """One connection from its TCP handshake to its end; a new one is a new object, so nothing stale is sent again.

    Args:
        broker: Where to.
        client_id: The peer's name; a second connection of that name ends the first.
        will: (topic, payload), published retained by the broker when the connection breaks; None: no will.
    """

    def __init__(self, broker: BrokerSection, client_id: str, will: tuple[str, bytes] | None) -> None:
        self._broker = broker
        #: What happened, for the loop to take in order.
        self.happened: deque[Message | Accepted | Lost] = deque()
        self.bytes_sent = 0
        self.bytes_received = 0
        self._unacknowledged: set[int] = set()
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        client.connect_timeout = broker.connect_timeout_s
        client.max_inflight_messages_set(INFLIGHT_MAX)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        if broker.username is not None:
            client.username_pw_set(broker.username, read_password(broker))
        if broker.tls_ca is not None:
            context = ssl.create_default_context(cafile=str(broker.tls_ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(str(broker.tls_certificate), str(broker.tls_key))
            client.tls_set_context(context)
        self._client = client

    def open(self) -> None:
        """Connect and send CONNECT; the answer comes as `Accepted` or `Lost`.

        Raises:
            BrokerError: There is no broker at this address, or its certificate is not to be trusted.
        """
        host, port = self._broker.address
        properties = Properties(PacketTypes.CONNECT)
        properties.MaximumPacketSize = self._broker.packet_bytes_max
        properties.SessionExpiryInterval = 0
        try:
            self._client.connect(host, port, self._broker.keepalive_s, clean_start=True, properties=properties)
        except ssl.SSLCertVerificationError as error:
            raise BrokerError(f"{host}:{port}: certificate refused: {error.verify_message}") from None
        except (OSError, ValueError) as error:
            raise BrokerError(f"{host}:{port}: {getattr(error, 'strerror', None) or error}") from None
        it = self.socket()
        if it is None:
            raise BrokerError(f"{host}:{port}: closed the connection at once; does it know this peer's certificate?")
        # Small documents must not wait for the acknowledgement of the one before.
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def socket(self) -> Any:
        """The socket to select on; None once it is closed."""
        return self._client.socket()

    @property
    def wants_write(self) -> bool:
        """Something waits until the socket takes more."""
        return bool(self._client.want_write())

    @property
    def idle(self) -> bool:
        """Everything published is acknowledged."""
        return not self._unacknowledged and not self.wants_write

    def read(self) -> None:
        """Take in what the socket has, up to some packets: each call of paho's takes one."""
        for _ in range(PACKETS_A_TURN):
            self._check(self._client.loop_read())
            it = self.socket()
            if it is None:
                return
            waits = isinstance(it, ssl.SSLSocket) and it.pending()
            if not waits and not select.select([it], [], [], 0)[0]:
                return

    def write(self) -> None:
        """Send what waits."""
        self._check(self._client.loop_write())

    def tick(self) -> None:
        """Keepalive; call about once a second."""
        self._check(self._client.loop_misc())

    def hold(self, held: bool) -> None:
        """Collect what is sent from now on (True), or let all of it go at once (False).

        An event sets off a handful of small packets. Each alone would wake the broker, and cost a packet on the air.
        """
        it = self.socket()
        if it is None or CORK is None:
            return
        try:
            it.setsockopt(socket.IPPROTO_TCP, CORK, int(held))
        except OSError:
            # The connection is gone; the next read says so.
            return

    def subscribe(self, topics: list[str], own: bool = True) -> None:
        """Subscribe, QoS 1; the broker sends what is retained, also to a repeated subscription.

        Args:
            topics: Filters.
            own: Whether to get back what this client publishes itself.
        """
        options = SubscribeOptions(qos=1, noLocal=not own)
        self._client.subscribe([(topic, options) for topic in topics])

    def unsubscribe(self, topics: list[str]) -> None:
        """End subscriptions."""
        self._client.unsubscribe(topics)

    def publish(self, topic: str, payload: bytes, retain: bool, expires: bool = False) -> None:
        """Publish, QoS 1."""
        properties = None
        if expires:
            properties = Properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = UPDATE_EXPIRY_S
        self.bytes_sent += len(topic) + len(payload)
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS and not info.is_published():
            self._unacknowledged.add(info.mid)

    def close(self) -> None:
        """Say DISCONNECT (which holds the will back) and close."""
        with contextlib.suppress(OSError, ValueError):
            self._client.disconnect()
            self._client.loop_write()
            it = self.socket()
            if it is not None:
                it.close()

    def _check(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lose(paho.error_string(code))

    def _lose(self, reason: str, taken_over: bool = False) -> None:
        if not any(isinstance(it, Lost) for it in self.happened):
            self.happened.append(Lost(reason, taken_over))

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._lose(f"refused: {reason}")
        else:
            self.happened.append(Accepted(getattr(properties, "MaximumPacketSize", 0)))

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._lose(str(reason), taken_over=getattr(reason, "value", 0) == SESSION_TAKEN_OVER)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self.bytes_received += len(message.topic) + len(message.payload)
        self.happened.append(Message(message.topic, message.payload, bool(message.retain)))

    def _on_publish(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        self._unacknowledged.discard(mid)
