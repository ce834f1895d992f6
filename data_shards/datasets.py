"""Load a data set: Fashion-MNIST or the shoulder exercises by name, or any folder of IDX files, or any .npz file."""

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

from data_shards import fashion_mnist, shoulder_watch
from data_shards.errors import DataError
from data_shards.idx import read_idx

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]

IDX_NAMES = tuple(fashion_mnist.SHA256)
NPZ_NAMES = ("x", "y", "x_test", "y_test", "subjects", "subjects_test")
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
        x_train: Shape (n, height, width, channels), (n, steps, channels), or what the model takes; uint8.
        y_train: Shape (n,), int32, labels from 0 to classes - 1.
        x_test: Like x_train.
        y_test: Like y_train.
        sha256: Digest of all arrays.
        subjects_train: Whose each training example is: a number for each person or device; shape (n,), int32. None
            where the data set does not say it.
        subjects_test: Like subjects_train, for the test examples; both or none are there.
    """

    name: str
    x_train: U8
    y_train: I32
    x_test: U8
    y_test: I32
    classes: int
    sha256: str
    subjects_train: I32 | None = None
    subjects_test: I32 | None = None


def load_dataset(where: str, seed: int = 1, say: Callable[[str], None] = lambda _: None) -> Dataset:
    """Load a data set.

    Args:
        where: `fashion-mnist`, `fashion-mnist:FOLDER` where its files are in a folder of yours, a folder with four
            IDX files of MNIST's names, `shoulder-watch`, `shoulder-watch:FILE` where FILE is its wheel or what is in
            it, or an .npz file with `x` and `y` (and perhaps `x_test` and `y_test`; and perhaps `subjects`, then with
            `subjects_test` too where there is an `x_test`).
        seed: Of the split where an .npz file brings no test set.
        say: Told what is going on when something has to be fetched.

    Raises:
        DataError: It is not there, or not a data set.
    """
    path = Path(where)
    name, colon, given = where.partition(":")
    if name in ("fashion-mnist", "shoulder-watch"):
        if colon and not given:
            kind = "folder" if name == "fashion-mnist" else "file"
            raise DataError(f"--dataset {where!r}: name a {kind} after the colon, or leave the colon out")
        own = Path(given) if given else None
        if name == "fashion-mnist":
            return _from_idx(name, fashion_mnist.locate(say, own), fashion_mnist.SHA256)
        return _from_recordings(name, shoulder_watch.read(shoulder_watch.locate(say, own)))
    if path.is_dir():
        return _from_idx(path.resolve().name, path, {})
    if path.suffix == ".npz" and path.is_file():
        return _from_npz(path, seed)
    raise DataError(
        f"--dataset {where!r} is neither fashion-mnist[:FOLDER], nor a folder with {IDX_NAMES[0]}[.gz] and its like, "
        "nor shoulder-watch[:FILE], nor an .npz file: correct it"
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


def _from_recordings(name: str, recordings: list[shoulder_watch.Recording]) -> Dataset:
    train, test = shoulder_watch.examples(recordings)
    return _checked(name, train.x, train.y, test.x, test.y, (train.subjects, test.subjects))


def _from_npz(path: Path, seed: int) -> Dataset:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not hasattr(loaded, "files"):
            raise DataError(f"{path}: not an .npz file of plain arrays (one array alone); save it with numpy.savez")
        with loaded as file:
            arrays = {key: file[key] for key in NPZ_NAMES if key in file.files}
    except NPZ_ERRORS as error:
        raise DataError(f"{path}: not an .npz file of plain arrays ({error})") from None
    if "x" not in arrays or "y" not in arrays or ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(f"{path}: has {sorted(arrays)}, needs x and y, and both x_test and y_test or neither")
    with_test = "x_test" in arrays
    if "subjects_test" in arrays and not ("subjects" in arrays and with_test):
        raise DataError(f"{path}: has {sorted(arrays)}; subjects_test needs subjects and x_test beside it")
    if "subjects" in arrays and with_test and "subjects_test" not in arrays:
        raise DataError(f"{path}: has {sorted(arrays)}; whose are the examples of x_test? add subjects_test")
    x, y, subjects = arrays["x"], arrays["y"], arrays.get("subjects")
    if x.ndim < 1 or y.ndim < 1 or len(x) != len(y):
        raise DataError(f"{path}: x has shape {list(x.shape)}, y has shape {list(y.shape)}: one label an example")
    if subjects is not None and subjects.shape != y.shape:
        raise DataError(f"{path}: subjects has shape {list(subjects.shape)}, x has {len(x)} examples: one subject each")
    if with_test:
        both = None if subjects is None else (subjects, arrays["subjects_test"])
        return _checked(path.stem, _grey(x), y, _grey(arrays["x_test"]), arrays["y_test"], both)
    order = np.random.default_rng(seed).permutation(len(x))
    cut = max(1, int(len(x) * TEST_SHARE))
    test, train = np.sort(order[:cut]), np.sort(order[cut:])
    both = None if subjects is None else (subjects[train], subjects[test])
    return _checked(path.stem, _grey(x[train]), y[train], _grey(x[test]), y[test], both)


def _grey(x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Images without a channel axis are grey ones."""
    return x[..., None] if x.ndim == 3 else x


def _checked(
    name: str,
    x_train: npt.NDArray[np.generic],
    y_train: npt.NDArray[np.generic],
    x_test: npt.NDArray[np.generic],
    y_test: npt.NDArray[np.generic],
    subjects: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]] | None = None,
) -> Dataset:
    digest = hashlib.sha256()
    checked_x, checked_y = [], []
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if x.dtype != np.uint8:
            raise DataError(f"{name}: {part} examples are {x.dtype}, not uint8; scaling belongs into the model's graph")
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
    owners = [] if subjects is None else _checked_subjects(name, subjects, [len(y) for y in checked_y])
    for owner in owners:
        digest.update(f"{owner.dtype.str}{owner.shape}".encode())
        digest.update(owner.tobytes())
    return Dataset(name, checked_x[0], checked_y[0], checked_x[1], checked_y[1], classes, digest.hexdigest(), *owners)


def _checked_subjects(
    name: str, subjects: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]], examples: list[int]
) -> list[I32]:
    checked = []
    for part, owner, count in zip(("train", "test"), subjects, examples, strict=True):
        if owner.shape != (count,):
            raise DataError(f"{name}: {part} has {count} examples and subjects of shape {list(owner.shape)}")
        if not np.issubdtype(owner.dtype, np.integer):
            raise DataError(f"{name}: {part} subjects are {owner.dtype}, they must be integers from 0")
        if int(owner.min()) < 0 or int(owner.max()) > LABEL_MAX:
            raise DataError(
                f"{name}: {part} subjects go from {owner.min()} to {owner.max()}, they must be from 0 to {LABEL_MAX}"
            )
        checked.append(np.ascontiguousarray(owner, np.int32))
    return checked
