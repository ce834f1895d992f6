"""Losses of class labels, written out of operations that every backend has.

They are those of Keras, from logits. A loss that takes a target for every output gets the label as a one-hot vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from models.errors import ExportError

REMEDY = (
    "use keras.losses.SparseCategoricalCrossentropy(from_logits=True), CategoricalCrossentropy(from_logits=True), "
    "BinaryCrossentropy(from_logits=True), MeanSquaredError() or Huber()"
)
#: Arguments of Keras's losses that change nothing here: the mean over a batch is that over its real examples.
REDUCTIONS = ("sum_over_batch_size", "mean", "auto")


@dataclass(frozen=True)
class Loss:
    """A loss and its settings.

    Attributes:
        name: Keras's name.
        settings: Its arguments that matter.
    """

    name: str
    settings: dict[str, float] = field(default_factory=dict)

    def of_each(self, logits: Any, labels: Any, classes: int) -> Any:
        """Loss of each example.

        Args:
            logits: Shape (batch, outputs), float32.
            labels: Shape (batch,), int32, 0 to classes - 1.
            classes: As many as outputs; or 2, with one output.

        Returns:
            Shape (batch,), float32.
        """
        if logits.shape[-1] == 1:
            targets = tf.reshape(tf.cast(labels, tf.float32), [-1, 1])
        else:
            targets = tf.one_hot(labels, classes)
        return LOSSES[self.name](logits, targets, **self.settings)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {"name": self.name, **self.settings}


def cross_entropy(logits: Any, targets: Any, label_smoothing: float = 0.0) -> Any:
    """Softmax cross-entropy: TensorFlow's fused operation has no builtin gradient."""
    if label_smoothing:
        targets = targets * (1.0 - label_smoothing) + label_smoothing / logits.shape[-1]
    shifted = logits - tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
    log_sum = tf.math.log(tf.reduce_sum(tf.exp(shifted), axis=-1))
    # The targets of an example sum up to one.
    return log_sum - tf.reduce_sum(shifted * targets, axis=-1)


def binary_cross_entropy(logits: Any, targets: Any, label_smoothing: float = 0.0) -> Any:
    """Sigmoid cross-entropy, mean over the outputs; log1p(exp(-|x|)) does not overflow."""
    if label_smoothing:
        targets = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
    positive = tf.nn.relu(logits)
    # |x| out of what has a gradient here.
    size = positive + tf.nn.relu(-logits)
    return tf.reduce_mean(positive - logits * targets + tf.math.log(1.0 + tf.exp(-size)), axis=-1)


def mean_squared_error(logits: Any, targets: Any) -> Any:
    """Mean over the outputs."""
    error = logits - targets
    return tf.reduce_mean(error * error, axis=-1)


def huber(logits: Any, targets: Any, delta: float = 1.0) -> Any:
    """Quadratic up to `delta`, linear beyond; mean over the outputs (Huber, 1964)."""
    error = logits - targets
    inside = tf.minimum(tf.maximum(error, -delta), delta)
    return tf.reduce_mean(inside * (error - 0.5 * inside), axis=-1)


LOSSES: dict[str, Callable[..., Any]] = {
    "sparse_categorical_crossentropy": cross_entropy,
    "categorical_crossentropy": cross_entropy,
    "binary_crossentropy": binary_cross_entropy,
    "mean_squared_error": mean_squared_error,
    "huber": huber,
}
SETTINGS = {
    "categorical_crossentropy": ("label_smoothing",),
    "binary_crossentropy": ("label_smoothing",),
    "huber": ("delta",),
}
OF_LOGITS = ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")


def loss_of(model: keras.Model) -> Loss:
    """The loss that a model was compiled with; sparse categorical cross-entropy if it was not compiled.

    Raises:
        ExportError: Boards do not have this loss.
    """
    given = getattr(model, "loss", None)
    if given is None:
        return Loss("sparse_categorical_crossentropy")
    try:
        loss = keras.losses.get(given)
        config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {"from_logits": False}
        # Not all of them tell all of their arguments.
        config |= getattr(loss, "_fn_kwargs", {})
    except (ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"loss {given!r} is not one of Keras's ({error}); {REMEDY}") from None
    # `MeanSquaredError` and the function `mean_squared_error` are one loss.
    names = {keras.losses.get(name): name for name in LOSSES} | {type(_make(name)): name for name in LOSSES}
    name = names.get(loss, names.get(type(loss)))
    if name is None:
        raise ExportError(f"loss {getattr(loss, 'name', given)!r} is not one that boards have; {REMEDY}")
    if name in OF_LOGITS and not config.get("from_logits"):
        raise ExportError(f"loss {name!r} is of probabilities, boards take logits: give it from_logits=True; {REMEDY}")
    if config.get("reduction", "auto") not in REDUCTIONS:
        raise ExportError(f"loss {name!r} has reduction {config['reduction']!r}; leave it out: boards take the mean")
    for argument, default in (("ignore_class", None), ("axis", -1)):
        if config.get(argument, default) != default:
            raise ExportError(f"loss {name!r} has {argument} {config[argument]!r}; leave it out: boards do without")
    return Loss(name, {it: float(config[it]) for it in SETTINGS.get(name, ()) if it in config})


def _make(name: str) -> keras.losses.Loss:
    """Keras's class of a loss."""
    made = keras.losses.get({"class_name": _CLASSES[name], "config": {}})
    assert isinstance(made, keras.losses.Loss)
    return made


_CLASSES = {
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "binary_crossentropy": "BinaryCrossentropy",
    "mean_squared_error": "MeanSquaredError",
    "huber": "Huber",
}
