"""Losses, optimizers, dropout, the proximal term and padded batches: a board's steps and those of Keras itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interpreters import OTHER, Here, Other, complete

pytestmark = pytest.mark.tensorflow

BATCH = 8
SHAPE = (7, 6, 2)
LAYERS = "L.Conv2D(4, 3, activation='tanh'), L.Flatten(), L.Dense(6, 'tanh'), L.Dense({outputs})"
SGD = "keras.optimizers.SGD(0.05)"
SPARSE = "keras.losses.SparseCategoricalCrossentropy(from_logits=True)"
#: name -> (loss, classes, outputs)
LOSSES = {
    "sparse cross-entropy": (SPARSE, 3, 3),
    "cross-entropy": ("keras.losses.CategoricalCrossentropy(from_logits=True)", 3, 3),
    "cross-entropy, smoothed": ("keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)", 4, 4),
    "binary cross-entropy of one output": ("keras.losses.BinaryCrossentropy(from_logits=True)", 2, 1),
    "binary cross-entropy of two outputs": ("keras.losses.BinaryCrossentropy(from_logits=True)", 2, 2),
    "binary cross-entropy of three, smoothed": (
        "keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)",
        3,
        3,
    ),
    "mean squared error": ("keras.losses.MeanSquaredError()", 3, 3),
    "mean squared error by its name": ("'mse'", 3, 3),
    "Huber": ("keras.losses.Huber()", 3, 3),
    "Huber with a small delta": ("keras.losses.Huber(delta=0.3)", 3, 3),
}
OPTIMIZERS = {
    "sgd": "SGD(0.1)",
    "momentum": "SGD(0.05, momentum=0.9)",
    "nesterov": "SGD(0.05, momentum=0.8, nesterov=True)",
    "weight decay": "SGD(0.1, weight_decay=0.05)",
    "momentum and weight decay": "SGD(0.05, momentum=0.9, weight_decay=0.01)",
    "adam": "Adam(0.01)",
    "adam of other betas": "Adam(0.01, beta_1=0.8, beta_2=0.9, epsilon=1e-3)",
    "adamw": "AdamW(0.01, weight_decay=0.1)",
    "clipped values": "SGD(0.5, clipvalue=0.01)",
    "clipped norms": "SGD(0.5, clipnorm=0.05)",
    "clipped global norm": "SGD(0.5, momentum=0.9, global_clipnorm=0.05)",
    "adam, clipped": "Adam(0.02, clipnorm=0.03, weight_decay=0.01)",
}


@pytest.fixture(scope="module")
def export() -> Any:
    from models import export as module

    return module


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other | None]:
    it = Other(tmp_path_factory.mktemp("other")) if OTHER.exists() else None
    yield it
    if it is not None:
        it.close()


class Model:
    """A model's file, exported, and the same in Keras."""

    def __init__(
        self,
        export: Any,
        folder: Path,
        layers: str = LAYERS.format(outputs=3),
        optimizer: str = SGD,
        loss: str = SPARSE,
        classes: int = 3,
        extra: str = "",
    ) -> None:
        import keras

        self.path = folder / "mine.py"
        self.path.write_text(
            f"import keras\nfrom keras import layers as L\nBATCH = {BATCH}\nEVALUATION_BATCH = 4\n"
            f"CLASSES = {classes}\ndef build():\n"
            f"    model = keras.Sequential([keras.Input({SHAPE}), L.Rescaling(1 / 255), {layers}])\n"
            f"    optimizer = {optimizer}\n{extra}"
            f"    model.compile(optimizer, {loss})\n    return model\n"
        )
        self.classes = classes
        self.manifest = export.export(self.path, folder / "out", 7)
        self.folder = folder / "out"
        self.file = self.folder / "train.tflite"
        self.here = Here(self.file)
        self.keras = export.load_module(self.path).build()
        # Of a batch: what is named by a text is a function of each example.
        self.loss = lambda y, logits: keras.ops.mean(keras.losses.get(self.keras.loss)(y, logits))
        self.sparse = "Sparse" in loss
        rng = np.random.default_rng(3)
        for variable in self.keras.trainable_variables:
            variable.assign(np.asarray(variable) + rng.normal(0, 0.1, variable.shape))
        self.rate = np.float32(self.manifest["learning_rate"])

    @property
    def vector(self) -> Any:
        model = self.keras
        variables = [
            *model.trainable_variables,
            *(it for it in model.non_trainable_variables if it.dtype == "float32"),
        ]
        return np.concatenate([np.asarray(it).reshape(-1) for it in variables])

    def batch(self, seed: int, count: int = BATCH) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 256, (count, *SHAPE)).astype(np.uint8)
        return x, rng.integers(0, self.classes, count).astype(np.int32)

    def targets(self, y: Any) -> Any:
        """As Keras wants them: class numbers, one 0 or 1, or one number an output."""
        outputs = self.keras.output_shape[-1]
        if self.sparse:
            return y
        return y.reshape(-1, 1).astype(np.float32) if outputs == 1 else np.eye(outputs, dtype=np.float32)[y]

    def keras_step(self, x: Any, y: Any, weight: Any = None) -> float:
        return float(self.keras.train_on_batch(x, self.targets(y), sample_weight=weight))


