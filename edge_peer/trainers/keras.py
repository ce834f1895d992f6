"""Train with TensorFlow, on boards that have it and a GPU: the Keras model's own graph, with TensorFlow's gradients.

The exporter writes the traced functions beside those for the interpreter, so that neither Keras nor the model's Python
file is needed on a board; a federation may mix this backend with the others, for updates are made of the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_peer.errors import ResourceError
from edge_peer.trainers.artifacts import GRAPH, ModelArtifacts, ModelError
from edge_peer.trainers.steps import StepTrainer

FUNCTIONS = ("train", "infer")


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
        super().__init__(artifacts, f"tensorflow {tf.__version__}", train[0], infer[0], train[1])


def load_graph(tf: Any, content: bytes) -> list[tuple[Callable[..., Mapping[str, Any]], dict[str, tuple[int, ...]]]]:
    """The exported functions: for each, itself and the shapes of its inputs."""
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
        shapes = {it: tuple(size.size for size in node.attr["shape"].shape.dim) for it, node in inputs.items()}
        loaded.append((_numpy(tf, function, list(inputs)), shapes))
    return loaded


def _numpy(tf: Any, function: Any, names: list[str]) -> Callable[..., Mapping[str, Any]]:
    """A pruned function, which takes tensors by their order, as one of arrays by name."""

    def call(**inputs: Any) -> Mapping[str, Any]:
        outputs = function(*(tf.convert_to_tensor(inputs[name]) for name in names))
        return {name: value.numpy() for name, value in outputs.items()}

    return call
