"""A star broker: one connection for each board, retained documents, wills, and the ways in which all that breaks.

What MQTT guarantees, and no more: a client's stream to the broker is ordered and so is the broker's to a client, until
the connection breaks; then everything in flight is lost (a client that starts clean has no session to take up). A
QoS 1 message may come twice. A retained message replaces the one before on its topic and is sent again, marked, to
every new subscription. In the harsher mode only the messages of one topic stay in order on the way to a client: bridges
and clustered brokers promise no more.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge_peer.protocol.topics import TENSORS
from tests.sim.clock import Schedule

STORE_EVERY_S = 4.0


@dataclass(frozen=True)
class Packet:
    """What a client receives; `payload` None: a retained document was cleared."""

    peer: str
    kind: str
    payload: Any
    retained: bool


@dataclass
class Weather:
    """How the links behave, until the faults are healed.

    Attributes:
        delay_s_min: Shortest one-way delay.
        delay_s_max: Longest one-way delay of most messages; one in twenty takes five times as long.
        duplicate: Probability that a message to a client comes twice.
        reorder: On the way to a client only the messages of one topic stay in order.
        keepalive_s: The broker drops a client that was silent for one and a half of it.
    """

    delay_s_min: float = 0.001
    delay_s_max: float = 0.02
    duplicate: float = 0.0
    reorder: bool = False
    keepalive_s: float = 2.0


class Client(Protocol):
    """The daemon's end of a connection."""

    def on_accepted(self, connection: Connection) -> None:
        """The broker accepted the connection."""

    def on_packet(self, connection: Connection, packet: Packet) -> None:
        """A message came."""

    def on_closed(self, connection: Connection) -> None:
        """The connection is gone, as seen from this end."""


class Lane:
    """One direction of a connection: what is in flight, with the time at which it arrives."""

    def __init__(self, schedule: Schedule, deliver: Callable[[Any], None]) -> None:
        self._schedule = schedule
        self._deliver = deliver
        self._heap: list[tuple[float, int, Any]] = []
        self._numbers = itertools.count()
        self._last_s: dict[Any, float] = {}
        self.stalled = False

    def send(self, item: Any, delay_s: float, order: Any = None) -> None:
        """Put something in; items of the same `order` keep theirs."""
        arrives_s = max(self._schedule.now_s + delay_s, self._last_s.get(order, 0.0))
        self._last_s[order] = arrives_s
        heapq.heappush(self._heap, (arrives_s, next(self._numbers), item))
        self._schedule.at(arrives_s, self.pump)

    def send_last(self, item: Any, delay_s: float) -> None:
        """Put in what comes after everything else."""
        arrives_s = max([self._schedule.now_s + delay_s, *self._last_s.values()])
        heapq.heappush(self._heap, (arrives_s, next(self._numbers), item))
        self._schedule.at(arrives_s, self.pump)

    def pump(self) -> None:
        """Deliver what has arrived."""
        while self._heap and not self.stalled and self._heap[0][0] <= self._schedule.now_s:
            self._deliver(heapq.heappop(self._heap)[2])

    def lose(self, keep: int = 0) -> None:
        """Lose what is in flight, but for the first `keep` items."""
        self._heap = heapq.nsmallest(keep, self._heap)

    def __len__(self) -> int:
        return len(self._heap)


class Connection:
    """One TCP connection; its two ends may learn of its end at different times."""

    def __init__(self, broker: Broker, name: str, client: Client, will: tuple[str, Any]) -> None:
        self.name = name
        self.client = client
        self.will = will
        self.kinds: set[str] = set()
        self.open_at_broker = True
        self.open_at_client = True
        self.up = Lane(broker.schedule, lambda item: broker.take_in(self, item))
        self.down = Lane(broker.schedule, self._arrive)
        self._broker = broker

    def _arrive(self, item: Packet | str) -> None:
        if not self.open_at_client:
            return
        if item == "accepted":
            self.client.on_accepted(self)
        elif item == "closed":
            self.open_at_client = False
            self.client.on_closed(self)
        else:
            assert isinstance(item, Packet)
            self.client.on_packet(self, item)

    def send(self, *item: Any) -> None:
        """From the client."""
        if self.open_at_client:
            self.up.send(item, self._broker.delay_s())

    def close_at_client(self, keep: int | None = None) -> None:
        """The client's socket closes; `keep`: how many messages in flight still reach the broker."""
        self.open_at_client = False
        self.down.lose()
        if keep is not None:
            self.up.lose(keep)
        self.up.send(("closed",), self._broker.delay_s())


