"""`edge-peer predict` with a model that has been trained, under whichever interpreter this environment has."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idx_files import idx
from safetensors.numpy import save
from test_trainers import examples, never

from edge_peer.__main__ import main, parser
from edge_peer.errors import ResourceError
from edge_peer.operator.prediction.classifiers import FloatClassifier, Int8Classifier, open_classifier
from edge_peer.operator.prediction.examples import ExamplesError, read_examples, read_labels, read_names
from edge_peer.trainers.artifacts import load_artifacts
from edge_peer.trainers.deployed import int8_model
from edge_peer.trainers.litert import LiteRTTrainer
from edge_peer.trainers.runtimes import load_runtime

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "models/artifacts/image_cnn"
ARTIFACTS = load_artifacts(FOLDER)
SHAPE = ARTIFACTS.input_shape
#: More than a batch, and not a multiple of one.
COUNT = 75
MANY = 5_000
X, Y = examples(COUNT, seed=3)
NAMES = [f"kind {'abcdefghij'[it]}" for it in range(10)]


@pytest.fixture(scope="module")
def weights() -> Any:
    return (
        LiteRTTrainer(ARTIFACTS)
        .train(ARTIFACTS.initial(), *examples(640, seed=2), epochs=6, learning_rate=0.1, seed=1, cancelled=never)
        .weights
    )


@pytest.fixture(scope="module")
def run(weights: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run has left in its folder."""
    folder = tmp_path_factory.mktemp("runs") / "run-1"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(save(ARTIFACTS.layout.split(weights)))
    int8 = int8_model(ARTIFACTS, weights)
    assert int8 is not None
    (folder / "model.int8.tflite").write_bytes(int8)
    (folder / "config.toml").write_text(
        f'[peer]\nname = "a"\nstate_dir = "state"\ntrain = false\n[model]\nartifacts = "{FOLDER}"\n'
    )
    return folder


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder to damage."""
    return Path(shutil.copytree(run, tmp_path / "own"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return saved(tmp_path / "rows.npy", X)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """So many that their lines do not fit into a pipe."""
    return saved(tmp_path / "many.npy", np.resize(X, (MANY, *SHAPE)))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return saved(tmp_path / "labels.npy", Y)


def saved(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def predict(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    """Exit code, and what was written to standard output and error."""
    capsys.readouterr()
    code = main(["predict", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def table(capsys: pytest.CaptureFixture[str], *words: Any) -> list[dict[str, str]]:
    """The rows of --csv."""
    code, out, err = predict(capsys, *words, "--csv")
    assert code == 0, err
    return list(csv.DictReader(io.StringIO(out)))


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """What is said of what cannot be used at all."""
    code, out, err = predict(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("edge-peer: ")
    return err


def softmax(logits: list[float]) -> list[float]:
    """Slowly."""
    powers = [math.exp(it - max(logits)) for it in logits]
    return [it / sum(powers) for it in powers]


def int8_logits(path: Path, image: Any) -> list[float]:
    """One example through the file."""
    interpreter = load_runtime()[1].Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(entry["index"], image[None])
    interpreter.invoke()
    scale, zero_point = result["quantization"]
    return [(int(it) - zero_point) * scale for it in interpreter.get_tensor(result["index"])[0]]


# ---------------------------------------------------------------------- what it says is what the model says


def test_each_line_is_what_the_int8_model_says_of_that_example(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path
) -> None:
    found = table(capsys, run, rows, "--top", 10)
    assert len(found) == COUNT
    for index, line in enumerate(found):
        assert (line["source"], line["index"], line["name"], line["label"]) == (str(rows), str(index), "", "")
        expected = softmax(int8_logits(run / "model.int8.tflite", X[index]))
        said = {int(line["class"]): float(line["confidence"])}
        said |= {int(line[f"class_{it}"]): float(line[f"confidence_{it}"]) for it in range(2, 11)}
        assert [said[it] for it in range(10)] == pytest.approx(expected, abs=2e-6)
        assert list(said.values()) == sorted(said.values(), reverse=True)
    assert len({line["class"] for line in found}) > 5


def test_the_accuracy_is_that_of_the_trainer(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, labels: Path, weights: Any
) -> None:
    trainer = LiteRTTrainer(ARTIFACTS)
    wrong = (Y + (np.arange(COUNT) % 3 == 0)) % 10
    saved(labels, wrong)
    for options, score in (
        ([], trainer.evaluate_int8(weights, X, wrong.astype(np.int32), cancelled=never)),
        (["--float"], trainer.evaluate(weights, X, wrong.astype(np.int32), cancelled=never).accuracy),
    ):
        assert score is not None
        assert 0.3 < score < 0.9
        code, out, _ = predict(capsys, run, rows, "--labels", labels, *options)
        assert code == 0
        assert out.splitlines()[-1] == f"accuracy {score:.4f} ({round(score * COUNT)} of {COUNT})"
        assert out.count("(wrong)") == COUNT - round(score * COUNT)


def test_the_float_model_is_that_of_the_artifacts(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, weights: Any
) -> None:
    infer = load_runtime()[1].Interpreter(model_path=str(ARTIFACTS.train_path)).get_signature_runner("infer")
    batch = ARTIFACTS.evaluation_batch_size
    logits = infer(weights=weights, x=X[:batch], y=np.zeros(batch, np.int32))["logits"]
    as_float, as_int8 = table(capsys, run, rows, "--float"), table(capsys, run, rows)
    for line, row in zip(as_float, logits.tolist(), strict=False):
        assert float(line["confidence"]) == pytest.approx(max(softmax(row)), abs=2e-6)
        assert int(line["class"]) == row.index(max(row))
    same = sum(one["class"] == other["class"] for one, other in zip(as_float, as_int8, strict=True))
    assert same >= COUNT - 3
    assert as_float != as_int8


def test_all_ways_to_name_the_model_are_one(
    capsys: pytest.CaptureFixture[str], run: Path, own: Path, rows: Path, tmp_path: Path
) -> None:
    assert table(capsys, run, rows) == table(capsys, run / "model.int8.tflite", rows)
    as_float = table(capsys, run, rows, "--float")
    assert as_float == table(capsys, run / "model.safetensors", rows)
    alone = Path(shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors"))
    assert as_float == table(capsys, alone, rows, "--artifacts", FOLDER)
    # A model without QAT leaves no int8 file.
    (own / "model.int8.tflite").unlink()
    assert as_float == table(capsys, own, rows)


# ---------------------------------------------------------------------- files of examples


def test_the_same_examples_in_any_file_are_predicted_alike(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, tmp_path: Path
) -> None:
    flat = X[..., 0]
    files = [saved(tmp_path / "flat.npy", flat), tmp_path / "images-idx3-ubyte", tmp_path / "images-idx3-ubyte.gz"]
    files[1].write_bytes(idx(flat))
    files[2].write_bytes(gzip.compress(idx(flat), 1))
    four = tmp_path / "images-idx4-ubyte"
    four.write_bytes(idx(X))
    expected = [{**it, "source": ""} for it in table(capsys, run, rows)]
    for path in (*files, four):
        found = table(capsys, run, path)
        assert {it["source"] for it in found} == {str(path)}
        assert [{**it, "source": ""} for it in found] == expected
    for shape in ((28, 28), (28, 28, 1), (1, 28, 28, 1)):
        (one,) = table(capsys, run, saved(tmp_path / "one.npy", X[7].reshape(shape)))
        assert (one["index"], one["class"], one["confidence"]) == ("0", expected[7]["class"], expected[7]["confidence"])


def test_examples_of_several_files_share_batches_and_keep_their_places(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, tmp_path: Path
) -> None:
    whole = table(capsys, run, rows)
    cuts = [0, 1, 20, 60, COUNT]
    files = [saved(tmp_path / f"{begin}.npy", X[begin:end]) for begin, end in itertools.pairwise(cuts)]
    found = table(capsys, run, *files)
    places = [(str(path), str(index)) for path in files for index in range(len(np.load(path)))]
    assert [(it["source"], it["index"]) for it in found] == places
    assert [(it["class"], it["confidence"]) for it in found] == [(it["class"], it["confidence"]) for it in whole]


@pytest.fixture
def pillow() -> Any:
    return pytest.importorskip("PIL.Image")


def test_a_picture_that_fits_is_taken_as_it_is(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, tmp_path: Path, pillow: Any
) -> None:
    paths = [tmp_path / f"{it}.png" for it in range(10)]
    for path, image in zip(paths, X, strict=False):
        pillow.fromarray(image[..., 0]).save(path)
    found = table(capsys, run, *paths)
    expected = table(capsys, run, rows)[:10]
    assert [(it["class"], it["confidence"]) for it in found] == [(it["class"], it["confidence"]) for it in expected]
    assert "pictures are" not in predict(capsys, run, *paths)[2]


def test_other_pictures_are_converted_and_it_says_so_once(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, tmp_path: Path, pillow: Any
) -> None:
    paths = [tmp_path / f"{it}.{'jpg' if it % 2 else 'png'}" for it in range(20)]
    for path, image in zip(paths, X, strict=False):
        pillow.fromarray(image[..., 0]).convert("RGB").resize((112, 84), pillow.Resampling.NEAREST).save(path)
    code, out, err = predict(capsys, run, *paths, "--csv")
    assert code == 0
    assert err.count("pictures are") == 1
    assert f"{paths[0]} is RGB, 112x84: pictures are converted to grey and resized to 28x28" in err
    classes = [it["class"] for it in csv.DictReader(io.StringIO(out))]
    assert sum(a == b["class"] for a, b in zip(classes, table(capsys, run, rows), strict=False)) >= 19


def test_how_a_camera_was_held_is_undone(tmp_path: Path, pillow: Any) -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6  # The first row is on the right.
    path = tmp_path / "turned.png"
    pillow.fromarray(np.ascontiguousarray(np.rot90(X[0, ..., 0]))).save(path, exif=exif)
    assert np.array_equal(read_examples(path, SHAPE, print), X[:1])


@pytest.mark.parametrize(
    ("shape", "mode"), [((28, 28), "L"), ((28, 28, 1), "L"), ((28, 28, 3), "RGB"), ((28, 28, 4), "RGBA")]
)
@pytest.mark.parametrize("before", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_a_picture_gets_the_models_channels(
    tmp_path: Path, pillow: Any, shape: tuple[int, ...], mode: str, before: str
) -> None:
    picture = pillow.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3)).astype(np.uint8)).convert(before)
    path = tmp_path / ("it.jpg" if before == "CMYK" else "it.png")
    picture.save(path)
    said: list[str] = []
    (found,) = read_examples(path, shape, said.append)
    with pillow.open(path) as file:
        assert np.array_equal(found, np.asarray(file.convert(mode)).reshape(shape))
    assert len(said) == (before != mode)


def test_a_picture_without_pillow_says_what_to_install(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 and so on")
    monkeypatch.setitem(sys.modules, "PIL", None)
    code, _, err = predict(capsys, run, path)
    assert code == 2
    assert f"{path}: pictures need Pillow: pip install 'edge-peer[images]'" in err


def test_a_picture_for_a_model_of_other_examples(tmp_path: Path) -> None:
    path = tmp_path / "it.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    for shape in ((128, 6, 1, 1), (28, 28, 2), (8,)):
        with pytest.raises(ExamplesError, match=r"it\.png: is a picture; the model takes examples of shape \[n, "):
            read_examples(path, shape, print)


def png_of(mode: str, path: Path) -> None:
    from PIL import Image

    Image.new(mode, (28, 28)).save(path)


#: What is in the file, what is said of it.
BROKEN: dict[str, tuple[Any, str]] = {
    "float32.npy": (X.astype(np.float32) / 255, "is float32, needs uint8: the model scales by itself"),
    "int64.npy": (X.astype(np.int64), "is int64, needs uint8"),
    "shape.npy": (
        X[:, :20],
        r"has shape \[75, 20, 28, 1\]; the model takes examples of shape \[n, 28, 28, 1\], or one",
    ),
    "none.npy": (X[:0], r"holds no example"),
    "scalar.npy": (np.uint8(1), r"has shape \[\]"),
    "objects.npy": (np.array([None]), r"is not a whole \.npy file of numbers .*save it again"),
    "cut.npy": (b"\x93NUMPY\x01\0", r"is not a whole \.npy file of numbers"),
    "short.npy": ("cut", r"is not a whole \.npy file of numbers"),
    "labels-idx1-ubyte": (idx(Y.astype(np.uint8)), r"has one dimension, as labels have; give it as --labels"),
    "images-idx2-ubyte": (idx(X[:, :, 0, 0]), r"has 2 dimensions; the model takes"),
    "wrong-idx3-ubyte": (idx(X[:, :20, :, 0]), r"has shape \[75, 20, 28\]; the model takes"),
    "short-idx3-ubyte": (idx(X[..., 0])[:-1], r"header says shape \[75, 28, 28\], but .* copy it again"),
    "float-idx3": (b"\0\0\x0d\3" + bytes(12), "not an IDX file of unsigned bytes"),
    "it.gz": (b"not gzipped", r"cannot be read .*copy it again"),
    "cut.gz": (gzip.compress(idx(X[..., 0]), 1)[:-100], r"cannot be read .*copy it again"),
    "it.npz": (b"PK\x03\x04...", "is an archive, as an .npz is; save the examples alone"),
    "notes.txt": (b"hello", r"is no \.npy, IDX, PNG or JPEG file; convert it to one of them"),
    "empty.png": (b"", r"is no \.npy, IDX, PNG or JPEG file"),
    "missing.npy": (None, r"cannot be read \(No such file or directory\); correct its name"),
    "folder": ("folder", r"is a folder; name the files in it, such as .*folder/\*\.png"),
    "cut.png": (b"\x89PNG\r\n\x1a\nIHDR", "cannot be decoded .*save it again"),
    "cut.jpg": (b"\xff\xd8\xff\xe0 and so on", "cannot be decoded .*save it again"),
    "deep.png": (lambda path: png_of("I;16", path), r"its pixels are of mode I;16; save it with 8 bits a channel"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_the_rest_goes_on(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, labels: Path, tmp_path: Path, name: str
) -> None:
    content, message = BROKEN[name]
    if name in ("cut.png", "cut.jpg", "deep.png"):
        pytest.importorskip("PIL")
    path = tmp_path / name
    if isinstance(content, str):
        {"folder": path.mkdir, "cut": lambda: path.write_bytes(rows.read_bytes()[:-1])}[content]()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif callable(content):
        content(path)
    elif content is not None:
        np.save(path, content)
    first = saved(tmp_path / "first.npy", X[:2])
    code, out, err = predict(capsys, run, first, path, rows, "--json", "--labels", labels)
    assert code == 1
    told = [it for it in err.splitlines() if it.startswith(f"edge-peer: {path}: ")]
    assert len(told) == 1
    assert re.search(message, told[0])
    lines = [json.loads(it) for it in out.splitlines()]
    assert [it["source"] for it in lines] == [str(first)] * 2 + [str(rows)] * COUNT
    # How many labels the broken file would have had, nobody knows.
    assert [it["label"] for it in lines] == [int(Y[0]), int(Y[1])] + [None] * COUNT
    assert f"no accuracy: without {path}" in err
    assert "accuracy 0" not in err
    assert f"{COUNT + 2} examples in " in err


def test_nothing_but_broken_files(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    code, _, err = predict(capsys, run, tmp_path / "a.npy", tmp_path / "b.npy")
    assert code == 1
    assert "0 examples in 0.00" in err
    assert err.count("No such file") == 2


# ---------------------------------------------------------------------- labels and names


def test_labels_come_as_idx_too(capsys: pytest.CaptureFixture[str], run: Path, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(Y.astype(np.uint8))))
    found = table(capsys, run, rows, "--labels", path)
    assert [int(it["label"]) for it in found] == Y.tolist()
    # For scripts, standard output is the table alone.
    _, out, err = predict(capsys, run, rows, "--labels", path, "--csv")
    right = sum(it["class"] == it["label"] for it in found)
    assert f"accuracy {right / COUNT:.4f} ({right} of {COUNT})" in err
    assert len(out.splitlines()) == COUNT + 1


@pytest.mark.parametrize("count", [COUNT - 1, COUNT + 1, 0])
def test_labels_of_another_number_give_no_accuracy(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, tmp_path: Path, count: int
) -> None:
    path = saved(tmp_path / "labels.npy", np.resize(Y, count))
    code, out, err = predict(capsys, run, rows, "--labels", path)
    assert code == 1
    assert f"no accuracy: there are {count} labels, but {COUNT} examples; give one each" in err
    assert "accuracy" not in out
    assert out.count("unknown") == max(0, COUNT - count)


LABELS: dict[str, tuple[Any, str]] = {
    "float": (Y.astype(np.float32), r"is float32 of shape \[75\], needs integers of shape \[n\]"),
    "one-hot": (np.eye(10, dtype=np.int32)[Y], r"is int32 of shape \[75, 10\], needs integers"),
    "large": (Y + 1, r"labels go from 1 to 10, the model's classes from 0 to 9"),
    "negative": (Y - 1, r"labels go from -1 to 8, the model's classes from 0 to 9"),
    "text": (b"1\n2\n", r"is neither \.npy nor IDX"),
    "images": (idx(X[..., 0]), r"not an IDX file of unsigned bytes with 1 dimensions"),
    "missing": (None, "cannot be read"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_none(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, tmp_path: Path, name: str
) -> None:
    content, message = LABELS[name]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        with path.open("wb") as file:
            np.save(file, content)
    said = refused(capsys, run, rows, "--labels", path)
    assert re.search(rf"{re.escape(str(path))}: {message}", said)


def test_classes_have_names(capsys: pytest.CaptureFixture[str], run: Path, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES) + "\n")
    assert read_names(path, 10) == NAMES
    for line in table(capsys, run, rows, "--classes", path, "--top", 2):
        assert (line["name"], line["name_2"]) == (NAMES[int(line["class"])], NAMES[int(line["class_2"])])
    path.write_text("\n".join(NAMES[:9]))
    assert f"{path}: has 9 lines, the model has 10 classes; write one a line" in refused(
        capsys, run, rows, "--classes", path
    )
    path.write_bytes(b"\xff")
    assert f"{path}: cannot be read as text" in refused(capsys, run, rows, "--classes", path)


def test_labels_are_read_as_they_are(tmp_path: Path) -> None:
    for kind in (np.uint8, np.int16, np.uint64):
        found = read_labels(saved(tmp_path / "it.npy", Y.astype(kind)), 10)
        assert (found.dtype, found.tolist()) == (np.int64, Y.tolist())


# ---------------------------------------------------------------------- what it looks like


def test_the_table_is_aligned(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, labels: Path, tmp_path: Path
) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES))
    short = saved(tmp_path / "s.npy", X[0])
    saved(labels, np.concatenate([Y[:1], Y]))
    words = (run, short, rows, "--top", 3, "--classes", path, "--labels", labels)
    code, out, _ = predict(capsys, *words)
    assert code == 0
    head, *lines, last = out.splitlines()
    assert last.startswith("accuracy ")
    assert re.split("  +", head) == [
        *("source", "index", "class", "confidence", "2nd class", "confidence", "3rd class", "confidence", "label")
    ]
    begin = head.index("class")
    ends = [it.end() for it in re.finditer("confidence", head)]
    assert len(lines) == COUNT + 1
    for line, found in zip(lines, table(capsys, *words), strict=True):
        assert line.startswith(f"{found['source']} ")
        assert line[begin:].startswith(f"{found['class']} {found['name']}  ")
        for end, key in zip(ends, ("confidence", "confidence_2", "confidence_3"), strict=True):
            assert re.search(r"  \d\.\d{4}$", line[:end])
            assert float(line[:end].split()[-1]) == pytest.approx(float(found[key]), abs=1e-4)


def test_json_says_what_csv_says(
    capsys: pytest.CaptureFixture[str], run: Path, rows: Path, labels: Path, tmp_path: Path
) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES))
    words = (run, rows, "--top", 2, "--classes", path, "--labels", labels)
    code, out, _ = predict(capsys, *words, "--json")
    assert code == 0
    keys = ["class", "name", "confidence"]
    for line, row in zip(map(json.loads, out.splitlines()), table(capsys, *words), strict=True):
        assert list(line) == ["source", "index", *keys, "label", "top"]
        assert [list(it) for it in line["top"]] == [keys, keys]
        assert {it: line[it] for it in keys} == line["top"][0]
        texts = [line["source"], line["index"], *line["top"][0].values(), line["label"], *line["top"][1].values()]
        assert [str(it) for it in texts[:4]] + [f"{texts[4]:.6f}"] == list(row.values())[:5]
        assert [str(it) for it in texts[5:8]] + [f"{texts[8]:.6f}"] == list(row.values())[5:]
    (bare,) = [json.loads(it) for it in predict(capsys, run, saved(rows, X[0]), "--json")[1].splitlines()]
    assert (bare["name"], bare["label"], len(bare["top"])) == (None, None, 1)


def test_the_help_names_the_columns_that_there_are(capsys: pytest.CaptureFixture[str], run: Path, rows: Path) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    said = capsys.readouterr().out
    header = predict(capsys, run, rows, "--csv", "--top", 2)[1].splitlines()[0]
    fixed, more = header.split(",class_2,")
    assert f"--csv    {fixed} and, with --top N, class_2,{more} to N" in said
    (line, *_) = predict(capsys, run, rows, "--json")[1].splitlines()
    *keys, last = json.loads(line)
    assert f"a line an example: {', '.join(keys)}, and {last}: a list" in said


def test_the_time_goes_to_standard_error(capsys: pytest.CaptureFixture[str], run: Path, many: Path) -> None:
    for options, file in (([], "model.int8.tflite"), (["--float"], "model.safetensors")):
        _, out, err = predict(capsys, run, many, *options)
        found = re.search(
            rf"^{MANY} examples in ([\d.]+) s, (\d+) a second; ([\d.]+) s of it in (.*)$", err, re.MULTILINE
        )
        assert found is not None
        total, rate, model = (float(found[it]) for it in (1, 2, 3))
        assert 0 < model <= total
        assert rate == pytest.approx(MANY / total, rel=0.05)
        assert found[4] == f"{run / file} with {load_runtime()[0]}"
        assert "a second" not in out


def test_top_is_a_number_of_classes(capsys: pytest.CaptureFixture[str], run: Path, rows: Path) -> None:
    for top in (0, 11, -1):
        said = refused(capsys, run, rows, "--top", top)
        assert f"--top {top}: the model has 10 classes; choose 1 to 10" in said


def test_a_name_that_is_no_text_is_shown(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.npy")
    with path.open("wb") as file:
        np.save(file, X[0])
    (line,) = table(capsys, run, path)
    assert line["source"] == f"{tmp_path}/\N{REPLACEMENT CHARACTER}.npy"


# ---------------------------------------------------------------------- models that cannot be used


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], run: Path, rows: Path, tmp_path: Path) -> None:
    assert f"{run.parent / 'other'}: no such run or file; name a run's folder, such as {run}" in refused(
        capsys, run.parent / "other", rows
    )
    assert "has no model.int8.tflite and no model.safetensors; name the folder of a run that has ended, such as " in (
        refused(capsys, tmp_path, rows)
    )
    assert f"such as {run}" in refused(capsys, run.parent, rows)
    assert "such as runs/latest" in refused(capsys, tmp_path / "none", rows)
    assert "has no model.safetensors; " in refused(capsys, tmp_path, rows, "--float")


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 1000, "rows"])
def test_a_file_that_is_no_model(capsys: pytest.CaptureFixture[str], rows: Path, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "it.tflite"
    path.write_bytes(rows.read_bytes() if content == "rows" else content)
    assert f"{path}: is not a TFLite file; name a run's folder or its model.int8.tflite" in refused(capsys, path, rows)


def test_other_tflite_files_are_told_apart(capsys: pytest.CaptureFixture[str], rows: Path) -> None:
    said = refused(capsys, FOLDER / "train.tflite", rows)
    assert re.search(r"takes \d+ tensors and gives 2, as the file that boards train with", said)
    said = refused(capsys, FOLDER / "int8.tflite", rows)
    assert "int8.tflite: is the template that boards write their weights into, and was not trained" in said


def test_float_wants_weights(capsys: pytest.CaptureFixture[str], run: Path, rows: Path) -> None:
    said = refused(capsys, run / "model.int8.tflite", rows, "--float")
    assert "--float takes a run's folder, or model.safetensors with --artifacts FOLDER" in said


def test_weights_without_artifacts(capsys: pytest.CaptureFixture[str], own: Path, rows: Path, tmp_path: Path) -> None:
    config = own / "config.toml"
    text = config.read_text()
    config.write_text(text.replace(str(FOLDER), str(tmp_path / "moved")))
    said = refused(capsys, own, rows, "--float")
    assert re.search(
        r"config\.toml: \[model\] artifacts: .*moved/manifest\.json: cannot be read .*--artifacts FOLDER", said
    )
    config.write_text("[peer]\nnam = 3\n")
    assert re.search(
        r"config\.toml: .*; or name the folder .*--artifacts FOLDER", refused(capsys, own, rows, "--float")
    )
    config.unlink()
    said = refused(capsys, own, rows, "--float")
    assert "there is no config.toml beside it that says which model it is of" in said
    assert len(table(capsys, own, rows, "--float", "--artifacts", FOLDER)) == COUNT


def test_weights_of_another_model(capsys: pytest.CaptureFixture[str], own: Path, rows: Path, weights: Any) -> None:
    other = ROOT / "tests/models/small_cnn"
    said = refused(capsys, own, rows, "--float", "--artifacts", other)
    assert f"does not hold weights of small_cnn in {other} (" in said
    assert "--artifacts FOLDER" in said
    path = own / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    assert "does not hold weights of image_cnn" in refused(capsys, path, rows)
    infinite = np.array(weights)
    infinite[3] = np.inf
    path.write_bytes(save(ARTIFACTS.layout.split(infinite)))
    assert "holds weights that are not finite" in refused(capsys, path, rows)


def test_a_model_says_what_it_is(run: Path) -> None:
    int8, weights = open_classifier(run, None, False), open_classifier(run, None, True)
    assert (type(int8), type(weights)) == (Int8Classifier, FloatClassifier)
    for it in (int8, weights):
        assert (it.input_shape, it.classes, it.runtime) == (SHAPE, 10, load_runtime()[0])
        for count in (1, it.batch, 3):
            found = it.logits(X[:count])
            assert (found.shape, found.dtype) == ((count, 10), np.float32)
            # Not that of the batch before.
            assert np.array_equal(found, np.concatenate([it.logits(X[at : at + 1]) for at in range(count)]))


@pytest.mark.parametrize("kept", [8, 100, 5_000, 20_000, 0.99, -12, -4, -1])
def test_a_model_that_was_cut_off_is_told_and_crashes_nothing(own: Path, rows: Path, kept: float) -> None:
    """In a process of its own: the older interpreter dies of such a file."""
    path = own / "model.int8.tflite"
    whole = path.read_bytes()
    size = len(whole) + int(kept) if kept < 0 else int(kept * len(whole)) if kept < 1 else int(kept)
    path.write_bytes(whole[:size])
    process = program(own, rows)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert f"{path}: is cut off at {size} bytes; copy it again" in err


def test_a_model_that_is_damaged_within(own: Path) -> None:
    """Only the newer interpreter looks through a file before it uses it."""
    if not load_runtime()[0].startswith("ai-edge-litert"):
        pytest.skip("tflite-runtime does not check files")
    path = own / "model.int8.tflite"
    content = bytearray(path.read_bytes())
    content[200:20_000] = b"\xff" * 19_800
    path.write_bytes(content)
    with pytest.raises(ResourceError, match=r"model\.int8\.tflite: ai-edge-litert .* cannot load it .*copy it again"):
        Int8Classifier(path)


# ---------------------------------------------------------------------- as a program


def program(*words: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edge_peer", "predict", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupt_is_quiet(run: Path, many: Path) -> None:
    process = program(run, many)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("source")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "examples in" not in err


def test_a_reader_that_has_seen_enough_is_no_error(run: Path, many: Path) -> None:
    process = program(run, many)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("source")
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_it_loads_neither_tensorflow_nor_a_broker(run: Path, rows: Path) -> None:
    script = (
        "import sys\nfrom edge_peer.__main__ import main\n"
        f"assert main(['predict', {str(run)!r}, {str(rows)!r}]) == 0\n"
        "assert not {'tensorflow', 'keras', 'paho', 'matplotlib', 'PIL'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_no_configuration_is_asked_for() -> None:
    options = parser().parse_args(["predict", "runs/latest", "a.png", "b.npy"])
    assert (options.model, options.inputs) == (Path("runs/latest"), [Path("a.png"), Path("b.npy")])
    for words in (["predict"], ["predict", "runs/latest"], ["predict", "m", "f", "--csv", "--json"]):
        with pytest.raises(SystemExit) as raised:
            parser().parse_args(words)
        assert raised.value.code == 2


# ---------------------------------------------------------------------- a model of one output


@pytest.mark.tensorflow
def test_one_output_stands_for_two_classes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from models.export import export

    source = tmp_path / "binary.py"
    source.write_text(
        "import keras\nBATCH = EVALUATION_BATCH = 16\nCLASSES = 2\nQAT = 'full'\n"
        "def build():\n"
        "    model = keras.Sequential([keras.Input((12,)), keras.layers.Rescaling(1 / 255),\n"
        "        keras.layers.Dense(8, activation='relu'), keras.layers.Dense(1)])\n"
        "    model.compile(optimizer=keras.optimizers.SGD(0.1),\n"
        "        loss=keras.losses.BinaryCrossentropy(from_logits=True))\n"
        "    return model\n"
    )
    export(source, tmp_path / "artifacts", 1)
    artifacts = load_artifacts(tmp_path / "artifacts")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (400, 12)).astype(np.uint8)
    y = (x[:, :6].sum(axis=1, dtype=int) > x[:, 6:].sum(axis=1, dtype=int)).astype(np.int32)
    trainer = LiteRTTrainer(artifacts)
    weights = trainer.train(artifacts.initial(), x, y, epochs=20, learning_rate=0.1, seed=1, cancelled=never).weights
    content = int8_model(artifacts, weights)
    assert content is not None
    int8 = tmp_path / "model.int8.tflite"
    int8.write_bytes(content)
    rows, labels = saved(tmp_path / "rows.npy", x), saved(tmp_path / "labels.npy", y)
    found = table(capsys, int8, rows, "--top", 2, "--labels", labels)
    score = sum(it["class"] == it["label"] for it in found) / len(found)
    assert score > 0.9
    assert {it["class"] for it in found} == {"0", "1"}
    for line, row in zip(found, x, strict=True):
        (logit,) = int8_logits(int8, row)
        one = 1 / (1 + math.exp(-logit))
        assert int(line["class"]) == (logit > 0)
        assert float(line["confidence"]) == pytest.approx(max(one, 1 - one), abs=2e-6)
        assert float(line["confidence_2"]) == pytest.approx(min(one, 1 - one), abs=2e-6)
    (tmp_path / "model.safetensors").write_bytes(save(artifacts.layout.split(weights)))
    as_float = table(capsys, tmp_path / "model.safetensors", rows, "--artifacts", artifacts.folder)
    assert sum(a["class"] == b["class"] for a, b in zip(as_float, found, strict=True)) >= 390
