"""The default model made small and not quantized: what `reference_cnn.py` computes in plain loops."""

from __future__ import annotations

import keras

BATCH = 8
EVALUATION_BATCH = 8
CLASSES = 10


def build() -> keras.Model:
    """Logits of ten classes from 12x12 images."""
    return keras.Sequential(
        [
            keras.Input((12, 12, 1), name="image"),
            keras.layers.Rescaling(1 / 255, name="scale"),
            keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv1"),
            keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="conv2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(16, activation="relu", name="dense1"),
            keras.layers.Dense(CLASSES, name="logits"),
        ],
        name="small_cnn",
    )
