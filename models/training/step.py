"""The functions that a board runs, traced: `train`, one optimizer step, and `infer`.

Everything that changes stands in flat float32 vectors that come in and go out: the weights (what is trained, then the
state that layers keep, such as moving averages), and the optimizer's slots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from aggregator_core.layout import Layout, Tensor
from models import gradients
from models.errors import ExportError
from models.quantization.plan import Plan
from models.training.dropout import Noise, dropout_from
from models.training.losses import Loss
from models.training.optimizers import Optimizer
from models.training.padding import padded

#: Gets the trained tensors by name, and returns what the forward pass of a training uses instead.
KernelMap = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """What a step is made of.

    Attributes:
        model: Gives logits; shape (batch, outputs), with one output where the loss is binary.
        loss: Of labels.
        optimizer: What it does with the gradients.
        batch: Examples of a training step.
        evaluation_batch: Examples of an evaluation step.
        classes: Of the labels.
        dataset: What the model is made for.
        kernels: Applied to the trained tensors before a training's forward pass.
        plan: Where the model is quantized; None: it is not.
    """

    model: keras.Model
    loss: Loss
    optimizer: Optimizer
    batch: int
    evaluation_batch: int
    classes: int
    dataset: str = "fashion-mnist"
    kernels: KernelMap = lambda parts: parts
    plan: Plan | None = None


def state_of(model: keras.Model) -> list[Any]:
    """Variables that layers keep and gradients do not train; not the counters of random generators."""
    return [it for it in model.non_trainable_variables if it.dtype == "float32"]


def layout_of(model: keras.Model) -> Layout:
    """Where the model's variables stand in the flat vector: those that are trained, then the state.

    Raises:
        ExportError: There is nothing to train, or two variables have one name.
    """
    if not model.trainable_variables:
        raise ExportError(f"model {model.name!r} has nothing to train; add a Dense or Conv2D layer")
    tensors: list[Tensor] = []
    offset = 0
    trained = {id(it) for it in model.trainable_variables}
    for variable in [*model.trainable_variables, *state_of(model)]:
        shape = tuple(int(size) for size in variable.shape)
        kind = "state" if id(variable) not in trained else "weight" if len(shape) > 1 else "bias"
        axis = _channels(variable.path, shape) if kind == "weight" else None
        if any(it.name == variable.path for it in tensors):
            raise ExportError(f"two variables are named {variable.path!r}: give their layers names of their own")
        tensors.append(Tensor(variable.path, shape, offset, axis, kind))
        offset += tensors[-1].size
    return Layout(tuple(tensors))


def _channels(path: str, shape: tuple[int, ...]) -> int:
    """The axis of a kernel's output channels; a depthwise kernel ends with inputs and their multiplier."""
    name = path.rpartition("/")[2]
    depthwise = name == "depthwise_kernel" or (name == "kernel" and "depthwise" in path and shape[-1] == 1)
    return len(shape) - (2 if depthwise and len(shape) > 2 else 1)


