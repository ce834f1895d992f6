"""Load a data set: Fashion-MNIST by name, or any folder of IDX files, or any .npz file."""

from __future__ import annotations

import hashlib
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_shards import fashion_mnist
from data_shards.errors import DataError
from data_shards.idx import read_idx

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]

IDX_NAMES = tuple(fashion_mnist.SHA256)
LABEL_MAX = 1_000_000
#: Share of the examples that become the test set where an .npz file brings none.
TEST_SHARE = 0.2
#: What numpy and zipfile raise for a file that is not what it says: damaged, encrypted, packed in an unknown way, a
#: bare array (TypeError), or with a header that claims more than memory.
NPZ_ERRORS = (
    OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, TypeError,
    SyntaxError, tokenize.TokenError, KeyError, MemoryError, OverflowError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled examples.

    Attributes:
        x_train: Shape (n, height, width, channels), or what the model takes; uint8.
        y_train: Shape (n,), int32, labels from 0 to classes - 1.
        x_test: Like x_train.
        y_test: Like y_train.
        sha256: Digest of all four arrays.
    """

    name: str
    x_train: U8
    y_train: I32
    x_test: U8
    y_test: I32
    classes: int
    sha256: str


def load_dataset(where: str, seed: int = 1, say: Callable[[str], None] = lambda _: None) -> Dataset:
    """Load a data set.

    Args:
        where: `fashion-mnist`, `fashion-mnist:FOLDER` where its files are in a folder of yours, a folder with four
            IDX files of MNIST's names, or an .npz file with `x` and `y` (and perhaps `x_test` and `y_test`).
        seed: Of the split where an .npz file brings no test set.
        say: Told what is going on when something has to be fetched.

    Raises:
        DataError: It is not there, or not a data set.
    """
    path = Path(where)
    name, colon, folder = where.partition(":")
    if name == "fashion-mnist":
        if colon and not folder:
            raise DataError(f"--dataset {where!r}: name a folder after the colon, or leave the colon out")
        found = fashion_mnist.locate(say, Path(folder) if folder else None)
        return _from_idx("fashion-mnist", found, fashion_mnist.SHA256)
    if path.is_dir():
        return _from_idx(path.resolve().name, path, {})
    if path.suffix == ".npz" and path.is_file():
        return _from_npz(path, seed)
    raise DataError(
        f"--dataset {where!r} is neither fashion-mnist[:FOLDER], nor a folder with {IDX_NAMES[0]}[.gz] and its like, "
        "nor an .npz file: correct it"
    )


def _from_idx(name: str, folder: Path, digests: dict[str, str]) -> Dataset:
    arrays = []
    for index, file in enumerate(IDX_NAMES):
        path = fashion_mnist.find(folder, file)
        if path is None:
            raise DataError(f"{folder}: {file}.gz is missing; a data set folder has {', '.join(IDX_NAMES)}")
        arrays.append(read_idx(path, 1 if index % 2 else 3, digests.get(file)))
    x_train, y_train, x_test, y_test = arrays
    return _checked(name, x_train[..., None], y_train, x_test[..., None], y_test)


def _from_npz(path: Path, seed: int) -> Dataset:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not hasattr(loaded, "files"):
            raise DataError(f"{path}: not an .npz file of plain arrays (one array alone); save it with numpy.savez")
        with loaded as file:
            arrays = {key: file[key] for key in ("x", "y", "x_test", "y_test") if key in file.files}
    except NPZ_ERRORS as error:
        raise DataError(f"{path}: not an .npz file of plain arrays ({error})") from None
    if "x" not in arrays or "y" not in arrays or ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(f"{path}: has {sorted(arrays)}, needs x and y, and both x_test and y_test or neither")
    x, y = arrays["x"], arrays["y"]
    if x.ndim < 1 or y.ndim < 1 or len(x) != len(y):
        raise DataError(f"{path}: x has shape {list(x.shape)}, y has shape {list(y.shape)}: one label an example")
    if "x_test" not in arrays:
        order = np.random.default_rng(seed).permutation(len(x))
        cut = max(1, int(len(x) * TEST_SHARE))
        test, train = np.sort(order[:cut]), np.sort(order[cut:])
        return _checked(path.stem, x[train], y[train], x[test], y[test])
    return _checked(path.stem, x, y, arrays["x_test"], arrays["y_test"])


def _checked(name: str, *arrays: npt.NDArray[np.generic]) -> Dataset:
    x_train, y_train, x_test, y_test = arrays
    digest = hashlib.sha256()
    checked_x, checked_y = [], []
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if x.dtype != np.uint8:
            raise DataError(f"{name}: {part} examples are {x.dtype}, not uint8; scaling belongs into the model's graph")
        if x.ndim == 3:
            x = x[..., None]  # noqa: PLW2901 - images without a channel axis are grey ones
        examples = len(x) if x.ndim else 0
        if y.ndim != 1 or len(y) != examples or examples == 0:
            raise DataError(f"{name}: {part} has {examples} examples and labels of shape {list(y.shape)}")
        if x.ndim < 2 or x.size == 0:
            raise DataError(f"{name}: {part} has an example of shape {list(x.shape[1:])}, which holds no values")
        if not np.issubdtype(y.dtype, np.integer):
            raise DataError(f"{name}: {part} labels are {y.dtype}, they must be integers from 0")
        if int(y.min()) < 0 or int(y.max()) > LABEL_MAX:
            raise DataError(f"{name}: {part} labels go from {y.min()} to {y.max()}, they must be from 0 to {LABEL_MAX}")
        checked_x.append(np.ascontiguousarray(x, np.uint8))
        checked_y.append(np.ascontiguousarray(y, np.int32))
        for array in (checked_x[-1], checked_y[-1]):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
    if checked_x[0].shape[1:] != checked_x[1].shape[1:]:
        shapes = [list(x.shape[1:]) for x in checked_x]
        raise DataError(f"{name}: a training example has shape {shapes[0]}, a test example {shapes[1]}")
    classes = int(max(labels.max() for labels in checked_y)) + 1
    if classes < 2:
        raise DataError(f"{name}: all labels are 0: with only one class there is nothing to learn")
    return Dataset(name, checked_x[0], checked_y[0], checked_x[1], checked_y[1], classes, digest.hexdigest())
