"""A constant in every gradient: what it does to a training, and what the training then tells of its gradients."""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_cnn
from hypothesis import given
from hypothesis import strategies as st

from aggregator_core.means import momentum_steps, proximal_steps
from aggregator_core.scaffold import correction_of, new_control
from edge_peer.errors import ResourceError
from edge_peer.trainers.artifacts import FEDERATED, ModelError, load_artifacts
from edge_peer.trainers.interface import TrainingResult
from edge_peer.trainers.litert import LiteRTTrainer
from edge_peer.trainers.optimizer import LocalOptimizer
from edge_peer.trainers.steps import shuffled

ROOT = Path(__file__).parent.parent
#: Trained with integers in mind: its vector ends with ranges of activations, which gradients do not train.
QUANTIZED = load_artifacts(ROOT / "models/artifacts/image_cnn")
#: With momentum and clipping.
MOMENTUM = load_artifacts(ROOT / "models/artifacts/mobile_cnn")
#: What plain loops can follow.
SMALL = load_artifacts(ROOT / "tests/models/small_cnn")
RATE = 0.25


@pytest.fixture(scope="module")
def small() -> LiteRTTrainer:
    return LiteRTTrainer(SMALL)


@pytest.fixture(scope="module")
def quantized() -> LiteRTTrainer:
    return LiteRTTrainer(QUANTIZED)


def examples(artifacts: Any, count: int, seed: int, classes: tuple[int, ...] = tuple(range(10))) -> tuple[Any, Any]:
    """Images that a class is bright in a part of; only some classes: a shard that is skewed."""
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, count).astype(np.int32)
    x = rng.integers(0, 100, (count, *artifacts.input_shape)).astype(np.uint8)
    flat = x.reshape(count, -1)
    width = flat.shape[1] // 10
    for row, label in zip(flat, y, strict=True):
        row[label * width : (label + 1) * width] += 150
    return x, y


def constant(artifacts: Any, seed: int = 1) -> Any:
    """A correction that nothing may write to."""
    vector = np.random.default_rng(seed).normal(0, 0.05, artifacts.layout.trained_size).astype(np.float32)
    vector.flags.writeable = False
    return vector


def train(
    trainer: LiteRTTrainer, start: Any, x: Any, y: Any, correction: Any, epochs: int = 1, **more: float
) -> TrainingResult:
    return trainer.train(
        start, x, y, epochs=epochs, learning_rate=RATE, seed=3, cancelled=lambda: False, correction=correction, **more
    )


def reference_path(start: Any, x: Any, y: Any, correction: Any, epochs: int) -> tuple[Any, Any]:
    """SGD in plain loops with a constant in the gradient: (the weights, the mean of the gradients without it)."""
    rng = random.Random(3)
    weights, gradients = start.astype(np.float64), []
    for _ in range(epochs):
        order = shuffled(len(y), rng)
        for begin in range(0, len(y), SMALL.batch_size):
            picked = order[begin : begin + SMALL.batch_size]
            stepped, _ = reference_cnn.step(weights, x[picked], y[picked], RATE)
            gradients.append((weights - stepped) / RATE)
            weights = stepped - RATE * correction
    return weights, np.mean(gradients, axis=0)


# ---------------------------------------------------------------------- in the step


@pytest.mark.parametrize("model", ["small", "quantized"])
def test_a_step_goes_by_the_correction_further(model: str, request: pytest.FixtureRequest) -> None:
    trainer = request.getfixturevalue(model)
    artifacts = {"small": SMALL, "quantized": QUANTIZED}[model]
    size, k = artifacts.layout.trained_size, constant(artifacts)
    x, y = examples(artifacts, artifacts.batch_size, 1)
    start = artifacts.initial()
    plain, corrected = (train(trainer, start, x, y, it) for it in (None, k))
    difference = corrected.weights - plain.weights
    assert np.abs(difference[:size] + RATE * k).max() < 1e-6
    assert np.abs(difference[:size]).max() > 0.02
    # State is what the forward pass has seen, which began with the same weights.
    assert corrected.weights[size:].tobytes() == plain.weights[size:].tobytes()
    assert corrected.loss == plain.loss


def test_no_correction_is_one_of_zeros(quantized: LiteRTTrainer) -> None:
    x, y = examples(QUANTIZED, 70, 2)
    start, zeros = QUANTIZED.initial(), np.zeros(QUANTIZED.layout.trained_size, np.float32)
    without, with_zeros = (train(quantized, start, x, y, it, epochs=2) for it in (None, zeros))
    np.testing.assert_array_equal(without.weights, with_zeros.weights)


