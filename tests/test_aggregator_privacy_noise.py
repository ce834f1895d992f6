"""Gaussian noise: its distribution, its grid beside exact fractions, and its ends."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator_core.parameters import ParameterError
from aggregator_core.privacy_noise import GRID_BITS, add_gaussian, normal
from aggregator_core.sums import BLOCK

VALUES = st.lists(st.floats(-1e6, 1e6, width=32), max_size=9).map(lambda it: np.array(it, np.float32))
DEVIATIONS = st.floats(-20, 20).map(lambda it: 10.0**it)


class Always(random.Random):
    """A source that gives one byte for ever."""

    def __init__(self, byte: int) -> None:
        super().__init__()
        self.byte = byte

    def randbytes(self, n: int) -> bytes:
        return bytes([self.byte]) * n


def by_hand(values: list[float], deviation: float, rng: random.Random) -> list[Fraction]:
    """The sums on the grid, exactly but for the variates."""
    grid = Fraction(2) ** (math.floor(math.log2(deviation)) - GRID_BITS)
    pairs = (len(values) + 1) // 2
    words = [int.from_bytes(rng.randbytes(8), "little") for _ in range(2 * pairs)]
    radii = [math.sqrt(-2 * math.log((word + 0.5) / 2**64)) for word in words[:pairs]]
    angles = [word / 2**64 * 2 * math.pi for word in words[pairs:]]
    variates = [r * math.cos(a) for r, a in zip(radii, angles, strict=True)]
    variates += [r * math.sin(a) for r, a in zip(radii, angles, strict=True)]
    return [
        grid * (round(Fraction(value) / grid) + round(Fraction(variate * deviation) / grid))
        for value, variate in zip(values, variates, strict=False)
    ]


@given(VALUES, DEVIATIONS, st.integers(0, 2**32))
def test_sums_are_those_by_hand_and_on_the_grid(values: np.ndarray, deviation: float, seed: int) -> None:
    before = values.tobytes()
    result = add_gaussian(values, deviation, random.Random(seed))
    assert result.dtype == np.float32
    assert result.shape == values.shape
    assert values.tobytes() == before
    grid = Fraction(2) ** (math.floor(math.log2(deviation)) - GRID_BITS)
    for got, wanted in zip(result.tolist(), by_hand(values.tolist(), deviation, random.Random(seed)), strict=True):
        # However near to zero, where floats are denser than the noise.
        assert (Fraction(got) / grid).denominator == 1
        # Variates are off by less than 2**-45, the sum by its rounding to float32.
        assert abs(got - wanted) <= abs(wanted) * Fraction(1, 2**24) + grid * 2


def test_whatever_was_added_to_the_same_multiples_come_out() -> None:
    """Small sums, which float32 could tell apart far below the grid, of values on it and beside it."""
    grid = 2.0 ** -(GRID_BITS + 1)
    for value in (0.0, 1e-5, 1 / 3, 0.7, -0.9):
        near_zero = add_gaussian(np.full(200_000, value, np.float32), 0.75, random.Random(2))
        near_zero = near_zero[np.abs(near_zero) < 2.0**-10]
        assert near_zero.size > 10
        # By chance half of them are odd ones.
        odd = np.count_nonzero(near_zero.astype(np.float64) / grid % 2)
        assert set((near_zero.astype(np.float64) / grid % 1).tolist()) == {0.0}
        assert 0.2 < odd / near_zero.size < 0.8


def test_variates_are_normal_and_independent() -> None:
    """By Kolmogorov and Smirnov, by moments and by correlations, at three standard errors or more."""
    n = 400_000
    variates = normal(n, random.Random(1))
    distribution = NormalDist()
    cdf = np.array([distribution.cdf(it) for it in np.sort(variates).tolist()])
    assert np.abs(cdf - (np.arange(n) + 0.5) / n).max() < 1.63 / math.sqrt(n)
    for power, moment, error in ((1, 0, 1), (2, 1, math.sqrt(2)), (3, 0, math.sqrt(15)), (4, 3, math.sqrt(96))):
        assert abs((variates**power).mean() - moment) < 3 * error / math.sqrt(n)
    # The two of a pair are n / 2 apart.
    for distance in (1, 2, n // 2):
        for power in (1, 2):
            a, b = variates[:-distance] ** power, variates[distance:] ** power
            assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(a.size)
    beyond = np.count_nonzero(np.abs(variates) > 4)
    assert 5 < beyond < 50  # 25.3 are to be expected


@pytest.mark.parametrize("deviation", [1e-12, 0.01, 0.75, 3e9])
def test_noise_has_the_deviation_that_is_asked_for(deviation: float) -> None:
    """From block to block, whatever is below it."""
    n = 2 * BLOCK + 1
    value = np.float32(5 * deviation)
    noise = add_gaussian(np.full(n, value), deviation, random.Random(3)).astype(np.float64) - float(value)
    for part in (noise, noise[:BLOCK], noise[BLOCK : 2 * BLOCK]):
        assert abs(part.mean()) < 4 * deviation / math.sqrt(part.size)
        assert part.std() == pytest.approx(deviation, rel=4 / math.sqrt(2 * part.size))
    assert not np.array_equal(noise[:BLOCK], noise[BLOCK : 2 * BLOCK])


@given(VALUES, st.integers(0, 2**32))
def test_a_seed_gives_the_same_noise_again_and_a_source_goes_on(values: np.ndarray, seed: int) -> None:
    rng = random.Random(seed)
    first = add_gaussian(values, 1.0, rng)
    assert first.tobytes() == add_gaussian(values, 1.0, random.Random(seed)).tobytes()
    assert values.size == 0 or first.tobytes() != add_gaussian(values, 1.0, rng).tobytes()


def test_the_operating_systems_source_is_one() -> None:
    value = np.zeros(1000, np.float32)
    one, other = (add_gaussian(value, 1.0, random.SystemRandom()) for _ in range(2))
    assert not np.array_equal(one, other)
    assert 0.8 < one.std() < 1.2


@pytest.mark.parametrize("byte", [0, 255])
def test_the_ends_of_the_draws_are_finite(byte: int) -> None:
    variates = normal(2, Always(byte))
    # A radius of 9.49, the largest that there is, or of nothing.
    assert math.hypot(*variates) == pytest.approx(math.sqrt(2 * 65 * math.log(2)) if byte == 0 else 0.0)


def test_the_largest_sum_stays_in_float32() -> None:
    largest = np.full(100_000, np.finfo(np.float32).max)
    for byte in (0, 255):
        assert np.isfinite(add_gaussian(largest, 1e30, Always(byte))).all()
    assert np.isfinite(add_gaussian(-largest, 1e30, random.Random(1))).all()


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf, 1e31, True])
def test_a_deviation_that_is_none_is_refused(deviation: float) -> None:
    with pytest.raises(ParameterError, match="rule privacy: standard_deviation is"):
        add_gaussian(np.zeros(3, np.float32), deviation, random.Random(1))
