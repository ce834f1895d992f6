"""What a seed stands for: the fleet, its run, its network and its misfortunes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from edge_peer.protocol.run_settings import NONE, WHOLE, RunSettings
from edge_peer.protocol.settings import Timing
from tests.sim.broker import Weather

TIMING = Timing(
    grace_s=0.4,
    lease_s=3.0,
    settle_s=0.25,
    election_timeout_s=1.0,
    startup_window_s=4.0,
    resend_s=1.0,
    final_report_s=6.0,
)

#: Every fault, and how much of it an `everything` scenario has.
FAULTS = {
    "crash": 3.0,
    "crash between commands": 3.0,
    "power cut": 2.0,
    "hang": 2.0,
    "hang between commands": 2.0,
    "crash at a write": 2.0,
    "full disk": 1.0,
    "clock step": 1.0,
    "reset": 2.0,
    "flap": 0.5,
    "overflow": 1.0,
    "cut": 2.0,
    "cut up": 1.0,
    "cut down": 1.0,
    "broker restart, all kept": 0.4,
    "broker restart, old storage": 0.4,
    "broker restart, no storage": 0.4,
    "shut down": 1.0,
    "health": 0.5,
    "stop": 0.15,
    "start": 0.3,
}
PROFILES: dict[str, tuple[str, ...]] = {
    "calm": (),
    "crashes": ("crash", "crash between commands", "power cut"),
    "hangs": ("hang", "hang between commands", "cut"),
    "network": ("reset", "cut", "hang"),
    "broker": ("broker restart, all kept", "broker restart, old storage", "broker restart, no storage", "crash"),
    "operator": ("stop", "start", "shut down", "health"),
    "everything": tuple(FAULTS),
    "disks": ("crash at a write", "full disk", "power cut", "broker restart, no storage"),
    "links": ("cut up", "cut down", "flap", "overflow", "cut", "clock step"),
    "neighbours": tuple(FAULTS),
}


@dataclass(frozen=True)
class Board:
    """One board's facts.

    Attributes:
        lacks: Its release has no codec but float32.
    """

    name: str
    control: bool = True
    train: bool = True
    score: float = 1.0
    starts_s: float = 0.0
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0
    training_s: tuple[float, float] = (0.1, 1.0)
    fails: float = 0.0
    bad: float = 0.0
    repeatable: bool = True
    model: str = "a"
    tests: bool = True
    lacks: bool = False


@dataclass(frozen=True)
class Scenario:
    """Everything that is drawn before the world begins.

    Attributes:
        faulty_s: How long faults last; afterwards all is healed but for the boards that stay dead.
        fault_every_s: Mean time between two faults.
        faults: Which faults, with their weights.
        dead: Boards that stay without power for ever.
        neighbour: Another federation with the same broker; None: there is none.
    """

    seed: int
    profile: str
    boards: tuple[Board, ...]
    roster: bool
    min_peers: int
    run: RunSettings
    weather: Weather
    faulty_s: float = 0.0
    fault_every_s: float = 1.0
    faults: dict[str, float] = field(default_factory=dict)
    dead: frozenset[str] = frozenset()
    timing: Timing = TIMING
    neighbour: Scenario | None = None

    @classmethod
    def draw(cls, seed: int) -> Scenario:
        """The scenario of a seed."""
        scenario = cls._one(seed, list(PROFILES)[seed % len(PROFILES)])
        if scenario.profile != "neighbours":
            return scenario
        # Their boards have other names: a broker knows a client by its name, whichever federation it is of.
        other = cls._one(seed + 10**9, "everything")
        boards = tuple(replace(it, name=f"q{it.name[1:]}") for it in other.boards)
        dead = frozenset(f"q{name[1:]}" for name in other.dead)
        return replace(scenario, neighbour=replace(other, boards=boards, dead=dead, weather=scenario.weather))

    @classmethod
    def _one(cls, seed: int, profile: str) -> Scenario:
        rng = random.Random(f"scenario {seed}")
        count = rng.choice((2, 3, 3, 4, 4, 5, 5, 6, 7))
        boards = tuple(_board(rng, index, profile) for index in range(count))
        names = [board.name for board in boards]
        dead = frozenset(rng.sample(names, rng.randint(0, (count - 1) // 2))) if profile != "calm" else frozenset()
        releases = random.Random(f"releases {seed}")
        boards = tuple(replace(it, lacks=profile != "calm" and releases.random() < 0.06) for it in boards)
        boards = _fit(rng, boards, dead)
        able = [it.name for it in boards if it.train and it.model == "a" and it.name not in dead and not it.lacks]
        faulty_s = 0.0 if profile == "calm" else rng.uniform(3, 25)
        return cls(
            seed=seed,
            profile=profile,
            boards=boards,
            roster=rng.random() < 0.7,
            min_peers=rng.randint(1, len(able)) if rng.random() < 0.3 else min(2, len(able)),
            run=_with_codecs(random.Random(f"codecs {seed}"), _run(rng, len(able))),
            weather=Weather(
                delay_s_min=0.001,
                delay_s_max=rng.choice((0.002, 0.01, 0.03)),
                duplicate=0.0 if profile == "calm" else rng.choice((0.0, 0.02, 0.2)),
                reorder=rng.random() < 0.3,
            ),
            faulty_s=faulty_s,
            fault_every_s=rng.choice((0.3, 1.0, 3.0)),
            faults={name: FAULTS[name] for name in PROFILES[profile]},
            dead=dead,
        )


def _board(rng: random.Random, index: int, profile: str) -> Board:
    slow = rng.random() < 0.1
    odd = profile in ("everything", "operator")
    return Board(
        name=f"p{index + 1}",
        control=rng.random() < 0.85,
        train=rng.random() < 0.9,
        score=round(rng.uniform(1, 3), 1),
        starts_s=rng.choice((0.0, 0.0, rng.uniform(0, 1), rng.uniform(0, 10))),
        clock_offset_s=rng.uniform(0, 1e5),
        clock_rate=1 + rng.uniform(-0.03, 0.03),
        training_s=(4.0, 9.0) if slow else (0.05, rng.choice((0.2, 1.0, 2.0))),
        fails=rng.choice((0.0, 0.1)) if odd else 0.0,
        bad=rng.choice((0.0, 0.1)) if odd else 0.0,
        repeatable=rng.random() < 0.7,
        model="b" if odd and rng.random() < 0.05 else "a",
        tests=rng.random() < 0.9,
    )


def _fit(rng: random.Random, boards: tuple[Board, ...], dead: frozenset[str]) -> tuple[Board, ...]:
    """Make sure that those who stay alive can do a run: at least two, and one who is willing to control."""
    alive = [board.name for board in boards if board.name not in dead]
    must = rng.sample(alive, min(2, len(alive)))
    return tuple(
        replace(board, train=True, model="a", lacks=False, control=board.control or board.name == must[0])
        if board.name in must
        else board
        for board in boards
    )


def _run(rng: random.Random, able: int) -> RunSettings:
    return RunSettings(
        rounds_max=rng.randint(1, 4),
        target_accuracy=rng.choice((None, None, 0.55)),
        round_deadline_s=rng.choice((3.0, 5.0)),
        updates_min=rng.randint(1, able),
        strategy=rng.choice(("all", "all", "fraction", "fastest", "least_used")),
        fraction=rng.choice((0.5, 1.0)),
    )


def _with_codecs(rng: random.Random, run: RunSettings) -> RunSettings:
    """How vectors travel; with what remembers something there are more rounds to remember it for."""
    codec = rng.choice(("float32", "int8"))
    downlink = rng.choice((WHOLE, "float16", "int8"))
    return replace(
        run,
        codec=codec,
        error_feedback=codec != "float32" and rng.random() < 0.8,
        downlink=downlink,
        server_optimizer=rng.choice((NONE, "fedavgm")),
        rounds_max=run.rounds_max + (rng.choice((0, 2)) if codec != "float32" or downlink != WHOLE else 0),
    )
