"""Values as multiples of a fraction of their channel's peak, rounded stochastically or to the nearest.

With L levels, a value x of a channel whose largest magnitude is `peak` becomes an integer q from -L to L, and q * peak
/ L again. Source: Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS
2017, section 3.1 (arXiv:1610.02132), with the largest magnitude for the norm.

The peak itself is sent, not the step: no integer within the levels can then give a value above it, and what has been
rounded once stays as it is, because its peak is the same. All sums are float64, where each operation is rounded by the
rules of IEEE 754 and so the same on every processor. A draw is one of 65,536, from the middle of its interval: the
expectation is exact to 2**-17 of a step, and values that are off a level only by their rounding to float32 stay on it
(127 * 2**-24 is less than half a draw).
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from aggregator_core.codecs.errors import PayloadError

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

#: Channels with a smaller peak are zero: no weight changes by it, and no step is ever a subnormal number, which some
#: processors take for zero.
PEAK_MIN = np.float32(2.0**-100)
DRAWS = 65_536


def flushed(peaks: F32) -> F32:
    """Peaks as they are sent: those below PEAK_MIN are zero."""
    return np.where(peaks < PEAK_MIN, np.float32(0), peaks)


def check_peaks(peaks: F32) -> None:
    """Raise PayloadError if a peak is not what `flushed` gives; they are known to be finite."""
    wrong = np.flatnonzero(np.signbit(peaks) | ((peaks != 0) & (peaks < PEAK_MIN)))
    if wrong.size:
        raise PayloadError(f"scale {wrong[0]} is {peaks[wrong[0]]!s}, not zero and not a number from 2**-100")


def quantize(values: F32, peaks: F32, levels: int, rng: random.Random | None) -> I8:
    """Integers from -levels to levels.

    Args:
        values: Shape (n,).
        peaks: Of the channel of each value, as `flushed` gives them, shape (n,): a value is at most its peak, or below
            PEAK_MIN.
        levels: At most 127.
        rng: Draws two bytes a value; None: to the nearest integer, halves to the even one.

    Returns:
        Shape (n,).
    """
    steps = values.astype(np.float64)
    steps *= levels
    # Where the peak is zero, the value stays far below half a draw.
    steps /= np.where(peaks == 0, 1.0, peaks.astype(np.float64))
    if rng is None:
        np.rint(steps, out=steps)
    else:
        steps += (np.frombuffer(rng.randbytes(2 * steps.size), "<u2") + 0.5) / DRAWS
        np.floor(steps, out=steps)
    return steps.astype(np.int8)


def dequantize(integers: I8, peaks: F32, levels: int) -> F32:
    """The values of integers; the arguments are those of `quantize`.

    Raises:
        PayloadError: An integer is beyond the levels.
    """
    if integers.size and (int(integers.min()) < -levels or int(integers.max()) > levels):
        raise PayloadError(f"an integer is beyond -{levels} to {levels}")
    steps = peaks.astype(np.float64)
    steps *= integers
    steps /= levels
    return steps.astype(np.float32)
