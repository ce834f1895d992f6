"""What the broker counts ($SYS), and the round documents as they come, read on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge_peer.errors import RemoteProtocolError
from edge_peer.operator.local.broker import HOST
from edge_peer.protocol.messages import Document, Presence, Round, decode, encode
from edge_peer.protocol.topics import PRESENCE, ROUND, Topics

#: Lines of mosquitto.conf that the counters need.
COUNTED = "sys_interval 1\n"
SYS = "$SYS/broker/"
#: Of the broker: packets that it has got, messages that it has delivered, and all bytes on the wire. It counts what is
#: published to it, too, but (Mosquitto 2.0) not what is retained.
COUNTERS = ("messages/received", "publish/messages/sent", "bytes/received", "bytes/sent")
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Count:
    """Since the broker's start, but for what the onlooker has caused itself.

    Attributes:
        at_s: When the broker said so, monotonic.
        received: Packets of peers: what they publish, an acknowledgement of each delivery, and keepalives.
        sent: Messages delivered to peers.
        bytes_received: On the wire, acknowledgements and headers included.
        bytes_sent: The same.
    """

    at_s: float
    received: int
    sent: int
    bytes_received: int
    bytes_sent: int

    def since(self, before: Count) -> Count:
        """The difference; `at_s` is then a duration."""
        return Count(
            self.at_s - before.at_s,
            self.received - before.received,
            self.sent - before.sent,
            self.bytes_received - before.bytes_received,
            self.bytes_sent - before.bytes_sent,
        )


class Onlooker:
    """Connected from its making until `close`.

    Args:
        port: Of the broker on this machine.
        federation: Whose rounds.
        presences: Whether to follow who is online, too: each presence is then delivered once more.
    """

    def __init__(self, port: int, federation: str, presences: bool = False) -> None:
        self._topics = Topics(federation)
        self._changed = threading.Condition()
        self._counters: dict[str, int] = {}
        self._own = [0, 0]
        #: (when, who, document): as they came.
        self.rounds: list[tuple[float, str, Round]] = []
        self.online: dict[str, bool] = {}
        self._ticks = 0
        self._counted_s = 0.0
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="onlooker", protocol=paho.MQTTv5)
        client.on_message = self._on_message
        client.connect(HOST, port, keepalive=60)
        topics = [SYS + name for name in COUNTERS] + [self._topics.filter(ROUND)]
        if presences:
            topics.append(self._topics.filter(PRESENCE))
        client.subscribe([(topic, 0) for topic in topics])
        client.loop_start()
        self._client = client

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, kind: str, document: Document | None) -> None:
        """Publish a retained document as an operator, or clear it."""
        payload = encode(document) if document is not None else b""
        self._client.publish(self._topics.of("operator", kind), payload, qos=1, retain=True).wait_for_publish(10.0)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        now = time.monotonic()
        with self._changed:
            self._own[0] += 1
            self._own[1] += len(message.topic) + len(message.payload) + 5
            if message.topic.startswith(SYS):
                name = message.topic.removeprefix(SYS)
                self._counters[name] = int(message.payload)
                # The broker says them in one go; one that has not changed is not said.
                self._ticks += now - self._counted_s > 0.5
                self._counted_s = now
            else:
                self._take(message, now)
            self._changed.notify_all()

    def _take(self, message: Any, now: float) -> None:
        try:
            peer, kind = self._topics.parse(message.topic)
            document = decode(kind, message.payload) if message.payload else None
        except RemoteProtocolError:
            return
        if isinstance(document, Round):
            self.rounds.append((now, peer, document))
        elif kind == PRESENCE:
            self.online[peer] = isinstance(document, Presence) and document.online

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> float:
        """Until the condition holds; returns when (monotonic). Raises TimeoutError."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    last = self.rounds[-1][1:] if self.rounds else None
                    raise TimeoutError(f"not within {timeout_s:g} s: {what}; the last round document: {last}")
                self._changed.wait(min(left_s, 1.0))
        return time.monotonic()

    def latest(self) -> tuple[str, Round] | None:
        """The newest round document."""
        return self.rounds[-1][1:] if self.rounds else None

    def count(self) -> Count:
        """What the broker counts at its next tick: nothing that it has done before this call is missing."""
        before = self._ticks
        self.wait(lambda: self._ticks > before, "a tick of the broker's counters", 15.0)
        # The rest of the same tick.
        settled = self._ticks
        end_s = time.monotonic() + 0.1
        while time.monotonic() < end_s:
            with self._changed:
                self._changed.wait(POLL_S)
        with self._changed:
            assert self._ticks - settled <= 1
            value = self._counters
            return Count(
                self._counted_s,
                value.get(COUNTERS[0], 0),
                value.get(COUNTERS[1], 0) - self._own[0],
                value.get(COUNTERS[2], 0),
                value.get(COUNTERS[3], 0) - self._own[1],
            )

    def quiet(self, deliveries_max: int, timeout_s: float) -> Count:
        """What the broker counts once it has delivered no more than so much in a whole tick."""
        end_s = time.monotonic() + timeout_s
        last = self.count()
        while True:
            now = self.count()
            if now.sent - last.sent <= deliveries_max:
                return now
            if now.at_s > end_s:
                raise TimeoutError(f"not quiet within {timeout_s:g} s")
            last = now

    def beats(self, first_s: float, last_s: float) -> int:
        """Round documents between two times that say nothing new."""
        beats = 0
        before: Round | None = None
        for at_s, _, document in self.rounds:
            said = replace(document, beat=0, deadline_s=0.0)
            beats += said == before and first_s < at_s <= last_s
            before = said
        return beats
