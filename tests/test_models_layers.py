"""Every layer that can be exported: a board's step and the gradients that Keras and TensorFlow compute themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from interpreters import OTHER, Here, Other, complete

pytestmark = pytest.mark.tensorflow

BATCH, CLASSES = 6, 3
#: So large a step that the rounding of the weights hides nothing of the gradient.
LARGE = np.float32(1024)
END = "L.Flatten(), L.Dense(3)"
CONV = "L.Conv2D(4, 3, padding='same')"
#: BatchNormalization takes a bias away again, which has no gradient then.
PURE = "L.Conv2D(4, 3, padding='same', use_bias=False)"
ROWS = "L.Reshape((H, W * C)), L.Conv1D(4, 3)"

#: Layers whose gradient depends on sizes: each with several random ones.
SPATIAL = {
    "conv2d stride valid": f"{CONV}, L.Conv2D(4, (3, 2), 2, activation='relu'), {END}",
    "conv2d stride same": f"{CONV}, L.Conv2D(4, 3, (2, 3), 'same', activation='relu'), {END}",
    "conv2d dilation valid": f"{CONV}, L.Conv2D(4, 3, dilation_rate=2, activation='relu'), {END}",
    "conv2d dilation same": f"{CONV}, L.Conv2D(4, (2, 3), dilation_rate=(2, 3), padding='same'), {END}",
    "conv1d stride": f"{ROWS}, L.Conv1D(4, 3, 2, padding='same', activation='relu'), {END}",
    "conv1d dilation": f"{ROWS}, L.Conv1D(4, 3, dilation_rate=2, activation='relu'), {END}",
    "conv1d causal": f"{ROWS}, L.Conv1D(4, 2, dilation_rate=3, padding='causal'), {END}",
    "max pooling": f"{CONV}, L.MaxPooling2D(), {END}",
    "max pooling same": f"{CONV}, L.MaxPooling2D((3, 2), padding='same'), {END}",
    "max pooling overlapping": f"{CONV}, L.MaxPooling2D(3, 2), {END}",
    "max pooling overlapping same": f"{CONV}, L.MaxPooling2D((3, 5), (2, 1), 'same'), {END}",
    "max pooling with gaps": f"{CONV}, L.MaxPooling2D((2, 1), (3, 2), 'same'), {END}",
    "max pooling of equal values": (
        "L.Rescaling(2, -1), L.Conv2D(2, 1), L.PReLU(alpha_initializer=keras.initializers.Constant(0.5)), "
        f"L.MaxPooling2D(3, 2, 'same'), {END}"
    ),
    "max pooling 1d": f"{ROWS}, L.MaxPooling1D(3, 2, 'same'), {END}",
    "average pooling": f"{CONV}, L.AveragePooling2D(2), {END}",
    "average pooling overlapping": f"{CONV}, L.AveragePooling2D((3, 2), (2, 1)), {END}",
    "average pooling overlapping same": f"{CONV}, L.AveragePooling2D((3, 5), 2, 'same'), {END}",
    "average pooling with gaps": f"{CONV}, L.AveragePooling2D(2, 3, 'same'), {END}",
    "average pooling 1d": f"{ROWS}, L.AveragePooling1D(3, 2, 'same'), {END}",
    "zero padding": f"{CONV}, L.ZeroPadding2D(((1, 0), (2, 3))), L.Conv2D(4, 3), {END}",
    "cropping": f"{CONV}, L.Cropping2D(((1, 0), (2, 1))), L.Conv2D(4, 3), {END}",
    "conv2d of many channels": f"L.Conv2D(9, 3), L.Conv2D(5, (3, 2), (1, 2), 'same', activation='relu'), {END}",
    "conv2d of rows of taps": f"L.Conv2D(16, (2, 3), (2, 1)), L.Conv2D(17, (3, 2), padding='same'), {END}",
    "conv2d of rows of taps, stride": f"L.Conv2D(18, 2), L.Conv2D(5, (3, 5), (2, 3), 'same', activation='relu'), {END}",
    "conv2d of one pixel": f"{CONV}, L.Conv2D(5, 1, activation='relu'), L.Conv2D(4, 1, 2), {END}",
    # The batch has more channels than TFLite's kernel takes at once.
    "depthwise of very many channels": f"L.Conv2D(1300, 1, activation='relu'), L.DepthwiseConv2D(3, 2, 'same'), {END}",
    "depthwise": f"{CONV}, L.DepthwiseConv2D(3, activation='relu'), {END}",
    "depthwise stride": f"{CONV}, L.DepthwiseConv2D((3, 2), 2, 'same', depth_multiplier=2), {END}",
    "depthwise stride beyond the kernel": f"{CONV}, L.DepthwiseConv2D(2, 3), {END}",
    "depthwise dilation": f"{CONV}, L.DepthwiseConv2D(3, dilation_rate=2, padding='same', depth_multiplier=3), {END}",
    "depthwise first": f"L.DepthwiseConv2D(3, 2, depth_multiplier=3), {END}",
    "separable": f"{CONV}, L.SeparableConv2D(5, 3, 2, 'same', activation='relu'), {END}",
    "separable dilation": f"{CONV}, L.SeparableConv2D(3, 3, dilation_rate=2, depth_multiplier=2), {END}",
}
#: Layers that treat all sizes alike.
PLAIN = {
    # With an activation: of hundreds of equal gradients TensorFlow's own sum is off by more than 1e-5.
    "global average pooling": f"{CONV}, L.Activation('tanh'), L.GlobalAveragePooling2D(), L.Dense(3)",
    "global max pooling": f"{CONV}, L.GlobalMaxPooling2D(keepdims=True), {END}",
    "global average pooling 1d": f"{ROWS}, L.GlobalAveragePooling1D(), L.Dense(3)",
    "global max pooling 1d": f"{ROWS}, L.GlobalMaxPooling1D(), L.Dense(3)",
    "zero padding 1d": f"{ROWS}, L.ZeroPadding1D((1, 2)), L.Conv1D(3, 2), {END}",
    "reshape and permute": f"{CONV}, L.Reshape((H * 2, W, 2)), L.Permute((3, 1, 2)), L.Conv2D(4, 2), {END}",
    "depthwise 1d": f"{ROWS}, L.DepthwiseConv1D(3, 2), {END}",
    "separable 1d": f"{ROWS}, L.SeparableConv1D(3, 2), {END}",
    "upsampling": f"{CONV}, L.UpSampling2D((2, 3)), L.Conv2D(4, 3, 2), {END}",
    "upsampling 1d": f"{ROWS}, L.UpSampling1D(2), L.Conv1D(3, 2), {END}",
    "relu with bounds": f"{CONV}, L.ReLU(0.5, 0.1, 0.1), {END}",
    "relu layer of 6": f"{CONV}, L.ReLU(6), {END}",
    "leaky relu layer": f"{CONV}, L.LeakyReLU(0.1), {END}",
    "elu layer": f"{CONV}, L.ELU(0.5), {END}",
    "prelu": f"{CONV}, L.PReLU(), {END}",
    "softmax layer": f"{CONV}, L.Softmax(), {END}",
    "approximate gelu": f"{CONV}, L.Activation(lambda x: keras.activations.gelu(x, approximate=True)), {END}",
    "batch normalization": f"{PURE}, L.BatchNormalization(), L.ReLU(), {END}",
    "batch normalization of a vector": (
        "L.Flatten(), L.Dense(7, use_bias=False), L.BatchNormalization(momentum=0.8), L.Dense(3)"
    ),
    "batch normalization, shift alone": f"{PURE}, L.BatchNormalization(scale=False, epsilon=0.1), {END}",
    "batch normalization of rows": f"{CONV}, L.BatchNormalization(axis=1), {END}",
    "batch normalization that is frozen": f"{CONV}, L.BatchNormalization(trainable=False), {END}",
    "a frozen layer": f"L.Conv2D(4, 3, trainable=False), {END}",
    "layer normalization": f"{CONV}, L.LayerNormalization(), {END}",
    "layer normalization of a vector": "L.Flatten(), L.Dense(7), L.LayerNormalization(epsilon=0.1), L.Dense(3)",
    "layer normalization of an image": f"{CONV}, L.LayerNormalization(axis=(1, 2, 3)), {END}",
    "group normalization": f"{CONV}, L.GroupNormalization(2), {END}",
    "group normalization of one group": f"{CONV}, L.GroupNormalization(1, scale=False), {END}",
    "rms normalization": f"{CONV}, L.RMSNormalization(), {END}",
    "embedding": "L.Rescaling(255), L.Reshape((H * W * C,)), L.Embedding(256, 4), L.Conv1D(3, 2), " + END,
}
ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "softmax", "log_softmax", "swish", "silu", "gelu",
    "hard_swish", "hard_silu", "hard_sigmoid", "exponential",
)  # fmt: skip
#: Of two branches `a` and `b` of a functional model.
MERGES = {
    "add": "L.Add()([a, b, a])",
    "residual": "L.Add()([a, L.Conv2D(4, 3, padding='same', activation='relu')(a)])",
    "concatenate": "L.Concatenate()([a, b])",
    "concatenate rows": "L.Concatenate(axis=1)([b, a, b])",
    "multiply": "L.Multiply()([a, b])",
    "gate by channel": "L.Multiply()([a, L.Dense(4, 'sigmoid')(L.GlobalAveragePooling2D(keepdims=True)(b))])",
    "square": "L.Multiply()([a, a])",
    "subtract": "L.Subtract()([a, b])",
    "average": "L.Average()([a, b, b])",
    "maximum": "L.Maximum()([a, b])",
    "minimum": "L.Minimum()([a, b])",
}
SEQUENTIAL = "keras.Sequential([keras.Input((H, W, C)), L.Rescaling(1 / 255), {}])"
FUNCTIONAL = (
    "keras.Model(image := keras.Input((H, W, C)), L.Dense(3)(L.Flatten()((\n"
    "        x := L.Rescaling(1 / 255)(image),\n"
    "        a := L.Conv2D(4, 3, padding='same', activation='relu')(x),\n"
    "        b := L.Conv2D(4, (2, 3), padding='same', activation='tanh')(x),\n"
    "        {},\n"
    "    )[-1])))"
)
CASES = {
    **{f"{name}, {seed}": (SEQUENTIAL.format(layers), seed) for name, layers in SPATIAL.items() for seed in (1, 2)},
    **{name: (SEQUENTIAL.format(layers), 3) for name, layers in PLAIN.items()},
    **{
        name: (
            SEQUENTIAL.format(f"L.Conv2D(4, 3), L.Activation('{name}'), L.Flatten(), L.Dense(5, '{name}'), L.Dense(3)"),
            4,
        )
        for name in ACTIVATIONS
    },
    **{name: (FUNCTIONAL.format(merged), 5) for name, merged in MERGES.items()},
}


def load_graph(content: bytes) -> tuple[Any, Any]:
    """The exported functions under TensorFlow, as a board with it runs them."""
    import tensorflow as tf

    from edge_peer.trainers.keras import load_graph as load

    (train, _), (infer, _) = load(tf, content)
    return train, infer


@pytest.fixture(scope="module")
def export() -> Any:
    from models import export as module

    return module


def write(folder: Path, build: str, seed: int) -> tuple[Path, tuple[int, ...]]:
    """A model's file for images of a random size."""
    rng = np.random.default_rng([seed, *build.encode()])
    shape = tuple(int(it) for it in (*rng.integers(7, 12, 2), rng.integers(1, 4)))
    path = folder / "mine.py"
    path.write_text(
        f"import keras\nfrom keras import layers as L\nBATCH = EVALUATION_BATCH = {BATCH}\nCLASSES = {CLASSES}\n"
        f"H, W, C = {shape}\ndef build():\n    return {build}\n"
    )
    return path, shape