@pytest.mark.parametrize("epochs", [1, 2])
def test_every_step_of_a_training_is_corrected(small: LiteRTTrainer, epochs: int) -> None:
    x, y = examples(SMALL, 3 * SMALL.batch_size + 3, 4)
    start, k = SMALL.initial(), constant(SMALL)
    result = train(small, start, x, y, k, epochs)
    expected, _ = reference_path(start, x, y, k, epochs)
    assert result.steps == 4 * epochs
    # As in test_trainers.py: a relu within rounding of zero may be on here and off there.
    distance = np.abs(result.weights - expected)
    assert np.quantile(distance, 0.99) < 2e-5
    assert distance.max() < 1e-3
    assert np.abs(result.weights - train(small, start, x, y, None, epochs).weights).max() > 0.05


def test_correction_and_proximal_term_add_up(small: LiteRTTrainer) -> None:
    """Both are about the same start: far from the data's optimum, they decide where training ends."""
    x, y = examples(SMALL, 4 * SMALL.batch_size, 5)
    start, k, strength = SMALL.initial(), constant(SMALL), 0.5
    result = train(small, start, x, y, k, proximal=strength)
    weights = start.astype(np.float64)
    for begin in range(4):
        picked = shuffled(len(y), random.Random(3))[begin * SMALL.batch_size :][: SMALL.batch_size]
        stepped, _ = reference_cnn.step(weights, x[picked], y[picked], RATE)
        weights = stepped - RATE * (strength * (weights - start) + k)
    distance = np.abs(result.weights - weights)
    assert np.quantile(distance, 0.99) < 2e-5
    assert distance.max() < 1e-3
    assert np.abs(result.weights - train(small, start, x, y, k).weights).max() > 1e-2


# ---------------------------------------------------------------------- control variates


def test_peers_of_unlike_data_make_the_same_step_with_controls(small: LiteRTTrainer) -> None:
    """Controls are exact here: c - c_i turns each peer's gradient into that of all data together."""
    start, batch = SMALL.initial(), SMALL.batch_size
    size = SMALL.layout.trained_size
    shards = [examples(SMALL, batch, 6, (0, 1)), examples(SMALL, batch, 7, (2, 3, 4)), examples(SMALL, batch, 8, (9,))]
    zeros = np.zeros(size, np.float32)
    changes = [train(small, start, *shard, None).weights - start for shard in shards]
    controls = [new_control(zeros, zeros, change, 1, RATE) for change in changes]
    server = np.mean(controls, axis=0, dtype=np.float64).astype(np.float32)
    together = [np.concatenate(parts) for parts in zip(*shards, strict=True)]
    expected, _ = reference_cnn.step(start, together[0], together[1], RATE)
    for shard, change, control in zip(shards, changes, controls, strict=True):
        corrected = train(small, start, *shard, correction_of(control, server))
        assert np.abs(corrected.weights - expected).max() < 2e-6
        assert np.abs(change - (expected - start)).max() > 0.01, "alone, it goes elsewhere"
        # And the gradient that comes out is the one that went in.
        again = new_control(control, server, corrected.weights - start, corrected.steps, RATE)
        assert np.abs(again - control).max() < 1e-5


def test_a_new_control_is_the_mean_gradient_of_the_training(small: LiteRTTrainer) -> None:
    x, y = examples(SMALL, 3 * SMALL.batch_size, 9, (3, 7))
    start, own, server = SMALL.initial(), constant(SMALL, 1), constant(SMALL, 2)
    correction = correction_of(own, server)
    result = train(small, start, x, y, correction, epochs=2)
    control = new_control(own, server, result.weights - start, result.steps, RATE)
    _, expected = reference_path(start, x, y, correction, 2)
    assert np.quantile(np.abs(control - expected), 0.99) < 2e-5
    assert np.abs(control - expected).max() < 1e-3
    assert np.abs(expected).max() > 0.05
    assert np.abs(control - own).max() > 0.05


# ---------------------------------------------------------------------- what is of no use


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it[:-1], r"correction is float32\[26697\], the model trains float32\[26698\]: leave the state out"),
        (lambda it: np.append(it, it[:8]), r"correction is float32\[26706\]"),
        (lambda it: it[None], r"correction is float32\[1, 26698\]"),
        (lambda it: it.astype(np.float64), r"correction is float64\[26698\]"),
        (lambda it: it * np.float32(np.nan), "correction has values that are not finite"),
        (lambda it: it + np.float32(np.inf), "correction has values that are not finite: begin with controls of zero"),
    ],
)
def test_a_correction_of_no_use_is_refused(quantized: LiteRTTrainer, change: Any, message: str) -> None:
    x, y = examples(QUANTIZED, 5, 1)
    with pytest.raises(ValueError, match=message):
        train(quantized, QUANTIZED.initial(), x, y, change(constant(QUANTIZED)))


