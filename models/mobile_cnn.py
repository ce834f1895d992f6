"""A depthwise-separable CNN like MobileNet for 28x28 grey images such as Fashion-MNIST; 31,338 parameters.

Without BatchNormalization, which gains a little where the data are divided evenly and loses more where they are not:
peers with different classes have different moments, and the averaged ones are not those of the averaged weights. What
it would do for the size of activations is done by the initial kernels, and for the size of steps by a bound of the
gradient. A step is cheaper, too.

Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017
(https://arxiv.org/abs/1704.04861); without a relu behind the depthwise convolutions, as in Chollet, "Xception: Deep
Learning with Depthwise Separable Convolutions", 2017 (https://arxiv.org/abs/1610.02357).
"""

from __future__ import annotations

import keras

#: Images of a training step; part of the exported graph.
BATCH = 32
#: Images of an evaluation step.
EVALUATION_BATCH = 32
CLASSES = 10
#: Weights and activations are rounded to int8 while it is trained, so that the int8 model is as good.
QAT = "full"
DATASET = "fashion-mnist"
#: Output channels of each block, and the stride of its depthwise convolution. The strides come early: a step's time is
#: that of the large images.
BLOCKS = ((32, 2), (64, 1), (128, 2), (128, 1))


def build() -> keras.Model:
    """Logits of ten classes from uint8 images.

    The model's own first layer makes (b - 64) / 32 of a byte b: a step of SGD learns little from small inputs.
    """
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            keras.layers.Rescaling(1 / 32, offset=-2.0, name="scale"),
            keras.layers.Conv2D(
                16, 3, strides=2, padding="same", activation="relu", kernel_initializer="he_normal", name="conv"
            ),
        ],
        name="mobile_cnn",
    )
    for number, (channels, stride) in enumerate(BLOCKS, 1):
        model.add(
            keras.layers.DepthwiseConv2D(
                3,
                strides=stride,
                padding="same",
                # Keras's own initializers take all channels for inputs of each, and so make activations fade away.
                depthwise_initializer=keras.initializers.RandomNormal(stddev=1 / 3),
                name=f"depthwise{number}",
            )
        )
        model.add(
            keras.layers.Conv2D(
                channels, 1, activation="relu", kernel_initializer="he_normal", name=f"pointwise{number}"
            )
        )
    model.add(keras.layers.GlobalAveragePooling2D(name="pool"))
    model.add(keras.layers.Dense(CLASSES, name="logits"))
    model.compile(
        # The bound lets the first steps be large without going astray.
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model
