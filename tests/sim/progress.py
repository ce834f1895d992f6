"""Liveness within bounds: whoever follows a controller and is not disturbed comes by the model of its round in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_peer.protocol.messages import TRAINING
from edge_peer.protocol.roles import FOLLOWING
from tests.sim.checkers import Violation

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

EVERY_S = 0.25


class Progress:
    """Looks at a world every quarter of a virtual second.

    A peer that lacks the model of its controller's round asks for it when it has waited for `resend_s`, and is sent it.
    So it may lack the models of the rounds, whichever they are, for no longer than three times that while nothing
    happens to it, its controller or the broker.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._bound_s = 3 * world.scenario.timing.resend_s
        #: Since when each process lacks models, with the two connections that it has lacked them over.
        self._lacks: dict[str, tuple[float, tuple[object, ...]]] = {}
        world.schedule.after(EVERY_S, self._look)

    def _look(self) -> None:
        world = self._world
        now_s = world.schedule.now_s
        for process in world.processes.values():
            link = self._lacking_over(process)
            if link is None:
                self._lacks.pop(process.name, None)
                continue
            since_s, before = self._lacks.get(process.name, (now_s, link))
            since_s = max(since_s, world.disturbed_s) if before == link else now_s
            self._lacks[process.name] = (since_s, link)
            if now_s - since_s > self._bound_s:
                raise Violation(f"{process.name} lacks the models of the rounds for {now_s - since_s:.1f} s")
        world.schedule.after(EVERY_S, self._look)

    def _lacking_over(self, process: Process) -> tuple[object, ...] | None:
        """The connections over which a peer should come by the model that it lacks; None: it lacks none, or cannot."""
        peer = process.peer
        if not self._well(process) or peer.role != FOLLOWING or process.board.facts.lacks:
            return None
        assert peer._following is not None
        document, _ = peer._context.rounds[peer._following]
        leader = self._world.processes.get(peer._following)
        if leader is None or not self._well(leader) or leader.peer.controller is None:
            return None
        said = leader.peer.controller.document
        if said is None or said.term != document.term or said.state != TRAINING or said.base is None:
            return None
        if process.board.facts.model != leader.board.facts.model or said.base.sha256 in process.models:
            return None
        if peer.state.held is not None and peer.state.held.order > said.base.order:
            return None
        return (process.connection, leader.connection)

    def _well(self, process: Process) -> bool:
        undisturbed = process.alive and not process.hung and process.trap is None and process.accepted
        return undisturbed and process.name not in self._world.broker.cut_off
