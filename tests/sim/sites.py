"""Several brokers as the sites of one federation, bridged in a star; and worlds in which sites are cut off and healed.

A site's broker sends what its own peers say over its bridge to the hub, which sends it on to the others. What is not
retained is lost while the bridge is down. When it is up again both ends say what they keep, of the peers that they hear
it of first; or, where the cut was not noticed, what has waited arrives late.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edge_peer.protocol.election import quorum
from edge_peer.protocol.peer import Peer
from edge_peer.protocol.topics import Topics
from tests.sim.broker import Broker, Connection, Lane, Packet
from tests.sim.checkers import Violation
from tests.sim.process import Process
from tests.sim.scenario import FAULTS, Scenario
from tests.sim.world import World

HUB = 0
CUT = "site cut"
#: So often the sites are looked at.
LOOK_S = 0.2


class SitesBroker(Broker):
    """All brokers as one object; a client's name says at which it is.

    Attributes:
        sites: How many there are; the first is the hub.
    """

    sites = 2

    def bridge(self, sites: int) -> None:
        """Connect them."""
        self.sites = sites
        #: What each keeps; the hub keeps what a lone broker would.
        self._kept: list[dict[str, tuple[str, str, Any]]] = [self.retained, *({} for _ in range(sites - 1))]
        self._cut_sites: set[int] = set()
        self._up = {leaf: Lane(self.schedule, lambda it: self._at_hub(*it)) for leaf in range(1, sites)}
        self._down = {leaf: Lane(self.schedule, lambda it: self._at(*it)) for leaf in range(1, sites)}

    def site(self, name: str) -> int:
        """Where a client is; operators are at the hub."""
        return int(name[1:]) % self.sites if name[1:].isdigit() else HUB

    def take_in(self, connection: Connection, item: tuple[Any, ...]) -> None:
        """A packet from a client, to the broker of its site."""
        # A subscription is answered with what that one keeps.
        hub, self.retained = self.retained, self._kept[self.site(connection.name)]
        try:
            super().take_in(connection, item)
        finally:
            self.retained = hub

    def _publish(self, topics: Topics, peer: str, kind: str, payload: Any, retain: bool) -> None:
        self.counts["published"] += 1
        self.on_publish(peer, kind, payload)
        site, message = self.site(peer), (topics.of(peer, kind), peer, kind, payload, retain)
        self._at(site, *message)
        if site == HUB:
            self._pass_on(HUB, message)
        elif site not in self._cut_sites or self._up[site].stalled:
            self._up[site].send((site, *message), self.delay_s())

    def _at(self, site: int, topic: str, peer: str, kind: str, payload: Any, retain: bool) -> None:
        """One broker takes it in, and sends it to its clients."""
        if retain and payload is None:
            self._kept[site].pop(topic, None)
        elif retain:
            self._kept[site][topic] = (peer, kind, payload)
        matching, packet = self._filter(topic, peer, kind), Packet(topic, kind, payload, False)
        for connection in list(self._connections.values()):
            if matching in connection.filters and self.site(connection.name) == site:
                self._send(connection, peer, packet)

    def _at_hub(self, origin: int, *message: Any) -> None:
        self._at(HUB, *message)
        self._pass_on(origin, message)

    def _pass_on(self, origin: int, message: tuple[Any, ...]) -> None:
        for leaf, lane in self._down.items():
            if leaf != origin and (leaf not in self._cut_sites or lane.stalled):
                lane.send((leaf, *message), self.delay_s())

    # ------------------------------------------------------------------ faults

    def cut_site(self, leaf: int, silent: bool) -> None:
        """Its bridge breaks, or carries nothing and nobody is told."""
        self._cut_sites.add(leaf)
        for lane in (self._up[leaf], self._down[leaf]):
            lane.stalled = silent
            if not silent:
                lane.lose()

    def mend_site(self, leaf: int) -> None:
        """Its bridge is there again."""
        self._cut_sites.discard(leaf)
        lanes = (self._up[leaf], self._down[leaf])
        noticed = not lanes[0].stalled or self.rng.random() < 0.5
        for lane in lanes:
            lane.stalled = False
            if noticed:
                lane.lose()
            lane.pump()
        if noticed:
            for source, lane, site in ((leaf, self._up[leaf], leaf), (HUB, self._down[leaf], leaf)):
                for topic, (peer, kind, payload) in sorted(self._kept[source].items()):
                    if (self.site(peer) == leaf) == (source == leaf):
                        lane.send((site, topic, peer, kind, payload, True), self.delay_s())

    @property
    def cut_sites(self) -> frozenset[int]:
        """Which have no bridge now."""
        return frozenset(self._cut_sites)


class SitesWorld(World):
    """A federation over sites; its broker is bridged before anybody starts."""

    broker: SitesBroker

    def __init__(
        self,
        scenario: Scenario,
        peer_type: type[Peer] = Peer,
        transcript: Callable[[str], None] | None = None,
        sites: int = 2,
    ) -> None:
        super().__init__(scenario, peer_type, transcript)
        self.broker = SitesBroker(self.schedule, self.rng, scenario.weather, lambda *_: None)
        self.broker.bridge(sites)
        #: Of each controller that hears too few: since when, of which run, and the round that it was at.
        self._alone: dict[str, tuple[float, tuple[object, ...], int]] = {}
        self.schedule.after(LOOK_S, self._look)

    def _look(self) -> None:
        if self.broker.cut_sites:
            self.disturbed_s = self.schedule.now_s
        for process in self.processes.values():
            self._waits_if_alone(process)
        self.schedule.after(LOOK_S, self._look)

    def _waits_if_alone(self, process: Process) -> None:
        """C8: whoever has not heard a majority for a lease commits at most the round that was open."""
        controller, site = process.peer.controller, self.broker.site(process.name)
        document = controller.document if controller is not None else None
        cut = self.broker.cut_sites
        heard = {name for name in self.boards if self._hears(site, self.broker.site(name))}
        silent = process.peer._context.roster.said_online().keys() - heard if cut else set()
        if document is None or document.base is None or not silent or len(heard) >= quorum(self.boards, ()):
            self._alone.pop(process.name, None)
            return
        now_s, round_ = self.schedule.now_s, document.base.round
        key = (process.session, document.term, document.run_id)
        since_s, held, before = self._alone.setdefault(process.name, (now_s, key, round_))
        if held != key or now_s < since_s + self.scenario.timing.lease_s:
            self._alone[process.name] = (since_s if held == key else now_s, key, round_)
        elif round_ > before + 1:
            raise Violation(f"C8: {process.name} has committed {round_ - before} rounds, heard by {sorted(heard)} only")

    def _hears(self, site: int, other: int) -> bool:
        return site == other or not self.broker.cut_sites & {site, other}

    def _fault(self, kind: str) -> None:
        if kind == CUT:
            self.cut_off(self.rng.randrange(1, self.broker.sites), self.rng.choice((0.3, 2.0, 5.0, 12.0)))
        else:
            super()._fault(kind)

    def cut_off(self, leaf: int, seconds: float) -> None:
        """A site, for a while."""
        if leaf in self.broker.cut_sites:
            return
        silent = self.rng.random() < 0.5
        self.count(f"a site that is cut off, {'in silence' if silent else 'noticed'}")
        self.trace(None, f"!! site {leaf} is cut off")
        self.broker.cut_site(leaf, silent)
        self.schedule.after(seconds, lambda: self._mend(leaf))

    def _mend(self, leaf: int) -> None:
        if leaf in self.broker.cut_sites:
            self.trace(None, f"!! site {leaf} is there again")
            self.broker.mend_site(leaf)

    def _heal(self) -> None:
        for leaf in self.broker.cut_sites:
            self._mend(leaf)
        super()._heal()


def draw(seed: int) -> Scenario:
    """A federation with a roster, whose sites are cut off again and again, beside all that befalls boards."""
    scenario = Scenario._one(seed, "everything")
    rng = random.Random(f"sites {seed}")
    faults = {kind: weight for kind, weight in FAULTS.items() if not kind.startswith("broker restart")}
    alone = rng.random() < 0.5
    return replace(
        scenario,
        roster=True,
        faults={CUT: 1.0} if alone else {**faults, CUT: 8.0},
        faulty_s=rng.uniform(5, 30),
        fault_every_s=rng.choice((1.0, 3.0)),
    )


def failure(seed: int, transcript: Callable[[str], None] | None = None) -> str:
    """What is wrong with a seed; empty: nothing."""
    try:
        SitesWorld(draw(seed), transcript=transcript, sites=2 + seed % 2).run()
    except Exception as error:  # noqa: BLE001 - whatever is raised is this seed's failure
        return f"{type(error).__name__}: {error} - replay: python -m tests.sim.sites {seed}"
    return ""


if __name__ == "__main__":
    import sys

    print(failure(int(sys.argv[1]), print) or "nothing is wrong")
