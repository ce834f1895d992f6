"""One connection to the broker: paho's client driven from our loop. It translates and decides nothing.

paho runs without a thread of its own here: the loop calls `read`, `write` and `tick`. So a loop that hangs stops the
keepalive too, and the broker tells the others.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import paho.mqtt.client as paho
import paho.mqtt.properties as paho_properties
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_peer.config import BrokerSection
from edge_peer.errors import BrokerError, ConfigError
from edge_peer.shell.tls import TlsSocket, explain, tls_context

SESSION_TAKEN_OVER = 0x8E
#: A lost update is sent again by the protocol; the broker need not keep it longer.
UPDATE_EXPIRY_S = 300
#: Read before what came is acted upon, so that a flood does not keep the timers waiting.
PACKETS_A_TURN = 16
#: And so many bytes, as soon as there are so many: what waits to be acted upon takes memory.
BYTES_A_TURN = 1 << 20
#: Linux alone has it; elsewhere every packet goes on its own.
CORK: int | None = getattr(socket, "TCP_CORK", None)
#: How long the broker may take to hear a goodbye.
LEAVE_S = 1.0
#: Publishes that wait for their acknowledgement at a time; more are queued by paho.
INFLIGHT_MAX = 1000


def _read_text(buffer: bytes, length_max: int) -> tuple[str, int]:
    """A property's text and the bytes that it took; in the place of paho's, which refuses U+FEFF.

    MQTT 5 (1.5.4.3) allows it and brokers pass it on. One retained message with it in a property would otherwise end
    the connection of every subscriber, each time that it connects.
    """
    length = int.from_bytes(buffer[:2], "big")
    if length_max < 2 or length > length_max - 2:
        raise paho_properties.MalformedPacket("text longer than its packet")  # type: ignore[attr-defined]
    return bytes(buffer[2 : 2 + length]).decode("utf-8", "replace"), length + 2


paho_properties.readUTF = _read_text


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


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker is there, but does not let this client write or read a topic: its access list says so."""

    what: str
    reason: str


def read_password(broker: BrokerSection) -> str | None:
    """The password from its file; raises ConfigError."""
    if broker.password_file is None:
        return None
    try:
        return broker.password_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError([f"[broker] password_file = {str(broker.password_file)!r}: {why}; write it anew"]) from None


