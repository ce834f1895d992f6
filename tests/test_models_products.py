"""Layers as products of matrices: what they compute, their gradients, and where they stay what they were."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow

MODEL = """
import keras
from keras import layers as L
BATCH = EVALUATION_BATCH = {batch}
CLASSES = 3
def build():
    return keras.Sequential([keras.Input({shape}), L.Rescaling(1 / 255), {layers}, L.Flatten(), L.Dense(3)])
"""


@pytest.fixture(scope="module")
def export() -> Any:
    from models import export as module

    return module


def assert_close(found: Any, expected: Any, what: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=str(what))


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.again) for seed in range(8, 40))])
def test_a_convolution_as_a_product_is_that_of_tensorflow(seed: int) -> None:
    import tensorflow as tf

    from models import gradients
    from models.gradients.columns import convolution
    from models.gradients.windows import Window

    rng = np.random.default_rng(seed)
    rows, columns, down, across = (int(it) for it in rng.integers(1, 5, 4))
    batch, height, width = int(rng.integers(1, 4)), *(int(it) for it in rng.integers(5, 12, 2))
    channels, outputs = int(rng.choice([1, 3, 8, 12, 16, 17])), int(rng.choice([1, 4, 9]))
    padding = ("SAME", "VALID")[seed % 2]
    geometry = (batch, height, width, channels, outputs, rows, columns, down, across, padding)
    x = rng.normal(size=(batch, height, width, channels)).astype(np.float32)
    kernel = rng.normal(size=(rows, columns, channels, outputs)).astype(np.float32)
    windows = Window.over(1, height, rows, down, padding), Window.over(2, width, columns, across, padding)
    found = []
    for mine in (True, False):
        with tf.Graph().as_default() as graph:
            inputs = [tf.constant(x), tf.constant(kernel)]
            with gradients.with_builtin_gradients() if mine else contextlib.nullcontext():
                y = convolution(*inputs, *windows, padding) if mine else tf.nn.conv2d(*inputs, [down, across], padding)
            dy = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
            values = [y, *tf.gradients(y, inputs, tf.constant(dy))]
            assert ("Conv2D" in {node.type for node in graph.get_operations()}) is not mine
            with tf.compat.v1.Session(graph=graph) as session:
                found.append(session.run(values))
    for what, mine, theirs in zip(("y", "dx", "dkernel"), *found, strict=True):
        assert_close(mine, theirs, (what, geometry))


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False), (True, True)])
def test_the_gradient_of_a_product_is_that_of_tensorflow(first: bool, second: bool) -> None:
    import tensorflow as tf

    from models import gradients

    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3) if first else (3, 4)).astype(np.float32)
    y = rng.normal(size=(5, 4) if second else (4, 5)).astype(np.float32)
    dz = rng.normal(size=(3, 5)).astype(np.float32)
    found = []
    for builtin in (True, False):
        with tf.Graph().as_default() as graph:
            inputs = [tf.constant(x), tf.constant(y)]
            with gradients.with_builtin_gradients() if builtin else contextlib.nullcontext():
                z = tf.matmul(*inputs, transpose_a=first, transpose_b=second)
            with tf.compat.v1.Session(graph=graph) as session:
                found.append(session.run(tf.gradients(z, inputs, tf.constant(dz))))
    for mine, theirs in zip(*found, strict=True):
        assert_close(mine, theirs, (first, second))


def test_a_batch_of_products_is_refused_unless_it_is_one() -> None:
    import tensorflow as tf

    from models import gradients

    def refused(*shapes: tuple[int, ...]) -> list[str]:
        with tf.Graph().as_default() as graph:
            tf.matmul(*(tf.compat.v1.placeholder(tf.float32, shape) for shape in shapes))
        return [kind for _, kind in gradients.unsupported(graph)]

    assert refused((1, 3, 4), (1, 4, 5)) == []
    assert refused((2, 3, 4), (2, 4, 5)) == ["BatchMatMulV2"]
    assert refused((2, 3, 4), (1, 4, 5)) == ["BatchMatMulV2"]


@pytest.mark.parametrize("channels", [1, 32, 33])
@pytest.mark.parametrize("margins", [{1: (1, 2)}, {1: (0, 1), 2: (3, 0)}, {1: (-1, 2), 2: (2, -1)}, {3: (1, 1)}, {}])
def test_a_frame_is_padding_and_cutting(channels: int, margins: dict[int, tuple[int, int]]) -> None:
    from models.gradients.windows import framed

    x = np.random.default_rng(0).normal(size=(2, 5, 6, channels)).astype(np.float32)
    pads = [[max(it, 0) for it in margins.get(axis, (0, 0))] for axis in range(4)]
    cuts = [margins.get(axis, (0, 0)) for axis in range(4)]
    inner = tuple(slice(max(-first, 0), size + min(last, 0)) for (first, last), size in zip(cuts, x.shape, strict=True))
    expected = np.pad(x[inner], pads, constant_values=7)
    np.testing.assert_array_equal(framed(x, margins, 7.0), expected)


def operations(export: Any, folder: Path, layers: str, shape: tuple[int, ...], batch: int) -> dict[str, list[str]]:
    """What TensorFlow traces for each signature of a model."""
    import tensorflow as tf

    path = folder / "mine.py"
    path.write_text(MODEL.format(layers=layers, shape=shape, batch=batch))
    original = tf.nn.convolution
    _, signatures = export.traced(export.prepared(export.load_module(path), 1), builtin=True)
    assert tf.nn.convolution is original
    return {name: [node.type for node in it.graph.get_operations()] for name, it in signatures.items()}


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ("L.Conv2D(4, 1, activation='relu')", (9, 8, 2)),
        ("L.Conv2D(9, 3, (2, 1), 'same'), L.Conv2D(8, (2, 3), activation='relu')", (9, 8, 2)),
        ("L.Reshape((9, 16)), L.Conv1D(4, 3, 2, 'same'), L.Conv1D(4, 2, padding='causal')", (9, 8, 2)),
    ],
)
def test_no_convolution_is_left(export: Any, tmp_path: Path, layers: str, shape: tuple[int, ...]) -> None:
    for kinds in operations(export, tmp_path, layers, shape, 2).values():
        assert "Conv2D" not in kinds
        assert "BatchMatMulV2" in kinds


def test_a_dilated_convolution_stays_one(export: Any, tmp_path: Path) -> None:
    for kinds in operations(export, tmp_path, "L.Conv2D(4, 3, dilation_rate=2)", (9, 8, 2), 2).values():
        assert "Conv2D" in kinds


def test_a_convolution_whose_columns_are_large_stays_one(export: Any, tmp_path: Path) -> None:
    from models.gradients.columns import COLUMNS_BYTES_MAX
    from models.gradients.products import STEP_BYTES_MAX

    # 32 images of 16 x 16 pixels, 9 taps: 288 KiB for each channel.
    fits = COLUMNS_BYTES_MAX // (288 << 10)
    for channels, convolutions in ((fits, 0), (fits + 1, 1)):
        layers = f"L.Conv2D({channels}, 1), L.Conv2D(1, 3, padding='same')"
        assert operations(export, tmp_path, layers, (16, 16, 1), 32)["infer"].count("Conv2D") == convolutions
    # All layers of a step together have a limit, too.
    together = STEP_BYTES_MAX // (fits * (288 << 10))
    layers = f"L.Conv2D({fits}, 1), " + ", ".join([f"L.Conv2D({fits}, 3, padding='same')"] * (together + 1))
    assert operations(export, tmp_path, layers, (16, 16, 1), 32)["infer"].count("Conv2D") == 1
