"""Whole federations in the simulator: hundreds of seeds, broken cores that must be caught, rounds without waiting."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import FINISHED, TRAINING, Round, decode
from edge_peer.protocol.roles import FOLLOWING
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.topics import ROUND
from tests.sim.__main__ import failure, last_lines, main
from tests.sim.arithmetic import WEIGHTS
from tests.sim.broker import Weather
from tests.sim.mutants import MUTANTS, SEEDS_MAX, Mutant, complaint
from tests.sim.scenario import PROFILES, Board, Scenario
from tests.sim.story import last_one_out, lost_branch, until
from tests.sim.world import World

CHUNK = 35
#: Of the seeds that are the same every time; and of others, which are new every time.
FIXED, FRESH = 10, 2
SEEDS = (FIXED + FRESH) * CHUNK
DELAY_S = 0.001
#: What chance has done in every chunk of the fixed seeds.
FAULTS = (
    "a broker that restarts, all kept",
    "a broker that restarts, no storage",
    "a broker that restarts, old storage",
    "a clock that leaps ahead",
    "a connection that is reset",
    "a crash at a write, after the rename",
    "a crash at a write, before the rename",
    "a link that flaps",
    "a link that is cut, both",
    "a link that is cut, down",
    "a link that is cut, up",
    "a power cut",
    "a process that dies",
    "a process that hangs",
    "a queue that overflows",
    "delayed",
    "dropped from a full queue",
    "duplicated",
    "lost in flight",
    "overtaking",
)
#: In all of them together.
RARE_FAULTS = ("a start that finds the disk full", "a write that finds the disk full")


@pytest.mark.parametrize("chunk", range(FIXED))
def test_every_invariant_holds_and_every_run_ends(
    chunk: int,
) -> None:  # I1, I2, I3, I4, I5, I6, I7, I8, I11, I12, R9, T8
    occurred: Counter[str] = Counter()
    seeds = range(chunk * CHUNK, (chunk + 1) * CHUNK)
    failures = [why for seed in seeds if (why := failure(seed, occurred=occurred))]
    assert not failures, "\n".join(failures)
    assert set(FAULTS) - set(occurred) == set()
    assert set(occurred) - {*FAULTS, *RARE_FAULTS} == {"published", "delivered"}


@pytest.mark.parametrize("chunk", range(FRESH))
def test_every_invariant_holds_for_seeds_that_nobody_has_tried(chunk: int) -> None:
    start = random.SystemRandom().randrange(10**5, 10**9)
    print(f"chunk {chunk}: python -m tests.sim --start {start} --seeds {CHUNK}")
    failures = [
        "\n    ".join((f"seed {seed}: {why}", *last_lines(seed)))
        for seed in range(start, start + CHUNK)
        if (why := failure(seed))
    ]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_core_is_caught(mutant: Mutant) -> None:
    assert complaint(mutant), f"{mutant.name}: not caught as {mutant.caught_as!r} in {SEEDS_MAX} seeds"


def test_a_peer_that_is_a_round_ahead_of_the_next_controller_brings_it_up_to_date() -> None:  # I4, I8
    world = lost_branch()
    assert world.processes["p2"].peer.state.finished == 1
    assert world.boards["p3"].final == world.boards["p2"].final
    assert world.boards["p2"].final is not None
    assert world.boards["p2"].final.round == 3


def test_the_same_seed_is_the_same_world() -> None:
    transcripts: list[list[str]] = [[], []]
    for transcript in transcripts:
        assert failure(6, transcript=transcript.append) == ""
    assert transcripts[0] == transcripts[1]
    assert len(transcripts[0]) > 500


def test_a_failing_seed_says_in_one_line_how_to_replay_it(capsys: pytest.CaptureFixture[str]) -> None:
    mutant = next(it for it in MUTANTS if it.name == "counts an update twice")
    with mutant.installed():
        assert main(["0"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("replay: python -m tests.sim 0 --verbose")
    assert re.search(r"    .*\d p\d-1 +leading +-> Aggregate\(", "\n".join(printed))
    assert re.fullmatch(r"1 seeds, 1 failed, .* seeds per second", printed[-1])
    assert main(["0", "--verbose"]) == 0
    assert re.search(r"\d p\d-1 +leading +-> Publish\(kind='round'", capsys.readouterr().out)


def test_the_seeds_cover_all_kinds_of_fleets_and_faults() -> None:
    scenarios = [Scenario.draw(seed) for seed in range(SEEDS)]
    assert {len(it.boards) for it in scenarios} == {2, 3, 4, 5, 6, 7}
    assert {it.profile for it in scenarios} == set(PROFILES)
    assert {it.roster for it in scenarios} == {it.weather.reorder for it in scenarios} == {True, False}
    assert any(it.dead for it in scenarios)
    assert any(board.lacks for it in scenarios for board in it.boards)
    assert any(it.run.target_accuracy for it in scenarios)
    assert {it.run.strategy for it in scenarios} == {"all", "fraction", "fastest", "least_used"}
    vectors = {(it.run.codec, it.run.error_feedback, it.run.downlink, it.run.server_optimizer) for it in scenarios}
    assert len(vectors) == 3 * 3 * 2


# ---------------------------------------------------------------------- no waiting for timers where all answer


class Listener(World):
    """A calm world that notes when each round document reaches the broker."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.documents: list[tuple[float, str, Round]] = []
        self.broker.on_publish = self._note

    def _note(self, peer: str, kind: str, payload: bytes | None) -> None:
        if kind == ROUND and payload is not None:
            document = decode(kind, payload)
            assert isinstance(document, Round)
            self.documents.append((self.schedule.now_s, peer, document))

    def go_until_round(self, number: int) -> float:
        while not any(it.state == TRAINING and it.round == number for _, _, it in self.documents):
            assert self.schedule.step()
        return self.schedule.now_s


