"""Whoever has the live page's credentials, or others, at its listener: MQTT over WebSockets, without a browser."""

from __future__ import annotations

import time
from collections.abc import Callable

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge_peer.operator.local.broker import HOST

WAIT_S = 60.0


class Reader:
    """A client that notes what it is let do.

    Args:
        port: Of the page's listener, on the loopback.
        username: None: it gives none.
        password: Beside it.

    Attributes:
        accepted: Whether the broker has taken the connection; None: it has not answered yet.
        refused: Reason codes of what was published, MQTT 5 section 3.4.2.1.
        topics: Of what has come.
        subscribed: The subscriptions have been answered.
    """

    def __init__(self, port: int, username: str | None, password: str | None) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, transport="websockets")
        if username is not None:
            self._client.username_pw_set(username, password)
        self.accepted: bool | None = None
        self.refused: list[int] = []
        self.topics: list[str] = []
        self.subscribed = False
        self._client.on_connect = lambda _c, _u, _f, reason, _p: setattr(self, "accepted", not reason.is_failure)
        self._client.on_publish = lambda _c, _u, _m, reason, _p: self.refused.append(reason.value)
        self._client.on_message = lambda _c, _u, message: self.topics.append(message.topic)
        self._client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self._client.connect(HOST, port)

    def until(self, condition: Callable[[], bool]) -> None:
        """Go on until it holds."""
        end_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end_s, f"not within {WAIT_S:g} s"
            self._client.loop(0.05)

    def publish(self, topic: str) -> None:
        """Say something, retained."""
        self._client.publish(topic, b"x", qos=1, retain=True)

    def read(self) -> None:
        """Ask for all that there is."""
        self._client.subscribe([("#", 1), ("$SYS/#", 1), ("fl/v1/+/+/+", 1)])
