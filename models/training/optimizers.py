"""Optimizers on the flat vector; each does what Keras's optimizer of the same name does, to rounding.

An optimizer's state (`slots`) lives for one local training: it begins at zero in every round, on every board, so that a
board that comes and goes trains like the others (as in McMahan et al. 2017, where clients keep nothing).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import tensorflow as tf

from models.errors import ExportError

REMEDY = (
    "use keras.optimizers.SGD, Adam or AdamW, with momentum, nesterov, weight_decay, clipnorm, global_clipnorm or "
    "clipvalue"
)
#: Arguments of Keras's optimizers that nothing here does.
NOT_DONE = {"amsgrad": False, "use_ema": False, "gradient_accumulation_steps": None, "loss_scale_factor": None}


class Rule(Protocol):
    """How a gradient becomes a step.

    Attributes:
        slots: Vectors of state, each as long as the trained weights.
        counts_steps: Whether it needs to know how many steps there were.
    """

    slots: int
    counts_steps: bool

    def step(self, gradient: Any, slots: Any, learning_rate: Any, count: Any) -> tuple[Any, Any]:
        """(what is added to the weights, the new slots).

        Args:
            gradient: Shape (p,), float32.
            slots: Shape (slots * p,), float32; None if there are none.
            learning_rate: Scalar, float32.
            count: Scalar, float32: 1 for the first step of a training; None if it is not counted.
        """

    def to_json(self) -> dict[str, Any]:
        """Its settings, as they stand in a manifest."""


@dataclass(frozen=True)
class SGD:
    """Gradient descent, with momentum (Polyak, 1964) or Nesterov's (1983)."""

    momentum: float = 0.0
    nesterov: bool = False
    counts_steps = False

    @property
    def slots(self) -> int:
        """One with momentum."""
        return 1 if self.momentum else 0

    def step(self, gradient: Any, slots: Any, learning_rate: Any, count: Any) -> tuple[Any, Any]:  # noqa: ARG002
        """See `Rule.step`."""
        step = -learning_rate * gradient
        if not self.momentum:
            return step, None
        velocity = slots * self.momentum + step
        return (velocity * self.momentum + step if self.nesterov else velocity), velocity

    def to_json(self) -> dict[str, Any]:
        """See `Rule.to_json`."""
        return {"name": "sgd", "momentum": self.momentum, "nesterov": self.nesterov}


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015), as Keras does it: epsilon is added to the root of the uncorrected second moment."""

    beta_1: float
    beta_2: float
    epsilon: float
    slots = 2
    counts_steps = True

    def step(self, gradient: Any, slots: Any, learning_rate: Any, count: Any) -> tuple[Any, Any]:
        """See `Rule.step`."""
        size = gradient.shape[0]
        first, second = slots[:size], slots[size:]
        first = first + (gradient - first) * (1 - self.beta_1)
        second = second + (gradient * gradient - second) * (1 - self.beta_2)
        rate = learning_rate * tf.sqrt(1 - tf.pow(self.beta_2, count)) / (1 - tf.pow(self.beta_1, count))
        return -(first * rate) / (tf.sqrt(second) + self.epsilon), tf.concat([first, second], 0)

    def to_json(self) -> dict[str, Any]:
        """See `Rule.to_json`."""
        return {"name": "adam", "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


@dataclass(frozen=True)
class Clipping:
    """Bounds of the gradient; the first that is set counts, as in Keras."""

    clipnorm: float | None = None
    global_clipnorm: float | None = None
    clipvalue: float | None = None

    def apply(self, gradient: Any, sizes: list[int]) -> Any:
        """Bound a gradient, shape (p,), of tensors of these sizes."""
        if self.clipnorm:
            limit = self.clipnorm
            return tf.concat([it * (limit / tf.maximum(_norm(it), limit)) for it in _split(gradient, sizes)], 0)
        if self.global_clipnorm:
            return gradient * (self.global_clipnorm / tf.maximum(_norm(gradient), self.global_clipnorm))
        if self.clipvalue:
            return tf.minimum(tf.maximum(gradient, -self.clipvalue), self.clipvalue)
        return gradient


def _split(vector: Any, sizes: list[int]) -> list[Any]:
    ends = list(itertools.accumulate(sizes))
    return [vector[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _norm(vector: Any) -> Any:
    """L2 norm."""
    return tf.sqrt(tf.reduce_sum(vector * vector))


@dataclass(frozen=True)
class Optimizer:
    """A rule, with what comes before it.

    Attributes:
        rule: How a gradient becomes a step.
        clipping: Bounds of the gradient.
        weight_decay: Share of the weights that goes with each step, times the learning rate (Loshchilov and Hutter,
            2019).
        decayed: For each trained tensor whether it decays.
        learning_rate: What the model was compiled with; a run may say otherwise.
    """

    rule: Rule = field(default_factory=SGD)
    clipping: Clipping = field(default_factory=Clipping)
    weight_decay: float = 0.0
    decayed: tuple[bool, ...] = ()
    learning_rate: float = 0.1

    def step(
        self, weights: Any, gradient: Any, sizes: list[int], slots: Any, learning_rate: Any, count: Any
    ) -> tuple[Any, Any]:
        """(new trained weights, new slots).

        Args:
            weights: What is trained, shape (p,), float32.
            gradient: Its gradient, shape (p,), float32.
            sizes: How many of these values each tensor has.
            slots: Shape (slots * p,), float32; None if the rule has none.
            learning_rate: Scalar, float32.
            count: Scalar, float32: 1 for the first step; None if the rule does not count.
        """
        gradient = self.clipping.apply(gradient, sizes)
        change, slots = self.rule.step(gradient, slots, learning_rate, count)
        if self.weight_decay:
            kept = 1.0 - self.weight_decay * learning_rate
            if all(self.decayed):
                weights = weights * kept
            else:
                pairs = zip(_split(weights, sizes), self.decayed, strict=True)
                weights = tf.concat([part * kept if decays else part for part, decays in pairs], 0)
        return weights + change, slots

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest: what is set."""
        value = self.rule.to_json()
        for name in ("clipnorm", "global_clipnorm", "clipvalue"):
            if getattr(self.clipping, name):
                value[name] = getattr(self.clipping, name)
        if self.weight_decay:
            value |= {"weight_decay": self.weight_decay, "decayed": list(self.decayed)}
        return value


