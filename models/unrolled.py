"""Recurrent layers of a Keras model, set up to be traced without loops.

Keras runs them in a loop of TensorFlow's or a kernel for GPUs, and neither can be differentiated on a board. With
`unroll` they become one operation after the other, as many as there are time steps, which must be known. LSTM, GRU
and SimpleRNN, alone, in Bidirectional and as cells of RNN, are computed by `models.gradients.recurrent`; other cells
run their own code once for each step.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from models.errors import ExportError
from models.gradients import recurrent

#: Arguments of cells that draw other random numbers in each step.
RANDOM = ("dropout", "recurrent_dropout")
#: Arguments of cells that Keras applies outside of the graph that is exported.
NOT_APPLIED = tuple(
    f"{weights}_{kind}" for weights in ("kernel", "recurrent", "bias") for kind in ("regularizer", "constraint")
)
#: Cells that `models.gradients.recurrent` computes.
CELLS = (keras.layers.SimpleRNNCell, keras.layers.LSTMCell, keras.layers.GRUCell)


def unroll(model: keras.Model) -> None:
    """Set every recurrent layer of a model up for tracing; call it before anything counts the model's variables.

    The layers compute what they did, to rounding. TimeDistributed gets all its steps as one batch, if its layer has no
    state. Calling it twice changes nothing more.

    Args:
        model: A built Keras model, changed in place.

    Raises:
        ExportError: A layer has dropout in its cell, keeps its state, sees a mask, or has what boards do not apply.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Masking):
            raise ExportError(
                f"layer {layer.name!r} masks time steps, which boards do not; pad the rows and leave it out"
            )
        if getattr(layer, "mask_zero", False):
            raise ExportError(
                f"layer {layer.name!r}: mask_zero=True masks time steps, which boards do not; leave it out"
            )
        if isinstance(layer, keras.layers.TimeDistributed) and not layer.layer.non_trainable_variables:
            layer.call = _time_distributed(layer)
        if isinstance(layer, keras.layers.RNN):
            _unroll_layer(layer)


def _unroll_layer(layer: Any) -> None:
    if layer.stateful:
        raise ExportError(f"layer {layer.name!r}: stateful=True keeps states between batches; leave it out")
    cells = getattr(layer.cell, "cells", [layer.cell])
    for cell in cells:
        for name in RANDOM:
            if getattr(cell, name, 0):
                raise ExportError(
                    f"layer {layer.name!r}: {name}={getattr(cell, name):g} draws random numbers inside of the cell, "
                    f"which boards do not; leave {name} out"
                )
        for name in NOT_APPLIED:
            if getattr(cell, name, None) is not None:
                raise ExportError(f"layer {layer.name!r} has a {name}, which boards do not apply; leave it out")
        # Without dropout it draws nothing, and its seed would count as state of the layer.
        if isinstance(cell, keras.Layer):
            cell._seed_generators.clear()
    layer.unroll = True
    # Otherwise Bidirectional or the layer itself may choose a kernel of a GPU on this machine.
    layer.use_cudnn = False
    layer.inner_loop = _inner_loop(layer)


def _has_written_out_gradient(cell: Any) -> bool:
    """Whether `models.gradients.recurrent` computes this cell. A class derived from one of Keras may do otherwise."""
    activations = [getattr(cell, name) for name in ("activation", "recurrent_activation") if hasattr(cell, name)]
    return type(cell) in CELLS and all(it in recurrent.ELEMENTWISE for it in activations)


def _inner_loop(layer: Any) -> Any:
    """What takes the place of `keras.layers.RNN.inner_loop`."""

    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        if mask is not None:
            raise ExportError(f"layer {layer.name!r}: it gets a mask, which boards do not apply; call it without")
        if not _has_written_out_gradient(layer.cell):
            return keras.layers.RNN.inner_loop(layer, sequences, initial_state, None, training)
        # A single state may come without a list.
        states = list(initial_state) if isinstance(initial_state, (list, tuple)) else [initial_state]
        results = _all_steps(layer.cell, sequences, states, layer.go_backwards, layer.return_sequences)
        if not layer.return_sequences:
            return results[0], results[0], results
        outputs, *states = results
        outputs = tf.transpose(tf.reshape(outputs, [sequences.shape[1], -1, layer.cell.units]), [1, 0, 2])
        return states[0], outputs, states

    return inner_loop


def _all_steps(cell: Any, sequences: Any, states: list[Any], backwards: bool, whole: bool) -> list[Any]:
    """The last states, and before them, if wanted, the outputs of all steps, (steps * batch, units), as they come."""
    steps, width = sequences.shape[1:]
    kernel, recurrent_kernel = (keras.ops.convert_to_tensor(it) for it in (cell.kernel, cell.recurrent_kernel))
    bias = None if cell.bias is None else keras.ops.convert_to_tensor(cell.bias)
    recurrent_bias = None
    if isinstance(cell, keras.layers.GRUCell) and cell.reset_after:
        rows = tf.zeros([2, 3 * cell.units]) if bias is None else bias
        # The input's and that of the recurrent product.
        bias, recurrent_bias = (tf.reshape(it, [-1]) for it in tf.split(rows, 2))
    x = tf.reverse(sequences, [1]) if backwards else sequences
    projected = tf.matmul(tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, width]), kernel)
    if bias is not None:
        projected = tf.nn.bias_add(projected, bias)
    tensors: list[Any] = [projected, recurrent_kernel]
    if isinstance(cell, keras.layers.SimpleRNNCell):
        return recurrent.simple_rnn(*tensors, states, steps, whole, cell.activation)
    activations = cell.activation, cell.recurrent_activation
    if isinstance(cell, keras.layers.LSTMCell):
        return recurrent.lstm(*tensors, states, steps, whole, *activations)
    if recurrent_bias is None:
        return recurrent.gru_reset_before(*tensors, states, steps, whole, *activations)
    return recurrent.gru(*tensors, recurrent_bias, states, steps, whole, *activations)


def _time_distributed(wrapper: Any) -> Any:
    """What takes the place of `TimeDistributed.call`: time steps become examples, and their results rows again."""
    inner = wrapper.layer

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if mask is not None:
            raise ExportError(f"layer {wrapper.name!r}: it gets a mask, which boards do not apply; call it without")
        arguments = {"training": training} if inner._call_has_training_arg else {}
        steps, *shape = inputs.shape[1:]
        outputs = inner.call(tf.reshape(inputs, [-1, *shape]), **arguments)
        return tf.reshape(outputs, [-1, steps, *outputs.shape[1:]])

    return call