def padded(x: Any, y: Any) -> dict[str, Any]:
    """A batch of which the rest is rubbish of no weight."""
    images, labels = np.full((BATCH, *SHAPE), 211, np.uint8), np.ones(BATCH, np.int32)
    weight = np.zeros(BATCH, np.float32)
    images[: len(y)], labels[: len(y)], weight[: len(y)] = x, y, 1
    return {"x": images, "y": labels, "sample_weight": weight}


def graph_of(model: Model) -> tuple[Any, Any]:
    import tensorflow as tf

    from edge_peer.trainers.keras import load_graph

    (train, _), (infer, _) = load_graph(tf, (model.folder / "train.graph").read_bytes())
    return train, infer


def twenty_steps(model: Model, other: Other | None, extra: dict[str, Any] | None = None) -> None:
    """The first step in every interpreter, then twenty beside Keras; every fifth batch is not full."""
    train = graph_of(model)[0]
    shapes = model.here.shapes("train")
    board: dict[str, Any] = {"weights": model.vector}
    if "slots" in shapes:
        board["slots"] = np.zeros(*shapes["slots"])
    started = model.vector
    for step in range(20):
        x, y = model.batch(step, 5 if step % 5 == 4 else BATCH)
        inputs = {**board, **padded(x, y), "learning_rate": model.rate, "count": np.float32(step + 1), **(extra or {})}
        inputs = {name: value for name, value in inputs.items() if name in shapes}
        outputs = model.here("train", **inputs)
        loss = model.keras_step(x, y)
        if step in (0, 4):
            runs = {"TensorFlow": train(**complete(shapes, inputs))}
            if other is not None:
                runs["tflite-runtime"] = other(model.file, "train", **inputs)
            for run, found in runs.items():
                for name, value in outputs.items():
                    np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-6, err_msg=f"{run} {name}")
        # Keras tells the mean over the batches so far; the first one is alone.
        if step == 0:
            assert outputs["loss"] == pytest.approx(loss, rel=1e-5)
        board = {name: outputs[name] for name in board}
        expected = model.vector
        assert np.abs(board["weights"] - expected).max() <= 2e-5 * (step + 1), step
    assert np.abs(model.vector - started).max() > 1e-2


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_that_of_keras(export: Any, other: Other | None, tmp_path: Path, name: str) -> None:
    loss, classes, outputs = LOSSES[name]
    model = Model(export, tmp_path, LAYERS.format(outputs=outputs), loss=loss, classes=classes)
    twenty_steps(model, other)
    x, y = model.batch(99, 4)
    found = model.here("infer", weights=model.vector, x=x, y=y)
    logits = model.keras.predict(x, verbose=0)
    if outputs == 1:
        np.testing.assert_array_equal(found["logits"][:, 0], np.zeros(4))
    np.testing.assert_allclose(found["logits"][:, -outputs:], logits, atol=1e-5, rtol=0)
    each = [float(model.loss(model.targets(y)[i : i + 1], logits[i : i + 1])) for i in range(4)]
    np.testing.assert_allclose(found["losses"], each, rtol=1e-4)
    with np.testing.assert_raises(AssertionError):
        np.testing.assert_allclose(found["losses"], each[::-1], rtol=1e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_loss_is_that_of_keras(export: Any, tmp_path: Path, name: str) -> None:
    """Within 1e-5: the step is so large that the rounding of the weights hides nothing."""
    import tensorflow as tf

    loss, classes, outputs = LOSSES[name]
    model = Model(export, tmp_path, LAYERS.format(outputs=outputs), loss=loss, classes=classes)
    for seed in range(3):
        x, y = model.batch(seed)
        with tf.GradientTape() as tape:
            value = model.loss(model.targets(y), model.keras(x, training=True))
        gradients = tape.gradient(value, [it.value for it in model.keras.trainable_variables])
        expected = np.concatenate([np.reshape(it, -1) for it in gradients])
        found = model.here("train", weights=model.vector, learning_rate=np.float32(1024), **padded(x, y))["weights"]
        gradient = (model.vector.astype(np.float64) - found) / 1024
        assert np.abs(gradient - expected).max() <= 1e-5 * np.abs(expected).max()
        assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_that_of_keras(export: Any, other: Other | None, tmp_path: Path, name: str) -> None:
    model = Model(export, tmp_path, optimizer=f"keras.optimizers.{OPTIMIZERS[name]}")
    assert model.manifest["learning_rate"] == pytest.approx(
        float(OPTIMIZERS[name].partition("(")[2].split(",")[0].rstrip(")"))
    )
    twenty_steps(model, other)


def test_weight_decay_leaves_out_what_keras_leaves_out(export: Any, other: Other | None, tmp_path: Path) -> None:
    model = Model(
        export,
        tmp_path,
        optimizer="keras.optimizers.SGD(0.1, momentum=0.5, weight_decay=0.1)",
        extra="    optimizer.exclude_from_weight_decay(var_names=['bias'])\n",
    )
    assert model.manifest["optimizer"]["decayed"] == [True, False] * 3
    twenty_steps(model, other)


def test_batch_normalization_counts_only_what_is_an_example(export: Any, other: Other | None, tmp_path: Path) -> None:
    """Keras gets the examples alone; the board a batch that is filled up with rubbish."""
    model = Model(
        export, tmp_path, "L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(momentum=0.7), L.Flatten(), L.Dense(3)"
    )
    state = [it for it in model.manifest["layout"] if it["kind"] == "state"]
    assert [it["name"].rpartition("/")[2] for it in state] == ["moving_mean", "moving_variance"]
    twenty_steps(model, other)


# ---------------------------------------------------------------------- FedProx


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["SGD(0.1)", "Adam(0.01)", "SGD(0.2, momentum=0.9, clipnorm=0.1)"])
def test_the_proximal_term_is_part_of_the_loss(export: Any, tmp_path: Path, optimizer: str, strength: float) -> None:
    """Against Keras's optimizer on the gradient of the loss plus mu / 2 * |w - base|^2."""
    import tensorflow as tf

    model = Model(export, tmp_path, optimizer=f"keras.optimizers.{optimizer}")
    base = model.vector
    shapes = model.here.shapes("train")
    variables = model.keras.trainable_variables
    starts = [tf.constant(np.asarray(it)) for it in variables]
    board: dict[str, Any] = {"weights": base}
    if "slots" in shapes:
        board["slots"] = np.zeros(*shapes["slots"])
    for step in range(20):
        x, y = model.batch(step)
        inputs = {
            **board,
            **padded(x, y),
            "learning_rate": model.rate,
            "proximal": np.float32(strength),
            "correction": np.float32(-strength) * base,
        }
        if "count" in shapes:
            inputs["count"] = np.float32(step + 1)
        outputs = model.here("train", **inputs)
        board = {name: outputs[name] for name in board}
        with tf.GradientTape() as tape:
            loss = model.loss(y, model.keras(x, training=True))
            distance = tf.add_n(
                [tf.reduce_sum((it.value - start) ** 2) for it, start in zip(variables, starts, strict=True)]
            )
            loss = loss + strength / 2 * distance
        gradients = tape.gradient(loss, [it.value for it in variables])
        model.keras.optimizer.apply(gradients, variables)
        assert np.abs(board["weights"] - model.vector).max() <= 2e-5 * (step + 1)
    assert np.abs(model.vector - base).max() > 1e-2


