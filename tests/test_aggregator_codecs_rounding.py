"""Rounding: equal to exact fractions, and unbiased over all of its draws."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator_core.codecs import PayloadError
from aggregator_core.codecs.rounding import DRAWS, PEAK_MIN, check_peaks, dequantize, flushed, quantize

LEVELS = st.sampled_from([7, 127])
PEAKS = st.floats(float(PEAK_MIN), float(np.finfo(np.float32).max), width=32)


@st.composite
def channels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Values, the peak of each, and levels; some values at or beside a level."""
    levels = draw(LEVELS)
    count = draw(st.integers(1, 20))
    values, peaks = [], []
    for _ in range(count):
        peak = np.float32(draw(PEAKS))
        near = np.float32(float(peak) * draw(st.integers(-levels, levels)) / levels)
        toward = np.float32(draw(st.sampled_from([-peak, peak, near])))
        value = np.nextafter(near, toward) if draw(st.booleans()) else np.float32(draw(st.floats(-1, 1)) * float(peak))
        values.append(np.clip(value, -peak, peak))
        peaks.append(peak)
    return np.array(values, np.float32), np.array(peaks, np.float32), levels


@given(channels(), st.integers(0, 2**32))
def test_stochastic_rounding_equals_exact_fractions(it, seed: int) -> None:
    values, peaks, levels = it
    draws = np.frombuffer(random.Random(seed).randbytes(2 * values.size), "<u2").tolist()
    expected = [
        math.floor(Fraction(value) * levels / Fraction(peak) + (Fraction(draw) + Fraction(1, 2)) / DRAWS)
        for value, peak, draw in zip(values.tolist(), peaks.tolist(), draws, strict=True)
    ]
    assert quantize(values, peaks, levels, random.Random(seed)).tolist() == expected


@given(channels())
def test_rounding_to_the_nearest_is_within_half_a_step(it) -> None:
    values, peaks, levels = it
    found = quantize(values, peaks, levels, None).tolist()
    for value, peak, integer in zip(values.tolist(), peaks.tolist(), found, strict=True):
        # Of a value this close to the middle, float64 does not know the side.
        assert abs(Fraction(value) * levels / Fraction(peak) - integer) <= Fraction(1, 2) + Fraction(1, 2**45)


@given(channels())
def test_rounding_to_the_nearest_has_no_direction(it) -> None:
    values, peaks, levels = it
    np.testing.assert_array_equal(quantize(-values, peaks, levels, None), -quantize(values, peaks, levels, None))


@given(channels())
def test_values_of_integers_equal_exact_fractions(it) -> None:
    values, peaks, levels = it
    integers = quantize(values, peaks, levels, None)
    found = dequantize(integers, peaks, levels).tolist()
    for integer, peak, value in zip(integers.tolist(), peaks.tolist(), found, strict=True):
        exact = Fraction(integer) * Fraction(peak) / levels
        assert abs(Fraction(value) - exact) <= abs(exact) * Fraction(2**24 + 1, 2**48)
        assert abs(value) <= peak


@given(channels(), st.integers(0, 2**32))
def test_a_value_on_its_level_stays_there_whatever_is_drawn(it, seed: int) -> None:
    values, peaks, levels = it
    integers = quantize(values, peaks, levels, random.Random(seed))
    again = quantize(dequantize(integers, peaks, levels), peaks, levels, random.Random(seed + 1))
    np.testing.assert_array_equal(again, integers)


class EveryDraw(random.Random):
    """All draws of two bytes, each once."""

    def randbytes(self, n: int) -> bytes:
        assert n == 2 * DRAWS
        return np.arange(DRAWS, dtype="<u2").tobytes()


@pytest.mark.parametrize("levels", [7, 127])
@pytest.mark.parametrize("peak", [1.0, 0.3, float(PEAK_MIN), 3e38])
def test_every_level_survives_every_draw(levels: int, peak: float) -> None:
    for level in range(-levels, levels + 1):
        value = dequantize(np.array([level], np.int8), np.array([peak], np.float32), levels)[0]
        values, peaks = np.full(DRAWS, value), np.full(DRAWS, peak, np.float32)
        assert set(quantize(values, peaks, levels, EveryDraw()).tolist()) == {level}


@given(st.floats(-1, 1, width=32), PEAKS, LEVELS)
def test_the_mean_over_all_draws_is_the_value(share: float, peak: float, levels: int) -> None:
    value = np.float32(np.clip(np.float32(share * peak), -np.float32(peak), np.float32(peak)))
    values, peaks = np.full(DRAWS, value), np.full(DRAWS, peak, np.float32)
    total = int(quantize(values, peaks, levels, EveryDraw()).sum(dtype=np.int64))
    exact = Fraction(float(value)) * levels / Fraction(float(np.float32(peak)))
    assert abs(Fraction(total, DRAWS) - exact) <= Fraction(1, 2 * DRAWS)


@given(st.floats(-float(PEAK_MIN), float(PEAK_MIN), width=32, exclude_min=True, exclude_max=True))
def test_what_is_below_the_smallest_peak_is_zero_in_every_draw(value: float) -> None:
    peaks = flushed(np.full(DRAWS, abs(value), np.float32))
    assert not peaks.any()
    values = np.full(DRAWS, value, np.float32)
    assert not quantize(values, peaks, 127, EveryDraw()).any()
    assert not quantize(values, peaks, 127, None).any()


@pytest.mark.parametrize("levels", [7, 127])
def test_integers_beyond_the_levels_are_refused(levels: int) -> None:
    peaks = np.ones(1, np.float32)
    for integer in (-levels, levels):
        assert dequantize(np.array([integer], np.int8), peaks, levels)[0] == integer // levels
    for integer in {-levels - 1, min(levels + 1, 127), -128} - {levels}:
        with pytest.raises(PayloadError, match=f"beyond -{levels} to {levels}"):
            dequantize(np.array([integer], np.int8), peaks, levels)


def test_peaks_that_nobody_sends_are_refused() -> None:
    check_peaks(np.array([0.0, PEAK_MIN, 1.0, 3e38], np.float32))
    for bad in (-0.0, -1.0, float(PEAK_MIN) / 2, 1e-45):
        with pytest.raises(PayloadError, match=r"scale 1 is .*, not zero and not a number from 2\*\*-100"):
            check_peaks(np.array([1.0, bad], np.float32))
