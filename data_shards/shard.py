"""One peer's data in one file: `<peer>.safetensors` with uint8 examples and int32 labels, training and test split."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data_shards.errors import ShardError
from data_shards.rows import Rows

FORMAT = "1"
TENSORS = {"x_train": np.uint8, "y_train": np.int32, "x_test": np.uint8, "y_test": np.int32}
#: Examples that are in memory at a time while the digest is checked.
BLOCK = 256
REMEDY = "make it with `python -m data_shards`, or deploy it again"


@dataclass(frozen=True, slots=True)
class Shard:
    """What one peer trains on and is tested on.

    Attributes:
        x_train: Shape (n, ...), uint8; of a file that was read, it stays there.
        y_train: Shape (n,), int32, 0 to classes - 1.
        x_test: Shape (m, ...), uint8.
        y_test: Shape (m,), int32.
        metadata: peer, dataset, dataset_sha256, scheme, seed; in a file also format, classes, and sha256 of the
            arrays, because a flipped bit of an image would show nowhere else.
    """

    x_train: npt.NDArray[np.uint8] | Rows
    y_train: npt.NDArray[np.int32]
    x_test: npt.NDArray[np.uint8] | Rows
    y_test: npt.NDArray[np.int32]
    classes: int
    metadata: dict[str, str]


def with_shape(shard: Shard, shape: tuple[int, ...]) -> Shard | None:
    """The shard with examples of this shape, if theirs is the same but for axes of one value at the end; else None.

    Grey pictures have a channel or not, and so have rows of one sensor: files and models differ in that.
    """
    given = shard.x_train.shape[1:]
    if _without_ones(given) != _without_ones(shape):
        return None
    if given == shape:
        return shard
    x_train, x_test = (it.reshape((len(it), *shape)) for it in (shard.x_train, shard.x_test))
    return replace(shard, x_train=x_train, x_test=x_test)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    end = len(shape)
    while end > 0 and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


def encode_shard(shard: Shard) -> bytes:
    """A shard as the bytes of its file; the same shard gives the same bytes."""
    tensors = {name: np.ascontiguousarray(getattr(shard, name)) for name in TENSORS}
    metadata = {**shard.metadata, "format": FORMAT, "classes": str(shard.classes), "sha256": _digest(tensors)}
    return _canonical(save(tensors, metadata))


def _canonical(content: bytes) -> bytes:
    """The same file with its header's keys sorted: the safetensors package writes metadata in a random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    # Spaces up to a multiple of eight keep the values aligned.
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))


def _digest(tensors: Mapping[str, Any]) -> str:
    """Over names, types, shapes and values; values in a file pass through block by block."""
    digest = hashlib.sha256()
    for name in TENSORS:
        array = tensors[name]
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        for start in range(0, len(array), BLOCK):
            digest.update(np.ascontiguousarray(array[start : start + BLOCK]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, even when the power goes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_shard(path: Path) -> Shard:
    """Read and check one peer's file.

    Raises:
        ShardError: It is missing, damaged, or its arrays do not fit each other.
    """
    try:
        with safe_open(path, "numpy") as checked:
            # The package has checked the header against the file; nothing of the values is in memory yet.
            metadata = dict(checked.metadata() or {})
            names = set(checked.keys())
            if names != set(TENSORS):
                raise ShardError(f"{path}: has {sorted(names)}, not {sorted(TENSORS)}; {REMEDY}")
            labels = {name: checked.get_tensor(name) for name in ("y_train", "y_test")}
            types = {name: checked.get_slice(name).get_dtype() for name in ("x_train", "x_test")}
        examples = _rows(path)
    except (OSError, SafetensorError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise ShardError(f"{path}: cannot be read ({reason}); {REMEDY}") from None
    if metadata.get("format") != FORMAT:
        raise ShardError(f"{path}: format is {metadata.get('format')!r}, this program reads {FORMAT!r}; {REMEDY}")
    text = metadata.get("classes", "")
    classes = int(text) if text.isdecimal() and len(text) < 9 else 0
    if classes < 2:
        raise ShardError(f"{path}: classes is {text!r}, not a number above 1; {REMEDY}")
    for name, kind in types.items():
        if kind != "U8":
            raise ShardError(f"{path}: {name} is {kind}, not U8; {REMEDY}")
    for name, array in labels.items():
        if array.dtype != np.int32:
            raise ShardError(f"{path}: {name} is {array.dtype}, not int32; {REMEDY}")
    for part in ("train", "test"):
        _check(path, part, examples[f"x_{part}"], labels[f"y_{part}"], classes)
    if examples["x_train"].shape[1:] != examples["x_test"].shape[1:]:
        raise ShardError(f"{path}: training and test examples have different shapes; {REMEDY}")
    arrays: dict[str, Any] = {**examples, **labels}
    if metadata.get("sha256") != _digest(arrays):
        raise ShardError(f"{path}: is damaged: its values are not those that were written; {REMEDY}")
    return Shard(**arrays, classes=classes, metadata=metadata)


def _rows(path: Path) -> dict[str, Rows]:
    """The examples of a file whose header has been checked, left where they are."""
    file = path.open("rb", buffering=0)
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    return {
        name: Rows(file, 8 + length + header[name]["data_offsets"][0], tuple(header[name]["shape"]))
        for name in ("x_train", "x_test")
    }


def _check(path: Path, part: str, x: Rows, y: npt.NDArray[np.int32], classes: int) -> None:
    if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or len(y) == 0:
        raise ShardError(f"{path}: {part} has examples {list(x.shape)} and labels {list(y.shape)}; {REMEDY}")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ShardError(f"{path}: y_{part} has labels from {y.min()} to {y.max()}, outside 0..{classes - 1}; {REMEDY}")
