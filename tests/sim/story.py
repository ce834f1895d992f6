"""A misfortune that chance brings about too rarely, told step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_peer.protocol.peer import MODELS_MAX
from edge_peer.protocol.run_settings import RunSettings
from tests.sim.broker import Weather
from tests.sim.scenario import Board, Scenario
from tests.sim.world import World

WORLDS_END_S = 300.0


def until(world: World, happened: Callable[[], bool]) -> None:
    """Let the world go on until something has happened."""
    while not happened():
        assert world.schedule.now_s < WORLDS_END_S, "it never happens"
        assert world.schedule.step()


def round_of(world: World, peer: str) -> int:
    """The round that a peer's controller is at, as far as the peer knows; 0: none."""
    process = world.processes[peer]
    documents = [document for document, _ in process.peer._context.rounds.values()]
    if process.peer.controller is not None and process.peer.controller.document is not None:
        documents.append(process.peer.controller.document)
    return max((document.round for document in documents if document.run_id is not None), default=0)


def lost_branch() -> World:
    """One peer is a round ahead of the controller that the others elect.

    p1 leads and commits round 1 while only p2 hears it. Then p1 loses power, p2 its link, and the broker its storage.
    The others know nothing of round 1: p3 is elected and opens it anew, but p4 and p5 lose power, too. So p3 needs p2,
    which was training round 2 and comes back. It may not go back a round, and the run must end.
    """
    run = RunSettings(rounds_max=3, round_deadline_s=20.0, updates_min=2)
    boards = tuple(
        Board(f"p{index + 1}", score=9.0 - index, training_s=(0.5, 0.5) if index < 2 else (5.0, 5.0))
        for index in range(5)
    )
    scenario = Scenario(0, "story", boards, roster=True, min_peers=5, run=run, weather=Weather())
    world = World(scenario)
    for board in world.boards.values():
        world.power_on(board)
    until(world, lambda: round_of(world, "p2") == 1)
    for name in ("p3", "p4", "p5"):
        world.broker.cut(name)
    until(world, lambda: round_of(world, "p2") == 2)
    world.kill(world.processes["p1"], power=True)
    world.broker.cut("p2")
    world.broker.stop("none")
    world.broker.start()
    for name in ("p3", "p4", "p5"):
        world.broker.mend(name)
    until(world, lambda: world.processes["p3"].peer.controller is not None and round_of(world, "p3") == 1)
    for name in ("p4", "p5"):
        world.kill(world.processes[name], power=True)
    until(world, lambda: not world.processes["p3"].peer.controller.document.participants)
    world.broker.mend("p2")
    until(world, lambda: world.processes["p2"].peer.state.finished > 0 and not world.unfinished())
    return world


def last_one_out(vectors: Mapping[str, Any]) -> World:
    """The controller commits the last model when nobody else is connected, and loses power for ever.

    p2 loses its link after its update of the last round has gone out. p1 commits, finishes the run, and is gone. When
    p2 is back, nobody who is there holds the last model. The run is finished, and p2 must come by its model.

    Args:
        vectors: Fields of `RunSettings`: how models and updates travel.
    """
    run = RunSettings(rounds_max=2, round_deadline_s=20.0, updates_min=2, **vectors)
    boards = (Board("p1", score=9.0, training_s=(1.0, 1.0)), Board("p2", training_s=(0.1, 0.1)))
    world = World(Scenario(0, "story", boards, roster=False, min_peers=1, run=run, weather=Weather()))
    for board in world.boards.values():
        world.power_on(board)
    until(world, lambda: round_of(world, "p2") == 2)
    until(world, lambda: len(world.processes["p1"].updates) > 0)
    world.broker.reset("p2")
    world.broker.cut("p2")
    until(world, lambda: world.boards["p1"].final is not None)
    world.kill(world.processes["p1"], power=True)
    until(world, lambda: not world.processes["p2"].accepted)
    world.broker.mend("p2")
    until(world, lambda: world.processes["p2"].peer.state.finished > 0 and not world.unfinished())
    return world


def long_run() -> World:
    """More rounds than anybody may hold models of."""
    run = RunSettings(rounds_max=3 * MODELS_MAX, round_deadline_s=20.0, updates_min=2)
    boards = tuple(Board(f"p{index + 1}", training_s=(0.0, 0.0)) for index in range(3))
    world = World(Scenario(0, "story", boards, roster=True, min_peers=3, run=run, weather=Weather()))
    world.run()
    return world
