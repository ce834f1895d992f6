"""Gaussian noise whose last bits say nothing of what it was added to.

A sum in floating point can be told from the sum with another value by its last bits, because not every float is a
possible noise: Mironov, "On Significance of the Least Significant Bits for Differential Privacy", CCS 2012; for
Gaussian noise Jin et al., "Are We There Yet? Timing and Floating-Point Attacks on Differential Privacy Systems", IEEE
S&P 2022 (arXiv:2112.05307). So values and noise become multiples of one power of two, at most 2**-32 of the standard
deviation, before they are added: whatever the value was, the same multiples come out. Rounding to float32 comes last
and sees nothing but the sum. A finer grid would be worse, since float64 variates would fill its cells unevenly.

What is not done: the time that it takes is not constant, and the variates are those of float64 functions, not exact
ones. They end at 9.49 standard deviations, which a normal variate exceeds with a probability of 2e-21.

The random source gives bytes, and must be a cryptographic one wherever somebody is to be protected: that of the
operating system, `random.SystemRandom()`, or a keyed function whose key stays secret. numpy's generators are none: that
of PCG64, its default, has been found from 512 bytes of output (Bouillaguet, Martinez and Sauvage, ToSC 2020), and who
knows a seed takes the noise off again. A seeded `random.Random` is for simulations and tests. Logarithm and cosine may
differ between processors in a last bit, so two boards need not make the same noise of the same bytes.
"""

from __future__ import annotations

import math
import random

import numpy as np

from aggregator_core.parameters import Parameter
from aggregator_core.sums import BLOCK
from aggregator_core.updates import F32, F64

#: The grid is this many powers of two finer than the standard deviation.
GRID_BITS = 32
DEVIATION = Parameter("standard_deviation", float, 1e-30, 1e30, "of the noise of each value")


def add_gaussian(vector: F32, standard_deviation: float, rng: random.Random) -> F32:
    """A vector with independent Gaussian noise on each value.

    Args:
        vector: Shape (p,), float32, finite; not modified.
        standard_deviation: Of the noise, in the vector's unit.
        rng: Draws eight bytes a value; a cryptographic source where it is to protect.

    Returns:
        Shape (p,), float32, finite, in memory of its own.

    Raises:
        ParameterError: The deviation is out of its range. Within it no sum leaves float32.
    """
    DEVIATION.check("privacy", standard_deviation)
    # The deviation is 2**GRID_BITS to 2**(GRID_BITS + 1) steps.
    exponent = math.frexp(standard_deviation)[1] - 1 - GRID_BITS
    deviation_steps = math.ldexp(standard_deviation, -exponent)
    result = np.empty(vector.size, np.float32)
    with np.errstate(under="ignore"):
        for start in range(0, vector.size, BLOCK):
            steps = vector[start : start + BLOCK].astype(np.float64)
            np.ldexp(steps, -exponent, out=steps)
            np.rint(steps, out=steps)
            steps += np.rint(normal(steps.size, rng) * deviation_steps)
            result[start : start + BLOCK] = np.ldexp(steps, exponent, out=steps)
    return result


def normal(size: int, rng: random.Random) -> F64:
    """Independent normal variates, shape (size,), by Box and Muller (1958) from two 64-bit integers a pair."""
    pairs = (size + 1) // 2
    words = np.frombuffer(rng.randbytes(16 * pairs), "<u8").astype(np.float64)
    # All 64 bits, not a float's 53: the smallest ones are the tail. The half keeps zero from the logarithm.
    radius = np.sqrt(-2 * np.log((words[:pairs] + 0.5) * 2.0**-64))
    angle = words[pairs:] * (2 * math.pi * 2.0**-64)
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:size]
