"""A depthwise-separable CNN like MobileNet for 28x28 grey images, which `bench.training` measures."""

from __future__ import annotations

import keras

BATCH = 32
EVALUATION_BATCH = 32
CLASSES = 10
#: Channels behind each block, and the stride of its depthwise convolution.
BLOCKS = ((32, 1), (64, 2), (64, 1), (128, 1), (128, 2), (128, 1))


def build() -> keras.Model:
    """Logits of ten classes from uint8 images; 53,930 parameters."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            keras.layers.Rescaling(1 / 255, name="scale"),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="conv"),
        ],
        name="depthwise_cnn",
    )
    for number, (channels, stride) in enumerate(BLOCKS, 1):
        model.add(
            keras.layers.DepthwiseConv2D(
                3, strides=stride, padding="same", activation="relu", name=f"depthwise{number}"
            )
        )
        model.add(keras.layers.Conv2D(channels, 1, activation="relu", name=f"pointwise{number}"))
    model.add(keras.layers.GlobalAveragePooling2D(name="pool"))
    model.add(keras.layers.Dense(CLASSES, name="logits"))
    return model
