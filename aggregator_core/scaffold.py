"""SCAFFOLD: control variates take the drift of local training towards a peer's own optimum out of its gradients.

Source: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020
(arXiv:1910.06378), algorithm 1 with option II.

A peer keeps a control c_i, about its gradient, and all have the server's control c, the mean of them. Training adds
c - c_i to the gradient of every step, so that many steps on unlike data go about where the mean gradient points. What
training has changed then tells the average gradient of its steps, which is the peer's new control:

    c_i+ = c_i - c - change / (steps * learning_rate)        change: weights after training - weights before
    c+   = c + participants / population * mean(c_i+ - c_i)

Controls are of the values that gradients train, so they have t values: the layout's `trained_size`. All begin at zero.
What is sent is c_i+ - c_i. Whoever sends it rounded adds what was sent to its own control, and does so only once it is
counted; then c stays the mean of all controls. The rounding does no harm by itself: the same c_i - c goes into the
training and out of it.

What the steps are decides what a control is:

- Plain SGD: the mean of the gradients, as in the paper. Momentum and FedProx's term weigh gradients by when they came,
  and weights that do not sum up to `steps`: take their sum, the effective steps, for it.
- Weight decay counts as a part of the gradient. It is alike for all peers, and c - c_i is without it.
- Clipping shortens the corrected gradient, to a share s of it. A control then goes only so far from c_i - c to the
  gradient: (1 - s) * (c_i - c) + s * gradient. It corrects less until gradients are below the bound.
- Adam's step says nothing about the size of a gradient: there is no such control of it.

A correction is a constant force for as many steps as a training has, also where nothing is left to learn: it bears only
smaller learning rates than averaging alone does, or trainings diverge (bench/drift.py measures it).

Float32 throughout, elementwise, in the order of the formulas: the same bytes on every board.
"""

from __future__ import annotations

import math

import numpy as np

from aggregator_core.checks import RefusedUpdateError, check_update
from aggregator_core.parameters import ParameterError
from aggregator_core.updates import F32


def correction_of(own: F32, server: F32) -> F32:
    """What is to be added to every gradient of a training: server - own.

    Args:
        own: The peer's control, shape (t,), float32.
        server: The server's, likewise.

    Returns:
        Shape (t,), float32.

    Raises:
        RefusedUpdateError: Shapes or dtypes differ, or a value is not finite or leaves float32.
    """
    _check(own=own, server=server)
    with np.errstate(over="ignore"):
        return _finite("correction", server - own)


def new_control(own: F32, server: F32, change: F32, steps: float, learning_rate: float) -> F32:
    """A peer's control after a training with `correction_of(own, server)`.

    Args:
        own: The peer's control before, shape (t,), float32; not modified, as the others.
        server: The server's control that was trained with, shape (t,), float32.
        change: Trained weights after the training minus before, shape (t,), float32.
        steps: Optimizer steps, or how many they count for; above 0.
        learning_rate: That was trained with, above 0: where a run leaves it to the model, the model's.

    Returns:
        Shape (t,), float32.

    Raises:
        ParameterError: `steps` or `learning_rate` is not a number above 0, or their product leaves float32.
        RefusedUpdateError: Shapes or dtypes differ, or a value is not finite or leaves float32.
    """
    for name, value in (("steps", steps), ("learning_rate", learning_rate)):
        if not (math.isfinite(value) and value > 0):
            raise ParameterError(f"scaffold: {name} is {value!r}, not a number above 0")
    length = float(steps) * float(learning_rate)
    limits = np.finfo(np.float32)
    if not float(limits.tiny) <= length <= float(limits.max):
        raise ParameterError(
            f"scaffold: steps * learning_rate is {length:g}, not within float32; choose another learning rate"
        )
    _check(own=own, server=server, change=change)
    with np.errstate(over="ignore", under="ignore"):
        control = own - server
        np.subtract(control, change / np.float32(length), out=control)
    return _finite("control", control)


def step_server(server: F32, mean_change: F32, participants: int, population: int) -> F32:
    """The server's control after a round.

    Args:
        server: Before, shape (t,), float32; not modified.
        mean_change: Mean of the participants' c_i+ - c_i, shape (t,), float32; not modified.
        participants: How many peers were counted.
        population: How many peers there are. Where the mean is weighted by examples, both are numbers of examples: the
            server's control is then the mean of all controls by examples, as the model is.

    Returns:
        Shape (t,), float32.

    Raises:
        ParameterError: Not 1 <= participants <= population.
        RefusedUpdateError: Shapes or dtypes differ, or a value is not finite or leaves float32.
    """
    if not 1 <= participants <= population:
        raise ParameterError(f"scaffold: participants is {participants!r}, not from 1 to population, {population!r}")
    _check(server=server, mean_change=mean_change)
    with np.errstate(over="ignore", under="ignore"):
        control = mean_change * np.float32(participants / population)
        np.add(server, control, out=control)
    return _finite("server control", control)


def _check(**vectors: F32) -> None:
    first = next(iter(vectors.values()))
    for name, vector in vectors.items():
        try:
            check_update(vector, first.size)
        except RefusedUpdateError as error:
            raise RefusedUpdateError(f"scaffold: {name}: {error}") from None


def _finite(name: str, vector: F32) -> F32:
    if not np.isfinite(vector).all():
        raise RefusedUpdateError(f"scaffold: {name} leaves float32; begin with controls of zero, or train slower")
    return vector
