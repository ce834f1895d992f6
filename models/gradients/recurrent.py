"""Recurrent layers step by step, with gradients of few and large operations.

The steps themselves cannot be joined, but much around them can: the projection of all inputs is one product, made by
the caller, and so are the gradients of the weights. What the gradient of a step multiplies with (slopes, gates and
states of the forward pass) is computed for all steps together; each step then takes its part. TensorFlow's own
gradient of a step is more than twice as many operations.

In all functions here, a tensor of all steps has shape (steps * batch, width), step by step; `projected` is the input
times its kernel, with its bias, `recurrent` the recurrent kernel, and `states` are the state before the first step.
`whole` says whether the outputs of all steps are wanted: the gradient of those that nobody reads would be zeros, as
many as they are, in the file.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from models.gradients.gelu import written_out_gelu

#: What `slope` is right for: activations of Keras that treat each number on its own.
ELEMENTWISE = tuple(
    keras.activations.get(name)
    for name in (
        "linear", "sigmoid", "tanh", "relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "hard_sigmoid", "hard_silu",
    )
)  # fmt: skip


def joined(steps: list[Any]) -> Any:
    """One tensor of all steps."""
    return tf.concat(steps, 0)


def divided(tensor: Any, steps: int) -> list[Any]:
    """The part of each step, the last one first; what is no tensor is the same for all."""
    return tf.split(tensor, steps)[::-1] if tf.is_tensor(tensor) else [tensor] * steps


def plus(dh: Any, d_output: Any) -> Any:
    """The gradient of a state, from the step behind it and, if anybody reads its output, from there."""
    return dh if d_output is None else dh + d_output


def slope(activation: Any, before: Any, after: Any) -> Any:
    """The derivative of an elementwise activation from its inputs and its outputs, both of any one shape."""
    if activation is keras.activations.linear:
        return 1.0
    if activation is keras.activations.relu:
        return tf.cast(after > 0, after.dtype)
    if activation is keras.activations.sigmoid:
        return after * (1 - after)
    if activation is keras.activations.tanh:
        return 1 - after * after
    with written_out_gelu():
        return tf.gradients(activation(before), before)[0]


def times(x: Any, transposed: Any) -> Any:
    """`x` times the transpose of a matrix."""
    return tf.matmul(x, transposed, transpose_b=True)


def simple_rnn(
    projected: Any, recurrent: Any, states: list[Any], steps: int, whole: bool, activation: Any
) -> list[Any]:
    """A plain recurrent layer: `h = activation(x + h @ recurrent)`.

    Args:
        projected: float32 (steps * batch, units).
        recurrent: float32 (units, units).
        states: One float32 (batch, units), the output before the first step.
        steps: Their number.
        whole: Whether the outputs of all steps are wanted.
        activation: One of `ELEMENTWISE`.

    Returns:
        The states after the last step, and before them, if wanted, the outputs of all, float32 (steps * batch, units).
    """

    @tf.custom_gradient
    def run(projected: Any, recurrent: Any, h: Any) -> Any:
        transposed = tf.transpose(recurrent)
        before, outputs = [], [h]
        for x in tf.split(projected, steps):
            before.append(x + times(outputs[-1], transposed))
            outputs.append(activation(before[-1]))
        sequence = joined(outputs[1:])

        def gradient(*d_results: Any) -> Any:
            d_sequence, dh = d_results if whole else (None, *d_results)
            slopes = divided(slope(activation, joined(before), sequence), steps)
            d_before = []
            for d_output, factor in zip(divided(d_sequence, steps), slopes, strict=True):
                d_before.append(plus(dh, d_output) * factor)
                dh = times(d_before[-1], recurrent)
            d_projected = joined(d_before[::-1])
            return d_projected, tf.matmul(joined(outputs[:-1]), d_projected, transpose_a=True), dh

        return [sequence, outputs[-1]][0 if whole else 1 :], gradient

    return list(run(projected, recurrent, *states))


def lstm(
    projected: Any, recurrent: Any, states: list[Any], steps: int, whole: bool, activation: Any, gate: Any
) -> list[Any]:
    """A long short-term memory, with the gates in Keras's order: input, forget, candidate, output.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory" (1997), with the forget gate of Gers et al. (2000).

    Args:
        projected: float32 (steps * batch, 4 * units).
        recurrent: float32 (units, 4 * units).
        states: Output and carry before the first step, float32 (batch, units) each.
        steps: Their number.
        whole: Whether the outputs of all steps are wanted.
        activation: Of candidate and carry, one of `ELEMENTWISE`.
        gate: The activation of the gates, one of `ELEMENTWISE`.

    Returns:
        The states after the last step, and before them, if wanted, the outputs of all, float32 (steps * batch, units).
    """

    @tf.custom_gradient
    def run(projected: Any, recurrent: Any, h: Any, c: Any) -> Any:
        transposed = tf.transpose(recurrent)
        before, inputs, forgets, candidates, opens, squashed = [], [], [], [], [], []
        outputs, carries = [h], [c]
        for x in tf.split(projected, steps):
            before.append(x + times(outputs[-1], transposed))
            parts = tf.split(before[-1], 4, axis=1)
            inputs.append(gate(parts[0]))
            forgets.append(gate(parts[1]))
            candidates.append(activation(parts[2]))
            opens.append(gate(parts[3]))
            carries.append(forgets[-1] * carries[-1] + inputs[-1] * candidates[-1])
            squashed.append(activation(carries[-1]))
            outputs.append(opens[-1] * squashed[-1])
        sequence = joined(outputs[1:])

        def gradient(*d_results: Any) -> Any:
            d_sequence, dh, dc = d_results if whole else (None, *d_results)
            parts = tf.split(joined(before), 4, axis=1)
            i, f, g, o, tanh_c = (joined(it) for it in (inputs, forgets, candidates, opens, squashed))
            factors = tf.concat(
                [
                    g * slope(gate, parts[0], i),
                    joined(carries[:-1]) * slope(gate, parts[1], f),
                    i * slope(activation, parts[2], g),
                    tanh_c * slope(gate, parts[3], o),
                ],
                1,
            )
            to_carry = o * slope(activation, joined(carries[1:]), tanh_c)
            each = (divided(it, steps) for it in (d_sequence, factors, to_carry))
            d_before = []
            for d_output, factor, through, forget in zip(*each, forgets[::-1], strict=True):
                dh = plus(dh, d_output)
                dc = dc + dh * through
                d_before.append(tf.concat([dc, dc, dc, dh], 1) * factor)
                dh, dc = times(d_before[-1], recurrent), dc * forget
            d_projected = joined(d_before[::-1])
            return d_projected, tf.matmul(joined(outputs[:-1]), d_projected, transpose_a=True), dh, dc

        return [sequence, outputs[-1], carries[-1]][0 if whole else 1 :], gradient

    return list(run(projected, recurrent, *states))


def gru(
    projected: Any, recurrent: Any, bias: Any, states: list[Any], steps: int, whole: bool, activation: Any, gate: Any
) -> list[Any]:
    """A gated recurrent unit that resets after its product (`reset_after=True`); gates in the order update, reset.

    Source: Cho et al., arXiv:1406.1078v1; the columns are those of Keras: update, reset, candidate.

    Args:
        projected: float32 (steps * batch, 3 * units).
        recurrent: float32 (units, 3 * units).
        bias: Of the recurrent product, float32 (3 * units,).
        states: One float32 (batch, units), the output before the first step.
        steps: Their number.
        whole: Whether the outputs of all steps are wanted.
        activation: Of the candidate, one of `ELEMENTWISE`.
        gate: The activation of the gates, one of `ELEMENTWISE`.

    Returns:
        The states after the last step, and before them, if wanted, the outputs of all, float32 (steps * batch, units).
    """
    units = int(recurrent.shape[0])

    @tf.custom_gradient
    def run(projected: Any, recurrent: Any, bias: Any, h: Any) -> Any:
        transposed = tf.transpose(recurrent)
        to_gates, to_candidate = (tf.split(it, steps) for it in tf.split(projected, [2 * units, units], axis=1))
        gates_before, updates, resets, inner, candidates_before, candidates, outputs = [], [], [], [], [], [], [h]
        for x_gates, x_candidate in zip(to_gates, to_candidate, strict=True):
            h = outputs[-1]
            h_gates, h_candidate = tf.split(tf.nn.bias_add(times(h, transposed), bias), [2 * units, units], axis=1)
            gates_before.append(x_gates + h_gates)
            update, reset = tf.split(gate(gates_before[-1]), 2, axis=1)
            candidates_before.append(x_candidate + reset * h_candidate)
            candidates.append(activation(candidates_before[-1]))
            outputs.append(candidates[-1] + update * (h - candidates[-1]))
            updates.append(update)
            resets.append(reset)
            inner.append(h_candidate)
        sequence = joined(outputs[1:])

        def gradient(*d_results: Any) -> Any:
            d_sequence, dh = d_results if whole else (None, *d_results)
            z_before, r_before = tf.split(joined(gates_before), 2, axis=1)
            z, r, g, previous = (joined(it) for it in (updates, resets, candidates, outputs[:-1]))
            to_candidate = (1 - z) * slope(activation, joined(candidates_before), g)
            factors = tf.concat(
                [
                    (previous - g) * slope(gate, z_before, z),
                    to_candidate * joined(inner) * slope(gate, r_before, r),
                    to_candidate * r,
                ],
                1,
            )
            each = (divided(it, steps) for it in (d_sequence, factors))
            d_outputs, d_products = [], []
            for d_output, factor, update in zip(*each, updates[::-1], strict=True):
                dh = plus(dh, d_output)
                d_outputs.append(dh)
                d_products.append(tf.concat([dh, dh, dh], 1) * factor)
                dh = dh * update + times(d_products[-1], recurrent)
            d_product = joined(d_products[::-1])
            d_gates, _ = tf.split(d_product, [2 * units, units], axis=1)
            return (
                tf.concat([d_gates, joined(d_outputs[::-1]) * to_candidate], 1),
                tf.matmul(previous, d_product, transpose_a=True),
                tf.reduce_sum(d_product, 0),
                dh,
            )

        return [sequence, outputs[-1]][0 if whole else 1 :], gradient

    return list(run(projected, recurrent, bias, *states))


def gru_reset_before(
    projected: Any, recurrent: Any, states: list[Any], steps: int, whole: bool, activation: Any, gate: Any
) -> list[Any]:
    """A gated recurrent unit that resets before its product (`reset_after=False`); see `gru`, but for the bias.

    Source: Cho et al., arXiv:1406.1078v3.
    """
    units = int(recurrent.shape[0])

    @tf.custom_gradient
    def run(projected: Any, recurrent: Any, h: Any) -> Any:
        of_gates, of_candidate = tf.split(recurrent, [2 * units, units], axis=1)
        gates_transposed, candidate_transposed = tf.transpose(of_gates), tf.transpose(of_candidate)
        to_gates, to_candidate = (tf.split(it, steps) for it in tf.split(projected, [2 * units, units], axis=1))
        gates_before, updates, resets, kept, candidates_before, candidates, outputs = [], [], [], [], [], [], [h]
        for x_gates, x_candidate in zip(to_gates, to_candidate, strict=True):
            h = outputs[-1]
            gates_before.append(x_gates + times(h, gates_transposed))
            update, reset = tf.split(gate(gates_before[-1]), 2, axis=1)
            kept.append(reset * h)
            candidates_before.append(x_candidate + times(kept[-1], candidate_transposed))
            candidates.append(activation(candidates_before[-1]))
            outputs.append(candidates[-1] + update * (h - candidates[-1]))
            updates.append(update)
            resets.append(reset)
        sequence = joined(outputs[1:])

        def gradient(*d_results: Any) -> Any:
            d_sequence, dh = d_results if whole else (None, *d_results)
            z_before, r_before = tf.split(joined(gates_before), 2, axis=1)
            z, r, g, previous = (joined(it) for it in (updates, resets, candidates, outputs[:-1]))
            to_update = (previous - g) * slope(gate, z_before, z)
            to_reset = previous * slope(gate, r_before, r)
            to_candidate = (1 - z) * slope(activation, joined(candidates_before), g)
            each = (divided(it, steps) for it in (d_sequence, to_update, to_reset, to_candidate))
            d_gates, d_candidates = [], []
            for d_output, for_update, for_reset, for_candidate, update, reset in zip(
                *each, updates[::-1], resets[::-1], strict=True
            ):
                dh = plus(dh, d_output)
                d_candidates.append(dh * for_candidate)
                d_kept = times(d_candidates[-1], of_candidate)
                d_gates.append(tf.concat([dh * for_update, d_kept * for_reset], 1))
                dh = dh * update + d_kept * reset + times(d_gates[-1], of_gates)
            d_gate, d_candidate = joined(d_gates[::-1]), joined(d_candidates[::-1])
            d_recurrent = [
                tf.matmul(previous, d_gate, transpose_a=True),
                tf.matmul(joined(kept), d_candidate, transpose_a=True),
            ]
            return tf.concat([d_gate, d_candidate], 1), tf.concat(d_recurrent, 1), dh

        return [sequence, outputs[-1]][0 if whole else 1 :], gradient

    return list(run(projected, recurrent, *states))
