"""The columns and rows of the table: attacks with their strengths, rules with their parameters.

Strengths are such that the mean cannot bear the attack, where there is such a strength, or what the literature gives.
Parameters of rules come from the number of bad peers to bear and from a federation without any, never from an attack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aggregator_core.layout import Layout
from aggregator_core.rule import RobustRule, Rule
from aggregator_core.rules import RULES, make_rule
from bench.attacks.updates import gaussian, inner_product, little_is_enough, scaled, sign_flip
from edge_peer.trainers.interface import F32

#: Of the bad peers' own updates, shape (f, p), of the honest ones, shape (n - f, p), and of a random source: f updates.
Craft = Callable[[F32, F32, np.random.Generator], F32]


@dataclass(frozen=True)
class Attack:
    """A column.

    Attributes:
        title: Above it.
        craft: What bad peers send.
        trains: Whether they train for it.
        flips: Whether they train on flipped labels.
    """

    title: str
    craft: Craft
    trains: bool = False
    flips: bool = False


#: Where all peers are honest.
NO_ATTACK = "no attack"
ATTACKS = (
    Attack("sign flip", lambda own, _honest, _rng: sign_flip(own, 10.0), trains=True),
    # So many times that the mean becomes the bad peers' model.
    Attack("scaled", lambda own, honest, _rng: scaled(own, len(own) + len(honest)), trains=True, flips=True),
    Attack("Gaussian", lambda own, _honest, rng: gaussian(own, 200.0, rng)),
    Attack("label flip", lambda own, _honest, _rng: own, trains=True, flips=True),
    Attack("ALIE", lambda own, honest, _rng: little_is_enough(honest, len(own))),
    Attack("ALIE 1.5", lambda own, honest, _rng: little_is_enough(honest, len(own), 1.5)),
    Attack("IPM 0.5", lambda own, honest, _rng: inner_product(honest, len(own), 0.5)),
    Attack("IPM 10", lambda own, honest, _rng: inner_product(honest, len(own), 10.0)),
)

#: The mean, and every rule that bears bad updates. The other means read what peers report, which bad ones invent.
NAMES = ("fedavg", *(name for name, kind in RULES.items() if issubclass(kind, RobustRule)))


def rule_of(name: str, f: int, layout: Layout, norm_max: float) -> Rule:
    """A rule that is told to bear f bad updates, with defaults but for a fixed bound.

    Args:
        name: One of NAMES.
        f: Bad updates to bear.
        layout: Of the model.
        norm_max: The fixed bound: what honest updates have without an attack.
    """
    parameters: dict[str, float | None] = {} if name == "fedavg" else {"byzantine": f}
    if name == "norm_clipping":
        parameters["norm_max"] = norm_max
    return make_rule(name, trained_size=layout.trained_size, **parameters)
