"""Clipping beside exact fractions, what is added to whom, and that it is as private as it is said to be."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator_core import RefusedUpdateError, StreamingMean, l2_norm
from aggregator_core.parameters import ParameterError
from aggregator_core.privacy import STATE_SHARE, Privacy, clip_to, clipped, noised
from aggregator_core.privacy_accountant import Spent, epsilon

LARGEST = float(np.finfo(np.float32).max)
FLOATS = st.floats(-LARGEST, LARGEST, width=32) | st.floats(-10, 10, width=32)
VECTORS = st.lists(FLOATS, max_size=12).map(lambda it: np.array(it, np.float32))
BOUNDS = st.floats(-9, 9).map(lambda it: 10.0**it)


def square(vector: np.ndarray) -> Fraction:
    """The squared norm, exactly."""
    return sum((Fraction(it) ** 2 for it in vector.tolist()), Fraction(0))


@given(VECTORS, BOUNDS)
def test_what_is_clipped_is_within_the_bound_exactly_and_as_long_as_it_may_be(vector: np.ndarray, bound: float) -> None:
    before = vector.tobytes()
    short = clip_to(vector, bound)
    limit = Fraction(bound) ** 2
    assert short.dtype == np.float32
    assert vector.tobytes() == before
    assert square(short) <= limit
    if square(vector) > limit:
        assert square(short) >= limit * (1 - Fraction(1, 2**19))
    # And in the same direction.
    factor = math.sqrt(square(short) / square(vector)) if square(vector) else 1.0
    np.testing.assert_allclose(short, vector.astype(np.float64) * factor, rtol=1e-6, atol=1e-44)


@given(VECTORS)
def test_a_bound_that_is_the_norm_but_for_a_rounding_holds_exactly(vector: np.ndarray) -> None:
    bound = min(max(l2_norm(vector), 1e-9), 1e10)
    assert square(clip_to(vector, bound)) <= Fraction(bound) ** 2


@given(VECTORS, BOUNDS)
def test_clipping_twice_is_clipping_once(vector: np.ndarray, bound: float) -> None:
    once = clip_to(vector, bound)
    assert clip_to(once, bound) is once


@given(VECTORS, st.floats(1 + 1e-6, 100))
def test_what_is_short_enough_stays_as_it_is(vector: np.ndarray, factor: float) -> None:
    bound = max(1e-9, l2_norm(vector) * factor)
    if bound < 1e9:
        before = vector.tobytes()
        assert clip_to(vector, bound) is vector
        assert vector.tobytes() == before


@settings(max_examples=25)
@given(st.integers(0, 2**32), BOUNDS)
def test_large_vectors_are_clipped_exactly_too(seed: int, bound: float) -> None:
    vector = np.random.default_rng(seed).normal(0, bound, 2000).astype(np.float32)
    short = clip_to(vector, bound)
    assert square(short) <= Fraction(bound) ** 2
    assert clip_to(short, bound) is short


@given(VECTORS.filter(len), st.data())
def test_weights_and_state_have_bounds_of_their_own(vector: np.ndarray, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, vector.size))
    privacy = Privacy("central", data.draw(BOUNDS), 1.0, state_clip=data.draw(st.none() | BOUNDS))
    short = clipped(vector, privacy, size)
    wanted = clip_to(vector[:size], privacy.clip), clip_to(vector[size:], privacy.state_bound)
    assert short.tobytes() == b"".join(it.tobytes() for it in wanted)
    assert clipped(short, privacy, size) is short
    assert privacy.state_clip is not None or privacy.state_bound == 10 * privacy.clip


def test_a_state_that_moves_far_takes_nothing_from_the_weights() -> None:
    update = np.array([0.6, 0.0, 0.0, 500.0], np.float32)
    short = clipped(update, Privacy("central", 1.0, 1.0), 3)
    assert short[:3].tobytes() == update[:3].tobytes()
    assert short[3] == pytest.approx(10.0, rel=1e-5)


def test_all_of_a_vector_is_clipped_where_no_state_is_named() -> None:
    assert l2_norm(clipped(np.full(4, 500, np.float32), Privacy("local", 1.0, 1.0))) <= 1.0


@given(
    BOUNDS,
    st.floats(0.001, 1000),
    st.none() | BOUNDS,
    st.integers(1, 10_000),
    st.booleans(),
)
def test_weights_and_state_together_cost_what_the_noise_multiplier_says(
    clip: float, noise_multiplier: float, state_clip: float | None, peers: int, state: bool
) -> None:
    """The sensitivities over the deviations, added as divergences are: never more than 1 / z**2, and hardly less."""
    privacy = Privacy("central", clip, noise_multiplier, state_clip=state_clip)
    deviations = privacy.deviations(peers, state=state)
    sensitivities = 2 * clip / peers, 2 * privacy.state_bound / peers if state else 0.0
    cost = sum((s / d) ** 2 for s, d in zip(sensitivities, deviations, strict=True))
    assert 0.997 < cost * noise_multiplier**2 < 0.9985


@pytest.mark.parametrize("peers", [1, 3, 20])
def test_neighbours_are_as_hard_to_tell_apart_as_the_multiplier_says(peers: int) -> None:
    """Replace one peer's update by its opposite and look, as the best test does, along the line between the means.

    With neighbours at a distance of d deviations of the noise on that line, the exact cost of a release is d**2 / 2.
    """
    privacy = Privacy("central", 0.5, 2.0)
    others = [np.array([0.1, 0.2, 0.3], np.float32) * index for index in range(peers - 1)]
    n = 40_000
    results = []
    for sign, seed in ((1, 1), (-1, 2)):
        mean = StreamingMean(3)
        for update in (*others, np.array([sign * 7.0, 0.0, sign * 1000.0], np.float32)):
            mean.add(clipped(update, privacy, 2), 1)
        # Each value n times: as many releases of it.
        result = noised(mean.result().repeat(n), privacy, 2 * n, random.Random(seed), peers=peers)
        results.append(result.reshape(3, n).astype(np.float64))
    deviations = (results[0].std(axis=1) + results[1].std(axis=1)) / 2
    distances = (results[0].mean(axis=1) - results[1].mean(axis=1)) / deviations
    assert math.sqrt(float((distances**2).sum())) == pytest.approx(1 / 2.0, rel=0.05)
    # Shares of the budget, and no difference where there was none.
    shares = distances**2 * 2.0**2
    assert shares.tolist() == pytest.approx([1 - STATE_SHARE, 0, STATE_SHARE], abs=0.06)


def test_no_event_is_likelier_than_epsilon_and_delta_allow() -> None:
    """Two local updates that are as far apart as they can be, each noised 200,000 times, by every threshold."""
    privacy = Privacy("local", 1.0, 1.0, delta=1e-2)
    bound, n = epsilon(1.0, 1, 1e-2), 200_000
    one, other = (
        noised(clipped(np.array([value], np.float32), privacy).repeat(n), privacy, None, random.Random(seed))
        for value, seed in ((30.0, 1), (-30.0, 2))
    )
    thresholds = np.linspace(-8, 8, 161)
    shares = [np.array([(it > t).mean() for t in thresholds]) for it in (one, other)]
    excess = shares[0] - math.exp(bound) * shares[1]
    assert excess.max() < 1e-2
    # It is a bound that means something: with half of the noise it would not hold.
    assert (shares[0] - math.exp(bound / 3) * shares[1]).max() > 1e-2


def test_noise_is_drawn_anew_for_weights_and_state_and_leaves_the_mean_alone() -> None:
    privacy = Privacy("central", 1.0, 1.0)
    mean = np.zeros(8, np.float32)
    mean.flags.writeable = False
    result = noised(mean, privacy, 4, random.Random(1), peers=5)
    assert result.shape == (8,)
    assert result.dtype == np.float32
    deviations = privacy.deviations(5, state=True)
    assert len(set((result / np.repeat(deviations, 4)).tolist())) == 8
    assert noised(mean, privacy, 8, random.Random(1), peers=5).tolist() != result.tolist()


def test_costs_of_modes_are_told_apart() -> None:
    own = Privacy("local", 1.0, 2.0)
    assert own.covers(own)
    assert Privacy("local", 50.0, 2.0, delta=0.1, state_clip=1.0).covers(own)
    assert not Privacy("local", 1.0, 1.9).covers(own)
    assert not Privacy("central", 1.0, 9.0).covers(own)
    assert own.covers(Privacy("central", 1.0, 2.0))
    assert not own.covers(Privacy("central", 1.0, 2.1))
    assert Privacy("central", 1.0, 2.0).covers(Privacy("central", 1.0, 2.0))


def test_rounds_of_both_modes_are_counted_alike() -> None:
    assert Spent().after(1.5, 4).after(1.5).epsilon(1e-5) == pytest.approx(epsilon(1.5, 5, 1e-5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "none"}, "rule privacy: mode is 'none', not one of central, local"),
        ({"clip": 0}, "rule privacy: clip is 0, not a number from 1e-09 to 1e"),
        ({"clip": math.inf}, "clip is inf"),
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0.0, not a number from 0.001 to 1000"),
        ({"noise_multiplier": True}, "noise_multiplier is True"),
        ({"delta": 1}, "delta is 1, not a number from 1e-100 and below 1"),
        ({"state_clip": -1.0}, "state_clip is -1.0, not a number .* or none"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Privacy(**{"mode": "central", "clip": 1.0, "noise_multiplier": 1.0, **wrong})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_update_is_refused(bad: float) -> None:
    privacy = Privacy("central", 1.0, 1.0)
    wrong = np.array([0.0, bad, 0.0], np.float32)
    good = np.zeros(3, np.float32)
    for call in (
        lambda: clip_to(wrong, 1.0),
        lambda: clipped(wrong, privacy, 1),
        lambda: clipped(wrong, privacy, 2),
        lambda: noised(wrong, privacy, 2, random.Random(1)),
    ):
        with pytest.raises(RefusedUpdateError, match=r"1 of [123] values are not finite"):
            call()
    with pytest.raises(RefusedUpdateError, match="values are float64, not float32"):
        clip_to(good.astype(np.float64), 1.0)
    with pytest.raises(RefusedUpdateError, match="updates have 3 values, of which 4 are trained"):
        clipped(good, privacy, 4)
    with pytest.raises(RefusedUpdateError, match="updates have 3 values, of which 0 are trained"):
        noised(good, privacy, 0, random.Random(1))
    with pytest.raises(ParameterError, match="peers is 0, not an integer from 1 to 10000"):
        noised(good, privacy, 3, random.Random(1), peers=0)
    with pytest.raises(ParameterError, match="bound is 0, not a number from 1e-09 to 1e"):
        clip_to(good, 0)