def optimizer_of(model: keras.Model) -> Optimizer:
    """The optimizer that a model was compiled with; plain SGD if it was not compiled.

    Raises:
        ExportError: Boards do not have this optimizer, or not one of its arguments.
    """
    given = getattr(model, "optimizer", None)
    if given is None:
        return Optimizer(decayed=(True,) * len(model.trainable_variables))
    kind, config = type(given), given.get_config()
    rule: Rule
    if kind is keras.optimizers.SGD:
        rule = SGD(float(config["momentum"]), bool(config["nesterov"]))
    elif kind in (keras.optimizers.Adam, keras.optimizers.AdamW):
        rule = Adam(float(config["beta_1"]), float(config["beta_2"]), float(config["epsilon"]))
    else:
        raise ExportError(f"optimizer {kind.__name__} is not one that boards have; {REMEDY}")
    for argument, default in NOT_DONE.items():
        if config.get(argument, default) not in (default, None):
            raise ExportError(f"optimizer {kind.__name__} has {argument}, which boards do not do; {REMEDY}")
    rate = config["learning_rate"]
    if not isinstance(rate, int | float):
        raise ExportError(f"optimizer {kind.__name__} has a schedule for a learning rate; give it a number: {REMEDY}")
    clipping = Clipping(*(config.get(name) for name in ("clipnorm", "global_clipnorm", "clipvalue")))
    decayed = tuple(bool(_decays(given, variable)) for variable in model.trainable_variables)
    return Optimizer(rule, clipping, float(config.get("weight_decay") or 0.0), decayed, float(rate))


def _decays(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether `exclude_from_weight_decay` leaves a variable in."""
    excluded = getattr(optimizer, "_exclude_from_weight_decay", ())
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    if excluded and optimizer._var_key(variable) in excluded:
        return False
    return pattern is None or pattern.search(variable.name) is None
