"""The backend with the committed model, under whichever TFLite interpreter this environment has."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_cnn
from safetensors.numpy import save

from data_shards.rows import Rows
from edge_peer.errors import ResourceError
from edge_peer.trainers import artifacts as artifacts_module
from edge_peer.trainers import steps
from edge_peer.trainers.artifacts import ModelArtifacts, ModelError, load_artifacts
from edge_peer.trainers.deployed import int8_model
from edge_peer.trainers.int8 import NotQuantizableError
from edge_peer.trainers.interface import Cancelled, TrainingDivergedError, TrainingResult
from edge_peer.trainers.litert import LiteRTTrainer
from edge_peer.trainers.runtimes import RUNTIMES, load_runtime
from edge_peer.trainers.steps import shuffled

FOLDER = Path(__file__).parent.parent / "models/artifacts/image_cnn"
ARTIFACTS = load_artifacts(FOLDER)
BATCH = ARTIFACTS.batch_size
SIZE = ARTIFACTS.layout.size
#: Of the same kind, so small that plain loops can follow, and without the rounding of quantization.
SMALL = load_artifacts(Path(__file__).parent / "models/small_cnn")


def never() -> bool:
    return False


def after(count: int) -> Callable[[], bool]:
    calls = iter([False] * count)
    return lambda: next(calls, True)


def examples(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Images of blobs whose place tells the class: something that a model can learn."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, count).astype(np.int32)
    x = rng.integers(0, 60, (count, 28, 28, 1)).astype(np.uint8)
    for image, label in zip(x, y, strict=True):
        row, column = 4 + 12 * (label // 5), 1 + 5 * (label % 5)
        image[row : row + 8, column : column + 5] += 150
    return x, y


X, Y = examples(BATCH * 3 + 7)


@pytest.fixture(scope="module")
def trainer() -> LiteRTTrainer:
    return LiteRTTrainer(ARTIFACTS)


def train(
    trainer: LiteRTTrainer,
    x: Any = X,
    y: Any = Y,
    weights: Any = None,
    epochs: int = 1,
    learning_rate: float = 0.1,
    seed: int = 1,
    cancelled: Callable[[], bool] = never,
) -> TrainingResult:
    start = ARTIFACTS.initial() if weights is None else weights
    return trainer.train(start, x, y, epochs=epochs, learning_rate=learning_rate, seed=seed, cancelled=cancelled)


def test_the_runtime_is_the_one_that_is_installed(trainer: LiteRTTrainer) -> None:
    installed = {it.metadata["Name"]: it.version for it in distributions()}
    package = next(name for name, _ in RUNTIMES if name in installed)
    assert trainer.runtime == load_runtime()[0] == f"{package} {installed[package]}"


def test_the_same_seed_gives_the_same_bytes(trainer: LiteRTTrainer) -> None:
    one = train(trainer, epochs=2, seed=5)
    train(trainer, x=X[::-1].copy(), seed=9)  # What came before must not matter.
    again = train(LiteRTTrainer(ARTIFACTS), epochs=2, seed=5)
    assert one.weights.tobytes() == train(trainer, epochs=2, seed=5).weights.tobytes() == again.weights.tobytes()
    assert one.loss == again.loss
    assert train(trainer, epochs=2, seed=6).weights.tobytes() != one.weights.tobytes()


def test_the_given_weights_and_data_stay_as_they_are(trainer: LiteRTTrainer) -> None:
    weights, x, y = ARTIFACTS.initial(), X.copy(), Y.copy()
    for array in (weights, x, y):
        array.flags.writeable = False
    result = train(trainer, x, y, weights)
    assert weights.tobytes() == ARTIFACTS.initial().tobytes()
    assert result.weights.flags.writeable
    assert (result.weights.shape, result.weights.dtype) == ((SIZE,), np.float32)


def test_it_learns(trainer: LiteRTTrainer) -> None:
    x, y = examples(640, seed=2)
    result = train(trainer, x, y, epochs=6)
    score = trainer.evaluate(result.weights, *examples(250, seed=3), cancelled=never)
    assert score.accuracy > 0.9
    assert result.loss < 0.7
    assert (result.examples, result.steps) == (640, 6 * 20)
    assert result.seconds > 0


# ---------------------------------------------------------------------- against the signature's runner


def by_the_runner(artifacts: ModelArtifacts, x: Any, y: Any, correction: Any, proximal: float) -> tuple[bytes, float]:
    """Two epochs, every input given anew for each step, as the interpreter's own interface for signatures has it."""
    interpreter = load_runtime()[1].Interpreter(model_path=str(artifacts.train_path), num_threads=1)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("train")
    start, rng, batch = artifacts.initial(), random.Random(4), artifacts.batch_size
    constant = np.float32(-proximal) * start[: artifacts.layout.trained_size] + correction
    carried = {"weights": start, "slots": np.zeros(artifacts.layout.trained_size, np.float32)}
    images, labels, total = np.zeros((batch, *artifacts.input_shape), np.uint8), np.zeros(batch, np.int32), 0.0
    for _ in range(2):
        order, total = shuffled(len(y), rng), 0.0
        for begin in range(0, len(y), batch):
            picked = order[begin : begin + batch]
            images[: len(picked)], labels[: len(picked)] = x[picked], y[picked]
            inputs = {
                **carried,
                "x": images,
                "y": labels,
                "sample_weight": (np.arange(batch) < len(picked)).astype(np.float32),
                "learning_rate": np.float32(0.05),
                "proximal": np.float32(proximal),
                "correction": constant,
            }
            outputs = runner(**{name: inputs[name] for name in runner.get_input_details()})
            carried = {name: outputs[name] for name in carried if name in outputs}
            total += float(outputs["loss"]) * len(picked)
    return carried["weights"].tobytes(), total / len(y)


