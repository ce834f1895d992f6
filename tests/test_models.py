"""The exporter: the committed artifacts come from this source, and a board's step is the one that Keras makes.

What needs TensorFlow runs in an environment of its own (marker `tensorflow`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interpreters import Here

from edge_peer.trainers.artifacts import load_artifacts

ROOT = Path(__file__).parent.parent
#: Models that ship with their artifacts, and their numbers of parameters.
SHIPPED = {"image_cnn": 26698, "mobile_cnn": 31338, "sensor_cnn": 29871}
#: Not quantized, so that Keras itself computes the same.
PLAIN = ROOT / "tests/models/small_cnn.py"
PLAIN_ARTIFACTS = ROOT / "tests/models/small_cnn"
ARTIFACTS = ROOT / "models/artifacts"
needs_tensorflow = pytest.mark.tensorflow


# ---------------------------------------------------------------------- without TensorFlow


@pytest.mark.parametrize("missing", [["keras", "tensorflow"], ["tensorflow"]])
def test_without_tensorflow_the_command_says_what_to_run(missing: list[str]) -> None:
    script = (
        f"import runpy, sys\nfor name in {missing}: sys.modules[name] = None\n"
        "sys.argv = ['export', 'models/image_cnn.py']\nrunpy.run_module('models.export', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("models.export: ")
    assert last.endswith("is not installed here; run `make model`, which makes an environment with it")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", SHIPPED)
def test_the_committed_artifacts_name_the_source_as_it_is(name: str) -> None:
    """Editing the model without exporting it is found without TensorFlow, too."""
    from hashlib import sha256

    source = ROOT / "models" / f"{name}.py"
    manifest = json.loads((ARTIFACTS / name / "manifest.json").read_bytes())
    assert manifest["source"] == {"file": source.name, "sha256": sha256(source.read_bytes()).hexdigest()}
    assert manifest["parameters"] == load_artifacts(ARTIFACTS / name).layout.trained_size == SHIPPED[name]
    assert f"; {SHIPPED[name]:,} parameters" in source.read_text().splitlines()[0]


# ---------------------------------------------------------------------- with it


@pytest.fixture(scope="module")
def export() -> Any:
    from models import export as module

    return module


@pytest.fixture(scope="module", params=SHIPPED)
def exported(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A model that ships, exported anew; the folder has its name."""
    folder = tmp_path_factory.mktemp("exported") / request.param
    seed = json.loads((ARTIFACTS / request.param / "manifest.json").read_bytes())["seed"]
    # In a process of its own: TensorFlow numbers gradients from its start, and the numbers stand in the graph.
    source = f"models/{request.param}.py"
    command = [sys.executable, "-m", "models.export", source, "--out", folder, "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


def keras_model(path: Path, vector: Any, learning_rate: float) -> Any:
    """The model of a source file in Keras itself, with these weights."""
    import keras

    from models.export import load_module

    model = load_module(path).build()
    layout = load_artifacts_of(path).layout
    model.set_weights(list(layout.split(vector).values()))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(learning_rate), loss=loss)
    return model


EXPORTED: dict[Path, Path] = {}


def load_artifacts_of(path: Path) -> Any:
    return load_artifacts(EXPORTED.get(path, PLAIN_ARTIFACTS))


def vector_of(model: Any) -> Any:
    return np.concatenate([np.asarray(it).reshape(-1) for it in model.trainable_variables])


def signatures(folder: Path) -> tuple[Any, Any]:
    it = Here(folder / "train.tflite")
    return partial(it, "train"), partial(it, "infer")


def batch(artifacts: Any, seed: int, count: int | None = None) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    count = artifacts.batch_size if count is None else count
    x = rng.integers(0, 256, (count, *artifacts.input_shape)).astype(np.uint8)
    return x, rng.integers(0, artifacts.classes, count).astype(np.int32)


def padded(artifacts: Any, x: Any, y: Any) -> dict[str, Any]:
    """A batch with fewer examples than the graph takes, the rest being rubbish of no weight."""
    size, count = artifacts.batch_size, len(y)
    images = np.full((size, *artifacts.input_shape), 77, np.uint8)
    labels, sample_weight = np.full(size, artifacts.classes - 1, np.int32), np.zeros(size, np.float32)
    images[:count], labels[:count], sample_weight[:count] = x, y, 1
    return {"x": images, "y": labels, "sample_weight": sample_weight}


