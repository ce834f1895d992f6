"""IDX files and .npz files: what is read, and that nothing hostile gets through or out as another error."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from idx_files import NAMES, contents, idx, write_folder

from data_shards import idx as idx_module
from data_shards.datasets import load_dataset
from data_shards.errors import DataError
from data_shards.idx import read_idx

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([3, 1], np.uint8)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("array", [IMAGES, LABELS], ids=["images", "labels"])
def test_what_was_written_is_read(tmp_path: Path, array: np.ndarray, zipped: bool) -> None:
    content = idx(array)
    path = tmp_path / ("it.gz" if zipped else "it")
    path.write_bytes(gzip.compress(content) if zipped else content)
    found = read_idx(path, array.ndim, hashlib.sha256(content).hexdigest())
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.uint8


GOOD = idx(IMAGES)
HOSTILE = {
    "empty": b"",
    "one byte": b"\0",
    "header only in part": GOOD[:15],
    "values missing": GOOD[:-1],
    "values too many": GOOD + b"\0",
    "not zero at first": b"\1" + GOOD[1:],
    "floats": GOOD[:2] + b"\x0d" + GOOD[3:],
    "labels instead of images": idx(LABELS),
    "four dimensions": idx(IMAGES[None]),
    "more than memory": struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1),
    "no examples": struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28),
    "images of no pixels": struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 0, 2**32 - 1),
    "html": b"<html>404</html>" * 10,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(DataError, match=r"file: (not an IDX file|header says)"):
        read_idx(path, 3)


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, 15))] = data.draw(st.integers(0, 255))
    path = tmp_path / "file"
    path.write_bytes(content)
    try:
        found = read_idx(path, 3)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017 - it may also be whole
    else:
        assert found.size == 24


def test_another_file_than_expected_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(GOOD[:-1] + b"\xff")
    with pytest.raises(DataError, match=r"file: its content has sha256 \w{16}.*expected \w{16}.*fetch it again"):
        read_idx(path, 3, hashlib.sha256(GOOD).hexdigest())


@pytest.mark.parametrize("cut", [0, 1, 10, 20, -1])
def test_a_truncated_gzip_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(GOOD)[:cut])
    with pytest.raises(DataError, match=r"file\.gz: (cannot be read|not an IDX)"):
        read_idx(path, 3)


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    whole = gzip.compress(GOOD)
    for place in range(10, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"file\.gz"):
            read_idx(path, 3)


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx_module, "BYTES_MAX", 1 << 16)
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(bytes(1 << 22)))
    with pytest.raises(DataError, match="more than 65536 bytes unzipped"):
        read_idx(path, 3)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_idx(path, 3)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_folder_of_idx_files_is_a_data_set(tmp_path: Path, zipped: bool) -> None:
    files = contents(30, 20)
    dataset = load_dataset(str(write_folder(tmp_path / "mine", files, zipped)))
    assert dataset.name == "mine"
    assert dataset.x_train.shape == (30, 4, 4, 1)
    assert dataset.x_test.shape == (20, 4, 4, 1)
    assert (dataset.y_train.dtype, dataset.classes) == (np.int32, 10)
    assert dataset.x_train.tobytes() == files[NAMES[0]][16:]
    other = load_dataset(str(write_folder(tmp_path / "zipped the other way", files, not zipped)))
    assert other.sha256 == dataset.sha256


def test_a_folder_lacks_a_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", contents())
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"mine: t10k-labels-idx1-ubyte\.gz is missing"):
        load_dataset(str(folder))


def test_labels_and_images_of_different_number(tmp_path: Path) -> None:
    files = contents(30, 20)
    files[NAMES[1]] = contents(29, 20)[NAMES[1]]
    with pytest.raises(DataError, match="train has 30 examples and labels of shape"):
        load_dataset(str(write_folder(tmp_path / "mine", files)))


def test_neither_a_name_nor_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--dataset 'fasion-mnist' is neither fashion-mnist\[:FOLDER\], nor a folder"):
        load_dataset("fasion-mnist")


# ---------------------------------------------------------------------- .npz

X = np.arange(240, dtype=np.uint8).reshape(20, 3, 4)
Y = np.arange(20) % 3


def npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_npz_with_a_test_set(tmp_path: Path) -> None:
    dataset = load_dataset(npz(tmp_path / "mine.npz", x=X, y=Y, x_test=X[:5], y_test=Y[:5]))
    assert (dataset.name, dataset.classes) == ("mine", 3)
    np.testing.assert_array_equal(dataset.x_train, X[..., None])
    np.testing.assert_array_equal(dataset.y_test, Y[:5])


def test_npz_without_a_test_set_gets_one_that_does_not_overlap(tmp_path: Path) -> None:
    where = npz(tmp_path / "mine.npz", x=X, y=Y)
    dataset = load_dataset(where, seed=3)
    assert (len(dataset.y_train), len(dataset.y_test)) == (16, 4)
    rows = {bytes(row) for row in dataset.x_train.reshape(16, -1)} | {
        bytes(row) for row in dataset.x_test.reshape(4, -1)
    }
    assert len(rows) == 20
    assert load_dataset(where, seed=3).sha256 == dataset.sha256
    assert load_dataset(where, seed=4).sha256 != dataset.sha256


def test_npz_of_vectors_and_of_colour_images_keeps_its_shape(tmp_path: Path) -> None:
    assert load_dataset(npz(tmp_path / "a.npz", x=X.reshape(20, 12), y=Y)).x_train.shape == (16, 12)
    assert load_dataset(npz(tmp_path / "b.npz", x=X.reshape(20, 2, 2, 3), y=Y)).x_train.shape == (16, 2, 2, 3)


BAD_ARRAYS = {
    "no labels": ({"x": X}, r"has \['x'\], needs x and y"),
    "half a test set": ({"x": X, "y": Y, "x_test": X}, "both x_test and y_test or neither"),
    "floats": ({"x": X / 255, "y": Y}, r"float64, not uint8; scaling belongs into the model"),
    "fewer labels": ({"x": X, "y": Y[:-1]}, "one label an example"),
    "scalar label": ({"x": X, "y": np.int64(3)}, "one label an example"),
    "scalar example": ({"x": np.uint8(3), "y": Y}, "one label an example"),
    "scalar test labels": ({"x": X, "y": Y, "x_test": X, "y_test": np.int64(3)}, "test has"),
    "scalar test examples": ({"x": X, "y": Y, "x_test": np.uint8(1), "y_test": Y}, "test has"),
    "two labels an example": ({"x": X, "y": np.stack([Y, Y], 1)}, "labels of shape"),
    "float labels": ({"x": X, "y": Y.astype(float)}, "labels are float64"),
    "negative label": ({"x": X, "y": Y - 1}, "from -1 to 1"),
    "absurd label": ({"x": X, "y": Y + 2_000_000}, "from 2000000"),
    "one class": ({"x": X, "y": Y * 0}, "only one class"),
    "no features": ({"x": X.reshape(-1)[:20], "y": Y}, "example of shape"),
    "no pixels": ({"x": X[:, :0], "y": Y}, "example of shape"),
    "one example": ({"x": X[:1], "y": Y[:1]}, "train has 0 examples"),
    "shapes differ": ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, r"\[3, 4, 1\].*\[2, 4, 1\]"),
    "objects": ({"x": np.array([{}, {}], dtype=object), "y": Y[:2]}, r"not an \.npz file of plain arrays"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_npz_that_is_no_data_set(tmp_path: Path, name: str) -> None:
    arrays, message = BAD_ARRAYS[name]
    with pytest.raises(DataError, match=message):
        load_dataset(npz(tmp_path / "mine.npz", **arrays))


def npy_file(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def zipped(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", content)
    return file.getvalue()


def plain_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, X)
    return file.getvalue()


DEFLATED = zipped(plain_npy(), zipfile.ZIP_DEFLATED)
BAD_FILES = {
    "empty": b"",
    "text": b"x,y\n1,2\n",
    "pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01x\x94.",
    "npy": plain_npy(),
    "truncated zip": zipped(plain_npy())[:-40],
    "larger than memory": zipped(
        npy_file(
            b"{'descr': '|u1', 'fortran_order': False, 'shape': (1<<60,), }\n".replace(b"1<<60", b"1152921504606846976")
        )
    ),
    "negative shape": zipped(npy_file(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-5,), }\n")),
    "header is no header": zipped(npy_file(b"{" * 100)),
    "deflate stream damaged": DEFLATED[:60] + bytes(40) + DEFLATED[100:],
    "unknown compression": zipped(plain_npy()).replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63\x00"
    ),
    "encrypted": zipped(plain_npy()).replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_npz(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(DataError, match=r"mine\.npz: not an \.npz file of plain arrays"):
        load_dataset(str(path))
