"""Rows of a file are those of the array that was written, and nothing of it is kept in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards.rows import JOINED_BYTES_MAX, Rows

ARRAY = np.random.default_rng(1).integers(0, 256, (50, 3, 2, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    path = tmp_path_factory.mktemp("rows") / "file"
    path.write_bytes(b"1234567" + ARRAY.tobytes() + b"more")
    return Rows(path.open("rb", buffering=0), 7, ARRAY.shape)


@given(indices=st.lists(st.integers(0, 49), max_size=80))
def test_indices(rows: Rows, indices: list[int]) -> None:
    key = np.array(indices, np.int64)
    np.testing.assert_array_equal(rows[key], ARRAY[key])


@given(start=st.integers(-60, 60) | st.none(), stop=st.integers(-60, 60) | st.none())
def test_slices(rows: Rows, start: int | None, stop: int | None) -> None:
    np.testing.assert_array_equal(rows[start:stop], ARRAY[start:stop])


def test_like_an_array(rows: Rows) -> None:
    assert (rows.shape, rows.ndim, len(rows), rows.dtype) == (ARRAY.shape, 4, 50, np.uint8)
    np.testing.assert_array_equal(np.asarray(rows), ARRAY)
    np.testing.assert_array_equal(list(rows), list(ARRAY))
    assert np.asarray(rows, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="without a copy"):
        rows.__array__(copy=False)


def test_examples_of_another_shape(rows: Rows) -> None:
    np.testing.assert_array_equal(rows.reshape((50, 6))[np.array([3, 1])], ARRAY.reshape((50, 6))[[3, 1]])
    for shape in ((50, 5), (25, 12)):
        with pytest.raises(ValueError, match="cannot reshape rows of shape"):
            rows.reshape(shape)


@pytest.mark.parametrize("key", [np.array([50]), np.array([-1]), np.array([0, 99]), slice(0, 10, 2)])
def test_what_is_not_there(rows: Rows, key: np.ndarray) -> None:
    with pytest.raises(IndexError):
        rows[key]


def test_a_file_that_has_become_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(ARRAY.tobytes())
    rows = Rows(path.open("rb", buffering=0), 0, ARRAY.shape)
    with path.open("r+b") as file:
        file.truncate(100)
    np.testing.assert_array_equal(rows[0:3], ARRAY[0:3])
    with pytest.raises(OSError, match="it has been changed"):
        rows[10:20]


@pytest.mark.parametrize("length", [JOINED_BYTES_MAX, JOINED_BYTES_MAX + 1])
def test_rows_of_any_length(tmp_path: Path, length: int) -> None:
    path = tmp_path / "file"
    array = np.random.default_rng(2).integers(0, 256, (9, length)).astype(np.uint8)
    path.write_bytes(b"12345" + array.tobytes())
    rows = Rows(path.open("rb", buffering=0), 5, array.shape)
    key = np.array([8, 0, 3, 3])
    picked = rows[key]
    np.testing.assert_array_equal(picked, array[key])
    # A copy of one's own.
    picked[:] = 0
    np.testing.assert_array_equal(rows[key], array[key])
    with path.open("r+b") as file:
        file.truncate(5 + 8 * length + 1)
    np.testing.assert_array_equal(rows[key[1:]], array[key[1:]])
    with pytest.raises(OSError, match="ends before row 8"):
        rows[key]


def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 28)
    tracemalloc.start()
    rows = Rows(path.open("rb", buffering=0), 0, (1 << 18, 1024))
    for start in range(0, 1 << 18, 1 << 12):
        assert not rows[start : start + 16].any()
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