def random_weights(artifacts: Any, seed: int) -> Any:
    noise = np.random.default_rng(seed + 1000).normal(0, 0.05, artifacts.layout.size)
    return (artifacts.initial() + noise).astype(np.float32)


@needs_tensorflow
def test_the_committed_artifacts_come_from_this_source(exported: Path) -> None:
    shipped = ARTIFACTS / exported.name
    committed, anew = (json.loads((it / "manifest.json").read_bytes()) for it in (shipped, exported))
    versions = committed.pop("made_with"), anew.pop("made_with")
    if versions[0] == versions[1]:
        # The export is deterministic: the same TensorFlow gives the same bytes.
        for name in committed["files"]:
            assert (exported / name).read_bytes() == (shipped / name).read_bytes(), name
        assert anew == committed
    # Another release may write another flatbuffer; the next test compares what they do, and the rest is the same.
    for manifest in (committed, anew):
        del manifest["digest"], manifest["files"]["train.tflite"], manifest["files"]["train.graph"]
    assert anew == committed


@needs_tensorflow
def test_the_committed_model_computes_what_this_source_computes(exported: Path) -> None:
    shipped = ARTIFACTS / exported.name
    artifacts = load_artifacts(shipped)
    (train, infer), (train_anew, infer_anew) = signatures(shipped), signatures(exported)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (artifacts.evaluation_batch_size, *artifacts.input_shape)).astype(np.uint8)
    for seed in range(5):
        weights = random_weights(artifacts, seed)
        inputs = {
            "weights": weights,
            "learning_rate": np.float32(0.3),
            **padded(artifacts, *batch(artifacts, seed, 32 - 7 * (seed % 2))),
        }
        one, other = train(**inputs), train_anew(**inputs)
        np.testing.assert_allclose(one["weights"], other["weights"], atol=1e-6, rtol=0)
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-6)
        one, other = infer(weights=weights, x=images), infer_anew(weights=weights, x=images)
        np.testing.assert_allclose(one["logits"], other["logits"], atol=1e-5, rtol=0)


@needs_tensorflow
@pytest.mark.parametrize("count", [8, 7, 3, 1])
def test_one_step_equals_train_on_batch(count: int) -> None:
    """Also of a batch that is not full: in Keras one with only the real examples."""
    artifacts = load_artifacts(PLAIN_ARTIFACTS)
    train, _ = signatures(PLAIN_ARTIFACTS)
    for seed in range(4):
        weights = random_weights(artifacts, seed)
        x, y = batch(artifacts, seed, count)
        model = keras_model(PLAIN, weights, 0.1)
        loss = model.train_on_batch(x, y)
        found = train(weights=weights, learning_rate=np.float32(0.1), **padded(artifacts, x, y))
        assert np.abs(found["weights"] - vector_of(model)).max() <= 1e-6
        assert np.abs(vector_of(model) - weights).max() > 1e-3
        assert found["loss"] == pytest.approx(float(loss), rel=1e-5)


@needs_tensorflow
def test_an_empty_batch_changes_nothing() -> None:
    artifacts = load_artifacts(PLAIN_ARTIFACTS)
    train, _ = signatures(PLAIN_ARTIFACTS)
    weights = random_weights(artifacts, 1)
    found = train(weights=weights, learning_rate=np.float32(0.1), **padded(artifacts, *batch(artifacts, 1, 0)))
    np.testing.assert_array_equal(found["weights"], weights)
    assert found["loss"] == 0


@needs_tensorflow
def test_twenty_steps_stay_together() -> None:
    artifacts = load_artifacts(PLAIN_ARTIFACTS)
    train, _ = signatures(PLAIN_ARTIFACTS)
    weights = artifacts.initial()
    model = keras_model(PLAIN, weights, 0.1)
    for seed in range(20):
        x, y = batch(artifacts, seed)
        model.train_on_batch(x, y)
        weights = train(weights=weights, learning_rate=np.float32(0.1), **padded(artifacts, x, y))["weights"]
    assert np.abs(weights - vector_of(model)).max() < 1e-4
    assert np.abs(weights - artifacts.initial()).max() > 1e-2


