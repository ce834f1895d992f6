"""Train with TensorFlow, on boards that have it and a GPU: the Keras model's own graph, with TensorFlow's gradients.

The exporter writes the traced functions beside those for the interpreter, so that neither Keras nor the model's Python
file is needed on a board; a federation may mix this backend with the others, for updates are made of the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_peer.errors import ResourceError
from edge_peer.trainers.artifacts import GRAPH, ModelArtifacts, ModelError
from edge_peer.trainers.steps import CARRIED, Buffer, Function, StepTrainer

FUNCTIONS = ("train", "infer")


class FunctionStep:
    """A function, on arrays of its own.

    Args:
        function: Takes and gives arrays by name.
        inputs: What it is given, by name.
    """

    def __init__(self, function: Function, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        self._function = function
        self._given = inputs
        self._found: Mapping[str, npt.NDArray[Any]] = {}
        self.inputs: dict[str, Buffer] = {name: partial(inputs.__getitem__, name) for name in inputs}
        self.outputs: dict[str, Buffer] = {name: partial(self._output, name) for name in ("loss", *CARRIED)}

    def _output(self, name: str) -> npt.NDArray[Any]:
        return self._found[name]

    def set(self, name: str, value: npt.ArrayLike) -> None:
        """See `Step.set`."""
        self._given[name][...] = value

    def run(self) -> None:
        """See `Step.run`."""
        self._found = self._function(**self._given)


class KerasTrainer(StepTrainer):
    """The backend of boards with TensorFlow.

    Args:
        artifacts: The exported model.
        threads: For operations on the processor.

    Raises:
        ResourceError: TensorFlow is not installed, or the graph is missing or cannot be loaded.
    """

    def __init__(self, artifacts: ModelArtifacts, threads: int = 1) -> None:
        content = artifacts.read(GRAPH)
        try:
            import tensorflow as tf  # noqa: PLC0415 - seconds and half a gigabyte, for those that have it
        except ImportError:
            raise ResourceError(
                'no TensorFlow is installed: pip install tensorflow, or set [trainer] backend = "litert"'
            ) from None
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            # It runs already, in a process that has used it before.
            pass
        # The same training must give the same bytes again.
        tf.config.experimental.enable_op_determinism()
        try:
            train, infer = load_graph(tf, content)
        except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{artifacts.graph_path}: TensorFlow {tf.__version__} cannot load it ({reason}); "
                "export it again with `make model`"
            ) from None
        super().__init__(artifacts, f"tensorflow {tf.__version__}", FunctionStep(*train), infer[0])


def load_graph(tf: Any, content: bytes) -> list[tuple[Function, dict[str, npt.NDArray[Any]]]]:
    """The exported functions: for each, itself and inputs of zeros."""
    definition = tf.compat.v1.GraphDef.FromString(content)
    whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    loaded = []
    for name in FUNCTIONS:
        nodes = [node for node in definition.node if node.name.startswith(f"{name}/")]
        inputs = {it.name.split("/")[1]: it for it in nodes if it.op == "Placeholder"}
        outputs = [it.name.split("/")[2] for it in nodes if it.name.startswith(f"{name}/out/") and it.op == "Identity"]
        function = whole.prune(
            [whole.graph.as_graph_element(f"{name}/{it}:0") for it in inputs],
            {it: whole.graph.as_graph_element(f"{name}/out/{it}:0") for it in outputs},
        )
        loaded.append((_numpy(tf, function, list(inputs)), {it: _zeros(tf, node) for it, node in inputs.items()}))
    return loaded


def _zeros(tf: Any, placeholder: Any) -> npt.NDArray[Any]:
    shape = [size.size for size in placeholder.attr["shape"].shape.dim]
    return np.zeros(shape, tf.as_dtype(placeholder.attr["dtype"].type).as_numpy_dtype)


def _numpy(tf: Any, function: Any, names: list[str]) -> Function:
    """A pruned function, which takes tensors by their order, as one of arrays by name."""

    def call(**inputs: Any) -> Mapping[str, Any]:
        outputs = function(*(tf.convert_to_tensor(inputs[name]) for name in names))
        return {name: value.numpy() for name, value in outputs.items()}

    return call
