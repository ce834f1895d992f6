"""A Keras model in int8: planned, trained with fake quantization, and converted as TensorFlow converts it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import int8_example
import numpy as np
import pytest

from aggregator_core.layout import Layout, Tensor
from edge_peer.trainers import int8
from edge_peer.trainers.runtimes import load_runtime

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).parent.parent
BATCH, CLASSES = 16, 5
SEEDS, MORE = range(1, 5), range(5, 13)
#: The later ones by `make test-again` only.
EACH = [*SEEDS, *(pytest.param(seed, marks=pytest.mark.again) for seed in MORE)]
TOGETHER = [SEEDS, pytest.param(MORE, marks=pytest.mark.again)]


@pytest.fixture(scope="module")
def quantization() -> Any:
    from models import quantization as module

    return module


def layout_of(model: Any) -> Layout:
    """Trainable variables first, then the state."""
    tensors: list[Tensor] = []
    offset = 0
    for variable in [*model.trainable_variables, *model.non_trainable_variables]:
        # The state of Dropout's random numbers is no weight.
        if variable.dtype != "float32":
            continue
        shape = tuple(int(it) for it in variable.shape)
        kind = ("weight" if len(shape) > 1 else "bias") if variable.trainable else "state"
        tensors.append(Tensor(variable.path, shape, offset, None, kind))
        offset += tensors[-1].size
    return Layout(tuple(tensors))


def vector_of(model: Any, layout: Layout) -> Any:
    values = {it.path: np.asarray(it, np.float32) for it in model.variables if it.dtype == "float32"}
    return layout.join({it.name: values[it.name] for it in layout.tensors})


# ---------------------------------------------------------------------- models


def sequential(shape: tuple[int, ...], *layers: Any) -> Any:
    import keras

    return keras.Sequential([keras.Input(shape), keras.layers.Rescaling(1 / 255, name="scale"), *layers], name="mine")


def functional(shape: tuple[int, ...], body: Callable[[Any, Any], Any]) -> Any:
    import keras

    image = keras.Input(shape)
    x = keras.layers.Rescaling(2 / 255, -1, name="scale")(image)
    return keras.Model(image, body(keras.layers, x), name="mine")


def random_image_model(seed: int) -> Any:
    """A functional model of random blocks: plain, normalized, depthwise-separable, residual, gated, concatenated."""
    rng = np.random.default_rng(seed)

    def pick(*choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    def body(layers: Any, x: Any) -> Any:
        def normalized(x: Any, layer: Any) -> Any:
            x = layer(x)
            if pick(True, False):
                x = layers.BatchNormalization(scale=pick(True, False), center=pick(True, False))(x)
            return pick(layers.ReLU(), layers.ReLU(6), layers.Activation("relu"), layers.LeakyReLU(0.1))(x)

        def conv(x: Any, filters: int, size: Any = 3) -> Any:
            return normalized(x, layers.Conv2D(filters, size, padding="same", use_bias=pick(True, False)))

        def plain(x: Any) -> Any:
            return layers.Conv2D(pick(3, 6), pick(2, 3), activation=pick("relu", "relu6", "tanh", "leaky_relu"))(x)

        def strided(x: Any) -> Any:
            return normalized(x, layers.Conv2D(4, 3, strides=2, padding=pick("same", "valid"), use_bias=False))

        def depthwise(x: Any) -> Any:
            x = normalized(x, layers.DepthwiseConv2D(3, pick(1, 2), padding="same", depth_multiplier=pick(1, 2)))
            return conv(x, 5, 1)

        def separable(x: Any) -> Any:
            return normalized(x, layers.SeparableConv2D(4, 3, padding="same", use_bias=pick(True, False)))

        def residual(x: Any) -> Any:
            x = conv(x, 4)
            added = layers.Add()([x, layers.Conv2D(4, 3, padding="same")(x)])
            return layers.ReLU()(added) if pick(True, False) else added

        def gated(x: Any) -> Any:
            x = conv(x, 4)
            gate = layers.Dense(4, "relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
            return layers.Multiply()([x, layers.Dense(4, "sigmoid")(gate)])

        def concatenated(x: Any) -> Any:
            x = conv(x, 3)
            return layers.Concatenate()([x, conv(x, 2), layers.Conv2D(2, 1)(x)])

        def moved(x: Any) -> Any:
            return pick(
                layers.ZeroPadding2D(((1, 0), (0, 2))), layers.Cropping2D(((1, 0), (0, 1))), layers.Permute((2, 1, 3)),
                layers.MaxPooling2D(2, padding="same"), layers.SpatialDropout2D(0.0),
            )(x)  # fmt: skip

        for _ in range(3):
            x = pick(plain, strided, depthwise, separable, residual, gated, concatenated, moved)(x)
        x = pick(layers.GlobalAveragePooling2D(), layers.GlobalMaxPooling2D(), layers.Flatten())(x)
        if pick(True, False):
            x = normalized(layers.Dropout(0.0)(x), layers.Dense(9))
        return layers.Dense(CLASSES, use_bias=pick(True, False))(x)

    return functional((16, 15, 3), body)


def random_sequence_model(seed: int) -> Any:
    """A Sequential model of one-dimensional convolutions."""
    from keras import layers

    rng = np.random.default_rng(seed)
    body: list[Any] = []
    for _ in range(3):
        size, filters = int(rng.integers(2, 5)), int(rng.integers(3, 7))
        padding = str(rng.choice(["same", "valid", "causal"]))
        kind = int(rng.integers(4))
        if kind == 0:
            body.append(layers.Conv1D(filters, size, int(rng.integers(1, 3)), padding=padding, use_bias=False))
        elif kind == 1:
            body.append(layers.Conv1D(filters, size, dilation_rate=2, padding=padding))
        elif kind == 2:
            body.append(layers.DepthwiseConv1D(size, padding="same", depth_multiplier=2))
        else:
            body.append(layers.SeparableConv1D(filters, size, padding="same"))
        if rng.integers(2):
            body.append(layers.BatchNormalization())
        body.append(layers.ReLU())
        if rng.integers(2):
            body.append(layers.MaxPooling1D(2))
    end = [[layers.GlobalAveragePooling1D()], [layers.GlobalMaxPooling1D()], [layers.Reshape((-1,))]]
    return sequential((48, 3), *body, *end[int(rng.integers(3))], layers.Dense(CLASSES))


def random_model(seed: int) -> Any:
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = random_sequence_model(seed) if seed % 3 == 0 else random_image_model(seed)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        # Kernels of Keras give ever smaller activations, every bias is 0, and some relus give nothing.
        shift = 0.1 if len(variable.shape) == 1 else 0
        variable.assign(variable + rng.normal(shift, 0.15, variable.shape))
    return model


def images(model: Any, count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, *model.input_shape[1:])).astype(np.uint8)


def step(quantization: Any, trained: Any, plan: Any, x: Any) -> Callable[[Any, Any], Any]:
    """The forward pass of training on a batch: (weights, state) -> (logits, new state)."""
    import tensorflow as tf

    names = [it.path for it in trained.trainable_variables]

    @tf.function(autograph=False)
    def forward(weights: Any, state: Any) -> Any:
        parts = quantization.training.fake_quantize_kernels(dict(zip(names, weights, strict=True)), plan)
        return trained.stateless_call([parts[it] for it in names], state, tf.cast(x, tf.float32), training=True)

    return forward


def settled(quantization: Any, trained: Any, plan: Any, x: Any) -> Any:
    """Logits of training once ranges and BatchNormalization know the batch; its state is kept in the model."""
    import tensorflow as tf

    forward = step(quantization, trained, plan, x)
    weights = [tf.constant(it) for it in trained.trainable_variables]
    state = [tf.constant(it) for it in trained.non_trainable_variables]
    # BatchNormalization forgets a hundredth with each.
    for _ in range(1500):
        logits, state = forward(weights, state)
    for variable, value in zip(trained.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return logits.numpy()


def logits_of(content: bytes, x: Any) -> tuple[Any, float]:
    """What a file gives, as real numbers, and its quantum."""
    interpreter = load_runtime()[1].Interpreter(model_content=content, num_threads=1)
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(entry["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], x)
    interpreter.invoke()
    scale, zero = result["quantization"]
    return (interpreter.get_tensor(result["index"]).astype(np.float64) - zero) * scale, scale


# ---------------------------------------------------------------------- the plan


def points_of(plan: Any) -> dict[str, Any]:
    """Name -> fixed range, or whether only its maximum is observed."""
    return {it.name: it.limits or ("rectified" if it.rectified else "both") for it in plan.points}


def test_a_layer_its_normalization_and_its_relu_are_one(quantization: Any) -> None:
    from keras import layers

    model = sequential(
        (9, 9, 2),
        layers.Conv2D(4, 3, name="a"),
        layers.BatchNormalization(name="b"),
        layers.ReLU(name="c"),
        layers.MaxPooling2D(),
        layers.Dropout(0.5),
        layers.SeparableConv2D(4, 3, name="d"),
        layers.BatchNormalization(name="e"),
        layers.Activation("relu6", name="f"),
        layers.GlobalAveragePooling2D(name="g"),
        layers.Dense(7, "relu", name="h"),
        layers.Dense(3, name="i"),
    )
    plan = quantization.plan.make_plan(model)
    assert points_of(plan) == {
        "input_range": (0, 1), "c_range": "rectified", "d_middle_range": "both", "f_range": (0, 6),
        "g_range": "rectified", "h_range": "rectified", "i_range": "both",
    }  # fmt: skip
    assert [(it.path, it.axes) for it in plan.kernels] == [
        ("mine/a/kernel", (3,)), ("mine/d/depthwise_kernel", (2, 3)), ("mine/d/pointwise_kernel", (3,)),
        ("mine/h/kernel", (1,)), ("mine/i/kernel", (1,)),
    ]  # fmt: skip
    folds = {
        it.kernel.path: it.normalization.name
        for it in plan.steps
        if isinstance(it, quantization.plan.Linear) and it.normalization is not None
    }
    assert folds == {"mine/a/kernel": "b", "mine/d/pointwise_kernel": "e"}


def test_what_goes_into_a_concatenation_only_has_its_range(quantization: Any) -> None:
    def body(layers: Any, x: Any) -> Any:
        a = layers.Conv2D(2, 3, activation="relu", name="a")(x)
        b = layers.MaxPooling2D(name="pool")(layers.Conv2D(2, 3, padding="same", name="b")(a))
        c = layers.Conv2D(2, 3, strides=2, padding="same", activation="sigmoid", name="c")(a)
        joined = layers.Concatenate(name="d")([layers.Cropping2D(((0, 1), (0, 1)))(c), b])
        return layers.Dense(3, name="e")(layers.Flatten()(joined))

    plan = quantization.plan.make_plan(functional((9, 9, 2), body))
    assert points_of(plan) == {
        "input_range": (-1, 1), "a_range": "rectified", "c_activation_range": "both", "c_range": (0, 255 / 256),
        "d_range": "both", "e_range": "both",
    }  # fmt: skip


def test_a_name_that_the_model_has_is_not_taken(quantization: Any) -> None:
    from keras import layers

    model = sequential((4,), layers.Dense(3, name="a"), layers.Dense(3, name="a_range"))
    assert list(points_of(quantization.plan.make_plan(model))) == ["input_range", "a_range_1", "a_range_range"]


def merged(merge: Any) -> Any:
    def body(layers: Any, x: Any) -> Any:
        a = layers.Conv2D(2, 1)(x)
        return layers.Dense(3)(layers.Flatten()(merge([a, layers.Conv2D(2, 1)(x), a])))

    return functional((4, 4, 1), body)


REFUSED: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "gelu": (lambda it: sequential((4,), it.Dense(3, "gelu", name="a")), "a", "gelu"),
    "lambda": (lambda it: sequential((4,), it.Dense(3), it.Activation(lambda x: x * x, name="a")), "a", "lambda"),
    "capped relu": (lambda it: sequential((4,), it.Dense(3), it.ReLU(2, name="a")), "a", "activation"),
    "layer normalization": (lambda it: sequential((4,), it.LayerNormalization(name="a")), "a", "LayerNormalization"),
    "recurrent": (lambda it: sequential((4, 2), it.LSTM(3, name="a")), "a", "LSTM"),
    "normalization first": (lambda it: sequential((4,), it.BatchNormalization(name="a")), "a", "directly behind"),
    "normalization behind a relu": (
        lambda it: sequential((4,), it.Dense(3, "relu"), it.BatchNormalization(name="a")), "a", "directly behind",
    ),
    "normalization behind a pooling": (
        lambda it: sequential((6, 6, 1), it.Conv2D(2, 1), it.MaxPooling2D(), it.BatchNormalization(name="a")),
        "a", "directly behind",
    ),
    "normalization of rows": (
        lambda it: sequential((6, 6, 1), it.Conv2D(2, 1), it.BatchNormalization(axis=1, name="a")), "a", "axis 1",
    ),
    "rescaling later": (lambda it: sequential((4,), it.Rescaling(2, name="a"), it.Dense(3)), "a", "Rescaling"),
    "three summands": (lambda it: merged(it.Add(name="a")), "a", "3 tensors"),
    "average": (lambda it: merged(it.Average(name="a")), "a", "Average"),
    "groups": (lambda it: sequential((6, 6, 2), it.Conv2D(2, 1, groups=2, name="a")), "a", "2 groups"),
    "operation": (lambda it: functional((4,), lambda _, x: it.Dense(3)(x * x)), "multiply", "operation"),
    "no kernel": (lambda it: sequential((4,), it.ReLU()), "mine", "no kernel"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_int8_form_is_refused_by_name(quantization: Any, name: str) -> None:
    import keras

    build, layer, words = REFUSED[name]
    model = build(keras.layers)
    with pytest.raises(quantization.QuantizationError) as caught:
        quantization.plan.make_plan(model)
    assert caught.value.layer.startswith(layer)
    assert words in caught.value.what
    assert layer in str(caught.value)
    assert caught.value.remedy in str(caught.value)


def test_models_of_other_kinds_are_refused(quantization: Any) -> None:
    import keras
    from keras import layers

    class Mine(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="subclassed")
            self.dense = layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="inner")
    entry = keras.Input((4,))
    dense = layers.Dense(4, name="twice")
    scaled = layers.Rescaling([1, 2, 3, 4], name="channels")(entry)
    shifted = layers.Rescaling(1 / 255, 1, name="shifted")(entry)
    for model, words in (
        (Mine(), "graph cannot be read"),
        (keras.Model(entry, inner(entry)), "'inner': it is a model within the model"),
        (keras.Model(entry, dense(dense(entry))), "'twice': it is called more than once"),
        (keras.Model(entry, [dense(entry), entry]), "several inputs or outputs"),
        (keras.Model(entry, layers.Dense(3)(scaled)), "'channels': it scales channels differently"),
        (keras.Model(entry, layers.Dense(3)(shifted)), "'shifted': values from 1 to 2 have no int8 form"),
    ):
        with pytest.raises(quantization.QuantizationError, match=words):
            quantization.plan.make_plan(model)
    with pytest.raises(quantization.QuantizationError, match="weights of 5 bits"):
        quantization.plan.make_plan(sequential((4,), layers.Dense(3)), weight_bits=5)
    model = sequential((4,), layers.Dense(3))
    with pytest.raises(quantization.QuantizationError, match="mode 'half' is unknown"):
        quantization.training.prepare(model, quantization.plan.make_plan(model), "half")


# ---------------------------------------------------------------------- fake quantization


def slow_fake_quantization(x: Any, low: float, high: float) -> Any:
    """One value at a time, with zero exactly representable."""
    scale = (high - low) / 255
    zero = min(max(int(np.floor(-low / scale + 0.5)), 0), 255)
    result = [(min(max(int(np.floor(it / scale + 0.5)) + zero, 0), 255) - zero) * scale for it in x.reshape(-1)]
    return np.array(result).reshape(x.shape)


@pytest.mark.parametrize("seed", range(6))
def test_fake_quantization_is_tensorflows_and_the_definitions(quantization: Any, seed: int) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    rectified = seed % 2 == 0
    x = (rng.normal(0.3, 1, (7, 5, 3)) * 10.0 ** (seed - 3)).astype(np.float32)
    x = np.maximum(x, 0) if rectified else x
    dy = rng.normal(0, 1, x.shape).astype(np.float32)
    layer = quantization.training.FakeQuantize(True, rectified=rectified)
    with tf.GradientTape() as tape:
        values = tf.constant(x)
        tape.watch(values)
        y = layer(values, training=True)
    low, high = (float(it) for it in np.asarray(layer.range))
    assert (low, high) == (min(float(x.min()), 0), float(x.max()))
    with tf.GradientTape() as reference_tape:
        reference_tape.watch(values)
        expected = tf.quantization.fake_quant_with_min_max_vars(values, low, high)
    scale = (high - low) / 255
    # A value in the middle of two multiples may fall to either side.
    for other in (expected.numpy(), slow_fake_quantization(x, low, high)):
        distance = np.abs(y.numpy() - other) / scale
        assert (distance > 1e-3).sum() <= 1
        assert distance.max() <= 1.001
    assert len(np.unique(np.round(y.numpy() / scale))) > 10
    theirs = reference_tape.gradient(expected, values, dy).numpy()
    mine = tape.gradient(y, values, dy).numpy()
    # TensorFlow cuts off ends of the range that its zero has moved inside.
    inside = (x > low) & (x < high)
    np.testing.assert_array_equal(mine[inside], theirs[inside])
    np.testing.assert_array_equal(mine, dy)


@pytest.mark.parametrize("limits", [(0.0, 6.0), (0.0, 255 / 256), (-1.0, 127 / 128)])
def test_fixed_ranges_have_no_variable_and_stay(quantization: Any, limits: tuple[float, float]) -> None:
    layer = quantization.training.FakeQuantize(True, limits)
    # To the ends of what relu6, sigmoid and tanh give.
    x = np.linspace(limits[0], np.ceil(limits[1]), 999, dtype=np.float32)[None]
    y = layer(x, training=True).numpy()
    assert layer.variables == []
    scale = (limits[1] - limits[0]) / 255
    assert np.abs(y - slow_fake_quantization(x, *limits)).max() <= 1.001 * scale
    assert (np.abs(y - slow_fake_quantization(x, *limits)) > 1e-6).mean() < 0.01
    assert y.max() <= limits[1] * 1.000001
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_a_range_widens_at_once_narrows_slowly_and_ignores_padding(quantization: Any) -> None:
    import tensorflow as tf

    from models.training.padding import padded

    training = quantization.training
    layer = training.FakeQuantize(False)

    def seen(low: float, high: float, real: list[int]) -> Any:
        x = tf.constant([[low, high], [-100.0, 100.0]])
        with padded(tf.constant(real, tf.float32)):
            np.testing.assert_array_equal(layer(x, training=True), x)
        return np.asarray(layer.range)

    layer(tf.zeros((2, 2)), training=False)
    np.testing.assert_array_equal(layer.range, [0, 0])
    np.testing.assert_array_equal(seen(-1, 2, [0, 0]), [0, 0])
    np.testing.assert_array_equal(seen(-1, 2, [1, 0]), [-1, 2])
    np.testing.assert_allclose(seen(-3, 1, [1, 0]), [-3, 2 - 0.05], rtol=1e-6)
    np.testing.assert_allclose(seen(-9, 9, [0, 0]), [-3, 1.95], rtol=1e-6)
    np.testing.assert_allclose(seen(4, 5, [1, 0]), [-3 * 0.95, 5], rtol=1e-6)
    np.testing.assert_array_equal(seen(0, 0, [1, 1]), [-100, 100])
    # Without a mask every row is an example.
    layer(tf.constant([[-200.0, 0.0]]), training=True)
    assert float(layer.range[0]) == -200
    rectified = training.FakeQuantize(False, rectified=True)
    rectified(tf.constant([[0.0, 3.0]]), training=True)
    np.testing.assert_array_equal(rectified.range, [0, 3])
    # A layer that gives zeros only has been observed.
    dead = training.FakeQuantize(True, rectified=True)
    np.testing.assert_array_equal(dead(tf.zeros((2, 2)), training=True), np.zeros((2, 2)))
    np.testing.assert_array_equal(dead.range, np.float32([0, int8.RANGE_MIN]))


@pytest.mark.parametrize("weight_bits", [8, 4])
def test_kernels_are_rounded_per_channel(quantization: Any, weight_bits: int) -> None:
    import tensorflow as tf
    from keras import layers

    model = sequential(
        (9, 9, 3), layers.Conv2D(4, 3), layers.DepthwiseConv2D(2, depth_multiplier=2), layers.Flatten(), layers.Dense(5)
    )
    plan = quantization.plan.make_plan(model, weight_bits)
    rng = np.random.default_rng(0)
    parts = {it.path: tf.constant(rng.normal(0, 3, it.shape), tf.float32) for it in model.trainable_variables}
    # A channel that has died.
    dense = model.layers[-1].kernel.path
    parts[dense] = parts[dense] * tf.constant([1.0, 0, 1, 1, 1])
    rounded = quantization.training.fake_quantize_kernels(parts, plan)
    largest = 2 ** (weight_bits - 1) - 1
    kernels = {it.path: it.axes for it in plan.kernels}
    assert len(kernels) == 3
    for path, value in parts.items():
        found, before = rounded[path].numpy(), value.numpy()
        if path not in kernels:
            np.testing.assert_array_equal(found, before)
            continue
        rest = tuple(it for it in range(before.ndim) if it not in kernels[path])
        scale = np.maximum(np.abs(before).max(rest, keepdims=True) / largest, 1e-12)
        assert np.abs(found - before).max() <= 0.5001 * scale.max()
        np.testing.assert_allclose(found / scale, np.round(found / scale), atol=1e-4)
        np.testing.assert_allclose(np.abs(found).max(rest), np.abs(before).max(rest), rtol=1e-5)


def test_all_of_a_kernels_gradient_flows(quantization: Any) -> None:
    import tensorflow as tf
    from keras import layers

    model = sequential((4,), layers.Dense(5))
    plan = quantization.plan.make_plan(model)
    path = model.layers[-1].kernel.path
    value = tf.constant(np.random.default_rng(0).normal(0, 1, (4, 5)), tf.float32)
    dy = np.random.default_rng(1).normal(0, 1, (4, 5)).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(value)
        rounded = quantization.training.fake_quantize_kernels({path: value}, plan)[path]
    np.testing.assert_array_equal(tape.gradient(rounded, value, dy), dy)


# ---------------------------------------------------------------------- the training graph


@pytest.mark.parametrize("seed", EACH)
def test_the_trained_model_shares_its_layers_and_infers_as_before(quantization: Any, seed: int) -> None:
    model = random_model(seed)
    x = images(model, 4).astype(np.float32)
    before = model(x, training=False).numpy()
    activations = [getattr(it, "activation", None) for it in model.layers]
    plan = quantization.plan.make_plan(model)
    for mode in ("weights", "full"):
        trained = quantization.training.prepare(model, plan, mode)
        np.testing.assert_allclose(trained(x, training=False), before, rtol=1e-5, atol=1e-5)
        assert [it.path for it in trained.trainable_variables] == [it.path for it in model.trainable_variables]
        assert all(
            mine is theirs for mine, theirs in zip(trained.trainable_variables, model.trainable_variables, strict=True)
        )
        paths = [it.path for it in trained.non_trainable_variables]
        assert len(set(paths)) == len(paths)
        ranges = {it.variable for it in plan.points if it.variable is not None}
        assert {it for it in paths if it.endswith("/range")} == ranges
    assert [getattr(it, "activation", None) for it in model.layers] == activations


def test_with_mode_weights_activations_stay_as_they_are(quantization: Any) -> None:
    from keras import layers

    model = sequential((9, 9, 1), layers.Conv2D(3, 3, activation="tanh"), layers.Flatten(), layers.Dense(4))
    plan = quantization.plan.make_plan(model)
    x = images(model, BATCH).astype(np.float32)
    trained = quantization.training.prepare(model, plan, "weights")
    np.testing.assert_allclose(trained(x, training=True), model(x), rtol=1e-6, atol=1e-6)
    assert all(float(it[1]) > 0 for it in trained.non_trainable_variables)
    rounded = quantization.training.prepare(model, plan, "full")(x, training=True)
    assert np.abs(rounded - model(x)).max() > 1e-4


@pytest.mark.parametrize("mode", ["weights", "full"])
def test_a_board_trains_as_tensorflow_does(quantization: Any, mode: str) -> None:
    """The step is made of operations that both interpreters have, and gives TensorFlow's ranges and gradients."""
    import tensorflow as tf
    from keras import layers

    from models import gradients
    from models.training.padding import padded

    model = sequential(
        (9, 9, 2), layers.SeparableConv2D(4, 3), layers.ReLU(), layers.Conv2D(4, 3, activation="tanh"),
        layers.MaxPooling2D(), layers.Flatten(), layers.Dense(CLASSES),
    )  # fmt: skip
    plan = quantization.plan.make_plan(model)
    trained = quantization.training.prepare(model, plan, mode)
    names = [it.path for it in trained.trainable_variables]
    layout = layout_of(trained)

    def losses(parts: list[Any], x: Any, real: Any) -> Any:
        weights = quantization.training.fake_quantize_kernels(dict(zip(names, parts, strict=False)), plan)
        with padded(real):
            logits, state = trained.stateless_call(
                [weights[it] for it in names], parts[len(names) :], tf.cast(x, tf.float32), training=True
            )
        return tf.reduce_sum(tf.reduce_sum(logits * logits, axis=1) * real), state

    def parts_of(vector: Any) -> list[Any]:
        return [tf.reshape(vector[it.offset : it.offset + it.size], it.shape) for it in layout.tensors]

    @tf.function(autograph=False)
    def train(weights: Any, x: Any, real: Any) -> Any:
        with gradients.with_builtin_gradients():
            parts = parts_of(weights)
            loss, state = losses(parts, x, real)
            grads = tf.gradients(loss, parts[: len(names)])
        return {"result": tf.concat([tf.reshape(it, [-1]) for it in [*grads, *state]], 0)}

    concrete = train.get_concrete_function(
        tf.TensorSpec((layout.size,), tf.float32, name="weights"),
        tf.TensorSpec((BATCH, 9, 9, 2), tf.uint8, name="x"),
        tf.TensorSpec((BATCH,), tf.float32, name="real"),
    )
    module = tf.Module()
    module.train = concrete
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures={"train": concrete}, options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["train"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        content = converter.convert()
    runner = load_runtime()[1].Interpreter(model_content=content).get_signature_runner("train")
    x = images(model, BATCH)
    real = np.array([1] * (BATCH - 3) + [0] * 3, np.float32)
    x[-3:] = 255
    vector = vector_of(trained, layout)
    found = runner(weights=vector, x=x, real=real)["result"]
    with tf.GradientTape() as tape:
        parts = parts_of(tf.constant(vector))
        tape.watch(parts)
        loss, state = losses(parts, x, tf.constant(real))
    expected = [*tape.gradient(loss, parts[: len(names)]), *state]
    for name, mine, theirs in zip(layout.tensors, layout.split(found).values(), map(np.asarray, expected), strict=True):
        # An activation in the middle of two multiples may fall to either side.
        assert np.abs(mine - theirs).max() <= 0.02 * np.abs(theirs).max(), name
        assert np.abs(theirs).max() > 0, name


# ---------------------------------------------------------------------- the integer file


@pytest.mark.parametrize("seed", EACH)
def test_a_board_writes_what_tensorflow_converts_and_what_was_trained(quantization: Any, seed: int) -> None:
    model = random_model(seed)
    plan = quantization.plan.make_plan(model)
    trained = quantization.training.prepare(model, plan, "full")
    layout = layout_of(trained)
    template, recipe_json = quantization.template.make_template(model, plan, layout, seed)
    recipe = int8.Int8Recipe.from_json(json.loads(json.dumps(recipe_json)), layout, len(template))

    x = images(model, BATCH)
    expected = settled(quantization, trained, plan, x)
    vector = vector_of(trained, layout)
    written = int8.write_int8(template, recipe, vector)
    converted = quantization.template.convert(model.name, plan, layout, model.input_shape[1:], vector)
    assert written == quantization.template.without_stand_ins(converted, recipe)
    assert written != template

    found, quantum = logits_of(written, x)
    distance = np.abs(found - expected) / quantum
    assert expected.std() > 10 * quantum
    # As much as the interpreter's own kernels and its reference kernels differ from each other: products are rounded in
    # other ways, and layers behind one another carry that on.
    assert distance.mean() <= 2.5
    assert abs((found - expected).mean()) <= 0.75 * quantum
    assert distance.max() <= 15


@pytest.mark.parametrize("name", ["image_cnn", "separable"])
def test_nearly_all_logits_are_within_one_quantum(quantization: Any, name: str) -> None:
    import keras
    from keras import layers

    from models import image_cnn

    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    if name == "image_cnn":
        model = image_cnn.build()
    else:
        body: list[Any] = []
        for layer in (layers.Conv2D(8, 3, 2, use_bias=False), layers.DepthwiseConv2D(3), layers.Conv2D(12, 1)):
            body += [layer, layers.BatchNormalization(), layers.ReLU(6)]
        model = sequential((20, 20, 3), *body, layers.GlobalAveragePooling2D(), layers.Dense(CLASSES))
    plan = quantization.plan.make_plan(model)
    trained = quantization.training.prepare(model, plan, "full")
    layout = layout_of(trained)
    template, recipe_json = quantization.template.make_template(model, plan, layout, 1)
    x = images(model, 64)
    expected = settled(quantization, trained, plan, x)
    recipe = int8.Int8Recipe.from_json(recipe_json, layout, len(template))
    found, quantum = logits_of(int8.write_int8(template, recipe, vector_of(trained, layout)), x)
    assert expected.std() > 10 * quantum
    assert (np.abs(found - expected) <= 1.01 * quantum).mean() >= 0.95
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.95


def test_every_observed_range_and_every_kernel_has_a_place(quantization: Any) -> None:
    model = random_model(1)
    plan = quantization.plan.make_plan(model)
    layout = layout_of(quantization.training.prepare(model, plan, "full"))
    _, recipe = quantization.template.make_template(model, plan, layout, 1)
    assert [it["kernel"] for it in recipe["kernels"]] == [it.path for it in plan.kernels]
    for point, place in zip(plan.points, recipe["points"], strict=True):
        assert (place["scales"] != []) == (point.variable is not None), point.name
        assert len(place["scales"]) == len(place["zero_points"])


def test_average_pooling_rounds_by_itself(quantization: Any) -> None:
    """TFLite rounds averages, halves away from zero, and training does not: close, but not within a quantum."""
    from keras import layers

    model = sequential(
        (24, 24, 1),
        layers.Conv2D(4, 3, activation="relu"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(4),
    )
    plan = quantization.plan.make_plan(model)
    trained = quantization.training.prepare(model, plan, "full")
    layout = layout_of(trained)
    template, recipe = quantization.template.make_template(model, plan, layout, 1)
    x = images(model, BATCH)
    expected = settled(quantization, trained, plan, x)
    written = int8.write_int8(
        template, int8.Int8Recipe.from_json(recipe, layout, len(template)), vector_of(trained, layout)
    )
    found, quantum = logits_of(written, x)
    assert np.abs(found - expected).max() <= 6 * quantum
    assert np.corrcoef(found.reshape(-1), expected.reshape(-1))[0, 1] > 0.99


@pytest.mark.parametrize("weight_bits", [8, 4])
def test_what_learns_with_fake_quantization_scores_the_same_on_a_board(quantization: Any, weight_bits: int) -> None:
    import keras
    import tensorflow as tf
    from keras import layers

    keras.utils.set_random_seed(1)
    model = sequential(
        (12, 12, 1), layers.Conv2D(6, 3, use_bias=False), layers.BatchNormalization(momentum=0.9), layers.ReLU(),
        layers.DepthwiseConv2D(3, 2), layers.BatchNormalization(momentum=0.9), layers.ReLU(6),
        layers.Conv2D(8, 1, activation="relu"), layers.Flatten(), layers.Dense(CLASSES),
    )  # fmt: skip
    plan = quantization.plan.make_plan(model, weight_bits)
    trained = quantization.training.prepare(model, plan, "full")
    rng = np.random.default_rng(0)
    patterns = rng.normal(0, 1, (CLASSES, 12, 12, 1))
    y = rng.integers(0, CLASSES, 1200).astype(np.int32)
    x = np.clip(128 + 40 * patterns[y] + rng.normal(0, 70, (1200, 12, 12, 1)), 0, 255).astype(np.uint8)
    names = [it.path for it in trained.trainable_variables]
    variables = [it.value for it in trained.trainable_variables]

    @tf.function(autograph=False)
    def train(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            weights = [tf.convert_to_tensor(it) for it in variables]
            tape.watch(weights)
            parts = quantization.training.fake_quantize_kernels(dict(zip(names, weights, strict=True)), plan)
            logits, state = trained.stateless_call(
                [parts[it] for it in names], trained.non_trainable_variables, tf.cast(x, tf.float32), training=True
            )
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        for variable, grad in zip(variables, tape.gradient(loss, weights), strict=True):
            variable.assign_sub(0.1 * grad)
        for variable, value in zip(trained.non_trainable_variables, state, strict=True):
            variable.assign(value)

    for _ in range(8):
        order = rng.permutation(800)
        for start in range(0, 800, 32):
            train(x[order[start : start + 32]], y[order[start : start + 32]])
    layout = layout_of(trained)
    template, recipe_json = quantization.template.make_template(model, plan, layout, 1)
    recipe = int8.Int8Recipe.from_json(recipe_json, layout, len(template))
    assert recipe.weight_bits == weight_bits
    scorer = int8.Int8Scorer(template, recipe, (12, 12, 1), 64)
    accuracy = scorer.evaluate(vector_of(trained, layout), x[800:], y[800:], lambda: False)
    # The float model of the weights as they were in training's forward pass.
    parts = {it.path: tf.constant(it) for it in trained.trainable_variables}
    rounded = quantization.training.fake_quantize_kernels(parts, plan)
    for variable in trained.trainable_variables:
        variable.assign(rounded[variable.path])
    expected = float((model(x[800:].astype(np.float32)).numpy().argmax(1) == y[800:]).mean())
    assert expected > 0.8
    assert abs(accuracy - expected) <= 0.02


def test_a_file_that_is_not_understood_is_refused(quantization: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template = quantization.template
    model = random_model(2)
    plan = quantization.plan.make_plan(model)
    layout = layout_of(quantization.training.prepare(model, plan, "full"))
    original = template.placeholders

    def same_ranges(*arguments: Any) -> Any:
        vector = original(*arguments)
        for point in plan.points:
            if point.variable is not None:
                layout.split(vector)[point.variable][:] = (0 if point.rectified else -1, 2)
        return vector

    monkeypatch.setattr(template, "placeholders", same_ranges)
    with pytest.raises(quantization.QuantizationError, match=r"fit \d+ of the model's ranges"):
        template.make_template(model, plan, layout, 1)
    monkeypatch.setattr(template, "placeholders", original)
    # One that would be written otherwise than TensorFlow converts it.
    parameters = int8.kernel_parameters

    def truncated(kernel: Any, *rest: Any) -> Any:
        values, *others = parameters(kernel, *rest)
        return (values - (kernel < 0), *others)

    monkeypatch.setattr(int8, "kernel_parameters", truncated)
    with pytest.raises(quantization.QuantizationError, match="is 0 of the model's kernels"):
        template.make_template(model, plan, layout, 1)
    monkeypatch.setattr(int8, "kernel_parameters", parameters)
    # One of which a part is left in float32.
    changed = replace(plan, tensor_points={key: it for key, it in plan.tensor_points.items() if key != plan.output})
    with pytest.raises(quantization.QuantizationError, match=r"is in float32|is not in it"):
        template.make_template(model, changed, layout, 1)


def test_the_example_of_the_boards_tests_is_what_this_source_makes() -> None:
    import keras

    keras.utils.clear_session()
    for name, content in int8_example.make(layout_of).items():
        assert (int8_example.FOLDER / name).read_bytes() == content, name
    template, recipe, digest = int8_example.load()
    written = int8.write_int8(template, recipe, int8_example.weights(recipe.layout))
    assert hashlib.sha256(written).hexdigest() == digest


@pytest.mark.parametrize("seeds", TOGETHER, ids=["some", "more"])
def test_the_older_interpreter_gives_the_same_classes(quantization: Any, tmp_path: Path, seeds: range) -> None:
    python = ROOT / ".venv-tflite/bin/python"
    if not python.exists():
        pytest.skip("tflite-runtime has no wheel for this Python: make test makes no environment with it")
    for seed in seeds:
        model = random_model(seed)
        plan = quantization.plan.make_plan(model)
        trained = quantization.training.prepare(model, plan, "full")
        x = images(model, BATCH)
        with_ranges = step(quantization, trained, plan, x)
        import tensorflow as tf

        weights = [tf.constant(it) for it in trained.trainable_variables]
        _, state = with_ranges(weights, [tf.constant(it) for it in trained.non_trainable_variables])
        for variable, value in zip(trained.non_trainable_variables, state, strict=True):
            variable.assign(value)
        layout = layout_of(trained)
        template, recipe = quantization.template.make_template(model, plan, layout, seed)
        recipe = int8.Int8Recipe.from_json(recipe, layout, len(template))
        content = int8.write_int8(template, recipe, vector_of(trained, layout))
        found, quantum = logits_of(content, x)
        (tmp_path / f"{seed}.tflite").write_bytes(content)
        np.savez(tmp_path / f"{seed}.npz", x=x, found=found / quantum)
    script = (
        "import sys, numpy as np\nsys.path[:0] = ['.', 'tests']\nfrom test_models_int8 import logits_of\n"
        f"for seed in range({seeds.start}, {seeds.stop}):\n"
        "    stored = np.load(f'{sys.argv[1]}/{seed}.npz')\n"
        "    found, quantum = logits_of(open(f'{sys.argv[1]}/{seed}.tflite', 'rb').read(), stored['x'])\n"
        "    print(seed, np.abs(found / quantum - stored['found']).max())\n"
    )
    done = subprocess.run(
        [str(python), "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(seed) for seed, _ in lines] == list(seeds)
    # Their kernels round products differently.
    assert all(float(distance) <= 12 for _, distance in lines), done.stdout