@pytest.mark.parametrize("model", ["image_cnn", "mobile_cnn", "sensor_cnn"])
def test_the_bytes_are_those_of_the_signatures_runner(model: str) -> None:
    """The trainer writes an input once if it stays the same; what it did before is of no consequence."""
    artifacts = load_artifacts(FOLDER.parent / model)
    trainer, rng = LiteRTTrainer(artifacts), np.random.default_rng(5)
    x = rng.integers(0, 256, (BATCH * 2 + 5, *artifacts.input_shape)).astype(np.uint8)
    y = rng.integers(0, artifacts.classes, len(x)).astype(np.int32)
    correction = rng.normal(0, 0.01, artifacts.layout.trained_size).astype(np.float32)

    def trained(correction: Any, proximal: float) -> TrainingResult:
        return trainer.train(
            artifacts.initial(),
            x,
            y,
            epochs=2,
            learning_rate=0.05,
            seed=4,
            cancelled=never,
            proximal=proximal,
            correction=correction,
        )

    expected = by_the_runner(artifacts, x, y, correction, 0.5)
    for _ in range(2):
        result = trained(correction, 0.5)
        assert (result.weights.tobytes(), result.loss) == expected
        trainer.evaluate(result.weights, x, y, cancelled=never)
        assert trained(None, 0.0).weights.tobytes() != expected[0]


@pytest.mark.parametrize("held_bytes_max", [0, steps.HELD_BYTES_MAX])
def test_examples_in_a_file_give_the_same_bytes(
    trainer: LiteRTTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_bytes_max: int
) -> None:
    """Whether they are held in memory or not; and a disk that fails is an error, after which the trainer goes on."""
    monkeypatch.setattr(steps, "HELD_BYTES_MAX", held_bytes_max)
    path = tmp_path / "rows"
    path.write_bytes(X.tobytes())
    expected = train(trainer, epochs=2)
    with path.open("rb", buffering=0) as file:
        rows = Rows(file, 0, X.shape)
        assert train(trainer, rows, epochs=2).weights.tobytes() == expected.weights.tobytes()
        with path.open("r+b") as other:
            other.truncate(X.nbytes - 1)
        with pytest.raises(OSError, match="it has been changed") as kept:
            train(trainer, rows)
    assert train(trainer, epochs=2).weights.tobytes() == expected.weights.tobytes(), kept


# ---------------------------------------------------------------------- against the slow reference


@pytest.fixture(scope="module")
def small() -> LiteRTTrainer:
    return LiteRTTrainer(SMALL)


def small_examples(count: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (count, *SMALL.input_shape)).astype(np.uint8)
    return x, rng.integers(0, 10, count).astype(np.int32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [SMALL.batch_size, 5, 1])
def test_one_step_is_that_of_the_reference(small: LiteRTTrainer, count: int, seed: int) -> None:
    """Also with a batch that is not full: its mean is over the examples that are there."""
    rng = np.random.default_rng(seed)
    x, y = small_examples(count, seed)
    weights = SMALL.initial() + rng.normal(0, 0.02, SMALL.layout.size).astype(np.float32)
    result = train(small, x, y, weights, learning_rate=0.5)
    expected, loss = reference_cnn.step(weights, x, y, 0.5)
    assert np.abs(result.weights - expected).max() < 1e-5
    assert np.abs(expected - weights).max() > 1e-2
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.steps == 1


