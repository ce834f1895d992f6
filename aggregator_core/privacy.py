"""Differential privacy of a peer's data: updates of bounded norm, and Gaussian noise in proportion to the bound.

    central     update = clipped(update, privacy, trained_size)            of every peer, by the controller
                mean of n, all with the weight 1, whatever their examples
                mean = noised(mean, privacy, trained_size, rng, peers=n)
    local       update = noised(clipped(update, ...), privacy, trained_size, rng)    by the peer, before any codec
    both        model = privacy_state.possible(model, layout)              after the step of the round

Sources: McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018 (arXiv:1710.06963), for
clipping whole updates, so that all data of a peer are protected and not single examples; Mironov 2017 for the noise
(`privacy_accountant`).

Neighbours. The same peers send the same number of updates, which all can see, and everything on one peer may be other:
its update is replaced by any other. Two updates of at most C in L2 norm are at most 2C apart, so the sensitivity is 2C
for a peer's update and 2C / n for the mean of n. The noise multiplier is the standard deviation over that. Texts that
compare a peer's update with none, or with zero, have the sensitivity C: the same noise is twice the multiplier there.

State. Moving statistics and ranges leave the board, too, and are as much of the data as the weights. Their size has
nothing to do with that of a step of the weights, so one bound for both would leave nothing of the weights: they have a
bound of their own. Together they are one release with the noise multiplier z when the noise of the trained part has z /
sqrt(1 - s) times its sensitivity and that of the state z / sqrt(s), since divergences add up: s is STATE_SHARE.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.checks import RefusedUpdateError, check_update, l2_norm
from aggregator_core.parameters import Parameter, ParameterError, check_all
from aggregator_core.privacy_accountant import DELTA, NAME, NOISE_MULTIPLIER
from aggregator_core.privacy_noise import add_gaussian
from aggregator_core.updates import F32

#: Who adds the noise; that nobody does is not a mode.
MODES = ("central", "local")
#: Share of the budget that goes to the state of a model that has one: the noise of its weights is 5 % more.
STATE_SHARE = 0.1
#: The state's bound over that of the weights, if it is not given.
STATE_CLIP = 10.0
#: More noise than in exact arithmetic, for what rounding adds to the sensitivity: n * 2**-24 of it by a mean of n as
#: float32, 2e-5 by sums of GROUP updates in float32, and noise_multiplier * sqrt(p) * 2**-32 by the grid of the noise,
#: together less than this for 10,000 peers and noise_multiplier * sqrt(p) up to a million.
ROUNDING = 1e-3
#: Shortened to a little less, so that rounding to float32 does not lead beyond the bound.
MARGIN = 2.0**-22
PEERS = Parameter("peers", int, 1, 10_000, "updates in a mean")
CLIP = Parameter("clip", float, 1e-9, 1e9, "largest L2 norm of what an update changes of the trained weights")
BOUND = Parameter("bound", float, CLIP.low, STATE_CLIP * CLIP.high, "largest L2 norm")


@dataclass(frozen=True, slots=True)
class Privacy:
    """What protects the peers of a run.

    Attributes:
        mode: Who adds the noise: `central`, the controller to the mean, or `local`, each peer to its update.
        clip: Largest L2 norm of what an update changes of the trained weights.
        noise_multiplier: Standard deviation of the noise over the sensitivity, which is twice the clip.
        delta: Probability with which epsilon may not hold.
        state_clip: Largest L2 norm of what an update changes of the model's state; None: STATE_CLIP times the clip.
    """

    name: ClassVar[str] = NAME
    parameters: ClassVar[tuple[Parameter, ...]] = (
        CLIP,
        NOISE_MULTIPLIER,
        DELTA,
        Parameter(
            "state_clip", float, BOUND.low, BOUND.high, "the same of its state; none: ten times the clip", optional=True
        ),
    )

    mode: str
    clip: float
    noise_multiplier: float
    delta: float = 1e-5
    state_clip: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ParameterError(f"rule {NAME}: mode is {str(self.mode)[:80]!r}, not one of {', '.join(MODES)}")
        check_all(self.name, self.parameters, self)

    @property
    def state_bound(self) -> float:
        """Largest L2 norm of what an update changes of the state."""
        return STATE_CLIP * self.clip if self.state_clip is None else self.state_clip

    def covers(self, promised: Privacy) -> bool:
        """Whether a peer that was promised something else is protected at least as much.

        A run's settings come from its controller: a peer that does not trust it compares them with its own. The clip
        says nothing of protection, since noise grows with it; delta only says how it is told.
        """
        return self.noise_multiplier >= promised.noise_multiplier and (
            self.mode == "local" or promised.mode == "central"
        )

    def deviations(self, peers: int = 1, *, state: bool = False) -> tuple[float, float]:
        """Standard deviations of the noise of trained weights and of the state.

        Args:
            peers: Updates in the mean; 1: an update.
            state: Whether the model has a state.

        Raises:
            ParameterError: A number of peers that is none.
        """
        PEERS.check(NAME, peers)
        share = STATE_SHARE if state else 0.0
        unit = self.noise_multiplier * (1 + ROUNDING) * 2 / peers
        return unit * self.clip / math.sqrt(1 - share), unit * self.state_bound / math.sqrt(STATE_SHARE)


def clip_to(update: F32, bound: float) -> F32:
    """A vector of at most a norm, in the same direction.

    Args:
        update: Shape (p,), float32, finite; not modified.
        bound: Largest L2 norm. In exact arithmetic the result is never longer.

    Returns:
        Shape (p,), float32: the vector itself, if it is shorter by a 2**-22th, or a shorter one.

    Raises:
        RefusedUpdateError: Other dtype or shape, or a value is not finite.
        ParameterError: The bound is out of its range.
    """
    BOUND.check(NAME, bound)
    check_update(update, update.size)
    limit = bound * (1 - MARGIN)
    norm = l2_norm(update)
    if norm <= limit:
        return update
    with np.errstate(under="ignore"):
        return np.multiply(update, limit / norm * (1 - MARGIN), dtype=np.float64).astype(np.float32)


def clipped(update: F32, privacy: Privacy, trained_size: int | None = None) -> F32:
    """An update whose trained part and whose state are within their bounds.

    Args:
        update: Shape (p,), float32, finite: all that leaves the board. Not modified.
        privacy: The bounds.
        trained_size: Values at the beginning that gradients train, `Layout.trained_size`; None: all.

    Returns:
        Shape (p,), float32; the update itself, if it is within the bounds.

    Raises:
        RefusedUpdateError: Other dtype or shape, a value that is not finite, or fewer values than `trained_size`.
    """
    size = _size(update, trained_size)
    parts = update[:size], update[size:]
    short = clip_to(parts[0], privacy.clip), clip_to(parts[1], privacy.state_bound)
    if short[0] is parts[0] and short[1] is parts[1]:
        return update
    return np.concatenate(short)


def noised(vector: F32, privacy: Privacy, trained_size: int | None, rng: random.Random, *, peers: int = 1) -> F32:
    """A clipped update, or the mean of clipped updates, with the noise that protects every one of them.

    Args:
        vector: Shape (p,), float32, finite: of `clipped`, or the mean of such with equal weights. Not modified.
        privacy: How much noise.
        trained_size: As for `clipped`.
        rng: As for `add_gaussian`, a cryptographic source. A vector has its noise once: with another draw for the same
            vector, whoever sees both has seen two releases.
        peers: Updates in the mean; 1 for a peer's own.

    Returns:
        Shape (p,), float32, finite, in memory of its own.

    Raises:
        RefusedUpdateError: Other dtype or shape, a value that is not finite, or fewer values than `trained_size`.
        ParameterError: The number of peers is none.
    """
    check_update(vector, vector.size)
    size = _size(vector, trained_size)
    deviations = privacy.deviations(peers, state=size < vector.size)
    parts = zip((vector[:size], vector[size:]), deviations, strict=True)
    return np.concatenate([add_gaussian(part, deviation, rng) for part, deviation in parts])


def _size(vector: F32, trained_size: int | None) -> int:
    if trained_size is None:
        return int(vector.size)
    if not 1 <= trained_size <= vector.size:
        raise RefusedUpdateError(f"updates have {vector.size} values, of which {trained_size} are trained")
    return trained_size
