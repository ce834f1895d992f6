"""What a federation costs the broker as it grows: deliveries, counted in the simulator, the same at every run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge_peer.protocol.roles import FOLLOWING
from edge_peer.protocol.run_settings import RunSettings
from tests.sim.broker import Weather
from tests.sim.scenario import Board, Scenario
from tests.sim.story import round_of, until
from tests.sim.world import World

SIZES = (4, 16, 64)
ROUNDS = 3


def fleet(peers: int) -> World:
    """A calm federation in its second round, which takes longer than what is counted."""
    run = RunSettings(rounds_max=1000, round_deadline_s=1000.0, updates_min=2)
    boards = tuple(Board(f"p{index + 1}", score=peers - index, training_s=(5.0, 5.0)) for index in range(peers))
    weather = Weather(delay_s_min=0.001, delay_s_max=0.001)
    world = World(Scenario(1, "calm", boards, roster=True, min_peers=peers, run=run, weather=weather))
    for board in world.boards.values():
        world.power_on(board)
    until(world, lambda: round_of(world, "p1") == 2)
    return world


def beats(world: World, seconds: float) -> float:
    """Deliveries of the controller's signs of life in a time: its round document, to everybody."""
    return len(world.processes) * (3 * seconds / world.scenario.timing.lease_s + 1)


@contextmanager
def deliveries(world: World) -> Iterator[list[float]]:
    """Counts what the broker delivers meanwhile, but for the controller's signs of life."""
    before, since_s, counted = world.broker.counts["delivered"], world.schedule.now_s, [0.0]
    yield counted
    counted[0] = world.broker.counts["delivered"] - before - beats(world, world.schedule.now_s - since_s)


@pytest.mark.parametrize("peers", SIZES)
def test_a_round_costs_each_peer_as_much_in_a_large_fleet_as_in_a_small_one(peers: int) -> None:
    world = fleet(peers)
    with deliveries(world) as counted:
        until(world, lambda: round_of(world, "p1") == 2 + ROUNDS)
    # To everybody the document, its model; from everybody an update and an evaluation, for one reader each.
    assert counted[0] <= 4 * peers * ROUNDS


@pytest.mark.parametrize("peers", SIZES)
def test_a_death_and_a_return_cost_each_peer_a_few_messages(peers: int) -> None:
    world = fleet(peers)
    gone = world.processes["p3"]
    with deliveries(world) as counted:
        world.kill(gone, power=False)
        until(world, lambda: "p3" not in world.processes["p1"].peer._context.roster.online())
        world.power_on(world.boards["p3"])
        until(world, lambda: world.processes["p3"].peer.role == FOLLOWING)
    # The will and two presences to all; to the one that is back, what the broker keeps of all: presences and a vote.
    assert counted[0] <= 8 * peers


@pytest.mark.parametrize("peers", SIZES)
def test_an_election_costs_what_everybody_says_to_everybody_once(peers: int) -> None:
    world = fleet(peers)
    with deliveries(world) as counted:
        world.kill(world.processes["p1"], power=False)
        until(world, lambda: world.processes["p2"].peer.controller is not None)
        until(world, lambda: all(it.peer.role == FOLLOWING for it in world.processes.values() if it.name > "p2"))
    assert peers * (peers - 2) <= counted[0] <= peers * (peers + 6)