@needs_tensorflow
def test_inference_equals_keras() -> None:
    artifacts = load_artifacts(PLAIN_ARTIFACTS)
    _, infer = signatures(PLAIN_ARTIFACTS)
    x, _ = batch(artifacts, 3, artifacts.evaluation_batch_size)
    weights = random_weights(artifacts, 3)
    expected = keras_model(PLAIN, weights, 0.1).predict(x, verbose=0)
    np.testing.assert_allclose(infer(weights=weights, x=x)["logits"], expected, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------- models of one's own

HEAD = "import keras\nfrom keras import layers as L\nBATCH = 8\nEVALUATION_BATCH = 10\nCLASSES = 3\n"


def source(folder: Path, layers: str, shape: str = "(9, 8, 2)", head: str = HEAD) -> Path:
    path = folder / "mine.py"
    path.write_text(
        f"{head}def build():\n    return keras.Sequential([keras.Input({shape}), L.Rescaling(1 / 255), {layers}], "
        "name='net')\n"
    )
    return path


TRAINABLE = {
    "dense": "L.Flatten(), L.Dense(5, activation='relu'), L.Dense(3)",
    "no bias": "L.Conv2D(4, 3, use_bias=False, activation='relu'), L.Flatten(), L.Dense(3, use_bias=False)",
    "valid": "L.Conv2D(4, 3, activation='relu'), L.Flatten(), L.Dense(3)",
    "same, odd and even": "L.Conv2D(4, 3, padding='same', activation='relu'), L.Flatten(), L.Dense(3)",
    "stride 2 same": "L.Conv2D(4, 3, 2, 'same', activation='relu'), L.Conv2D(3, 3, 2, 'same'), L.Flatten(), L.Dense(3)",
    "stride 2 valid": "L.Conv2D(4, 3, 2, activation='relu'), L.Conv2D(3, 2, 2), L.Flatten(), L.Dense(3)",
    "stride beyond the kernel": "L.Conv2D(4, 2, 3, activation='relu'), L.Flatten(), L.Dense(3)",
    "kernel of two sizes": "L.Conv2D(4, (3, 1), (1, 2), padding='same'), L.Conv2D(2, (2, 4)), L.Flatten(), L.Dense(3)",
    "one by one": "L.Conv2D(4, 1, activation='relu'), L.Flatten(), L.Dense(3)",
    "separate relu": "L.Conv2D(4, 3), L.ReLU(), L.Flatten(), L.Dense(3)",
    "global average": "L.Conv2D(4, 3, activation='relu'), L.GlobalAveragePooling2D(), L.Dense(3)",
    "conv1d": "L.Reshape((9, 16)), L.Conv1D(4, 3, 2, padding='same', activation='relu'), L.Flatten(), L.Dense(3)",
}


@needs_tensorflow
@pytest.mark.parametrize("name", TRAINABLE)
def test_what_can_be_exported_trains_as_in_keras(export: Any, tmp_path: Path, name: str) -> None:
    path = source(tmp_path, TRAINABLE[name])
    export.export(path, tmp_path / "out", seed=3)
    EXPORTED[path] = tmp_path / "out"
    artifacts = load_artifacts(tmp_path / "out")
    train, infer = signatures(tmp_path / "out")
    for seed, count in ((1, 8), (2, 5)):
        weights = random_weights(artifacts, seed)
        x, y = batch(artifacts, seed, count)
        model = keras_model(path, weights, 0.2)
        logits = infer(weights=weights, x=np.resize(x, (10, *artifacts.input_shape)))["logits"]
        np.testing.assert_allclose(logits[:count], model.predict(x, verbose=0), atol=1e-5, rtol=0)
        model.train_on_batch(x, y)
        found = train(weights=weights, learning_rate=np.float32(0.2), **padded(artifacts, x, y))["weights"]
        assert np.abs(found - vector_of(model)).max() <= 1e-6
        assert np.abs(found - weights).max() > 1e-3


END = "L.Flatten(), L.Dense(3)"
UNSUPPORTED = {
    "noise": (f"L.GaussianNoise(0.5, name='bad'), {END}", "layer 'bad' draws random numbers"),
    "renormalization": (f"L.BatchNormalization(renorm=True, name='bad'), {END}", "layer 'bad' has renorm"),
    "groups": (f"L.Conv2D(4, 3, groups=2, name='bad'), {END}", "layer 'bad': operation PartitionedCall"),
    "channels first": (
        f"L.Conv2D(4, 2, data_format='channels_first', name='bad'), {END}",
        "layer 'bad': operation Conv2D .*; channels last",
    ),
    "depthwise with two strides": (
        f"L.DepthwiseConv2D(2, (1, 2), name='bad'), {END}",
        "layer 'bad': operation DepthwiseConv2dNative",
    ),
    "masked": (
        f"L.Reshape((144,)), L.Embedding(256, 4, mask_zero=True, name='bad'), {END}",
        "layer 'bad': mask_zero=True masks time steps, which boards do not; leave it out",
    ),
    "absolute value": (f"L.Lambda(lambda x: keras.ops.abs(x), name='bad'), {END}", "layer 'bad': operation Abs"),
    "pooling of volumes": (
        f"L.Reshape((3, 3, 4, 4)), L.MaxPooling3D(2, name='bad'), {END}",
        "layer 'bad': operation MaxPool3D",
    ),
    "volumes": (f"L.Reshape((3, 3, 4, 4)), L.Conv3D(2, 2, name='bad'), {END}", "layer 'bad': operation Conv3D"),
    "transposed": (f"L.Conv2DTranspose(4, 3, name='bad'), {END}", "layer 'bad': operation Conv2DBackpropInput"),
    "selu": ("L.Flatten(), L.Dense(4, activation='selu', name='bad'), L.Dense(3)", "layer 'bad': operation Selu"),
    "softplus": (f"L.Activation('softplus', name='bad'), {END}", "layer 'bad': operation Softplus"),
    "mish": (f"L.Activation('mish', name='bad'), {END}", "layer 'bad': operation Softplus"),
    "softmax over rows": (f"L.Conv2D(4, 3), L.Softmax(axis=1, name='bad'), {END}", "layer 'bad': operation"),
    "power": (f"L.Lambda(lambda x: x**0.5, name='bad'), {END}", "layer 'bad': operation"),
    "slice with gaps": (f"L.Lambda(lambda x: x[:, ::2], name='bad'), {END}", "layer 'bad': operation StridedSlice"),
    "rounding": (
        f"L.Conv2D(2, 3, name='bad'), L.Embedding(256, 4), {END}",
        "layer 'bad': no gradient reaches it .* use Embedding on the input only",
    ),
    "softmax at the end": (f"{END}, L.Softmax(name='bad')", "layer 'bad' ends the model with a softmax"),
    "softmax in the last layer": (
        "L.Flatten(), L.Dense(3, activation='softmax', name='bad')",
        "layer 'bad' ends the model with a softmax",
    ),
    "smooth upsampling": (
        f"L.UpSampling2D(interpolation='bilinear', name='bad'), {END}",
        "layer 'bad': operation ResizeBilinear",
    ),
    "nested": (
        f"keras.Sequential([L.Activation('selu', name='bad')], name='inner'), {END}",
        "layer 'bad': operation Selu",
    ),
    "number in the name": (f"L.Activation('selu', name='bad_7'), {END}", "layer 'bad_7': operation Selu"),
    "regularizer": (
        "L.Flatten(), L.Dense(3, kernel_regularizer='l2', name='bad')",
        "layer 'bad' has a kernel_regularizer",
    ),
    "constraint": (
        "L.Flatten(), L.Dense(3, bias_constraint='non_neg', name='bad')",
        "layer 'bad' has a bias_constraint",
    ),
    "activity": (
        "L.Flatten(), L.Dense(3, activity_regularizer='l1', name='bad')",
        "layer 'bad' has a activity_regularizer",
    ),
    "relu without bias": (
        "L.Flatten(), L.Dense(4, use_bias=False, activation='relu', name='bad'), L.Dense(3)",
        r"layer 'bad': the converter has changed what infer computes \(logits differs by .*; use layers with a bias",
    ),
    "classes": ("L.Flatten(), L.Dense(4, name='bad')", r"layer 'bad' gives shape \[4\], CLASSES is 3: end with"),
    "not flat": ("L.Dense(3, name='bad')", r"layer 'bad' gives shape \[9, 8, 3\], CLASSES is 3: end with"),
    "nothing to train": (
        "L.Flatten(), L.Reshape((3, 48)), L.GlobalAveragePooling1D(data_format='channels_first')",
        "nothing to train; add a Dense",
    ),
}


@needs_tensorflow
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(export: Any, tmp_path: Path, name: str) -> None:
    layers, message = UNSUPPORTED[name]
    with pytest.raises(export.ExportError, match=message) as raised:
        export.export(source(tmp_path, layers), tmp_path / "out", seed=1)
    remedies = ("; use ", "; add ", "leave it out", ": end with", f"; {export.REMEDY}")
    assert any(remedy in str(raised.value) for remedy in remedies)
    assert not (tmp_path / "out").exists()


def rename(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


BAD_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda folder: folder / "nothing.py", r"nothing\.py: no such Python file"),
    "no Python": (lambda folder: rename(source(folder, END), "mine.txt"), r"mine\.txt: no such Python file"),
    "name": (lambda folder: rename(source(folder, END), "my model.py"), r"'my model' cannot name a model"),
    "constant": (
        lambda folder: source(folder, END, head=HEAD.replace("BATCH = 8\n", "", 1)),
        r"mine\.py: BATCH is missing",
    ),
    "any size": (
        lambda folder: source(folder, "L.GlobalAveragePooling2D(), L.Dense(3)", "(None, None, 1)"),
        "write it out",
    ),
}


