"""Recurrent layers that can be exported: a board's step, and the gradients that TensorFlow computes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interpreters import Here, Other, complete
from test_models_layers import (
    BATCH,
    CLASSES,
    LARGE,
    close,
    examples,
    export,
    load_graph,
    other,
    tensorflow_gradients,
    vector_of,
)

__all__ = ["export", "other"]

pytestmark = pytest.mark.tensorflow

END = "L.Dense(3)"
SEQUENCE = "return_sequences=True"
FLAT = "L.Flatten(), L.Dense(3)"
#: Layers behind a Dense one, which gets its gradient through them.
LAYERS = {
    "rnn": f"L.SimpleRNN(5), {END}",
    "rnn of all steps": f"L.SimpleRNN(5, {SEQUENCE}), {FLAT}",
    "rnn backwards": f"L.SimpleRNN(5, {SEQUENCE}, go_backwards=True, use_bias=False), {FLAT}",
    "rnn without activation": f"L.SimpleRNN(5, activation=None), {END}",
    "lstm": f"L.LSTM(5), {END}",
    "lstm of all steps": f"L.LSTM(5, {SEQUENCE}), {FLAT}",
    "lstm backwards": f"L.LSTM(5, go_backwards=True), {END}",
    "lstm of all steps backwards": f"L.LSTM(5, {SEQUENCE}, go_backwards=True), {FLAT}",
    "lstm without bias": f"L.LSTM(5, use_bias=False), {END}",
    "lstm that forgets at first": f"L.LSTM(5, unit_forget_bias=False, implementation=1), {END}",
    "lstm of small products": f"L.LSTM(5, implementation=1, {SEQUENCE}), {FLAT}",
    "lstm with softmax": f"L.LSTM(5, activation='softmax', {SEQUENCE}), {FLAT}",
    "lstm with a function": f"L.LSTM(5, activation=lambda x: x * keras.activations.sigmoid(x)), {END}",
    "gru": f"L.GRU(5), {END}",
    "gru of all steps": f"L.GRU(5, {SEQUENCE}), {FLAT}",
    "gru backwards": f"L.GRU(5, {SEQUENCE}, go_backwards=True), {FLAT}",
    "gru without bias": f"L.GRU(5, use_bias=False), {END}",
    "gru of small products": f"L.GRU(5, implementation=1), {END}",
    "gru that resets before": f"L.GRU(5, reset_after=False), {END}",
    "gru that resets before, of all steps": f"L.GRU(5, reset_after=False, {SEQUENCE}), {FLAT}",
    "gru that resets before, without bias": f"L.GRU(5, reset_after=False, use_bias=False, implementation=1), {END}",
    "gru that resets before, backwards": f"L.GRU(5, reset_after=False, go_backwards=True), {END}",
    "stacked": f"L.LSTM(4, {SEQUENCE}), L.GRU(3, {SEQUENCE}), L.SimpleRNN(4), {END}",
    "behind a convolution": f"L.Conv1D(4, 2, activation='relu'), L.GRU(5), {END}",
    "bidirectional": f"L.Bidirectional(L.LSTM(4)), {END}",
    "bidirectional of all steps": f"L.Bidirectional(L.LSTM(4, {SEQUENCE})), {FLAT}",
    "bidirectional sum": f"L.Bidirectional(L.GRU(4, {SEQUENCE}), merge_mode='sum'), {FLAT}",
    "bidirectional product": f"L.Bidirectional(L.GRU(4, reset_after=False), merge_mode='mul'), {END}",
    "bidirectional mean": f"L.Bidirectional(L.SimpleRNN(4, {SEQUENCE}), merge_mode='ave'), {FLAT}",
    "bidirectional of two": f"L.Bidirectional(L.LSTM(4), backward_layer=L.GRU(4, go_backwards=True)), {END}",
    "bidirectional, stacked": (
        f"L.Bidirectional(L.GRU(3, {SEQUENCE})), L.Bidirectional(L.LSTM(3)), L.Dense(4, 'relu'), {END}"
    ),
    "cell of an lstm": f"L.RNN(L.LSTMCell(5), {SEQUENCE}), {FLAT}",
    "cell of a gru": f"L.RNN(L.GRUCell(5), go_backwards=True), {END}",
    "cell of an rnn": f"L.RNN(L.SimpleRNNCell(5)), {END}",
    "stacked cells": f"L.RNN([L.LSTMCell(4), L.GRUCell(3)], {SEQUENCE}), {FLAT}",
    "unrolled by the user": f"L.LSTM(5, unroll=True), {END}",
    "inside a model": f"keras.Sequential([L.GRU(5, {SEQUENCE}), L.LSTM(3)]), {END}",
    "encoder and decoder": f"L.LSTM(4), L.RepeatVector(3), L.GRU(4, {SEQUENCE}), {FLAT}",
    "convolution inside of an lstm": f"L.Reshape((T, 3, 1)), L.ConvLSTM1D(2, 2), {FLAT}",
    "dense for each step": f"L.LSTM(4, {SEQUENCE}), L.TimeDistributed(L.Dense(3, 'relu')), {FLAT}",
    "convolution for each step": (
        "L.Reshape((T, 3, 1)), L.TimeDistributed(L.Conv1D(4, 2, activation='relu')), L.TimeDistributed(L.Flatten()), "
        f"L.GRU(4), {END}"
    ),
}
#: Pairs: of the candidate and of the gates.
ACTIVATIONS = (
    ("relu", "sigmoid"), ("sigmoid", "hard_sigmoid"), ("elu", "tanh"), ("leaky_relu", "sigmoid"), ("silu", "relu"),
    ("gelu", "sigmoid"), ("relu6", "hard_silu"), ("linear", "sigmoid"), ("hard_silu", "sigmoid"),
)  # fmt: skip
#: Of the row's values `x`.
FUNCTIONAL = {
    "state of another": "(s := L.LSTM(4, return_state=True)(x), L.LSTM(4)(x, initial_state=s[1:]))[-1]",
    "state of another, of all steps": (
        f"(s := L.GRU(4, return_state=True, {SEQUENCE})(x), "
        f"L.Flatten()(L.GRU(4, {SEQUENCE})(s[0], initial_state=s[1])))[-1]"
    ),
    "states of both directions": (
        "(s := L.Bidirectional(L.LSTM(3, return_state=True))(x), L.Concatenate()([s[0], s[2], s[3]]))[-1]"
    ),
    "one step from a state": (
        "(s := L.LSTM(4, return_state=True)(x), L.LSTM(4)(L.Reshape((1, T * 3))(x), initial_state=s[1:]))[-1]"
    ),
    "a layer twice": "(layer := L.SimpleRNN(4), L.Concatenate()([layer(x), layer(L.Dense(3)(x))]))[-1]",
}
SEQUENTIAL = "keras.Sequential([keras.Input((T, C)), L.Rescaling(1 / 255), L.Dense(3, 'tanh'), {}])"
MODEL = (
    "keras.Model(row := keras.Input((T, C)), L.Dense(3)((x := L.Dense(3, 'tanh')(L.Rescaling(1 / 255)(row)), {})[-1]))"
)
CASES = {
    **{name: (SEQUENTIAL.format(layers), 1) for name, layers in LAYERS.items()},
    "rows of an embedding": (
        "keras.Sequential([keras.Input((T,)), L.Embedding(256, 4), L.LayerNormalization(), L.LSTM(5), L.Dense(3)])",
        2,
    ),
    **{
        f"{layer}{more} with {inner} and {gate}": (
            SEQUENTIAL.format(f"L.{layer}(4, '{inner}', '{gate}', {SEQUENCE}{more}), {FLAT}"),
            3,
        )
        for number, (inner, gate) in enumerate(ACTIVATIONS)
        for layer, more in (("LSTM", ""), ("GRU", ", reset_after=False" if number % 2 else ""))
    },
    **{name: (MODEL.format(built), 4) for name, built in FUNCTIONAL.items()},
}


def write(folder: Path, built: str, seed: int) -> Path:
    """A model's file for rows of a random size."""
    rng = np.random.default_rng([seed, *built.encode()])
    shape = int(rng.integers(3, 10)), int(rng.integers(1, 5))
    path = folder / "mine.py"
    path.write_text(
        "import keras\nfrom keras import layers as L\n"
        f"BATCH = EVALUATION_BATCH = {BATCH}\nCLASSES = {CLASSES}\nT, C = {shape}\n"
        f"def build():\n    return {built}\n"
    )
    return path


