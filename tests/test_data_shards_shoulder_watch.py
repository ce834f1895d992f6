"""The recordings of shoulder exercises: where they are had, that no other bytes are taken for them, and their windows.

Where files are looked for and fetched, a small file's sum stands in for the real one's; pip is the real one, and finds
wheels in a folder of the test. The last part reads the real file, which is fetched where no earlier run has kept it.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_shards import shoulder_watch
from data_shards.__main__ import main
from data_shards.build import build
from data_shards.datasets import Dataset, load_dataset
from data_shards.errors import DataError
from data_shards.npy_objects import MAGIC
from data_shards.shard import read_shard
from data_shards.shoulder_watch import FULL_SCALE, STEPS, TEST_STRIDE, TRAIN_STRIDE, Recording, examples, quantize

# ---------------------------------------------------------------------- small files


def npy(seed: int, recordings: int = 4, samples: int = 700) -> bytes:
    """A file like the real one, but small."""
    rng = np.random.default_rng(seed)
    value = np.empty((), object)
    value[()] = {
        "X": [np.asfortranarray(rng.normal(0, 2, (samples + 10 * index, 6))) for index in range(recordings)],
        "y_labels": list(shoulder_watch.EXERCISES),
        "y": np.arange(recordings) % 7,
        "subject": np.arange(recordings) // 2 + 1,
        "side": np.zeros(recordings),
        "X_labels": list(shoulder_watch.CHANNELS),
    }
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    return MAGIC + len(head).to_bytes(2, "little") + head + pickle.dumps(value, 2)


def wheel(content: bytes, member: str = shoulder_watch.MEMBER) -> bytes:
    """A package that pip takes, with the file in it."""
    about = "seglearn-1.2.5.dist-info"
    files = {
        member: content,
        f"{about}/METADATA": b"Metadata-Version: 2.1\nName: seglearn\nVersion: 1.2.5\nRequires-Dist: scipy\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b"",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return packed.getvalue()


FILE, OTHER = npy(1), npy(2)
WHEEL = "seglearn-1.2.5-py3-none-any.whl"


class Places:
    """The machine as the test arranges it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cached = root / "cache/edge-peer/shoulder-watch/watch_dataset.npy"
        self.index = root / "index"
        self.index.mkdir()
        self.said: list[str] = []

    def load(self, where: str = "shoulder-watch") -> Dataset:
        return load_dataset(where, say=self.said.append)

    def keep(self, content: bytes) -> None:
        self.cached.parent.mkdir(parents=True, exist_ok=True)
        self.cached.write_bytes(content)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    it = Places(tmp_path)
    monkeypatch.setattr(shoulder_watch, "SHA256", hashlib.sha256(FILE).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(it.index))
    return it


@pytest.mark.parametrize("name", ["watch_dataset.npy", WHEEL])
def test_the_users_file_comes_first(places: Places, name: str) -> None:
    places.keep(OTHER)
    path = places.root / name
    path.write_bytes(wheel(FILE) if name == WHEEL else FILE)
    assert places.load(f"shoulder-watch:{path}").name == "shoulder-watch"
    assert places.said == []


@pytest.mark.parametrize("name", ["watch_dataset.npy", WHEEL])
def test_the_users_file_is_checked_and_no_other_is_taken_instead(places: Places, name: str) -> None:
    places.keep(FILE)
    path = places.root / name
    path.write_bytes(wheel(OTHER) if name == WHEEL else OTHER)
    with pytest.raises(
        DataError, match=rf"{name}: watch_dataset\.npy has sha256 \w+\.\.\., expected .*: it is damaged"
    ):
        places.load(f"shoulder-watch:{path}")


def test_the_users_file_cannot_be_read(places: Places) -> None:
    with pytest.raises(DataError, match="name a file after the colon, or leave the colon out"):
        places.load("shoulder-watch:")
    with pytest.raises(DataError, match=r"nothing: cannot be read \(no such file\); it must be watch_dataset\.npy, or"):
        places.load("shoulder-watch:nothing")
    with pytest.raises(DataError, match=r"cannot be read \(.*[Dd]irectory"):
        places.load(f"shoulder-watch:{places.root}")


BROKEN_WHEELS = {
    "no zip": b"nonsense",
    "another package": wheel(FILE, "other/data/watch_dataset.npy"),
    "cut off": wheel(FILE)[:-100],
    "flipped": wheel(FILE)[:2000] + bytes([wheel(FILE)[2000] ^ 255]) + wheel(FILE)[2001:],
}


@pytest.mark.parametrize("name", BROKEN_WHEELS)
def test_a_wheel_that_is_damaged_or_another(places: Places, name: str) -> None:
    path = places.root / WHEEL
    path.write_bytes(BROKEN_WHEELS[name])
    with pytest.raises(DataError, match=rf"{WHEEL}: cannot be read \("):
        places.load(f"shoulder-watch:{path}")