def test_the_order_is_the_same_everywhere() -> None:
    assert shuffled(8, random.Random(3)).tolist() == [1, 7, 3, 4, 0, 5, 6, 2]
    assert sorted(shuffled(1000, random.Random(4)).tolist()) == list(range(1000))


@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_an_epoch_is_that_of_the_reference_its_last_part_batch_too(small: LiteRTTrainer, strength: float) -> None:
    """Also with the proximal term, whose gradient is the distance from the start."""
    batch, (x, y) = SMALL.batch_size, small_examples(3 * SMALL.batch_size + 3, 9)
    start = SMALL.initial()
    result = small.train(start, x, y, epochs=1, learning_rate=0.1, seed=3, cancelled=never, proximal=strength)
    weights: Any = start
    order = shuffled(len(y), random.Random(3))
    total = 0.0
    for begin in range(0, len(y), batch):
        picked = order[begin : begin + batch]
        stepped, loss = reference_cnn.step(weights, x[picked], y[picked], 0.1)
        weights = (stepped - 0.1 * strength * (weights - start)).astype(np.float32)
        total += loss * len(picked)
    assert result.steps == 4
    # One step agrees to 1e-5 (above). Over some, a relu within rounding of zero may be on here and off there, which the
    # steps after it amplify; a batch that is counted wrong changes every weight.
    distance = np.abs(result.weights - weights)
    assert np.quantile(distance, 0.99) < 1e-5
    assert distance.max() < 1e-3
    assert result.loss == pytest.approx(total / len(y), rel=1e-5)


@pytest.mark.parametrize("count", [1, SMALL.evaluation_batch_size, 2 * SMALL.evaluation_batch_size + 3])
def test_evaluation_is_the_forward_pass_of_the_reference(small: LiteRTTrainer, count: int) -> None:
    weights = train(small, *small_examples(40, 7), SMALL.initial()).weights
    x, y = small_examples(count, 8)
    score = small.evaluate(weights, x, y, cancelled=never)
    scores = reference_cnn.logits(weights, x)
    assert score.accuracy == pytest.approx(float((scores.argmax(1) == y).mean()), abs=1e-12)
    assert score.loss == pytest.approx(float(reference_cnn.losses(scores, y).mean()), rel=1e-5)
    assert score.examples == count
    assert small.evaluate(weights, x, y, cancelled=never).loss == score.loss


# ---------------------------------------------------------------------- in int8


def test_a_trained_model_is_as_good_in_int8(trainer: LiteRTTrainer) -> None:
    x, y = examples(640, seed=2)
    weights = train(trainer, x, y, epochs=6).weights
    tested = examples(250, seed=3)
    predicted = np.full(250, -1, np.int32)
    score = trainer.evaluate_int8(weights, *tested, cancelled=never, predicted=predicted)
    assert score is not None
    # The last batch is not full.
    assert (predicted == tested[1]).mean() == score
    assert abs(score - trainer.evaluate(weights, *tested, cancelled=never).accuracy) <= 0.02
    assert score > 0.9


def test_a_model_that_nobody_has_trained_has_no_int8_form_yet(trainer: LiteRTTrainer) -> None:
    assert trainer.evaluate_int8(ARTIFACTS.initial(), X, Y, cancelled=never) is None
    with pytest.raises(NotQuantizableError, match="range"):
        int8_model(ARTIFACTS, ARTIFACTS.initial())


def test_a_model_without_quantization_has_no_int8_form(small: LiteRTTrainer) -> None:
    x, y = small_examples(20, 1)
    assert small.evaluate_int8(train(small, x, y, SMALL.initial()).weights, x, y, cancelled=never) is None
    assert int8_model(SMALL, SMALL.initial()) is None


def test_scoring_in_int8_is_cancelled_between_batches(trainer: LiteRTTrainer) -> None:
    weights = train(trainer).weights
    with pytest.raises(Cancelled):
        trainer.evaluate_int8(weights, X, Y, cancelled=after(2))


@pytest.mark.parametrize("name", ["int8.tflite", "int8.json"])
def test_a_damaged_file_of_the_int8_model_is_named(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"{")
    it = load_artifacts(copy)
    with pytest.raises(ModelError, match=rf"{re.escape(name)}: is damaged"):
        int8_model(it, it.initial())
    rewrite(copy, lambda _: None)
    it = load_artifacts(copy)
    with pytest.raises(ResourceError, match=r"is not JSON|template_bytes"):
        int8_model(it, it.initial())


# ---------------------------------------------------------------------- what can happen


