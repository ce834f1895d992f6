"""Small data sets in MNIST's file format, for the tests."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    """An array as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents(train: int = 200, test: int = 40, seed: int = 0, size: int = 4, classes: int = 10) -> dict[str, bytes]:
    """The four files of a random data set, every class in both parts."""
    rng = np.random.default_rng(seed)
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        labels = (rng.permutation(count) % classes).astype(np.uint8)
        images = rng.integers(0, 256, (count, size, size)).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = idx(images)
        files[f"{part}-labels-idx1-ubyte"] = idx(labels)
    return files


def write_folder(folder: Path, files: dict[str, bytes], zipped: bool = True) -> Path:
    """Write them the way that data sets are distributed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return folder


def digests(files: dict[str, bytes]) -> dict[str, str]:
    """SHA-256 of the unzipped contents."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