@pytest.mark.parametrize("place", [0, 200, -1])
def test_one_flipped_bit_is_noticed(places: Places, place: int) -> None:
    damaged = bytearray(FILE)
    damaged[place] ^= 1
    places.keep(bytes(damaged))
    with pytest.raises(DataError, match="delete it and fetch it again"):
        places.load()


def test_then_an_earlier_fetch(places: Places) -> None:
    places.keep(FILE)
    assert places.load().classes == 4
    assert places.said == []


def test_then_the_package_is_fetched_and_its_file_kept(places: Places) -> None:
    (places.index / WHEEL).write_bytes(wheel(FILE))
    first = places.load()
    assert any("pip download seglearn==1.2.5" in line for line in places.said)
    assert [path.name for path in places.cached.parent.iterdir()] == ["watch_dataset.npy"]
    assert places.cached.read_bytes() == FILE
    (places.index / WHEEL).unlink()
    assert places.load().sha256 == first.sha256


def test_a_package_of_other_bytes_is_not_kept(places: Places) -> None:
    (places.index / WHEEL).write_bytes(wheel(OTHER))
    with pytest.raises(DataError, match=r"cannot be had: .*watch_dataset\.npy has sha256"):
        places.load()
    assert not places.cached.exists()
    (places.index / WHEEL).write_bytes(wheel(FILE))
    assert places.load().classes == 4


def test_no_package_is_to_be_had(places: Places) -> None:
    with pytest.raises(DataError) as raised:
        places.load()
    text = str(raised.value)
    assert "pip download seglearn==1.2.5: ERROR: No matching distribution found for seglearn==1.2.5" in text
    assert "remedy: `pip download --no-deps seglearn==1.2.5` on a machine that can" in text
    assert "--dataset shoulder-watch:FILE" in text


def test_a_source_package_is_not_run(places: Places) -> None:
    """pip would run its setup.py to learn its name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("seglearn-1.2.5/PKG-INFO", "Metadata-Version: 1.0\nName: seglearn\nVersion: 1.2.5\n")
        file.writestr("seglearn-1.2.5/setup.py", f"open({str(places.root / 'ran')!r}, 'w')")
    (places.index / "seglearn-1.2.5.zip").write_bytes(packed.getvalue())
    with pytest.raises(DataError, match="No matching distribution"):
        places.load()
    assert not (places.root / "ran").exists()


def test_a_python_without_pip(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = places.root / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(DataError, match="No module named pip"):
        places.load()


def test_a_cache_that_cannot_be_written_to(places: Places) -> None:
    places.cached.parent.parent.mkdir(parents=True)
    places.cached.parent.write_text("a file where the folder should be")
    (places.index / WHEEL).write_bytes(wheel(FILE))
    with pytest.raises(DataError, match=r"cannot be had: .*File exists"):
        places.load()


# ---------------------------------------------------------------------- examples


def converter(value: float, full_scale: float) -> int:
    """What a sensor does: a 16-bit word in two's complement, of which the upper byte is kept, zero in the middle."""
    word = min(max(int(np.floor(value / full_scale * 32768)), -32768), 32767)
    return ((word & 0xFFFF) >> 8) ^ 0x80


def test_values_are_quantized_as_a_sensors_converter_does() -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(0, 4, (500, 6))
    expected = [[converter(value, full) for value, full in zip(row, FULL_SCALE, strict=True)] for row in samples]
    assert quantize(samples).tolist() == expected
    assert quantize(samples).dtype == np.uint8
    assert {0, 255} < set(np.unique(expected).tolist())


def test_steps_of_acceleration_begin_at_multiples_of_a_32nd_g() -> None:
    rows = np.zeros((7, 6))
    rows[:, 0] = [-100, -4, -1 / 32, -1e-9, 0, 1 / 32, 4]
    assert quantize(rows)[:, 0].tolist() == [0, 0, 127, 127, 128, 129, 255]
    assert quantize(rows)[:, 1:].tolist() == [[128] * 5] * 7


def test_a_byte_stands_for_the_middle_of_its_step() -> None:
    middles = np.stack([(np.arange(256) - 127.5) * full / 128 for full in FULL_SCALE], axis=1)
    assert (quantize(middles) == np.arange(256)[:, None]).all()


def recordings(count: int = 3) -> list[Recording]:
    rng = np.random.default_rng(7)
    return [Recording(rng.normal(0, 2, (700 + 37 * index, 6)), 6 - index, 3 * index) for index in range(count)]


