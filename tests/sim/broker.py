"""A star broker: one connection for each board, retained documents, wills, and the ways in which all that breaks.

What MQTT guarantees, and no more: a client's stream to the broker is ordered and so is the broker's to a client, until
the connection breaks; then everything in flight is lost (a client that starts clean has no session to take up). A
QoS 1 message may come twice. A retained message replaces the one before on its topic and is sent again, marked, to
every new subscription. In the harsher mode only the messages of one topic stay in order on the way to a client: bridges
and clustered brokers promise no more. And a broker whose queue for a client is full drops what does not fit; some also
end the connection then.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge_peer.protocol.topics import TENSORS, Topics
from tests.sim.clock import Schedule

STORE_EVERY_S = 4.0


@dataclass(frozen=True)
class Packet:
    """What a client receives; `payload` None: a retained document was cleared."""

    topic: str
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
        self._latest_s = 0.0
        self.stalled = False

    def send(self, item: Any, delay_s: float, order: Any = None) -> bool:
        """Put something in; items of the same `order` keep theirs. Returns whether it overtakes another."""
        arrives_s = max(self._schedule.now_s + delay_s, self._last_s.get(order, 0.0))
        overtakes = order is not None and self._latest_s > arrives_s
        self._latest_s = max(self._latest_s, arrives_s)
        self._last_s[order] = arrives_s
        heapq.heappush(self._heap, (arrives_s, next(self._numbers), item))
        self._schedule.at(arrives_s, self.pump)
        return overtakes

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

    def __init__(self, broker: Broker, topics: Topics, name: str, client: Client, will: tuple[str, Any]) -> None:
        self.name = name
        self.topics = topics
        self.client = client
        self.will = will
        self.filters: set[str] = set()
        #: The broker's queue for this client is full.
        self.full = False
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
        retained: By topic: its peer, its kind and the payload.
        counts: What has happened to messages, how often.
    """

    schedule: Schedule
    rng: random.Random
    weather: Weather
    on_publish: Callable[[str, str, Any], None]
    retained: dict[str, tuple[str, str, Any]] = field(default_factory=dict)
    up: bool = True
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self._cut: dict[str, Connection | None] = {}
        self._mute: dict[str, object] = {}
        self._stored: dict[str, tuple[str, str, Any]] = {}
        #: How often it has restarted from old storage.
        self.went_back = 0
        self.schedule.after(STORE_EVERY_S, self._store)

    def delay_s(self) -> float:
        """One message's way over a link."""
        delay_s = self.rng.uniform(self.weather.delay_s_min, self.weather.delay_s_max)
        if self.rng.random() < 0.05:
            self.counts["delayed"] += 1
            return 5 * delay_s
        return delay_s

    # ------------------------------------------------------------------ connections

    def reachable(self, name: str) -> bool:
        """Whether a new connection would come about."""
        return self.up and name not in self._cut

    def connect(self, topics: Topics, name: str, client: Client, will: tuple[str, Any]) -> Connection:
        """A client connects; an older connection of the same name is ended by it, with its will."""
        old = self._connections.get(name)
        if old is not None:
            self._end(old, will=True)
        connection = self._connections[name] = Connection(self, topics, name, client, will)
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
        self.counts["lost in flight"] += len(connection.up)
        connection.up.lose()
        connection.down.send_last("closed", self.delay_s())
        if will:
            self._publish(connection.topics, connection.name, *connection.will, retain=True)

    def take_in(self, connection: Connection, item: tuple[Any, ...]) -> None:
        """A packet from a client."""
        if not connection.open_at_broker:
            return
        if item[0] == "publish":
            self._publish(connection.topics, connection.name, *item[1:])
        elif item[0] == "subscribe":
            connection.filters.update(item[1])
            for topic, (peer, kind, payload) in sorted(self.retained.items()):
                if self._filter(topic, peer, kind) in item[1]:
                    self._send(connection, peer, Packet(topic, kind, payload, True))
        elif item[0] == "unsubscribe":
            connection.filters.difference_update(item[1])
        elif item[0] == "disconnect":
            self._end(connection, will=False)
        else:
            assert item[0] == "closed"
            self._end(connection, will=True)

    @staticmethod
    def _filter(topic: str, peer: str, kind: str) -> str:
        """The only filter that anybody subscribes with and that matches this topic."""
        return f"{topic[: -len(peer) - len(kind) - 1]}+/{kind}"

    def _publish(self, topics: Topics, peer: str, kind: str, payload: Any, retain: bool) -> None:
        topic = topics.of(peer, kind)
        if retain and payload is None:
            self.retained.pop(topic, None)
        elif retain:
            self.retained[topic] = (peer, kind, payload)
        self.counts["published"] += 1
        self.on_publish(peer, kind, payload)
        matching, packet = self._filter(topic, peer, kind), Packet(topic, kind, payload, False)
        for connection in list(self._connections.values()):
            if matching in connection.filters:
                self._send(connection, peer, packet)

    def publish_as(self, topics: Topics, name: str, kind: str, payload: Any) -> None:
        """An operator, whose own connection is not simulated, publishes a retained document."""
        if self.up:
            self._publish(topics, name, kind, payload, retain=True)

    def _send(self, connection: Connection, peer: str, packet: Packet) -> None:
        if packet.kind in TENSORS and peer == connection.name:
            # The daemon subscribes so that what it sends of tensors, which are large, does not come back.
            return
        if connection.full and self.rng.random() < 0.5:
            self.counts["dropped from a full queue"] += 1
            return
        self.counts["delivered"] += 1
        order = packet.topic if self.weather.reorder else None
        self.counts["overtaking"] += connection.down.send(packet, self.delay_s(), order)
        if self.rng.random() < self.weather.duplicate:
            self.counts["duplicated"] += 1
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
            self.counts["lost in flight"] += len(connection.down)
            connection.down.lose()
            self._end(connection, will=True)

    def overflow(self, name: str) -> None:
        """A client reads too slowly: the broker drops what does not fit its queue, or also the connection."""
        connection = self._connections.get(name)
        if connection is None:
            return
        connection.full = True
        ends = self.rng.random() < 0.5

        def over() -> None:
            connection.full = False
            if ends:
                self._end(connection, will=True)

        self.schedule.after(self.rng.uniform(0.1, 1.0), over)

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

    def cut(self, name: str, ways: str = "both") -> None:
        """The link carries nothing `up` to the broker, nothing `down`, or `both`: it waits until that is mended.

        Whichever way, the client's pings or the answers to them do not come, so that it gives the connection up. The
        broker does so when it hears nothing.
        """
        connection = self._cut[name] = self._connections.get(name)
        if ways != "down":
            self.silence(name)
        if connection is None:
            return
        connection.up.stalled = ways != "down"
        connection.down.stalled = ways != "up"

        def notices() -> None:
            if name in self._cut and connection.open_at_client and (connection.up.stalled or connection.down.stalled):
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