@needs_tensorflow
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_model(export: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    make, message = BAD_FILES[name]
    path = make(tmp_path)
    with pytest.raises(export.ExportError, match=message):
        export.export(path, tmp_path / "out", seed=1)
    assert export.main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("models.export: ")
    assert not (tmp_path / "out").exists()


@needs_tensorflow
@pytest.mark.parametrize(
    "build",
    [
        "None",
        "keras.Sequential([L.Flatten(), L.Dense(3)])",
        "keras.Model([a := keras.Input((2,)), b := keras.Input((2,))], L.Dense(3)(a + b))",
    ],
)
def test_a_build_that_gives_no_model_with_one_input(export: Any, tmp_path: Path, build: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{HEAD}def build():\n    return {build}\n")
    with pytest.raises(export.ExportError, match=r"build\(\) must return a Keras model with one keras\.Input"):
        export.export(path, tmp_path / "out", seed=1)


@needs_tensorflow
def test_the_command_writes_artifacts_that_a_board_takes(tmp_path: Path) -> None:
    """In a process of its own, set up for another backend of Keras; TensorFlow is used all the same."""
    path = source(tmp_path, "L.Flatten(), L.Dense(3)")
    done = subprocess.run(
        [sys.executable, "-m", "models.export", path, "--out", tmp_path / "out", "--seed", "5"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    artifacts = load_artifacts(tmp_path / "out")
    assert (artifacts.model_id, artifacts.layout.size, artifacts.batch_size) == ("mine", 9 * 8 * 2 * 3 + 3, 8)
    assert f"{artifacts.layout.size} parameters, digest {artifacts.digest[:12]}" in done.stdout
    assert sorted(it.name for it in (tmp_path / "out").iterdir()) == [
        "initial.safetensors",
        "manifest.json",
        "train.graph",
        "train.tflite",
    ]
    seed = json.loads((tmp_path / "out/manifest.json").read_bytes())["seed"]
    assert seed == 5


@needs_tensorflow
def test_another_seed_is_another_model_for_the_federation(export: Any, tmp_path: Path) -> None:
    path = source(tmp_path, "L.Flatten(), L.Dense(3)")
    manifests = [export.export(path, tmp_path / str(index), seed) for index, seed in enumerate((1, 1, 2))]
    assert manifests[0] == manifests[1]
    assert manifests[0]["digest"] != manifests[2]["digest"]
    assert manifests[0]["files"]["train.tflite"] == manifests[2]["files"]["train.tflite"]