def test_examples_are_those_of_a_loop() -> None:
    expected: dict[str, list[tuple[bytes, int, int]]] = {"train": [], "test": []}
    for it in recordings():
        rows = quantize(it.samples)
        cut = len(rows) - len(rows) // 5
        for part, begin, end, stride in (("train", 0, cut, TRAIN_STRIDE), ("test", cut, len(rows), TEST_STRIDE)):
            start = begin
            while start + STEPS <= end:
                expected[part].append((rows[start : start + STEPS].tobytes(), it.exercise, it.subject))
                start += stride
    for part, found in zip(("train", "test"), examples(recordings()), strict=True):
        rows = zip(found.x, found.y, found.subjects, strict=True)
        assert [(x.tobytes(), int(y), int(subject)) for x, y, subject in rows] == expected[part]
        assert found.x.shape[1:] == (STEPS, 6)
        assert (found.x.dtype, found.y.dtype, found.subjects.dtype) == (np.uint8, np.int32, np.int32)


def test_a_recording_too_short_for_both_parts() -> None:
    with pytest.raises(DataError, match="a recording of 500 samples gives 400 for training and 100 for the test"):
        examples([Recording(np.zeros((500, 6)), 0, 0)])


# ---------------------------------------------------------------------- the real file


@pytest.fixture(scope="module")
def real() -> Path:
    return shoulder_watch.locate(print)


#: Of what numpy itself unpickles from the file, taken once; nothing here unpickles.
RECORDINGS = "f66c4017100966cdc59d3ad103286ebc56e3df83efa5fbd15be36e8f052b5b54"


def test_the_real_file_is_read_as_numpy_has_unpickled_it(real: Path) -> None:
    assert hashlib.sha256(real.read_bytes()).hexdigest() == shoulder_watch.SHA256
    found = shoulder_watch.read(real)
    assert len(found) == 140
    assert len({(it.subject, it.exercise) for it in found}) == 70
    digest = hashlib.sha256()
    for it in found:
        assert it.samples.dtype == np.float64
        digest.update(f"{it.exercise} {it.subject} {it.samples.shape}".encode())
        digest.update(it.samples.astype("<f8").tobytes())
    assert digest.hexdigest() == RECORDINGS


def test_the_real_values_fit_the_ranges(real: Path) -> None:
    samples = np.concatenate([it.samples for it in shoulder_watch.read(real)])
    assert np.isfinite(samples).all()
    assert (np.abs(samples) > FULL_SCALE).mean() < 0.001
    quantized = quantize(samples)
    every = quantized[::97]
    words = [[converter(v, f) for v, f in zip(row, FULL_SCALE, strict=True)] for row in samples[::97].tolist()]
    assert every.tolist() == words
    # The bytes keep the motion: what they lose is less than a tenth of what varies.
    restored = (quantized - 127.5) * np.array(FULL_SCALE) / 128
    assert (np.abs(restored - samples).mean(0) < 0.1 * samples.std(0)).all()


def test_the_real_data_set(real: Path) -> None:
    dataset = load_dataset(f"shoulder-watch:{real}")
    assert dataset.x_train.shape == (11162, 128, 6)
    assert dataset.x_test.shape == (557, 128, 6)
    assert dataset.classes == 7
    assert dataset.subjects_train is not None
    assert dataset.subjects_test is not None
    for y, subjects in ((dataset.y_train, dataset.subjects_train), (dataset.y_test, dataset.subjects_test)):
        pairs = set(zip(y.tolist(), subjects.tolist(), strict=True))
        assert pairs == {(exercise, subject) for exercise in range(7) for subject in range(1, 11)}
    # The same on every machine and with every numpy.
    assert dataset.sha256 == "a498cf01413f330d19a60dc84a938afc6d35110f50434cf4f2bcab0838e98e65"


def test_no_test_window_is_a_training_window(real: Path) -> None:
    dataset = load_dataset(f"shoulder-watch:{real}")
    trained = {x.tobytes() for x in dataset.x_train}
    assert not any(x.tobytes() in trained for x in dataset.x_test)


def test_the_command_line_gives_each_peer_whole_persons(real: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        arguments = ["--dataset", f"shoulder-watch:{real}", "--split", "subjects", "--peers", "3", "--no-picture"]
        assert main([*arguments, "--out", str(tmp_path / out)]) == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["manifest.json", "peer1.safetensors", "peer2.safetensors", "peer3.safetensors"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    shard = read_shard(tmp_path / "one/peer1.safetensors")
    assert shard.x_train.shape[1:] == (128, 6)


def test_the_persons_of_the_real_shards(real: Path, tmp_path: Path) -> None:
    dataset = load_dataset(f"shoulder-watch:{real}")
    manifest = build(dataset, ["a", "b", "c", "d"], "subjects", 1, tmp_path)
    entries = manifest["peers"].values()
    assert sorted(len(entry["subjects"]) for entry in entries) == [2, 2, 3, 3]
    assert sorted(subject for entry in entries for subject in entry["subjects"]) == list(range(1, 11))
    assert sum(entry["train"] for entry in entries) == 11162
    assert sum(entry["test"] for entry in entries) == 557