def calm(boards: int, rounds: int, **run_settings: Any) -> Listener:
    run = RunSettings(rounds_max=rounds, round_deadline_s=100.0, updates_min=2, **run_settings)
    fleet = tuple(Board(f"p{index + 1}", score=index, training_s=(0.0, 0.0)) for index in range(boards))
    weather = Weather(delay_s_min=DELAY_S, delay_s_max=DELAY_S)
    return Listener(Scenario(1, "calm", fleet, roster=True, min_peers=boards, run=run, weather=weather))


def test_a_round_takes_two_ways_over_the_broker() -> None:  # I9
    world = calm(boards=4, rounds=10)
    world.run()
    first_s = next(time_s for time_s, _, it in world.documents if it.state == TRAINING)
    last_s = next(time_s for time_s, _, it in world.documents if it.state == FINISHED)
    # Round document to the trainers and updates back, each from peer to broker to peer; a message in twenty is slow.
    assert (last_s - first_s) / 10 < 2 * 2 * 5 * DELAY_S


def test_the_end_of_a_run_waits_for_no_timer() -> None:
    world = calm(boards=4, rounds=1)
    world.run()
    finished_s = next(time_s for time_s, _, it in world.documents if it.state == FINISHED)
    while not world.documents[-1][2].complete:
        assert world.schedule.step()
    complete_s = world.documents[-1][0]
    assert complete_s - finished_s < 2 * 2 * 5 * DELAY_S


@pytest.mark.parametrize("cause", ["killed", "shut down"])
def test_the_next_controller_needs_no_timer(cause: str) -> None:
    world = calm(boards=5, rounds=50)
    for board in world.boards.values():
        world.power_on(board)
    killed_s = world.go_until_round(3)
    controller = next(it for it in world.processes.values() if it.peer.controller is not None)
    if cause == "killed":
        world.kill(controller, power=False)
    else:
        controller.post(ev.ShutdownRequested())
    while not any(peer != controller.name for _, peer, _ in world.documents):
        assert world.schedule.step()
    _, _, document = next(it for it in world.documents if it[1] != controller.name)
    # The will, the presences, the votes, the document: four ways.
    assert world.schedule.now_s - killed_s < 4 * 2 * 5 * DELAY_S
    assert (document.state, document.round) == (TRAINING, 3)
    assert document.run_id == world.documents[-2][2].run_id


def test_a_power_cut_costs_the_keepalive() -> None:
    world = calm(boards=3, rounds=50)
    for board in world.boards.values():
        world.power_on(board)
    cut_s = world.go_until_round(2)
    controller = next(it for it in world.processes.values() if it.peer.controller is not None)
    world.kill(controller, power=True)
    while not any(peer != controller.name for _, peer, _ in world.documents):
        assert world.schedule.step()
    assert world.schedule.now_s - cut_s < 1.5 * world.scenario.weather.keepalive_s + 0.1


