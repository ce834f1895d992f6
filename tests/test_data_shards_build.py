"""Shards, their manifest and picture, damage to a shard, and the command line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from idx_files import contents, write_folder
from safetensors.numpy import save

from data_shards.__main__ import main
from data_shards.build import build
from data_shards.datasets import load_dataset
from data_shards.errors import DataError, ShardError
from data_shards.shard import Shard, encode_shard, read_shard, with_shape, write_atomically

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "digits", contents(200, 40))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:0.3", "labels:4", "quantity:1"])
def test_the_same_arguments_give_the_same_bytes(folder: Path, tmp_path: Path, scheme: str) -> None:
    dataset = load_dataset(str(folder))
    for out, seed in (("one", 1), ("two", 1), ("other", 2)):
        build(dataset, ["a", "b", "c"], scheme, seed, tmp_path / out)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert bytes_of(tmp_path / "one")["a.safetensors"] != bytes_of(tmp_path / "other")["a.safetensors"]
    assert list(bytes_of(tmp_path / "one")) == ["a.safetensors", "b.safetensors", "c.safetensors", "manifest.json"]


def test_the_shards_hold_the_data_set_and_no_example_twice(folder: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(folder))
    build(dataset, ["a", "b", "c"], "dirichlet:0.3", 1, tmp_path / "out")
    shards = [read_shard(tmp_path / "out" / f"{peer}.safetensors") for peer in "abc"]
    for part in ("train", "test"):
        rows = [
            (x.tobytes(), int(y))
            for it in shards
            for x, y in zip(getattr(it, f"x_{part}"), getattr(it, f"y_{part}"), strict=True)
        ]
        whole = zip(getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}"), strict=True)
        assert sorted(rows) == sorted((x.tobytes(), int(y)) for x, y in whole)
    assert {it.x_train.dtype for it in shards} == {np.dtype(np.uint8)}
    assert {it.classes for it in shards} == {10}


def test_the_manifest_says_everything(folder: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(folder))
    build(dataset, ["a", "b"], "dirichlet:0.5", 7, tmp_path / "out", examples=50, test_examples=9)
    manifest = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert {name: value for name, value in manifest.items() if name != "peers"} == {
        "format": 1,
        "dataset": "digits",
        "dataset_sha256": dataset.sha256,
        "classes": 10,
        "scheme": "dirichlet:0.5",
        "seed": 7,
        "examples_max": 50,
        "test_examples_max": 9,
    }
    assert set(manifest["peers"]) == {"a", "b"}
    for peer, entry in manifest["peers"].items():
        content = (tmp_path / "out" / entry["file"]).read_bytes()
        shard = read_shard(tmp_path / "out" / entry["file"])
        assert entry == {
            "file": f"{peer}.safetensors",
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "train": 50,
            "test": 9,
            "train_classes": [int((shard.y_train == label).sum()) for label in range(10)],
            "test_classes": [int((shard.y_test == label).sum()) for label in range(10)],
        }
        facts = {"peer": peer, "dataset": "digits", "dataset_sha256": dataset.sha256, "scheme": "dirichlet:0.5"}
        assert shard.metadata.items() >= {**facts, "seed": "7"}.items()


def test_the_digest_is_of_the_data(folder: Path, tmp_path: Path) -> None:
    files = contents(200, 40)
    name = "train-images-idx3-ubyte"
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    other = write_folder(tmp_path / "other" / "digits", files)
    assert load_dataset(str(other)).sha256 != load_dataset(str(folder)).sha256


def test_a_smaller_division_leaves_no_overlapping_shards_behind(folder: Path, tmp_path: Path) -> None:
    dataset, out = load_dataset(str(folder)), tmp_path / "out"
    build(dataset, ["a", "b", "c"], "iid", 1, out)
    (out / "notes.txt").write_text("mine")
    build(dataset, ["a", "d"], "iid", 1, out)
    assert sorted(bytes_of(out)) == ["a.safetensors", "d.safetensors", "manifest.json", "notes.txt"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"peers": 3}', b'{"peers": {"../../precious": {}}}', b"\xff"])
def test_a_strange_manifest_from_before_is_of_no_consequence(folder: Path, tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "one" / "two"
    out.mkdir(parents=True)
    precious = tmp_path / "precious.safetensors"
    precious.write_bytes(b"mine")
    (out / "manifest.json").write_bytes(content)
    build(load_dataset(str(folder)), ["a"], "iid", 1, out)
    assert json.loads((out / "manifest.json").read_bytes())["peers"].keys() == {"a"}
    assert precious.read_bytes() == b"mine"


def test_an_interrupted_division_has_no_manifest(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, out = load_dataset(str(folder)), tmp_path / "out"
    build(dataset, ["a", "b"], "iid", 1, out)
    real, calls = os.fsync, iter([None, None, OSError(28, "No space left on device")])

    def fsync(descriptor: int) -> None:
        if (error := next(calls)) is not None:
            raise error
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DataError, match=r"--out .*out: cannot be written to \(No space left.*choose another folder"):
        build(dataset, ["a", "b"], "iid", 2, out)
    # The first of the new shards is whole, the second is not there, and no half of it.
    assert list(bytes_of(out)) == ["a.safetensors"]
    read_shard(out / "a.safetensors")


# ---------------------------------------------------------------------- a shard's file

ARRAYS: dict[str, Any] = {
    "x_train": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
    "y_train": np.array([0, 1, 2], np.int32),
    "x_test": np.arange(4, dtype=np.uint8).reshape(1, 2, 2),
    "y_test": np.array([1], np.int32),
}
WHOLE = encode_shard(Shard(**ARRAYS, classes=3, metadata={"peer": "a"}))


def test_a_shard_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(WHOLE)
    shard = read_shard(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(getattr(shard, name), array)
    assert (shard.classes, shard.metadata["peer"]) == (3, "a")
    assert encode_shard(Shard(**ARRAYS, classes=3, metadata={"peer": "a"})) == WHOLE


@pytest.mark.parametrize(
    ("given", "wanted", "fits"),
    [
        ((4, 3), (4, 3), True),
        ((4, 3, 1), (4, 3), True),
        ((4, 3), (4, 3, 1), True),
        ((4, 1, 1), (4,), True),
        ((4, 3), (3, 4), False),
        ((4, 3), (12,), False),
        ((4, 1, 3), (4, 3), False),
    ],
)
def test_examples_fit_a_model_but_for_axes_of_one_at_the_end(
    tmp_path: Path, given: tuple[int, ...], wanted: tuple[int, ...], fits: bool
) -> None:
    x = np.random.default_rng(1).integers(0, 256, (20, *given)).astype(np.uint8)
    y = (np.arange(20) % 3).astype(np.int32)
    write_atomically(tmp_path / "a", encode_shard(Shard(x[:15], y[:15], x[15:], y[15:], 3, {})))
    fitting = with_shape(read_shard(tmp_path / "a"), wanted)
    assert (fitting is not None) == fits
    if fitting is not None:
        np.testing.assert_array_equal(fitting.x_train[:4], x[:4].reshape(4, *wanted))
        np.testing.assert_array_equal(fitting.x_test[np.array([2, 0])], x[[17, 15]].reshape(2, *wanted))


def test_arrays_of_any_memory_order_are_written_right(tmp_path: Path) -> None:
    arrays = {
        **ARRAYS,
        "x_train": np.asfortranarray(ARRAYS["x_train"]),
        "y_train": np.arange(6, dtype=np.int32)[::2] // 2,
    }
    (tmp_path / "a").write_bytes(encode_shard(Shard(**arrays, classes=3, metadata={})))
    shard = read_shard(tmp_path / "a")
    np.testing.assert_array_equal(shard.x_train, ARRAYS["x_train"])
    np.testing.assert_array_equal(shard.y_train, [0, 1, 2])


def test_a_shard_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        with pytest.raises(ShardError, match=r"a\.safetensors: cannot be read .*make it with `python -m data_shards`"):
            read_shard(path)


def test_a_shard_with_any_byte_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    # Without the metadata that is only for people.
    whole = encode_shard(Shard(**ARRAYS, classes=3, metadata={}))
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ShardError, match=r"a\.safetensors: .*make it with `python -m data_shards`"):
            read_shard(path)


def raw(arrays: dict[str, Any], **metadata: str) -> bytes:
    return save(arrays, {"format": "1", "classes": "3", **metadata})


def other_dtype(name: str) -> bytes:
    """A tensor of a kind that numpy does not have, with the right length."""
    return raw({**ARRAYS, "x_test": ARRAYS["x_test"]}).replace(
        b'"x_test":{"dtype":"U8"', b'"x_test":{"dtype":"%s"' % name.encode()
    )


WRONG = {
    "a tensor missing": (raw({k: v for k, v in ARRAYS.items() if k != "y_test"}), r"has \[.*\], not \['x_test'"),
    "a tensor too many": (raw({**ARRAYS, "z": ARRAYS["y_test"]}), r"has \[.*'z'\], not"),
    "format of the future": (raw(ARRAYS, format="2"), "format is '2', this program reads '1'"),
    "no classes": (raw(ARRAYS, classes=""), "classes is '', not a number above 1"),
    "one class": (raw(ARRAYS, classes="1"), "classes is '1'"),
    "endless classes": (raw(ARRAYS, classes="9" * 5000), "classes is '999"),
    "images as floats": (raw({**ARRAYS, "x_train": ARRAYS["x_train"] / 255}), "x_train is F64, not U8"),
    "labels as int64": (raw({**ARRAYS, "y_test": np.array([1])}), "y_test is int64, not int32"),
    "no training": (raw({**ARRAYS, "x_train": ARRAYS["x_train"][:0], "y_train": ARRAYS["y_train"][:0]}), "train has"),
    "no test": (raw({**ARRAYS, "x_test": ARRAYS["x_test"][:0], "y_test": ARRAYS["y_test"][:0]}), "test has"),
    "labels missing": (
        raw({**ARRAYS, "y_train": ARRAYS["y_train"][:2]}),
        r"train has examples \[3, 2, 2\] and labels \[2\]",
    ),
    "labels in two columns": (raw({**ARRAYS, "y_test": np.array([[1]], np.int32)}), r"labels \[1, 1\]"),
    "label too large": (
        raw({**ARRAYS, "y_test": np.array([3], np.int32)}),
        r"y_test has labels from 3 to 3, outside 0\.\.2",
    ),
    "label negative": (raw({**ARRAYS, "y_train": np.array([-1, 0, 1], np.int32)}), "y_train has labels from -1"),
    "shapes differ": (raw({**ARRAYS, "x_test": ARRAYS["x_test"].reshape(1, 4)}), "different shapes"),
    "digest of another": (raw(ARRAYS, sha256="0" * 64), "is damaged: its values are not those that were written"),
    "no digest": (raw(ARRAYS), "is damaged"),
    "float8": (other_dtype("F8_E4M3"), r"x_test is|cannot be read"),
    "unknown type": (other_dtype("X9"), "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shard_is_refused_by_name_with_the_remedy(tmp_path: Path, name: str) -> None:
    content, message = WRONG[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=message) as raised:
        read_shard(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "make it with `python -m data_shards`" in str(raised.value)


def test_a_shard_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"nothing: cannot be read \(no such file\); make it with"):
        read_shard(tmp_path / "nothing")
    with pytest.raises(ShardError, match="cannot be read"):
        read_shard(tmp_path)


# ---------------------------------------------------------------------- command line


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "data_shards", *arguments], capture_output=True, text=True, cwd=cwd, timeout=60
    )


def test_the_command_writes_shards_manifest_and_picture(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("--dataset", str(folder), "--peers", "kitchen,roof", "--split", "dirichlet:0.3", "--out", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"digits, dirichlet:0\.3, seed 1:\n  kitchen +\d+ training, +\d+ test examples of \d+ classes", done.stdout
    )
    assert sorted(bytes_of(out)) == ["kitchen.safetensors", "manifest.json", "roof.safetensors", "shards.png"]
    picture = matplotlib.image.imread(out / "shards.png")
    assert min(picture.shape[:2]) > 200
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20


def test_the_picture_shows_the_division(folder: Path, tmp_path: Path) -> None:
    """An even and an uneven division do not look the same; the same division does."""
    arguments = ["--dataset", str(folder), "--split"]
    pictures = {}
    for out, scheme in (("a", "iid"), ("b", "iid"), ("c", "labels:3")):
        assert main([*arguments, scheme, "--out", str(tmp_path / out)]) == 0
        pictures[out] = matplotlib.image.imread(tmp_path / out / "shards.png")
    np.testing.assert_array_equal(pictures["a"], pictures["b"])
    assert pictures["a"].shape == pictures["c"].shape
    assert np.abs(pictures["a"] - pictures["c"]).mean() > 0.02


def test_many_peers_and_no_picture(folder: Path, tmp_path: Path) -> None:
    assert main(["--dataset", str(folder), "--peers", "12", "--out", str(tmp_path), "--no-picture"]) == 0
    assert [f"peer{number:02d}.safetensors" for number in range(1, 13)] == sorted(
        path.name for path in tmp_path.glob("*.safetensors")
    )
    assert not (tmp_path / "shards.png").exists()


def test_a_split_of_the_users_own_is_found_in_the_current_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef split(labels, peers, rng):\n    return np.array_split(np.argsort(labels), peers)\n"
    )
    done = run("--dataset", str(folder), "--peers", "2", "--split", "mine:split", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "out/manifest.json").read_bytes())["peers"]["peer1"]
    assert entry["train_classes"] == [20] * 5 + [0] * 5


def test_the_limits_hold(folder: Path, tmp_path: Path) -> None:
    arguments = ["--dataset", str(folder), "--examples", "7", "--test-examples", "3", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    manifest = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert {(entry["train"], entry["test"]) for entry in manifest["peers"].values()} == {(7, 3)}


REFUSED = {
    "--peers 0": "--peers 0: choose 1 to 10000",
    "--peers 10001": "--peers 10001: choose 1 to 10000",
    f"--peers {'9' * 5000}": "--peers 99999999999999999999: choose 1 to 10000",
    "--peers a,,b": "--peers: '' is not a name; use letters",
    "--peers ../a,b": r"--peers: '\.\./a' is not a name; use letters",
    "--peers a,b,a": "--peers a,b,a: a name stands twice; name each peer once",
    "--peers 150": "200 examples are too few for 150 peers with 2 or more each: choose fewer peers",
    "--peers 50": "40 test examples are too few for 50 peers: choose fewer peers",
    "--seed -1": "--seed -1: choose 0 or more",
    "--examples 0": "--examples 0: choose 1 or more",
    "--test-examples -3": "--test-examples -3: choose 1 or more",
    "--split dirichlet:zero": "split 'dirichlet:zero': 'zero' is not a number above 0, as in dirichlet:0.3",
    "--split labels:1": "split labels:1: 4 peers .* choose labels:3 or more",
    "--dataset nothing": "--dataset 'nothing' is neither fashion-mnist.*correct it",
    "--dataset fashion-mnist:": "--dataset 'fashion-mnist:': name a folder",
    "--out /dev/null": "--out /dev/null: cannot be written to .*choose another folder",
    "--out /dev/null/below": "--out /dev/null/below: cannot be written to",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=lambda text: text[:30])
def test_what_is_wrong_is_named_with_the_remedy_and_exit_code_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    option, value = arguments.split(" ")
    out = tmp_path / "out"
    assert main(["--dataset", str(folder), "--out", str(out), option, value]) == 2
    said = capsys.readouterr()
    assert re.match(f"data_shards: {REFUSED[arguments]}", said.err)
    assert said.out == ""
    assert not out.exists()


def test_the_exit_code_of_the_process() -> None:
    done = run("--peers", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "data_shards: --peers 0: choose 1 to 10000\n"
    assert run("--sead", "3").returncode == 2


def test_a_picture_that_cannot_be_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "shards.png").mkdir(parents=True)
    assert main(["--dataset", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "shards.png" in capsys.readouterr().err