@pytest.mark.parametrize("batches", [0, 1, 3, 5])
def test_training_is_cancelled_between_batches(trainer: LiteRTTrainer, batches: int) -> None:
    calls = after(batches)
    with pytest.raises(Cancelled):
        train(trainer, epochs=2, cancelled=calls)
    before = train(trainer).weights.tobytes()
    assert before == train(LiteRTTrainer(ARTIFACTS)).weights.tobytes()


def test_it_is_asked_once_a_batch(trainer: LiteRTTrainer) -> None:
    calls: list[int] = []
    train(trainer, epochs=2, cancelled=lambda: bool(calls.append(1)))
    assert len(calls) == 2 * 4


def test_evaluation_is_cancelled_between_batches(trainer: LiteRTTrainer) -> None:
    x, y = examples(250)
    with pytest.raises(Cancelled) as kept:
        trainer.evaluate(ARTIFACTS.initial(), x, y, cancelled=after(2))
    # What the error's traceback holds does not keep the interpreter from the next training.
    assert train(trainer).steps == 4, kept


def test_a_learning_rate_that_is_too_large_is_told(trainer: LiteRTTrainer) -> None:
    with pytest.raises(TrainingDivergedError, match=r"not finite with learning_rate 1e\+30; choose a smaller one"):
        train(trainer, epochs=3, learning_rate=1e30)
    # And it is of no consequence for the next one.
    assert train(trainer).weights.tobytes() == train(LiteRTTrainer(ARTIFACTS)).weights.tobytes()