def test_a_slow_board_is_not_waited_for_longer_than_the_deadline() -> None:
    run = RunSettings(rounds_max=1, round_deadline_s=3.0, updates_min=2)
    fleet = tuple(Board(f"p{index + 1}", training_s=(0.1, 0.1) if index else (50.0, 50.0)) for index in range(3))
    world = Listener(Scenario(1, "calm", fleet, roster=True, min_peers=3, run=run, weather=Weather()))
    world.run()
    first_s = next(time_s for time_s, _, it in world.documents if it.state == TRAINING)
    last_s, _, document = next(it for it in world.documents if it[2].state == FINISHED)
    assert 2.9 < last_s - first_s < 3.5
    assert set(document.closed_accepted) == {"p2", "p3"}


# ---------------------------------------------------------------------- deltas

DELTAS = {"codec": "int8", "error_feedback": True, "downlink": "int8", "server_optimizer": "fedavgm"}


def held_by(world: World, name: str) -> str:
    held = world.processes[name].peer.state.held
    assert held is not None
    return held.sha256


def test_where_all_answer_nobody_is_sent_a_whole_model_but_the_last_one() -> None:  # D1, D3, I11, I12
    world = calm(boards=4, rounds=10, **DELTAS)
    world.run()
    assert world.checkers.wholes == 1  # the last one
    assert len({board.final for board in world.boards.values()}) == 1
    world = calm(boards=4, rounds=10)
    world.run()
    assert world.checkers.wholes == 11


def test_who_has_missed_deltas_is_sent_the_whole_model_at_once_and_the_others_deltas() -> None:  # D2, D3, I12
    world = calm(boards=4, rounds=200, **DELTAS)
    for board in world.boards.values():
        world.power_on(board)
    world.go_until_round(3)
    away = next(it for it in world.processes.values() if it.peer.role == FOLLOWING)
    world.broker.reset(away.name)
    # The deltas of the rounds until it is back are lost to it.
    until(world, lambda: away.peer.role != FOLLOWING)
    until(world, lambda: away.peer.role == FOLLOWING)
    back_s, missed = world.schedule.now_s, world.documents[-1][2].round
    assert missed > 5
    until(world, lambda: away.peer.state.held.round >= missed - 1)
    # Its presence, the model: two ways, while rounds go on.
    assert world.schedule.now_s - back_s < 2 * 2 * 5 * DELAY_S
    sent = world.checkers.wholes
    assert sent == 1
    world.go_until_round(missed + 50)
    assert world.checkers.wholes == sent


def test_the_last_model_outlives_its_controller_though_nobody_else_was_there_at_the_end() -> None:  # D5, I12
    world = last_one_out(DELTAS)
    final = world.boards["p1"].final
    assert final is not None
    assert final.round == 2
    assert world.boards["p2"].final == final


@pytest.mark.parametrize("cause", ["killed", "shut down"])
def test_a_takeover_sends_the_model_whole_once_and_goes_on_to_the_bit(cause: str) -> None:  # D4, R10, I6
    world = calm(boards=5, rounds=50, **DELTAS)
    for board in world.boards.values():
        world.power_on(board)
    world.go_until_round(4)
    controller = next(it for it in world.processes.values() if it.peer.controller is not None)
    assert world.checkers.wholes == 0
    if cause == "killed":
        world.kill(controller, power=False)
    else:
        controller.post(ev.ShutdownRequested())
    world.go_until_round(20)
    assert world.checkers.wholes == 1
    base = world.documents[-1][2].base
    assert base is not None
    assert np.any(world.checkers.vectors[base.sha256][WEIGHTS:])  # the server's momentum is in the model
    counted = world.checkers.lineage.counted(controller.name, base.sha256)
    assert len(counted) == 3


def test_over_a_run_a_residual_is_used_exactly_once() -> None:  # T8
    """Rule: what was sent and what is left add up to what was trained, for every peer."""
    world = calm(boards=3, rounds=12, **DELTAS)
    world.run()
    final = world.boards["p1"].final
    assert final is not None
    for name, board in world.boards.items():
        counted = world.checkers.lineage.counted(name, final.sha256)
        assert len(counted) == 12
        made = [world.checkers.made[digest] for digest in counted]
        left = board.disk.residual(counted[0])
        assert left is not None
        assert np.any(left)
        sent = np.sum([it.change for it in made], axis=0, dtype=np.float64) + left
        trained = np.sum([it.trained for it in made], axis=0, dtype=np.float64)
        np.testing.assert_allclose(sent, trained, atol=1e-5)