class Functions:
    """`train` and `infer` of a recipe.

    Args:
        recipe: What they are made of.
        builtin: Differentiate with the gradients that TFLite has operations for, instead of TensorFlow's own.

    Raises:
        ExportError: A weight gets no gradient.
    """

    def __init__(self, recipe: Recipe, builtin: bool) -> None:
        self._recipe = recipe
        self._model = recipe.model
        self._builtin = builtin
        self.layout = layout_of(recipe.model)
        self._trained = [it for it in self.layout.tensors if it.kind != "state"]
        #: Values of the vector that gradients train; the state follows.
        self.trained_size = sum(it.size for it in self._trained)
        #: Random numbers of a step.
        self.noise = 0
        self.infer = self._trace_infer()

    # ------------------------------------------------------------------ tracing

    def _input(self, batch: int) -> Any:
        return tf.TensorSpec((batch, *self._model.input_shape[1:]), tf.uint8, name="x")

    def _vector(self) -> Any:
        return tf.TensorSpec((self.layout.size,), tf.float32, name="weights")

    def _trace_infer(self) -> Any:
        batch = self._recipe.evaluation_batch

        @tf.function(autograph=False)
        def infer(**given: Any) -> dict[str, Any]:
            logits, _ = self._forward(self._unpack(given["weights"]), given["x"], training=False)
            losses = self._recipe.loss.of_each(logits, given["y"], self._recipe.classes)
            if logits.shape[-1] == 1:
                # As the logits of two classes, so that the larger one wins.
                logits = tf.concat([tf.zeros_like(logits), logits], -1)
            return {"logits": logits, "losses": losses}

        return infer.get_concrete_function(
            weights=self._vector(), x=self._input(batch), y=tf.TensorSpec((batch,), tf.int32, name="y")
        )

    def trace_train(self) -> Any:
        """The function `train`; after `infer`, whose operations must have been found to have gradients."""
        recipe, rule = self._recipe, self._recipe.optimizer.rule
        self.noise = self._count_noise()
        inputs = {
            "weights": self._vector(),
            "x": self._input(recipe.batch),
            "y": tf.TensorSpec((recipe.batch,), tf.int32, name="y"),
            "sample_weight": tf.TensorSpec((recipe.batch,), tf.float32, name="sample_weight"),
            "learning_rate": tf.TensorSpec((), tf.float32, name="learning_rate"),
            "proximal": tf.TensorSpec((), tf.float32, name="proximal"),
            "correction": tf.TensorSpec((self.trained_size,), tf.float32, name="correction"),
        }
        if rule.slots:
            inputs["slots"] = tf.TensorSpec((rule.slots * self.trained_size,), tf.float32, name="slots")
        if rule.counts_steps:
            inputs["count"] = tf.TensorSpec((), tf.float32, name="count")
        if self.noise:
            inputs["noise"] = tf.TensorSpec((self.noise,), tf.int32, name="noise")

        @tf.function(autograph=False)
        def train(**given: Any) -> dict[str, Any]:
            return self._train(given)

        return train.get_concrete_function(**inputs)

    def _train(self, given: dict[str, Any]) -> dict[str, Any]:
        recipe, sample_weight = self._recipe, given["sample_weight"]
        parts = self._unpack(given["weights"])
        real = tf.cast(sample_weight > 0, tf.float32)
        with self._gradients(), padded(real), dropout_from(Noise(given.get("noise"))):
            used = recipe.kernels(dict(parts))
            logits, state = self._forward({**parts, **used}, given["x"], training=True)
            losses = recipe.loss.of_each(logits, given["y"], recipe.classes)
            # A padded batch counts its real examples only; an empty one has no gradient.
            loss = tf.reduce_sum(losses * sample_weight) / tf.maximum(tf.reduce_sum(sample_weight), 1e-12)
            found = tf.gradients(loss, [parts[it.name] for it in self._trained])
        for tensor, gradient in zip(self._trained, found, strict=True):
            if gradient is None:
                layer = tensor.name.split("/")[-2]
                raise ExportError(
                    f"layer {layer!r}: no gradient reaches it through an operation behind it, such as the rounding of "
                    "an Embedding's input; use Embedding on the input only"
                )
        trained = given["weights"][: self.trained_size]
        # The gradient of the proximal term of FedProx, and whatever else bends local training back to the others'.
        gradient = tf.concat([tf.reshape(it, [-1]) for it in found], 0)
        gradient = gradient + given["proximal"] * trained + given["correction"]
        weights, slots = recipe.optimizer.step(
            trained,
            gradient,
            [it.size for it in self._trained],
            given.get("slots"),
            given["learning_rate"],
            given.get("count"),
        )
        outputs = {"weights": tf.concat([weights, *(tf.reshape(it, [-1]) for it in state)], 0), "loss": loss}
        return outputs if slots is None else {**outputs, "slots": slots}

    # ------------------------------------------------------------------ parts

    def _gradients(self) -> contextlib.AbstractContextManager[None]:
        return gradients.with_builtin_gradients() if self._builtin else contextlib.nullcontext()

    def _unpack(self, vector: Any) -> dict[str, Any]:
        return {it.name: tf.reshape(vector[it.offset : it.offset + it.size], it.shape) for it in self.layout.tensors}

    def _forward(self, parts: dict[str, Any], x: Any, training: bool) -> tuple[Any, list[Any]]:
        """(logits, new state)."""
        model = self._model
        kept = [parts.get(it.path, it.value) for it in model.non_trainable_variables]
        trained = [parts[it.path] for it in model.trainable_variables]
        # What TensorFlow runs stays as Keras has it.
        products = gradients.convolutions_by_products() if self._builtin else contextlib.nullcontext()
        with gradients.written_out_gelu(), products:
            logits, left = model.stateless_call(trained, kept, tf.cast(x, tf.float32), training=training)
        names = {id(it) for it in state_of(model)}
        pairs = zip(model.non_trainable_variables, left, strict=True)
        return logits, [value for variable, value in pairs if id(variable) in names]

    def _count_noise(self) -> int:
        """How many random numbers a step needs."""
        noise = Noise()
        with dropout_from(noise), tf.Graph().as_default():
            x = tf.zeros((self._recipe.batch, *self._model.input_shape[1:]))
            trained = [tf.zeros(it.shape, it.dtype) for it in self._model.trainable_variables]
            kept = [tf.zeros(it.shape, it.dtype) for it in self._model.non_trainable_variables]
            self._model.stateless_call(trained, kept, x, training=True)
        return noise.count