class Connection:
    """One connection from its TCP handshake to its end; a new one is a new object, so nothing stale is sent again.

    Args:
        broker: Where to.
        client_id: The peer's name; a second connection of that name ends the first.
        will: (topic, payload), published retained by the broker when the connection breaks; None: no will, and no peer:
            an operator may speak with any certificate.

        turn: Which of the broker's addresses to try first.

    Raises:
        ConfigError: Password or TLS files are missing or damaged, or a peer's certificate is of another name.
    """

    def __init__(self, broker: BrokerSection, client_id: str, will: tuple[str, bytes] | None, turn: int = 0) -> None:
        self._broker = broker
        self._turn = turn
        #: What happened, for the loop to take in order.
        self.happened: deque[Message | Accepted | Lost | Refused] = deque()
        self.bytes_sent = 0
        self.bytes_received = 0
        self._answered = False
        #: Kept, because paho forgets it when the connection breaks.
        self._socket: Any = None
        #: What waits for the broker's word, by packet id.
        self._unacknowledged: dict[int, str] = {}
        self._subscribing: dict[int, list[str]] = {}
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        client.connect_timeout = broker.connect_timeout_s
        client.max_inflight_messages_set(INFLIGHT_MAX)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        if broker.username is not None:
            client.username_pw_set(broker.username, read_password(broker))
        if broker.tls_ca is not None:
            client.tls_set_context(tls_context(broker, client_id if will is not None else None))
        self._client = client

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that were tried last."""
        return self._broker.address

    def open(self) -> None:
        """Connect to the first node that is there, and send CONNECT; the answer comes as `Accepted` or `Lost`.

        Raises:
            BrokerError: There is no broker at any address, or its certificate is not to be trusted.
        """
        problems = []
        for host, port in self._broker.addresses(self._turn):
            self._broker = replace(self._broker, host=host, port=port)
            try:
                self._open(self._broker)
            except BrokerError as error:
                problems.append(str(error))
            else:
                return
        raise BrokerError("; ".join(problems))

    def _open(self, broker: BrokerSection) -> None:
        host, port = broker.address
        properties = Properties(PacketTypes.CONNECT)
        properties.MaximumPacketSize = broker.packet_bytes_max
        properties.SessionExpiryInterval = 0
        try:
            self._client.connect(host, port, broker.keepalive_s, clean_start=True, properties=properties)
        except OSError as error:
            secured = isinstance(error, ssl.SSLError | ConnectionResetError) and broker.tls_ca is not None
            why = explain(error, broker) if secured else error.strerror or error
            raise BrokerError(f"{host}:{port}: {why}") from None
        except ValueError as error:
            raise BrokerError(f"{host}:{port}: {error}") from None
        it = self.socket()
        if it is None:
            raise BrokerError(f"{host}:{port}: {self._unanswered('at once')}")
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
    def unread(self) -> bool:
        """TLS has decrypted more than was read: the socket itself need not become readable for it."""
        it = self.socket()
        return isinstance(it, ssl.SSLSocket) and it.pending() > 0

    @property
    def idle(self) -> bool:
        """Everything published is acknowledged."""
        return not self._unacknowledged and not self.wants_write

    def read(self) -> None:
        """Take in what the socket has, up to some packets and bytes: each call of paho's takes one packet."""
        before = self.bytes_received
        for _ in range(PACKETS_A_TURN):
            self._check(self._client.loop_read())
            it = self.socket()
            if it is None or self.bytes_received - before >= BYTES_A_TURN:
                return
            if not self.unread and not select.select([it], [], [], 0)[0]:
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
        _, mid = self._client.subscribe([(topic, options) for topic in topics])
        if mid is not None:
            self._subscribing[mid] = topics

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
            self._unacknowledged[info.mid] = topic

    def close(self) -> None:
        """Say DISCONNECT (which holds the will back) and close."""
        with contextlib.suppress(OSError, ValueError):
            self._client.disconnect()
            self._client.loop_write()
            it = self.socket()
            if it is not None:
                it.close()

    def leave(self) -> None:
        """Close once the broker has read the goodbye, or after `LEAVE_S`: for who comes back, and is not to be gone.

        The kernel resets a connection that is closed with something unread in it, and the goodbye can be lost by that.
        """
        self.hold(False)
        end_s = time.monotonic() + LEAVE_S
        with contextlib.suppress(OSError, AttributeError):
            # paho closes its own descriptor with the goodbye.
            rest = socket.socket(fileno=os.dup(self.socket().fileno()))
            with rest:
                self.close()
                rest.shutdown(socket.SHUT_WR)
                while (left_s := end_s - time.monotonic()) > 0:
                    rest.settimeout(left_s)
                    if not rest.recv(65_536):
                        return
        self.close()

    def _check(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lose(paho.error_string(code))

    def _lose(self, reason: str, taken_over: bool = False) -> None:
        if not any(isinstance(it, Lost) for it in self.happened):
            self.happened.append(Lost(reason if self._answered else self._unanswered(reason), taken_over))

    def _unanswered(self, reason: str) -> str:
        """Why the connection may have ended before the broker has said anything of MQTT."""
        alert = self._socket.alert if isinstance(self._socket, TlsSocket) else None
        if alert is not None:
            return explain(alert, self._broker)
        if self._broker.tls_ca is not None:
            return (
                f"ended the connection before it answered ({reason}): does it know this peer's certificate? See its log"
            )
        return (
            f"ended the connection before it answered ({reason}): if [broker] port = {self._broker.address[1]} is that "
            "of a TLS listener, set tls_ca, tls_certificate and tls_key"
        )

    def _on_socket_open(self, _client: Any, _data: Any, it: Any) -> None:
        self._socket = it

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        self._answered = True
        if reason.is_failure:
            self._lose(f"refused: {reason}")
        else:
            self.happened.append(Accepted(getattr(properties, "MaximumPacketSize", 0)))

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._lose(str(reason), taken_over=getattr(reason, "value", 0) == SESSION_TAKEN_OVER)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self.bytes_received += len(message.topic) + len(message.payload)
        self.happened.append(Message(message.topic, message.payload, bool(message.retain)))

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        topic = self._unacknowledged.pop(mid, None)
        if reason.is_failure:
            self.happened.append(Refused(f"write {topic}", str(reason)))

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, reasons: Any, _properties: Any) -> None:
        for topic, reason in zip(self._subscribing.pop(mid, []), reasons, strict=False):
            if reason.is_failure:
                self.happened.append(Refused(f"read {topic}", str(reason)))