def test_a_trainer_holds_on_to_the_weights_that_it_was_given(export: Any, tmp_path: Path) -> None:
    from edge_peer.trainers.artifacts import load_artifacts
    from edge_peer.trainers.litert import LiteRTTrainer

    model = Model(export, tmp_path)
    trainer = LiteRTTrainer(load_artifacts(model.folder))
    x, y = model.batch(1, 60)
    base = model.vector

    def distance(strength: float) -> float:
        result = trainer.train(
            base, x, y, epochs=4, learning_rate=0.1, seed=1, cancelled=lambda: False, proximal=strength
        )
        return float(np.linalg.norm(result.weights - base))

    distances = [distance(strength) for strength in (0.0, 0.1, 1.0, 5.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 3


# ---------------------------------------------------------------------- dropout


DROPOUT = (
    "L.Conv2D(4, 3, activation='relu'), L.SpatialDropout2D(0.25), L.Flatten(), L.Dense(16, 'relu'), L.Dropout(0.4), "
    "L.Dense(3)"
)


def masks(noise: Any) -> list[Any]:
    """What the numbers say, in plain arithmetic: an element goes where its number is among the lowest share."""
    spatial, plain = noise[: BATCH * 4].reshape(BATCH, 1, 1, 4), noise[BATCH * 4 :].reshape(BATCH, 16)
    return [
        ((it.astype(np.float64) + 2**31) / 2**32 >= rate) / (1 - rate) for it, rate in ((spatial, 0.25), (plain, 0.4))
    ]


def test_dropout_drops_what_the_given_numbers_say(
    export: Any, other: Other | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras
    import tensorflow as tf

    model = Model(export, tmp_path, DROPOUT)
    shapes = model.here.shapes("train")
    assert shapes["noise"][0] == (BATCH * 4 + BATCH * 16,)
    train = graph_of(model)[0]
    rng = np.random.default_rng(0)
    board = model.vector
    for step in range(20):
        x, y = model.batch(step)
        noise = rng.integers(-(2**31), 2**31, shapes["noise"][0]).astype(np.int32)
        inputs = {"weights": board, **padded(x, y), "learning_rate": model.rate, "noise": noise}
        outputs = model.here("train", **inputs)
        np.testing.assert_allclose(train(**complete(shapes, inputs))["weights"], outputs["weights"], atol=2e-6, rtol=0)
        if other is not None:
            found = other(model.file, "train", **inputs)
            np.testing.assert_allclose(found["weights"], outputs["weights"], atol=2e-6, rtol=0)
        drawn = iter(masks(noise))

        def call(layer: Any, value: Any, training: bool = False, drawn: Any = drawn) -> Any:
            return value * tf.constant(next(drawn), tf.float32)

        for kind in {keras.layers.Dropout, keras.layers.SpatialDropout2D}:
            monkeypatch.setattr(kind, "call", call)
        with tf.GradientTape() as tape:
            loss = model.loss(y, model.keras(x, training=True))
        variables = model.keras.trainable_variables
        model.keras.optimizer.apply(tape.gradient(loss, [it.value for it in variables]), variables)
        monkeypatch.undo()
        board = outputs["weights"]
        assert np.abs(board - model.vector).max() <= 2e-5 * (step + 1)
    # And nothing is dropped where a model is used.
    x, y = model.batch(50, 4)
    logits = model.here("infer", weights=board, x=x, y=y)["logits"]
    np.testing.assert_allclose(logits, model.keras.predict(x, verbose=0), atol=1e-3, rtol=0)


def test_a_trainer_draws_dropout_from_its_seed(export: Any, tmp_path: Path) -> None:
    from edge_peer.trainers.artifacts import load_artifacts
    from edge_peer.trainers.litert import LiteRTTrainer

    model = Model(export, tmp_path, "L.Flatten(), L.Dropout(0.5), L.Dense(3)")
    trainer = LiteRTTrainer(load_artifacts(model.folder))
    # One example, seen again and again: whatever differs comes from dropout.
    x, y = model.batch(1, 1)

    def train(seed: int, epochs: int) -> Any:
        return trainer.train(
            model.vector, x, y, epochs=epochs, learning_rate=0.1, seed=seed, cancelled=lambda: False
        ).weights

    assert train(5, 3).tobytes() == train(5, 3).tobytes()
    assert train(5, 3).tobytes() != train(6, 3).tobytes()
    # A step moves the weights of the units that were not dropped: half of them, and other ones in the next step.
    moved = (train(5, 1) != model.vector).reshape(-1)[: math.prod(SHAPE) * 3].reshape(-1, 3).any(axis=1)
    assert 0.3 < moved.mean() < 0.7
    later = (train(5, 8) != model.vector).reshape(-1)[: math.prod(SHAPE) * 3].reshape(-1, 3).any(axis=1)
    assert later.mean() > 0.95


# ---------------------------------------------------------------------- what is refused


REFUSED = {
    "probabilities": ({"loss": "'sparse_categorical_crossentropy'"}, "give it from_logits=True"),
    "loss": ({"loss": "keras.losses.KLDivergence()"}, "loss 'kl_divergence' is not one that boards have"),
    "a loss of one's own": ({"loss": "lambda y, p: 0"}, "loss .* is not one"),
    "no loss": ({"loss": "'nonsense'"}, "loss 'nonsense' is not one of Keras's"),
    "sum": (
        {"loss": "keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction='sum')"},
        "has reduction 'sum'; leave it out",
    ),
    "ignored class": (
        {"loss": "keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1)"},
        "has ignore_class 1; leave it out",
    ),
    "optimizer": ({"optimizer": "keras.optimizers.Lion()"}, "optimizer Lion is not one that boards have; use "),
    "amsgrad": ({"optimizer": "keras.optimizers.Adam(amsgrad=True)"}, "Adam has amsgrad, which boards do not do"),
    "averages": ({"optimizer": "keras.optimizers.SGD(use_ema=True)"}, "SGD has use_ema, which boards do not do"),
    "schedule": (
        {"optimizer": "keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))"},
        "SGD has a schedule for a learning rate; give it a number",
    ),
    "outputs": ({"layers": "L.Flatten(), L.Dense(1)"}, r"shape \[1\], CLASSES is 3: end with Dense\(CLASSES\)"),
    "sigmoid": (
        {
            "layers": "L.Flatten(), L.Dense(1, 'sigmoid', name='bad')",
            "loss": "keras.losses.BinaryCrossentropy(from_logits=True)",
            "classes": 2,
        },
        "layer 'bad' ends the model with a sigmoid; boards take logits: leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_boards_do_not_do_is_refused(export: Any, tmp_path: Path, name: str) -> None:
    arguments, message = REFUSED[name]
    with pytest.raises(export.ExportError, match=message):
        Model(export, tmp_path, **arguments)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- the backend of boards with TensorFlow


def test_backends_train_alike(export: Any, tmp_path: Path) -> None:
    """The same seed: the same order, the same dropout; what differs is rounding."""
    from edge_peer.trainers.artifacts import load_artifacts
    from edge_peer.trainers.backends import make_trainer

    model = Model(
        export,
        tmp_path,
        "L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dropout(0.2), L.Dense(3)",
        "keras.optimizers.Adam(0.01)",
    )
    artifacts = load_artifacts(model.folder)
    x, y = model.batch(4, 100)
    start = artifacts.initial()
    results, scores = [], []
    for backend in ("litert", "keras"):
        trainer = make_trainer(backend, artifacts, 1)
        results += [
            trainer.train(start, x, y, epochs=2, learning_rate=0.01, seed=3, cancelled=lambda: False, proximal=0.1)
            for _ in range(2)
        ]
        scores.append(trainer.evaluate(results[-1].weights, x, y, cancelled=lambda: False))
        assert results[-1].weights.tobytes() == results[-2].weights.tobytes(), backend
    assert np.abs(results[0].weights - results[2].weights).max() < 1e-3
    assert np.abs(results[0].weights - start).max() > 0.05
    assert results[0].loss == pytest.approx(results[2].loss, rel=1e-3)
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-2)


def test_a_missing_or_damaged_graph_is_named(export: Any, tmp_path: Path) -> None:
    from edge_peer.trainers.artifacts import ModelError, load_artifacts
    from edge_peer.trainers.keras import KerasTrainer

    model = Model(export, tmp_path)
    graph = model.folder / "train.graph"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"train\.graph: is damaged"):
        KerasTrainer(load_artifacts(model.folder))
    graph.unlink()
    # Who trains with an interpreter does without it.
    artifacts = load_artifacts(model.folder)
    with pytest.raises(ModelError, match=r"train\.graph: cannot be read .*; make the artifacts with `make model`"):
        KerasTrainer(artifacts)
