"""Which peers train in a round, and why the others do not."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from edge_peer.protocol.messages import Presence
from edge_peer.protocol.run_settings import RunSettings

NOT_PICKED = "not picked for this round"
NOT_WILLING = "not willing to train"
NO_EXAMPLES = "no training examples"


def is_choice(reason: str, note: str) -> bool:
    """Whether a peer with this note is not in the round by choice, its own or the controller's, so that all is well."""
    return reason in (NOT_PICKED, NOT_WILLING, NO_EXAMPLES) or (note != "" and reason == note)


def why_not(presence: Presence, model_digest: str) -> str:
    """Why this peer cannot train for a controller whose model has this digest; empty: it can."""
    if presence.model_digest != model_digest:
        return (
            f"its model {presence.model_id} has digest {presence.model_digest[:12]}, the controller's has "
            f"{model_digest[:12]}: deploy the same artifacts to both"
        )
    if not presence.train:
        return presence.note or NOT_WILLING
    if presence.examples < 1:
        return NO_EXAMPLES
    return ""


def select(
    able: Mapping[str, Presence],
    settings: RunSettings,
    needed: int,
    times_used: Mapping[str, int],
    rng: random.Random,
) -> tuple[str, ...]:
    """Pick the round's trainers among those that can.

    Args:
        able: Candidates by name.
        settings: `strategy` and `fraction`.
        needed: Updates that the round needs: the pick never goes below it while there are enough.
        times_used: How often each trained in this run, as far as the controller knows.
        rng: Breaks ties.

    Returns:
        Names, sorted.
    """
    wanted = len(able)
    if settings.strategy != "all":
        wanted = min(len(able), max(needed, math.ceil(settings.fraction * len(able))))
    names = sorted(able)
    rng.shuffle(names)
    if settings.strategy == "fastest":
        names.sort(key=lambda peer: -able[peer].standing)
    elif settings.strategy == "least_used":
        names.sort(key=lambda peer: times_used.get(peer, 0))
    return tuple(sorted(names[:wanted]))
