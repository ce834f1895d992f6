"""Examples and labels out of files: numpy arrays, IDX files, and pictures."""

from __future__ import annotations

import gzip
import tokenize
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError
from data_shards.idx import read_idx
from edge_peer.errors import EdgePeerError, ResourceError
from edge_peer.trainers.interface import U8

NPY, NPZ = b"\x93NUMPY", b"PK\x03\x04"
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
IDX = b"\0\0"
#: What a picture is converted to, by the number of the model's channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: Pillow's name for one channel is one that few know.
SPOKEN = {"L": "grey"}
#: What numpy raises for a file that is not what its name says, or has a header that claims more than there is.
NPY_ERRORS = (OSError, ValueError, EOFError, TypeError, KeyError, SyntaxError, tokenize.TokenError, MemoryError,
              OverflowError, RecursionError)  # fmt: skip


class ExamplesError(EdgePeerError):
    """A file holds no examples that the model takes; the message names it, its value, and the remedy."""


def read_examples(path: Path, shape: tuple[int, ...], say: Callable[[str], None]) -> U8:
    """The examples of a file.

    Args:
        path: An .npy file of many examples or of one, an IDX file (gzipped if its name ends with .gz), a PNG or a JPEG.
            What it is, its content says.
        shape: Of one example; a last axis of 1 may lack in the file.
        say: Told what is done to a picture so that it fits.

    Returns:
        Shape (n, ...), uint8; those of an .npy file stay in it until they are looked at.

    Raises:
        ExamplesError: It cannot be read, or holds something else.
        ResourceError: It is a picture, and Pillow is not installed.
    """
    start = _start(path)
    if start.startswith(PICTURES):
        return _picture(path, shape, say)[None]
    if start.startswith(NPY):
        array = _npy(path)
    elif start.startswith(IDX):
        array = _idx(path, start[3], shape)
    else:
        if start.startswith(NPZ):
            raise ExamplesError(f"{path}: is an archive, as an .npz is; save the examples alone with numpy.save")
        raise ExamplesError(f"{path}: is no .npy, IDX, PNG or JPEG file; convert it to one of them")
    if array.dtype != np.uint8:
        raise ExamplesError(
            f"{path}: is {array.dtype}, needs uint8: the model scales by itself; save the values from 0 to 255 that it "
            "was trained with"
        )
    return _batch(path, array, shape)


def read_labels(path: Path, classes: int) -> npt.NDArray[np.int64]:
    """The labels of all examples, shape (n,), int64.

    Args:
        path: An IDX file with one dimension, or an .npy of integers.
        classes: Labels are below it.

    Raises:
        ExamplesError: It cannot be read, or holds something else.
    """
    start = _start(path)
    if start.startswith(NPY):
        array = _npy(path)
    elif start.startswith(IDX):
        array = _unpacked(path, 1)
    else:
        raise ExamplesError(f"{path}: is neither .npy nor IDX; save the labels with numpy.save")
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ExamplesError(f"{path}: is {array.dtype} of shape {list(array.shape)}, needs integers of shape [n]")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < classes:
        raise ExamplesError(
            f"{path}: labels go from {array.min()} to {array.max()}, the model's classes from 0 to {classes - 1}; give "
            "the labels that it was trained with"
        )
    return array.astype(np.int64)


def read_names(path: Path, classes: int) -> list[str]:
    """The names of all classes, one a line; raises ExamplesError."""
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExamplesError(f"{path}: cannot be read as text ({error}); name a file with one class a line") from None
    if len(names) != classes:
        raise ExamplesError(f"{path}: has {len(names)} lines, the model has {classes} classes; write one a line")
    return names


def _start(path: Path) -> bytes:
    """The first bytes of a file, unzipped if its name ends with .gz."""
    if path.is_dir():
        raise ExamplesError(f"{path}: is a folder; name the files in it, such as {path}/*.png")
    try:
        with path.open("rb") as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            start: bytes = file.read(8)
            return start
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExamplesError(f"{path}: cannot be read ({reason}); correct its name, or copy it again") from None


def _npy(path: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except NPY_ERRORS as error:
        raise ExamplesError(f"{path}: is not a whole .npy file of numbers ({error}); save it again") from None
    return array


def _idx(path: Path, dimensions: int, shape: tuple[int, ...]) -> U8:
    if dimensions == 1:
        raise ExamplesError(f"{path}: has one dimension, as labels have; give it as --labels {path}")
    if not len(shape) <= dimensions <= len(shape) + 1:
        raise ExamplesError(f"{path}: has {dimensions} dimensions; {_wanted(shape)}")
    return _unpacked(path, dimensions)


def _unpacked(path: Path, dimensions: int) -> U8:
    try:
        return read_idx(path, dimensions)
    except DataError as error:
        raise ExamplesError(f"{error}; copy it again") from None


def _batch(path: Path, array: npt.NDArray[Any], shape: tuple[int, ...]) -> U8:
    """Many examples or one, with or without a last axis of 1, as (n, ...)."""
    # Without a channel, as data sets of grey images are.
    short = shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape
    for one in (shape, short):
        if array.shape[1:] == one and array.ndim > 1:
            if not len(array):
                raise ExamplesError(f"{path}: holds no example; save it again")
            return array.reshape(-1, *shape)
        if array.shape == one:
            return array.reshape(1, *shape)
    raise ExamplesError(f"{path}: has shape {list(array.shape)}; {_wanted(shape)}")


def _wanted(shape: tuple[int, ...]) -> str:
    sizes = ", ".join(str(it) for it in shape)
    return f"the model takes examples of shape [n, {sizes}], or one of [{sizes}]: reshape them"


def _picture(path: Path, shape: tuple[int, ...], say: Callable[[str], None]) -> U8:
    """A picture as one example."""
    channels = 1 if len(shape) == 2 else shape[-1]
    if len(shape) not in (2, 3) or channels not in MODES:
        raise ExamplesError(f"{path}: is a picture; {_wanted(shape)}, in an .npy or IDX file")
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - a board that predicts from arrays does without
    except ImportError:
        raise ResourceError(f"{path}: pictures need Pillow: pip install 'edge-peer[images]'") from None
    height, width, mode = shape[0], shape[1], MODES[channels]
    try:
        # No other format: each decoder is one more that a hostile file can try.
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            found, size = file.mode, file.size
            if found[0] in "IF":
                raise ExamplesError(f"{path}: its pixels are of mode {found}; save it with 8 bits a channel")
            # Cameras write down how they were held.
            picture = ImageOps.exif_transpose(file).convert(mode)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ExamplesError(f"{path}: cannot be decoded ({error}); save it again") from None
    if (found, size) != (mode, (width, height)):
        before, after = SPOKEN.get(found, found), SPOKEN.get(mode, mode)
        say(
            f"{path} is {before}, {size[0]}x{size[1]}: pictures are converted to {after} and resized to "
            f"{width}x{height}"
        )
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(shape)
