"""Cut recordings of sensors into examples of one length, and hold some of each recording back for the tests.

Windows overlap, so windows drawn at random for the tests would share samples with those for training, and the test
would ask what the model has seen. Here the recording is cut in time first, and windows are taken of each side.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError

T = TypeVar("T", bound=np.generic)


def windows(recording: npt.NDArray[T], steps: int, stride: int) -> npt.NDArray[T]:
    """All whole windows of a recording, from its beginning on.

    Args:
        recording: Shape (n, channels), one row a sample in time.
        steps: Samples of a window.
        stride: Samples from the beginning of one window to that of the next.

    Returns:
        Shape (max(0, (n - steps) // stride + 1), steps, channels), a copy.
    """
    if len(recording) < steps:
        return np.empty((0, steps, *recording.shape[1:]), recording.dtype)
    every = np.lib.stride_tricks.sliding_window_view(recording, steps, axis=0)[::stride]
    return np.ascontiguousarray(np.moveaxis(every, -1, 1))


def split_in_time(recording: npt.NDArray[T], test_share: float, steps: int) -> tuple[npt.NDArray[T], npt.NDArray[T]]:
    """The beginning of a recording for training, its end for the tests; no sample is in both.

    Args:
        recording: Shape (n, channels).
        test_share: Of the samples, from 0 to 1; rounded down.
        steps: Samples of a window, which each side must have.

    Raises:
        DataError: The recording is too short to leave both sides a window.
    """
    cut = len(recording) - int(len(recording) * test_share)
    train, test = recording[:cut], recording[cut:]
    if min(len(train), len(test)) < steps:
        raise DataError(
            f"a recording of {len(recording)} samples gives {len(train)} for training and {len(test)} for the test, a "
            f"window needs {steps}; leave it out, or choose shorter windows"
        )
    return train, test
