"""SCAFFOLD's formulas against plain loops, and what they are for: peers with unlike data agree on the right optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator_core import RefusedUpdateError, weighted_mean
from aggregator_core.parameters import ParameterError
from aggregator_core.scaffold import correction_of, new_control, step_server

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# ---------------------------------------------------------------------- against plain loops

#: Numbers of float32 whose sums, products and quotients here are no subnormal ones.
VALUES = st.integers(-(2**24) + 1, 2**24 - 1).map(lambda it: it / 2**18)
LENGTHS = st.integers(1, 3000)
RATES = st.sampled_from([1.0, 0.5, 0.1, 0.03, 0.001])


@st.composite
def rows(draw: st.DrawFn, count: int) -> list[list[float]]:
    size = draw(st.integers(1, 9))
    return [draw(st.lists(VALUES, min_size=size, max_size=size)) for _ in range(count)]


def f32(values: Any) -> F32:
    array = np.array(values, np.float32)
    array.flags.writeable = False
    return array


def rounded(value: float) -> float:
    """To float32. An operation in float64 that is rounded once more is the operation in float32: 53 >= 2 * 24 + 2."""
    return float(np.float32(value))


@given(rows(3), LENGTHS, RATES)
def test_a_new_control_is_that_of_the_paper_to_the_bit(vectors: list[list[float]], steps: int, rate: float) -> None:
    own, server, change = vectors
    found = new_control(f32(own), f32(server), f32(change), steps, rate)
    assert (found.dtype, found.shape) == (np.float32, (len(own),))
    length = rounded(steps * rate)
    for index, value in enumerate(found.tolist()):
        exact = own[index] - server[index] - change[index] / (steps * rate)
        largest = max(abs(own[index]), abs(server[index]), abs(change[index] / (steps * rate)))
        assert value == pytest.approx(exact, abs=4e-7 * largest)
        difference = rounded(own[index] - server[index])
        assert value == rounded(difference - rounded(change[index] / length)), "the same on every board"


@given(rows(2), st.integers(1, 50), st.integers(0, 50))
def test_the_servers_control_is_that_of_the_paper_to_the_bit(
    vectors: list[list[float]], participants: int, absent: int
) -> None:
    server, mean = vectors
    found = step_server(f32(server), f32(mean), participants, participants + absent)
    assert (found.dtype, found.shape) == (np.float32, (len(server),))
    share = participants / (participants + absent)
    for index, value in enumerate(found.tolist()):
        largest = max(abs(server[index]), abs(mean[index]))
        assert value == pytest.approx(server[index] + share * mean[index], abs=4e-7 * largest)
        assert value == rounded(server[index] + rounded(mean[index] * rounded(share)))


@given(rows(2), LENGTHS, RATES)
def test_what_training_changes_by_the_correction_alone_is_no_gradient(
    vectors: list[list[float]], steps: int, rate: float
) -> None:
    """Where the gradient is zero, training moves by the correction, and the new control is zero."""
    own, server = (f32(it) for it in vectors)
    correction = correction_of(own, server)
    assert correction.tolist() == [rounded(c - c_i) for c_i, c in zip(*vectors, strict=True)]
    change = f32(-(steps * rate) * correction.astype(np.float64))
    left = np.abs(new_control(own, server, change, steps, rate))
    assert (left <= 4e-7 * np.abs(correction)).all()


def test_by_hand() -> None:
    own, server, change = f32([1.0, -2.0]), f32([0.5, 0.5]), f32([-3.0, 6.0])
    assert correction_of(own, server).tolist() == [-0.5, 2.5]
    # Four steps with rate 0.5 have gone 3 down: the corrected gradient was 1.5, the gradient 1.5 + 0.5.
    assert new_control(own, server, change, 4, 0.5).tolist() == [2.0, -5.5]
    assert step_server(server, f32([1.0, -3.5]), 2, 8).tolist() == [0.75, -0.375]


# ---------------------------------------------------------------------- federations of quadratics


@dataclass
class Federation:
    """Peers whose losses are (w - target)^T diag(curvature) (w - target) / 2, and federated averaging of them.

    Nothing is random but who takes part: what is between a result and the optimum is the algorithm's.
    """

    curvatures: F64
    targets: F64
    rate: float = 0.1
    momentum: float = 0.0
    steps: tuple[int, ...] = (50, 50, 50, 50)
    counts: tuple[int, ...] = (1, 1, 1, 1)
    scaffold: bool = True
    digits: int | None = None
    plain: bool = False
    server: F32 = field(init=False)
    controls: list[F32] = field(init=False)
    weights: F32 = field(init=False)

    def __post_init__(self) -> None:
        size = self.targets.shape[1]
        self.server, self.weights = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self.controls = [self.server] * len(self.targets)

    @property
    def optimum(self) -> F64:
        weighted = self.curvatures * np.array(self.counts)[:, None]
        result: F64 = (weighted * self.targets).sum(0) / weighted.sum(0)
        return result

    @property
    def distance(self) -> float:
        return float(np.abs(self.weights - self.optimum).max())

    def gradient(self, peer: int, weights: F32) -> F32:
        return (self.curvatures[peer] * (weights - self.targets[peer])).astype(np.float32)

    def train(self, peer: int, correction: F32) -> tuple[F32, float]:
        """What local training changes, and how many steps it counts for."""
        weights, velocity, gradient_of_one, effective = self.weights, np.zeros_like(self.weights), 0.0, 0.0
        for _ in range(self.steps[peer]):
            velocity = self.momentum * velocity - self.rate * (self.gradient(peer, weights) + correction)
            weights = (weights + velocity).astype(np.float32)
            gradient_of_one = self.momentum * gradient_of_one + 1
            effective += gradient_of_one
        return weights - self.weights, float(self.steps[peer]) if self.plain else effective

    def round(self, chosen: list[int]) -> None:
        changes, control_changes = [], []
        for peer in chosen:
            correction = (
                correction_of(self.controls[peer], self.server) if self.scaffold else np.zeros_like(self.server)
            )
            change, effective = self.train(peer, correction)
            changes.append(change)
            control = new_control(self.controls[peer], self.server, change, effective, self.rate)
            sent = control - self.controls[peer]
            if self.digits is not None:
                sent = np.round(sent, self.digits)
            control_changes.append(sent)
            self.controls[peer] = self.controls[peer] + sent
        counts = [self.counts[peer] for peer in chosen]
        self.weights = self.weights + weighted_mean(changes, counts)
        if self.scaffold:
            mean = weighted_mean(control_changes, counts)
            self.server = step_server(self.server, mean, sum(counts), sum(self.counts))


def federation(**settings: Any) -> Federation:
    rng = np.random.default_rng(5)
    curvatures = rng.uniform(0.1, 1.5, size=(4, 6))
    return Federation(curvatures, rng.normal(0, 2, size=(4, 6)), **settings)


def test_averaging_drifts_and_controls_do_not() -> None:
    """Fifty steps take each peer most of the way to its own target, and the mean of targets is not the optimum."""
    drifting, held = federation(scaffold=False), federation()
    for _ in range(80):
        drifting.round([0, 1, 2, 3])
        held.round([0, 1, 2, 3])
    assert drifting.distance > 0.2
    at = drifting.weights
    drifting.round([0, 1, 2, 3])
    assert np.abs(drifting.weights - at).max() < 1e-5, "it stays there"
    assert held.distance < 1e-5
    # Each control is its peer's gradient at the optimum, and the server's is their mean: nothing.
    for peer, control in enumerate(held.controls):
        assert np.abs(control - held.gradient(peer, held.weights)).max() < 1e-4
        assert np.abs(control).max() > 0.1
    assert np.abs(held.server).max() < 1e-5


def test_a_first_round_with_controls_of_zero_is_plain_averaging() -> None:
    plain, held = federation(scaffold=False), federation()
    plain.round([0, 1, 2, 3])
    held.round([0, 1, 2, 3])
    assert plain.weights.tobytes() == held.weights.tobytes()
    for peer, control in enumerate(held.controls):
        assert (np.sign(control) == np.sign(held.gradient(peer, np.zeros(6, np.float32)))).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"counts": (5, 1, 2, 12)},
        {"steps": (3, 50, 20, 8)},
        {"momentum": 0.8, "rate": 0.02},
        {"momentum": 0.8, "rate": 0.02, "steps": (3, 50, 20, 8), "counts": (5, 1, 2, 12)},
        {"digits": 1},
    ],
    ids=" ".join,
)
def test_the_optimum_is_reached_with(settings: dict[str, Any]) -> None:
    """Unlike numbers of examples and of steps, momentum, and controls that are sent rounded to a tenth."""
    it = federation(**settings)
    for _ in range(80):
        it.round([0, 1, 2, 3])
    # A control that is rounded is off by a twentieth at most, which the peers' mean does not cancel.
    assert it.distance < (0.05 if "digits" in settings else 1e-4)
    drifting = federation(**{**settings, "scaffold": False})
    for _ in range(80):
        drifting.round([0, 1, 2, 3])
    assert drifting.distance > 0.15


def test_steps_with_momentum_must_not_be_taken_for_plain_ones() -> None:
    """Controls would be several times too large, and each round's error larger than the last one's."""
    it = federation(momentum=0.8, rate=0.02, plain=True)
    distances = []
    for _ in range(20):
        it.round([0, 1, 2, 3])
        distances.append(it.distance)
    assert distances[-1] > 100 * distances[0]


def test_the_servers_control_stays_the_mean_of_all_with_half_of_them_in_a_round() -> None:
    """Weighted by examples; and whoever does not take part keeps its control."""
    it = federation(counts=(5, 1, 2, 12), steps=(8, 8, 8, 8), digits=3)
    rng = np.random.default_rng(1)
    for _ in range(150):
        chosen = sorted(rng.choice(4, size=2, replace=False).tolist())
        before = [control.tobytes() for control in it.controls]
        it.round(chosen)
        assert all(it.controls[peer].tobytes() == before[peer] for peer in range(4) if peer not in chosen)
        mean = np.average(np.array(it.controls, np.float64), axis=0, weights=it.counts)
        assert np.abs(it.server - mean).max() < 1e-4
    assert it.distance < 1e-3


# ---------------------------------------------------------------------- what is of no use


GOOD = f32([1.0, 2.0, 3.0])
BAD = {
    "shorter": (f32([1.0, 2.0]), r"shape is \[2\], the model's is \[3\]"),
    "two dimensions": (f32([[1.0, 2.0, 3.0]]), r"shape is \[1, 3\], the model's is \[3\]"),
    "of float64": (np.ones(3), "values are float64, not float32"),
    "infinite": (f32([1.0, math.inf, 3.0]), "1 of 3 values are not finite"),
    "no number": (f32([math.nan, 2.0, math.nan]), "2 of 3 values are not finite"),
}


@pytest.mark.parametrize("kind", BAD)
def test_vectors_of_no_use_are_refused_by_name(kind: str) -> None:
    vector, message = BAD[kind]
    with pytest.raises(RefusedUpdateError, match=rf"scaffold: server: {message}"):
        correction_of(GOOD, vector)
    with pytest.raises(RefusedUpdateError, match=rf"scaffold: server: {message}"):
        new_control(GOOD, vector, GOOD, 1, 0.1)
    with pytest.raises(RefusedUpdateError, match=rf"scaffold: change: {message}"):
        new_control(GOOD, GOOD, vector, 1, 0.1)
    with pytest.raises(RefusedUpdateError, match=rf"scaffold: mean_change: {message}"):
        step_server(GOOD, vector, 1, 2)
    for call in (
        lambda: correction_of(vector, GOOD),
        lambda: new_control(vector, GOOD, GOOD, 1, 0.1),
        lambda: step_server(vector, GOOD, 1, 2),
    ):
        with pytest.raises(
            RefusedUpdateError, match=r"scaffold: (own|server|change|mean_change): (shape|values|\d of)"
        ):
            call()


def test_results_that_leave_float32_are_refused() -> None:
    huge = f32([3e38, 0.0, 0.0])
    with pytest.raises(RefusedUpdateError, match="scaffold: correction leaves float32"):
        correction_of(huge, -huge)
    with pytest.raises(RefusedUpdateError, match="scaffold: control leaves float32; begin with controls of zero"):
        new_control(GOOD, GOOD, huge, 1, 0.1)
    with pytest.raises(RefusedUpdateError, match="scaffold: server control leaves float32"):
        step_server(huge, huge, 1, 1)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_steps_and_rates_of_no_use_are_refused(value: float) -> None:
    with pytest.raises(ParameterError, match=rf"scaffold: steps is {value!r}, not a number above 0"):
        new_control(GOOD, GOOD, GOOD, value, 0.1)
    with pytest.raises(ParameterError, match=rf"scaffold: learning_rate is {value!r}, not a number above 0"):
        new_control(GOOD, GOOD, GOOD, 3, value)


@pytest.mark.parametrize(("steps", "rate"), [(1, 1e-39), (1e30, 1e30)])
def test_a_length_outside_of_float32_is_refused(steps: float, rate: float) -> None:
    with pytest.raises(ParameterError, match=r"steps \* learning_rate is 1e.*, not within float32"):
        new_control(GOOD, GOOD, GOOD, steps, rate)


@pytest.mark.parametrize(("participants", "population"), [(0, 3), (-1, 3), (4, 3), (0, 0)])
def test_more_participants_than_peers_are_refused(participants: int, population: int) -> None:
    message = rf"participants is {participants}, not from 1 to population, {population}"
    with pytest.raises(ParameterError, match=message):
        step_server(GOOD, GOOD, participants, population)