def examples(rng: Any, shape: tuple[int, ...], values: int) -> tuple[Any, Any]:
    """A batch; with few values, many windows hold equal ones."""
    x = rng.integers(0, values, (BATCH, *shape)) * (255 // (values - 1))
    return x.astype(np.uint8), rng.integers(0, CLASSES, BATCH).astype(np.int32)


def variables_of(model: Any) -> list[Any]:
    """In the order of the vector: what is trained, then the state."""
    return [*model.trainable_variables, *(it for it in model.non_trainable_variables if it.dtype == "float32")]


def vector_of(model: Any) -> Any:
    return np.concatenate([np.asarray(it).reshape(-1) for it in variables_of(model)])


def set_weights(model: Any, vector: Any) -> None:
    offset = 0
    for variable in variables_of(model):
        size = int(np.prod(variable.shape))
        variable.assign(vector[offset : offset + size].reshape(variable.shape))
        offset += size


#: Traced once a model: a recurrent one is slow to run operation by operation.
TRACED: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def tensorflow_gradients(model: Any, vector: Any, x: Any, y: Any) -> tuple[list[Any], Any]:
    """Of each trained weight, by TensorFlow's own gradients of the Keras model; and the vector with the new state."""
    import keras
    import tensorflow as tf

    set_weights(model, vector)
    if model not in TRACED:

        @tf.function
        def traced(images: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                losses = keras.losses.sparse_categorical_crossentropy(
                    labels, model(images, training=True), from_logits=True
                )
                loss = tf.reduce_mean(losses)
            found = tape.gradient(loss, [it.value for it in model.trainable_variables])
            return [tf.convert_to_tensor(it) for it in found]

        TRACED[model] = traced
    found = TRACED[model](tf.constant(x), tf.constant(y))
    return [it.numpy().reshape(-1) for it in found], vector_of(model)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other | None]:
    """tflite-runtime, where it is: it has no wheels for newer Pythons, and `make test` says so."""
    it = Other(tmp_path_factory.mktemp("other")) if OTHER.exists() else None
    yield it
    if it is not None:
        it.close()


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> bool:
    """Within a tolerance that is relative to the largest value."""
    return bool(np.abs(np.asarray(found, np.float64) - expected).max() <= tolerance * np.abs(expected).max())


#: Tried by `make test-again` only: the same layers with another random size.
AGAIN = {f"{name}, 2" for name in SPATIAL}


@pytest.mark.parametrize("name", [pytest.param(it, marks=pytest.mark.again) if it in AGAIN else it for it in CASES])
def test_a_layer_trains_on_a_board_as_in_tensorflow(
    export: Any, other: Other | None, tmp_path: Path, name: str
) -> None:
    build, seed = CASES[name]
    path, shape = write(tmp_path, build, seed)
    export.export(path, tmp_path / "out", seed)
    model = export.load_module(path).build()
    file = tmp_path / "out/train.tflite"
    here = Here(file)
    graph = load_graph((tmp_path / "out/train.graph").read_bytes())[0]
    ones = np.ones(BATCH, np.float32)
    initial = vector_of(model)
    trained = sum(int(np.prod(it.shape)) for it in model.trainable_variables)
    rng = np.random.default_rng(seed)
    # The first with the initial weights: equal inputs stay equal in every place.
    for noise, values in ((0.0, 2), (0.1, 3), (0.1, 256)):
        shift = rng.normal(0, noise, initial.size)
        # Of the state too, which holds variances.
        shift[trained:] = np.abs(shift[trained:])
        weights = (initial + shift).astype(np.float32)
        x, y = examples(rng, shape, values)
        inputs = {"weights": weights, "x": x, "y": y, "sample_weight": ones, "learning_rate": LARGE}
        outputs = here("train", **inputs)
        gradients, after = tensorflow_gradients(model, weights, x, y)
        runs = {"here": outputs, "TensorFlow": graph(**complete(here.shapes("train"), inputs))}
        if other is not None:
            runs["tflite-runtime"] = other(file, "train", **inputs)
        for run, it in runs.items():
            found = ((weights.astype(np.float64) - it["weights"]) / float(LARGE))[:trained]
            offset = 0
            for variable, expected in zip(model.trainable_variables, gradients, strict=True):
                part = found[offset : offset + expected.size]
                offset += expected.size
                assert np.abs(expected).max() > 1e-6, variable.path
                # TensorFlow's own graph sums in another order than its tape does.
                assert close(part, expected, 1e-4 if run == "TensorFlow" else 1e-5), (run, variable.path)
            if trained < initial.size:
                assert close(it["weights"][trained:], after[trained:]), (run, "state")
            assert it["loss"] == pytest.approx(float(outputs["loss"]), rel=1e-5), run
    rate = np.float32(0.02)
    board, keras_weights = weights, weights
    for _ in range(20):
        x, y = examples(rng, shape, 256)
        board = here("train", weights=board, x=x, y=y, sample_weight=ones, learning_rate=rate)["weights"]
        gradients, after = tensorflow_gradients(model, keras_weights, x, y)
        after[:trained] -= rate * np.concatenate(gradients)
        keras_weights = after
    assert np.abs(board - keras_weights).max() <= 2e-4 * max(1.0, np.abs(keras_weights).max())
    assert np.abs(board - weights).max() > 1e-3


# ---------------------------------------------------------------------- gradients of operations, on many random sizes


def operations(rng: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """Of one random geometry: functions of an input with 4 channels and a filter."""
    import tensorflow as tf

    rows, columns, down, across = (int(it) for it in rng.integers(1, 5, 4))
    padding = ("SAME", "VALID")[int(rng.integers(2))]

    def filter_of(kernel: Any, outputs: int) -> Any:
        return tf.reshape(kernel[: rows * columns * 4 * outputs], [rows, columns, 4, outputs])

    return {
        "Conv2D": lambda x, kernel: tf.nn.conv2d(x, filter_of(kernel, 3), [down, across], padding),
        "Conv2D of more channels": lambda x, kernel: tf.nn.conv2d(
            tf.concat([x, x * x, -x], 3), tf.tile(filter_of(kernel, 3), [1, 1, 3, 1]), [down, across], padding
        ),
        "MaxPool": lambda x, _: tf.nn.max_pool2d(x, [rows, columns], [down, across], padding),
        "AvgPool": lambda x, _: tf.nn.avg_pool2d(x, [rows, columns], [down, across], padding),
        "DepthwiseConv2dNative": lambda x, kernel: tf.nn.depthwise_conv2d(
            x, filter_of(kernel, 2), [1, down, down, 1], padding
        ),
    }


@pytest.mark.parametrize("kind", ["Conv2D", "Conv2D of more channels", "MaxPool", "AvgPool", "DepthwiseConv2dNative"])
def test_a_gradient_equals_tensorflows_for_any_geometry(kind: str) -> None:
    import tensorflow as tf

    from models import gradients

    for seed in range(40):
        rng = np.random.default_rng(seed)
        function = operations(rng)[kind]
        # Of few values: most windows hold equal ones.
        x = rng.integers(0, 3, (2, *rng.integers(4, 10, 2), 4)).astype(np.float32)
        kernel = rng.normal(0, 1, 4 * 4 * 4 * 3).astype(np.float32)
        dy = rng.normal(0, 1, function(tf.constant(x), tf.constant(kernel)).shape).astype(np.float32)
        found = []
        for builtin in (True, False):
            with tf.Graph().as_default() as graph:
                inputs = [tf.constant(x), tf.constant(kernel)]
                if builtin:
                    with gradients.with_builtin_gradients():
                        grads = tf.gradients(function(*inputs), inputs, tf.constant(dy))
                else:
                    grads = tf.gradients(function(*inputs), inputs, tf.constant(dy))
                kinds = {node.type for node in graph.get_operations()}
                assert (
                    any(
                        "Backprop" in it or it in ("MaxPoolGrad", "AvgPoolGrad")
                        for it in kinds - {"Conv2DBackpropInput"}
                    )
                    != builtin
                )
                with tf.compat.v1.Session(graph=graph) as session:
                    found.append(session.run([it for it in grads if it is not None]))
        for mine, theirs in zip(*found, strict=True):
            np.testing.assert_allclose(
                mine, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max(), err_msg=f"seed {seed}"
            )


def test_gelu_out_of_builtin_operations_is_gelu(export: Any) -> None:
    import tensorflow as tf

    from models.gradients import gelu

    x = tf.constant(np.linspace(-12, 12, 20001, dtype=np.float32))
    values = []
    for function in (gelu.exact_gelu, tf.nn.gelu):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        values.append((y.numpy(), tape.gradient(y, x).numpy()))
    for mine, theirs in zip(*values, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)