@dataclass
class Broker:
    """The broker's process and its storage.

    Attributes:
        on_publish: Called with (peer, kind, payload) for each message that it takes in.
    """

    schedule: Schedule
    rng: random.Random
    weather: Weather
    on_publish: Callable[[str, str, Any], None]
    retained: dict[tuple[str, str], Any] = field(default_factory=dict)
    up: bool = True

    def __post_init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self._cut: dict[str, Connection | None] = {}
        self._mute: dict[str, object] = {}
        self._stored: dict[tuple[str, str], Any] = {}
        #: How often it has restarted from old storage.
        self.went_back = 0
        self.schedule.after(STORE_EVERY_S, self._store)

    def delay_s(self) -> float:
        """One message's way over a link."""
        delay_s = self.rng.uniform(self.weather.delay_s_min, self.weather.delay_s_max)
        return 5 * delay_s if self.rng.random() < 0.05 else delay_s

    # ------------------------------------------------------------------ connections

    def reachable(self, name: str) -> bool:
        """Whether a new connection would come about."""
        return self.up and name not in self._cut

    def connect(self, name: str, client: Client, will: tuple[str, Any]) -> Connection:
        """A client connects; an older connection of the same name is ended by it, with its will."""
        old = self._connections.get(name)
        if old is not None:
            self._end(old, will=True)
        connection = self._connections[name] = Connection(self, name, client, will)
        self._mute.pop(name, None)
        connection.down.send("accepted", self.delay_s())
        return connection

    def _end(self, connection: Connection, will: bool) -> None:
        """The broker's end closes."""
        if not connection.open_at_broker:
            return
        connection.open_at_broker = False
        if self._connections.get(connection.name) is connection:
            del self._connections[connection.name]
        connection.up.lose()
        connection.down.send_last("closed", self.delay_s())
        if will:
            self._publish(connection.name, *connection.will, retain=True)

    def take_in(self, connection: Connection, item: tuple[Any, ...]) -> None:
        """A packet from a client."""
        if not connection.open_at_broker:
            return
        if item[0] == "publish":
            self._publish(connection.name, *item[1:])
        elif item[0] == "subscribe":
            connection.kinds.update(item[1])
            for (peer, kind), payload in sorted(self.retained.items()):
                if kind in item[1]:
                    self._send(connection, Packet(peer, kind, payload, True))
        elif item[0] == "unsubscribe":
            connection.kinds.difference_update(item[1])
        elif item[0] == "disconnect":
            self._end(connection, will=False)
        else:
            assert item[0] == "closed"
            self._end(connection, will=True)

    def _publish(self, peer: str, kind: str, payload: Any, retain: bool) -> None:
        if retain and payload is None:
            self.retained.pop((peer, kind), None)
        elif retain:
            self.retained[peer, kind] = payload
        self.on_publish(peer, kind, payload)
        for connection in list(self._connections.values()):
            if kind in connection.kinds:
                self._send(connection, Packet(peer, kind, payload, False))

    def publish_as(self, name: str, kind: str, payload: Any) -> None:
        """An operator, whose own connection is not simulated, publishes a retained document."""
        if self.up:
            self._publish(name, kind, payload, retain=True)

    def _send(self, connection: Connection, packet: Packet) -> None:
        if packet.kind in TENSORS and packet.peer == connection.name:
            # The daemon subscribes so that what it sends of tensors, which are large, does not come back.
            return
        order = (packet.peer, packet.kind) if self.weather.reorder else None
        connection.down.send(packet, self.delay_s(), order)
        if self.rng.random() < self.weather.duplicate:
            connection.down.send(packet, self.delay_s(), order)

    # ------------------------------------------------------------------ faults

    @property
    def cut_off(self) -> frozenset[str]:
        """Whose links carry nothing."""
        return frozenset(self._cut)

    def reset(self, name: str) -> None:
        """A connection breaks and both ends see it; everything in flight is lost."""
        connection = self._connections.get(name)
        if connection is not None:
            connection.down.lose()
            self._end(connection, will=True)

    def silence(self, name: str) -> None:
        """Nothing comes from this client any more: its board is without power, or hangs."""
        token = self._mute[name] = object()
        connection = self._connections.get(name)
        heard_ago_s = self.rng.uniform(0, self.weather.keepalive_s / 2)

        def overdue() -> None:
            if self._mute.get(name) is token and connection is not None:
                self._end(connection, will=True)

        self.schedule.after(1.5 * self.weather.keepalive_s - heard_ago_s, overdue)

    def speaks(self, name: str) -> None:
        """The client goes on."""
        if name not in self._cut:
            self._mute.pop(name, None)

    def cut(self, name: str) -> None:
        """The link carries nothing; what is in flight waits until it is mended or given up."""
        connection = self._cut[name] = self._connections.get(name)
        self.silence(name)
        if connection is None:
            return
        connection.up.stalled = connection.down.stalled = True

        def notices() -> None:
            if name in self._cut and connection.open_at_client and connection.down.stalled:
                connection.close_at_client()
                connection.client.on_closed(connection)

        self.schedule.after(self.weather.keepalive_s * self.rng.uniform(1, 2), notices)

    def mend(self, name: str) -> None:
        """The link carries again; TCP sends what waited, if both ends still want it."""
        connection = self._cut.pop(name, None)
        self._mute.pop(name, None)
        if connection is not None:
            for lane in (connection.up, connection.down):
                lane.stalled = False
                lane.pump()

    def _store(self) -> None:
        """Write the retained documents to the disk, as Mosquitto does now and then."""
        self._stored = dict(self.retained)
        self.schedule.after(STORE_EVERY_S, self._store)

    def stop(self, storage: str) -> None:
        """The broker dies: no wills, and afterwards it has all, the `stored` or `none` of its retained documents."""
        self.up = False
        for connection in list(self._connections.values()):
            connection.down.lose()
            self._end(connection, will=False)
        if storage == "stored":
            self.retained = dict(self._stored)
            self.went_back += 1
        elif storage == "none":
            self.retained = {}
            self._stored = {}

    def start(self) -> None:
        """The broker is back."""
        self.up = True
