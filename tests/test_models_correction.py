"""The correction of gradients with TensorFlow's backend: what LiteRT's does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_peer.trainers.artifacts import load_artifacts
from edge_peer.trainers.interface import TrainingResult

pytestmark = pytest.mark.tensorflow
ROOT = Path(__file__).parent.parent
#: Not quantized; with quantization; with momentum, clipping, BatchNormalization and dropout.
MODELS = ("tests/models/small_cnn", "models/artifacts/image_cnn", "models/artifacts/mobile_cnn")
RATE = 0.05


@pytest.mark.parametrize("model", MODELS)
def test_backends_take_a_correction_alike(model: str) -> None:
    from edge_peer.trainers.backends import make_trainer

    artifacts = load_artifacts(ROOT / model)
    size, rng = artifacts.layout.trained_size, np.random.default_rng(1)
    x = rng.integers(0, 256, (artifacts.batch_size + 3, *artifacts.input_shape)).astype(np.uint8)
    y = rng.integers(0, artifacts.classes, len(x)).astype(np.int32)
    start, k = artifacts.initial(), rng.normal(0, 0.02, size).astype(np.float32)

    def run(train: Callable[..., TrainingResult], correction: Any, proximal: float = 0.1) -> TrainingResult:
        return train(
            start,
            x,
            y,
            epochs=1,
            learning_rate=RATE,
            seed=3,
            cancelled=lambda: False,
            proximal=proximal,
            correction=correction,
        )

    trainers = [make_trainer(backend, artifacts, 1) for backend in ("litert", "keras")]
    plain, other = (run(it.train, None) for it in trainers)
    corrected, same = (run(it.train, k) for it in trainers)
    # Clipping leaves little of a correction; it is still far more than what backends differ by.
    effect = np.abs(corrected.weights - plain.weights)[:size].max()
    assert effect > 1e-4
    for one, two in ((plain, other), (corrected, same)):
        assert np.abs(one.weights - two.weights)[:size].max() < effect / 20
        np.testing.assert_allclose(two.weights, one.weights, rtol=1e-3, atol=1e-3)
    assert same.steps == corrected.steps == 2
    with pytest.raises(ValueError, match=rf"correction is float64\[{size}\], the model trains float32"):
        run(trainers[1].train, k.astype(np.float64))
