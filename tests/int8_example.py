"""A tiny model in int8 for the tests of boards: `python tests/int8_example.py` makes its files, with TensorFlow.

The model: 6x5 images of 2 channels, Rescaling to -1..1, Conv2D(3, 3, strides 2) without a bias, BatchNormalization,
relu, Flatten, Dense(4).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from aggregator_core.layout import Layout
from edge_peer.trainers.int8 import Int8Recipe

FOLDER = Path(__file__).parent / "int8_example"
SHAPE, CLASSES, SEED = (6, 5, 2), 4, 1


def load() -> tuple[bytes, Int8Recipe, str]:
    """Template, recipe, and the digest of what TensorFlow has converted from `weights`."""
    template = (FOLDER / "template.tflite").read_bytes()
    facts = json.loads((FOLDER / "recipe.json").read_bytes())
    layout = Layout.from_json(facts["layout"])
    return template, Int8Recipe.from_json(facts["recipe"], layout, len(template)), facts["converted_sha256"]


def weights(layout: Layout) -> Any:
    """A vector of plausible weights, the same with every numpy; the ranges are about those of random images."""
    vector = (np.modf(np.arange(1, layout.size + 1) * 0.6180339887)[0] - 0.5).astype(np.float32)
    parts = layout.split(vector)
    parts["example/norm/moving_variance"][:] = (0.5, 1.5, 1)
    parts["example/norm/gamma"][:] = (1, -1.25, 0.75)
    parts["relu_range/range"][:] = (0, 4)
    parts["logits_range/range"][:] = (-3.5, 3)
    return vector


def build() -> Any:
    """The model."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(2 / 255, -1, name="scale"),
            layers.Conv2D(3, 3, strides=2, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(CLASSES, name="logits"),
        ],
        name="example",
    )


def make(layout_of: Any) -> dict[str, bytes]:
    """The files' contents, by name."""
    from models.quantization import plan, template, training

    model = build()
    planned = plan.make_plan(model)
    layout = layout_of(training.prepare(model, planned, "full"))
    content, recipe = template.make_template(model, planned, layout, SEED)
    converted = template.convert(model.name, planned, layout, SHAPE, weights(layout))
    facts = {
        "layout": layout.to_json(),
        "recipe": recipe,
        "converted_sha256": hashlib.sha256(converted).hexdigest(),
    }
    return {"template.tflite": content, "recipe.json": (json.dumps(facts, indent=1) + "\n").encode()}


if __name__ == "__main__":
    from test_models_int8 import layout_of

    FOLDER.mkdir(exist_ok=True)
    for name, content in make(layout_of).items():
        (FOLDER / name).write_bytes(content)
