"""What happens to whom and when, drawn from a seed: the same seed, the same schedule."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KILL_TRAINER = "kill a trainer"
KILL_CONTROLLER = "kill the controller"
PAUSE_SHORT = "pause within the lease"
PAUSE_LONG = "pause beyond the lease"
STALE_CONTROLLER = "controller wakes after its term"
KILL_BROKER = "kill the broker"
CUT_TRAINER = "cut a trainer off"
CUT_CONTROLLER = "cut the controller off"
CUT_ALL = "cut all off"
LATENCY = "latency"
LOSS = "loss"
FULL_DISK = "full disk"
MEMORY_LIMIT = "memory limit"

#: Whom a fault is for: a part in the federation, because who plays it is not known before. ANY is drawn.
CONTROLLER, TRAINER, ANY, DISK, ALL = "controller", "trainer", "any", "disk", "all"


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        whom: For whom.
        least, most: How long it lasts, in leases; for a killed process, until it is started again.
    """

    whom: str
    least: float
    most: float


KINDS: dict[str, Kind] = {
    KILL_TRAINER: Kind(TRAINER, 0.05, 0.8),
    KILL_CONTROLLER: Kind(CONTROLLER, 0.05, 0.8),
    PAUSE_SHORT: Kind(ANY, 0.1, 0.4),
    PAUSE_LONG: Kind(ANY, 2.0, 2.6),
    # At least this long; and until another one leads and has committed a round.
    STALE_CONTROLLER: Kind(CONTROLLER, 1.2, 1.5),
    KILL_BROKER: Kind(ALL, 0.05, 0.8),
    CUT_TRAINER: Kind(TRAINER, 0.3, 2.6),
    CUT_CONTROLLER: Kind(CONTROLLER, 2.0, 2.6),
    CUT_ALL: Kind(ALL, 0.3, 2.0),
    LATENCY: Kind(ANY, 1.5, 3.0),
    LOSS: Kind(ANY, 1.5, 3.0),
    FULL_DISK: Kind(DISK, 1.0, 2.0),
    MEMORY_LIMIT: Kind(TRAINER, 1.0, 2.0),
}
#: How often a second fault comes with the first.
TWO_AT_ONCE = 0.25
#: Kinds that take away what the others need to happen, or to be told apart.
ALONE = frozenset({KILL_BROKER, CUT_ALL})


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: A key of KINDS.
        whom: CONTROLLER, TRAINER, DISK or ALL.
        index: Which of the trainers, modulo their number.
        leases: How long, in leases.
    """

    kind: str
    whom: str
    index: int
    leases: float


@dataclass(frozen=True)
class Step:
    """Faults that come together.

    Attributes:
        rounds: After how many rounds since the fleet was whole again.
        share: Then after which share of a round's time.
        faults: One or two.
    """

    rounds: int
    share: float
    faults: tuple[Fault, ...]


def draw(seed: int, kinds: Sequence[str]) -> Iterator[Step]:
    """An endless schedule; every kind comes once before any comes again."""
    rng = random.Random(seed)
    bag: list[str] = []
    while True:
        kind = _next(rng, bag, kinds)
        faults = [_fault(rng, kind)]
        if kind not in ALONE and rng.random() < TWO_AT_ONCE:
            other = _next(rng, bag, kinds)
            if other in ALONE or _same_victim(kind, other):
                bag.append(other)
            else:
                faults.append(_fault(rng, other))
        yield Step(rng.randrange(2), rng.uniform(0.1, 0.9), tuple(faults))


def _next(rng: random.Random, bag: list[str], kinds: Sequence[str]) -> str:
    if not bag:
        bag.extend(sorted(kinds))
        rng.shuffle(bag)
    return bag.pop()


def _same_victim(first: str, second: str) -> bool:
    """Whether both might be for one peer, which cannot be killed and paused at a time."""
    return {KINDS[first].whom, KINDS[second].whom} != {CONTROLLER, TRAINER}


def _fault(rng: random.Random, kind: str) -> Fault:
    it = KINDS[kind]
    whom = it.whom if it.whom != ANY else rng.choice((CONTROLLER, TRAINER))
    return Fault(kind, whom, rng.randrange(1000), rng.uniform(it.least, it.most))