#: What is made of parts that the others try one by one, and every other activation: by `make test-again`.
AGAIN = {
    "rnn without activation",
    "lstm backwards",
    "lstm without bias",
    "lstm of small products",
    "lstm with a function",
    "gru backwards",
    "gru that resets before, without bias",
    "gru that resets before, backwards",
    "bidirectional sum",
    "bidirectional product",
    "bidirectional mean",
    "bidirectional of two",
    "bidirectional, stacked",
    "cell of an lstm",
    "cell of an rnn",
    "convolution inside of an lstm",
    "convolution for each step",
    "unrolled by the user",
    "state of another, of all steps",
} | {it for it in CASES if any(it.endswith(f" with {inner} and {gate}") for inner, gate in ACTIVATIONS)}
assert CASES.keys() >= AGAIN


@pytest.mark.parametrize("name", [pytest.param(it, marks=pytest.mark.again) if it in AGAIN else it for it in CASES])
def test_a_recurrent_layer_trains_on_a_board_as_in_tensorflow(
    export: Any, other: Other | None, tmp_path: Path, name: str
) -> None:
    built, seed = CASES[name]
    path = write(tmp_path, built, seed)
    export.export(path, tmp_path / "out", seed)
    model = export.load_module(path).build()
    shape = model.input_shape[1:]
    file = tmp_path / "out/train.tflite"
    here = Here(file)
    graph = load_graph((tmp_path / "out/train.graph").read_bytes())[0]
    ones = np.ones(BATCH, np.float32)
    initial = vector_of(model)
    rng = np.random.default_rng(seed)
    for noise in (0.0, 0.1, 0.3):
        weights = (initial + rng.normal(0, noise, initial.size)).astype(np.float32)
        x, y = examples(rng, shape, 256)
        inputs = {"weights": weights, "x": x, "y": y, "sample_weight": ones, "learning_rate": LARGE}
        runs = {"here": here("train", **inputs), "TensorFlow": graph(**complete(here.shapes("train"), inputs))}
        if other is not None:
            runs["tflite-runtime"] = other(file, "train", **inputs)
        gradients, _ = tensorflow_gradients(model, weights, x, y)
        for run, it in runs.items():
            found = (weights.astype(np.float64) - it["weights"]) / float(LARGE)
            offset = 0
            for variable, expected in zip(model.trainable_variables, gradients, strict=True):
                part = found[offset : offset + expected.size]
                offset += expected.size
                assert np.abs(expected).max() > 1e-6, variable.path
                assert close(part, expected), (run, variable.path)
        logits = here("infer", weights=weights, x=x, y=y)["logits"]
        np.testing.assert_allclose(logits, model(x), rtol=0, atol=1e-5)
    rate = np.float32(0.05)
    board, keras_weights = weights, weights
    for _ in range(20):
        x, y = examples(rng, shape, 256)
        board = here("train", weights=board, x=x, y=y, sample_weight=ones, learning_rate=rate)["weights"]
        keras_weights = keras_weights - rate * np.concatenate(tensorflow_gradients(model, keras_weights, x, y)[0])
    assert np.abs(board - keras_weights).max() <= 1e-5
    assert np.abs(board - weights).max() > 1e-3


