"""Seven exercises of the shoulder as a smartwatch on the wrist measures them: found on this machine, or fetched.

Ten persons did each exercise about twenty times with the left and twenty times with the right arm: 140 recordings of
three axes of acceleration (in g) and three of rotation (in rad/s), at 50 Hz. They are in the Python package `seglearn`
(BSD licence, copyright 2018 David M. Burns), as a part of the data of Burns, Leung, Hardisty, Whyne, Henry and
McLachlin, "Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a smartwatch",
Physiological Measurement 39, 2018 (arXiv:1802.01489). Only the file with the data is taken out of the package; nothing
of it is installed or run.

An example is 128 samples (2.56 s, about one and a half repetitions) of 6 channels, as the bytes that a sensor would
give: the upper byte of its 16-bit word, at the ranges of +-4 g and +-500 degrees a second that such sensors can be set
to (as the MPU-6050 can, InvenSense PS-MPU-6000A). What is beyond the range is clipped, as the sensor would.

The last fifth of each recording is the test set: later repetitions of the same persons. No sample is in both. Training
windows begin every 16 samples, so that an exercise is learned from whatever moment it is listened to; test windows
every 64, so that the same motion is not counted many times.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError
from data_shards.npy_objects import read_npy_object
from data_shards.shard import write_atomically
from data_shards.windows import split_in_time, windows

PACKAGE = "seglearn==1.2.5"
#: Within the package's wheel.
MEMBER = "seglearn/data/watch_dataset.npy"
FILE = "watch_dataset.npy"
SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
#: The file has 18 MB; whatever is much larger is not read.
BYTES_MAX = 1 << 26
FETCH_TIMEOUT_S = 600
REMEDY = (
    f"remedy: `pip download --no-deps {PACKAGE}` on a machine that can, and pass the wheel that it gives: "
    "--dataset shoulder-watch:FILE"
)

#: Pendulum, abduction, forward elevation, internal and external rotation with a band, lower trapezius row with a band,
#: bent-over row with a weight: labels 0 to 6.
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
RATE_HZ = 50
#: Full scale of each channel: +-4 g, +-500 degrees a second in rad/s.
FULL_SCALE = (4.0,) * 3 + (math.radians(500),) * 3
STEPS = 128
TRAIN_STRIDE = 16
TEST_STRIDE = 64
TEST_SHARE = 0.2

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Recording:
    """One person doing one exercise with one arm.

    Attributes:
        samples: Shape (n, 6), float64; three accelerations in g, three rotations in rad/s.
        exercise: Index into EXERCISES.
        subject: The person's number, from 1.
    """

    samples: F64
    exercise: int
    subject: int


@dataclass(frozen=True, slots=True)
class Examples:
    """Windows of recordings.

    Attributes:
        x: Shape (n, STEPS, 6), uint8.
        y: Exercise of each, shape (n,), int32.
        subjects: Person of each, shape (n,), int32.
    """

    x: U8
    y: I32
    subjects: I32


def cache_file() -> Path:
    """Where the fetched file is kept: in $XDG_CACHE_HOME/edge-peer/shoulder-watch."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-peer" / "shoulder-watch" / FILE


def locate(say: Callable[[str], None], own: Path | None = None) -> Path:
    """The file with the recordings: the user's, that of an earlier fetch, or a new one from the Python package index.

    Whoever reads it checks its sum; what is fetched is checked before it is kept.

    Args:
        say: Told what is going on.
        own: The user's file; no other is looked at then.

    Raises:
        DataError: It could not be had; says why, and the remedy.
    """
    if own is not None:
        return own
    cached = cache_file()
    if cached.is_file():
        return cached
    say(f"fetching the recordings of the shoulder exercises into {cached.parent}")
    try:
        content = _fetch(say)
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, content)
    except (OSError, subprocess.SubprocessError, DataError) as error:
        raise DataError(f"the recordings of the shoulder exercises cannot be had: {error}\n{REMEDY}") from None
    return cached


def _fetch(say: Callable[[str], None]) -> bytes:
    """The file out of the package, by pip as this Python has it."""
    with tempfile.TemporaryDirectory() as folder:
        # A wheel, because pip would run a source package's own code to see what it is.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        command += ["--disable-pip-version-check", "--dest", folder, PACKAGE]
        say(f"  pip download {PACKAGE} (11 MB)")
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            last = done.stderr.strip().splitlines()[-1:] or ["no answer"]
            raise DataError(f"pip download {PACKAGE}: {last[0]}")
        return _content(wheels[0])


def _content(path: Path) -> bytes:
    """The bytes of the recordings' file, which may be in a wheel; raises DataError if they are not the known ones."""
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel, wheel.open(MEMBER) as file:
                content = file.read(BYTES_MAX)
        else:
            with path.open("rb") as file:
                content = file.read(BYTES_MAX)
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise DataError(f"{path}: cannot be read ({reason}); it must be {FILE}, or the wheel of {PACKAGE}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise DataError(
            f"{path}: {FILE} has sha256 {found[:16]}..., expected {SHA256[:16]}...: it is damaged or another file; "
            "delete it and fetch it again"
        )
    return content


def read(path: Path) -> list[Recording]:
    """The recordings of a file.

    Args:
        path: `watch_dataset.npy`, or the package's wheel with it.

    Raises:
        DataError: It cannot be read, or is another file or version than the known one.
    """
    it = read_npy_object(_content(path), str(path))
    # Of the one file with this sum.
    assert tuple(it["y_labels"]) == EXERCISES
    assert tuple(it["X_labels"]) == CHANNELS
    return [
        Recording(samples, int(exercise), int(subject))
        for samples, exercise, subject in zip(it["X"], it["y"], it["subject"], strict=True)
    ]


def quantize(samples: F64) -> U8:
    """What a sensor's converter gives: the upper byte of its 16-bit word, with 128 for zero.

    A value v of a channel with full scale f becomes floor(128 v / f) + 128, clipped to 0 and 255: steps of 1/32 g and
    3.9 degrees a second. A byte b stands for the middle of its step, (b - 127.5) f / 128.

    Args:
        samples: Shape (..., 6), float64, in g and rad/s.
    """
    steps = np.floor(samples * (128 / np.array(FULL_SCALE))) + 128
    quantized: U8 = np.clip(steps, 0, 255).astype(np.uint8)
    return quantized


def examples(recordings: list[Recording]) -> tuple[Examples, Examples]:
    """Training and test windows, in the recordings' order and within each in order of time.

    Raises:
        DataError: A recording is too short to give a training and a test window.
    """
    train, test = [], []
    for recording in recordings:
        head, tail = split_in_time(quantize(recording.samples), TEST_SHARE, STEPS)
        train.append(windows(head, STEPS, TRAIN_STRIDE))
        test.append(windows(tail, STEPS, TEST_STRIDE))
    return _labelled(recordings, train), _labelled(recordings, test)


def _labelled(recordings: list[Recording], parts: list[U8]) -> Examples:
    counts = [len(part) for part in parts]
    return Examples(
        np.concatenate(parts),
        np.repeat(np.array([it.exercise for it in recordings], np.int32), counts),
        np.repeat(np.array([it.subject for it in recordings], np.int32), counts),
    )