def test_a_model_of_huge_weights_is_scored_without_a_crash(trainer: LiteRTTrainer) -> None:
    """Its loss may be no number; whoever sends it sees to that."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = trainer.evaluate(np.full(SIZE, 1e30, np.float32), X, Y, cancelled=never)
    assert 0 <= score.accuracy <= 1
    assert score.examples == len(Y)


def test_no_interpreter_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, module in RUNTIMES:
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    with pytest.raises(ResourceError, match=r"no TFLite interpreter is installed: pip install 'edge-peer\[litert\]'"):
        load_runtime()


# ---------------------------------------------------------------------- artifacts


def test_the_committed_model_is_the_one_that_is_described() -> None:
    assert (ARTIFACTS.model_id, ARTIFACTS.layout.trained_size) == ("image_cnn", 26698)
    assert (ARTIFACTS.input_shape, ARTIFACTS.classes, ARTIFACTS.batch_size) == ((28, 28, 1), 10, 32)
    assert [tensor.shape for tensor in SMALL.layout.tensors] == list(reference_cnn.SHAPES)
    assert [it.shape for it in ARTIFACTS.layout.tensors if it.kind == "state"] == [(2,)] * 4
    assert ARTIFACTS.initial_sha256 == hashlib.sha256(ARTIFACTS.initial().tobytes()).hexdigest()
    assert len(ARTIFACTS.digest) == 64


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], digest: bool = True) -> None:
    """Change the manifest, and let its digest be right again."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    if digest:
        for name in manifest.get("files", {}):
            manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        shared = {name: manifest.get(name) for name in artifacts_module.FEDERATED}
        manifest["digest"] = hashlib.sha256(
            json.dumps(shared, sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()
    path.write_text(json.dumps(manifest))


def refused(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        load_artifacts(folder)
    assert str(raised.value).startswith(f"{folder / name}: ")
    assert "`make model`" in str(raised.value)


@pytest.mark.parametrize("name", ["manifest.json", "train.tflite", "initial.safetensors"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    refused(copy, name, "cannot be read")


@pytest.mark.parametrize("name", ["train.tflite", "initial.safetensors"])
@pytest.mark.parametrize("damage", ["bit", "cut", "empty"])
def test_a_damaged_file_is_named(copy: Path, name: str, damage: str) -> None:
    whole = (copy / name).read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    (copy / name).write_bytes({"bit": flipped, "cut": whole[:-1], "empty": b""}[damage])
    refused(copy, name, r"is damaged: sha256 \w{12}, the manifest says \w{12}")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_none(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    refused(copy, "manifest.json", r"is not JSON|is not an object")


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "of the future": (lambda it: it.update(format=3), "format is 3, this program reads 2"),
    "format a text": (lambda it: it.update(format="1"), "format is '1', not an integer"),
    "learning rate": (lambda it: it.update(learning_rate=0), "learning_rate is 0, not a number above 0 and up to 1000"),
    "no files": (lambda it: it.pop("files"), "files is missing"),
    "files a list": (lambda it: it.update(files=[]), r"files is \[\], not an object"),
    "a file without digest": (
        lambda it: it["files"].update({"train.tflite": {}}),
        r"files\.train\.tflite has no sha256",
    ),
    "a file that is not listed": (lambda it: it["files"].pop("train.tflite"), r"files\.train\.tflite is missing"),
    "another digest": (lambda it: it.update(digest="0" * 64), "digest is '000000000000', but its fields make"),
    "a field changed": (lambda it: it.update(batch_size=64), "digest is '.*', but its fields make"),
    "a field missing": (lambda it: it.pop("loss"), "loss is missing"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_with_a_wrong_field(copy: Path, name: str) -> None:
    change, message = MANIFESTS[name]
    rewrite(copy, change, digest=False)
    refused(copy, "manifest.json", message)


SIGNED: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "layout with a gap": (lambda it: it["layout"][1].update(offset=99), "manifest.json", "layout: .*offset is 99"),
    "layout a text": (lambda it: it.update(layout="all"), "manifest.json", "layout: layout is str"),
    "layout of another model": (
        lambda it: it["layout"].pop(),
        "initial.safetensors",
        "does not hold the layout's weights",
    ),
    "no shape": (lambda it: it.update(input={}), "manifest.json", "input.shape is None, not a list"),
    "shape of zeros": (lambda it: it.update(input={"shape": [0, 28]}), "manifest.json", "input.shape is"),
    "name": (lambda it: it.update(model_id="../x"), "manifest.json", "model_id is '../x', not a name"),
    "one class": (lambda it: it.update(classes=1), "manifest.json", "classes is 1, not an integer from 2"),
    "batch of none": (lambda it: it.update(batch_size=0), "manifest.json", "batch_size is 0, not an integer from 1"),
    "batch a truth": (lambda it: it.update(batch_size=True), "manifest.json", "batch_size is True"),
    "evaluation batch": (
        lambda it: it.update(evaluation_batch_size=-1),
        "manifest.json",
        "evaluation_batch_size is -1",
    ),
}


@pytest.mark.parametrize("name", SIGNED)
def test_a_manifest_with_a_wrong_field_and_the_right_digest(copy: Path, name: str) -> None:
    change, file, message = SIGNED[name]
    rewrite(copy, change)
    refused(copy, file, message)


def test_initial_weights_that_are_not_finite(copy: Path) -> None:
    weights = ARTIFACTS.initial()
    weights[7] = np.nan
    (copy / "initial.safetensors").write_bytes(save(ARTIFACTS.layout.split(weights)))
    rewrite(copy, lambda it: None)
    refused(copy, "initial.safetensors", "holds weights that are not finite")


def test_initial_weights_of_another_type(copy: Path) -> None:
    parts = ARTIFACTS.layout.split(ARTIFACTS.initial())
    (copy / "initial.safetensors").write_bytes(save({name: it.astype(np.float64) for name, it in parts.items()}))
    rewrite(copy, lambda it: None)
    refused(copy, "initial.safetensors", "does not hold the layout's weights .*float64")


def test_large_but_finite_initial_weights_are_taken(copy: Path) -> None:
    weights = np.full(SIZE, 3e38, np.float32)
    (copy / "initial.safetensors").write_bytes(save(ARTIFACTS.layout.split(weights)))
    rewrite(copy, lambda it: None)
    assert load_artifacts(copy).initial().tobytes() == weights.tobytes()


def test_a_model_that_the_interpreter_does_not_load(copy: Path) -> None:
    (copy / "train.tflite").write_bytes(b"no flatbuffer at all" * 100)
    rewrite(copy, lambda it: None)
    it: ModelArtifacts = load_artifacts(copy)
    with pytest.raises(ModelError, match=r"train\.tflite: .* cannot load it .*export it again with `make model`"):
        LiteRTTrainer(it)


def test_a_model_whose_first_graph_is_not_the_step(copy: Path) -> None:
    """As of an older exporter: here the signatures change names, which are of one length."""
    content = (copy / "train.tflite").read_bytes()
    assert [content.count(name) for name in (b"\5\0\0\0train\0", b"\5\0\0\0infer\0")] == [1, 1]
    for old, new in ((b"train", b"*****"), (b"infer", b"train"), (b"*****", b"infer")):
        content = content.replace(b"\5\0\0\0" + old + b"\0", b"\5\0\0\0" + new + b"\0")
    (copy / "train.tflite").write_bytes(content)
    rewrite(copy, lambda it: None)
    it = load_artifacts(copy)
    with pytest.raises(ModelError, match=r"\(train is not its first graph\); export it again with `make model`"):
        LiteRTTrainer(it)


def test_the_backend_needs_no_tensorflow() -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom edge_peer.trainers.artifacts import load_artifacts\n"
        "from edge_peer.trainers.litert import LiteRTTrainer\n"
        f"LiteRTTrainer(load_artifacts(Path({str(FOLDER)!r})))\n"
        "assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