# ---------------------------------------------------------------------- effective steps


def weights_of_gradients(steps: int, rate: float, momentum: float, nesterov: bool, proximal: float) -> list[float]:
    """How far a gradient of one in each single step moves the end, in learning rates: one training for each."""
    found = []
    for impulse in range(steps):
        weight = velocity = 0.0
        for step in range(steps):
            gradient = float(step == impulse) + proximal * weight
            velocity = momentum * velocity - rate * gradient
            weight += momentum * velocity - rate * gradient if nesterov else velocity
        found.append(-weight / rate)
    return found


@given(
    st.integers(1, 25),
    st.sampled_from([0.3, 0.1, 0.01]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.booleans(),
    st.sampled_from([0.0, 0.01, 1.0]),
)
def test_effective_steps_are_the_sum_of_the_gradients_weights(
    steps: int, rate: float, momentum: float, nesterov: bool, proximal: float
) -> None:
    optimizer = LocalOptimizer("sgd", momentum, nesterov)
    expected = math.fsum(weights_of_gradients(steps, rate, momentum, nesterov, proximal))
    assert optimizer.effective_steps(steps, rate, proximal) == pytest.approx(expected)
    if not nesterov and not proximal:
        assert expected == pytest.approx(momentum_steps(steps, momentum))
    if not momentum and proximal:
        assert expected == pytest.approx(proximal_steps(steps, rate, proximal))


def test_plain_steps_count_for_themselves() -> None:
    assert [LocalOptimizer("sgd").effective_steps(steps, 0.1) for steps in (1, 7, 4000)] == [1.0, 7.0, 4000.0]


@pytest.mark.parametrize("artifacts", [SMALL, MOMENTUM], ids=lambda it: it.model_id)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_correction_moves_a_training_by_its_effective_steps(artifacts: Any, strength: float) -> None:
    """Without a gradient of the data there is only the correction; so small that nothing is clipped."""
    trainer = LiteRTTrainer(artifacts)
    x, y = examples(artifacts, 3 * artifacts.batch_size, 2)
    start, k = artifacts.initial(), 1e-3 * constant(artifacts)
    # Weights of zero stay where they are: every relu is off, and all logits are the last bias, which is left out.
    start[: artifacts.layout.trained_size] = 0.0
    size = artifacts.layout.trained_size - artifacts.classes
    plain, corrected = (train(trainer, start, x, y, it, proximal=strength) for it in (None, k))
    effective = artifacts.optimizer.effective_steps(corrected.steps, RATE, strength)
    moved = (corrected.weights - plain.weights)[:size] / (-RATE * k[:size])
    assert np.median(moved) == pytest.approx(effective, rel=1e-2)


def test_an_optimizer_whose_steps_do_not_tell_gradients_is_refused() -> None:
    adam = LocalOptimizer.from_json({"name": "adam", "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7})
    with pytest.raises(ResourceError, match=r"optimizer is 'adam', .*compile the model with keras.optimizers.SGD"):
        adam.effective_steps(3, 0.1)


@pytest.mark.parametrize(("rate", "proximal"), [(1.0, 3.0), (0.5, 4.0), (1e200, 1e200)])
def test_a_rate_that_is_too_large_for_the_proximal_term_is_refused(rate: float, proximal: float) -> None:
    with pytest.raises(ResourceError, match="drives the weights away from where they began; choose a smaller one"):
        LocalOptimizer("sgd").effective_steps(40, rate, proximal)


def test_manifests_tell_the_optimizer() -> None:
    assert QUANTIZED.optimizer == SMALL.optimizer == LocalOptimizer("sgd")
    assert MOMENTUM.optimizer == LocalOptimizer("sgd", 0.9, clips=True)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"name": 3}, "optimizer.name is 3, not a text"),
        ({"name": "sgd", "momentum": 1.0}, "optimizer.momentum is 1.0, not a number from 0 and below 1"),
        ({"name": "sgd", "momentum": True}, "optimizer.momentum is True"),
        ({"name": "sgd", "nesterov": 1}, "optimizer.nesterov is 1, not true or false"),
        ("sgd", "optimizer is 'sgd', not an object"),
    ],
)
def test_a_manifest_with_a_wrong_optimizer(field: Any, message: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SMALL.folder, tmp_path / "model"))
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["optimizer"] = field
    shared = {name: manifest[name] for name in FEDERATED}
    manifest["digest"] = hashlib.sha256(json.dumps(shared, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    path.write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=rf"manifest\.json: {message}.*`make model`"):
        load_artifacts(folder)