#: Layers behind an input of rows, and what the message names.
REFUSED = {
    "dropout": ("L.LSTM(5, name='mine', dropout=0.25)", "dropout=0.25"),
    "recurrent dropout": ("L.Bidirectional(L.GRU(5, name='mine', recurrent_dropout=0.5))", "recurrent_dropout=0.5"),
    "dropout of a cell": ("L.RNN([L.GRUCell(3), L.LSTMCell(2, dropout=0.5)], name='mine')", "dropout=0.5"),
    "state": ("L.SimpleRNN(5, name='mine', stateful=True)", "stateful=True"),
    "regularizer": ("L.Bidirectional(L.LSTM(5, name='mine', recurrent_regularizer='l2'))", "recurrent_regularizer"),
    "constraint": ("L.GRU(5, name='mine', bias_constraint='non_neg')", "bias_constraint"),
    "masking": ("L.Masking(name='mine'), L.LSTM(5)", "masks"),
    "mask of zeros": ("L.Flatten(), L.Embedding(9, 3, mask_zero=True, name='mine'), L.LSTM(5)", "mask_zero=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_boards_cannot_do_is_refused(export: Any, tmp_path: Path, name: str) -> None:
    from models.errors import ExportError

    layers, reason = REFUSED[name]
    built = f"keras.Sequential([keras.Input((4, 3), batch_size=BATCH), {layers}, L.Dense(3)])"
    module = export.load_module(write(tmp_path, built, 1))
    with pytest.raises(ExportError, match=r"mine'.*leave .* out") as caught:
        export.prepared(module, 1)
    assert reason in str(caught.value)


@pytest.mark.parametrize("layer", ["L.LSTM(5, name='mine')", "L.TimeDistributed(L.Dense(5), name='mine')"])
def test_a_mask_from_the_caller_is_refused_when_it_is_traced(export: Any, tmp_path: Path, layer: str) -> None:
    from models.errors import ExportError
    from models.unrolled import unroll

    built = f"keras.Model(row := keras.Input((4, 3)), {layer}(row, mask=row[:, :, 0] > 0))"
    model = export.load_module(write(tmp_path, built, 1)).build()
    unroll(model)
    with pytest.raises(ExportError, match=r"layer 'mine': it gets a mask"):
        model(np.ones((BATCH, 4, 3), np.float32))


def test_a_step_adds_few_operations() -> None:
    """No loop, no product of weights in each step, and half of what TensorFlow would make of it."""
    import keras
    import tensorflow as tf

    from models.gradients import with_builtin_gradients
    from models.unrolled import unroll

    def operations(layer: str, steps: int, as_keras_unrolls: bool) -> tuple[int, int]:
        model = keras.Sequential(
            [keras.Input((steps, 3)), getattr(keras.layers, layer)(5, unroll=True, use_cudnn=False)]
        )
        if not as_keras_unrolls:
            unroll(model)
        values = [
            [np.asarray(it) for it in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]
        with tf.Graph().as_default() as graph:
            x = tf.ones((BATCH, steps, 3))
            weights, kept = ([tf.constant(it) for it in kind] for kind in values)
            with with_builtin_gradients():
                tf.gradients(model.stateless_call(weights, kept, x)[0], weights)
            kinds = [
                node.type for node in graph.get_operations() if node.type not in ("Const", "Identity", "IdentityN")
            ]
        assert not {"While", "StatelessWhile"} & set(kinds)
        return len(kinds), kinds.count("MatMul")

    for layer in ("LSTM", "GRU"):
        (of_4, products_of_4), (of_14, products_of_14) = (operations(layer, steps, False) for steps in (4, 14))
        assert products_of_14 - products_of_4 == 2 * 10, layer
        by_keras = operations(layer, 14, True)[0] - operations(layer, 4, True)[0]
        assert 2 * (of_14 - of_4) < by_keras, layer
