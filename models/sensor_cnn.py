"""A small CNN for windows of six inertial channels, such as `--dataset shoulder-watch` gives; 29,871 parameters."""

from __future__ import annotations

import keras

#: Windows of a training step; part of the exported graph.
BATCH = 32
#: Windows of an evaluation step.
EVALUATION_BATCH = 32
CLASSES = 7
#: Weights and activations are rounded to int8 while it is trained, so that the int8 model is as good.
QAT = "full"
DATASET = "shoulder-watch"


def build() -> keras.Model:
    """Logits of seven exercises from 128 samples (2.56 s) of six uint8 channels; the model's own first layer scales.

    A byte b stands for (b - 127.5) / 128 of the sensor's range. A quarter of the range becomes one, because a motion of
    the arm is mostly that small, and a step of SGD learns little from small inputs.
    """
    model = keras.Sequential(
        [
            keras.Input((128, 6), name="window"),
            keras.layers.Rescaling(1 / 32, offset=-127.5 / 32, name="scale"),
            keras.layers.Conv1D(24, 7, strides=2, padding="same", activation="relu", name="conv1"),
            keras.layers.MaxPooling1D(2, name="pool1"),
            keras.layers.Conv1D(32, 5, padding="same", activation="relu", name="conv2"),
            keras.layers.MaxPooling1D(2, name="pool2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(48, activation="relu", name="dense1"),
            keras.layers.Dense(CLASSES, name="logits"),
        ],
        name="sensor_cnn",
    )
    # Half of the default, for rounds of several local epochs.
    model.compile(
        optimizer=keras.optimizers.SGD(0.05), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model
