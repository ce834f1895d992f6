"""The default model: a small CNN for 28x28 grey images such as Fashion-MNIST; 26,698 parameters."""

from __future__ import annotations

import keras

#: Images of a training step; part of the exported graph.
BATCH = 32
#: Images of an evaluation step.
EVALUATION_BATCH = 32
CLASSES = 10
#: Weights and activations are rounded to int8 while it is trained, so that the int8 model is as good.
QAT = "full"


def build() -> keras.Model:
    """Logits of ten classes from uint8 images: scaling to 0..1 is the model's own first layer."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            keras.layers.Rescaling(1 / 255, name="scale"),
            keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv1"),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="conv2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(32, activation="relu", name="dense1"),
            keras.layers.Dense(CLASSES, name="logits"),
        ],
        name="image_cnn",
    )
