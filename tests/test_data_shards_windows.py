"""Windows of recordings against loops, and that training and test share no sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards.errors import DataError
from data_shards.windows import split_in_time, windows


def ramp(samples: int, channels: int = 2) -> np.ndarray:
    """Every value says which it is."""
    return np.arange(samples * channels, dtype=np.int32).reshape(samples, channels)


@given(st.integers(0, 60), st.integers(1, 3), st.integers(1, 20), st.integers(1, 25))
def test_windows_are_those_of_a_loop(samples: int, channels: int, steps: int, stride: int) -> None:
    recording = ramp(samples, channels)
    expected = []
    start = 0
    while start + steps <= samples:
        expected.append(recording[start : start + steps].tolist())
        start += stride
    found = windows(recording, steps, stride)
    assert found.tolist() == expected
    assert found.shape == (len(expected), steps, channels)
    assert found.dtype == recording.dtype


def test_windows_are_a_copy() -> None:
    recording = ramp(10)
    found = windows(recording, 4, 2)
    found[:] = -1
    assert (recording == ramp(10)).all()


@given(st.integers(0, 100), st.floats(0, 1), st.integers(1, 20), st.integers(1, 20))
def test_training_and_test_share_no_sample(samples: int, share: float, steps: int, stride: int) -> None:
    recording = ramp(samples, 1)
    held_back = int(samples * share)
    if min(held_back, samples - held_back) < steps:
        with pytest.raises(DataError, match=f"a recording of {samples} samples .*a window needs {steps}; leave it out"):
            split_in_time(recording, share, steps)
        return
    train, test = split_in_time(recording, share, steps)
    assert np.concatenate([train, test]).tolist() == recording.tolist()
    assert len(test) == held_back
    seen = set(windows(train, steps, stride).reshape(-1).tolist())
    tested = set(windows(test, steps, stride).reshape(-1).tolist())
    assert seen
    assert tested
    assert max(seen) < min(tested)
