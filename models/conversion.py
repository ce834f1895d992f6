"""Traced functions as the files that boards run: TFLite for the interpreter, a graph for TensorFlow."""

from __future__ import annotations

import tempfile
from typing import Any

import tensorflow as tf

from models.errors import ExportError


def to_tflite(functions: dict[str, Any]) -> bytes:
    """Functions as the signatures of one TFLite file; the converter refuses whatever is not a builtin operation.

    Raises:
        ExportError: An operation is none of TFLite's.
    """
    module = tf.Module()
    for name, function in functions.items():
        setattr(module, name, function)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(
            module,
            folder,
            signatures=functions,
            # Otherwise TensorFlow looks the gradients up in its own registry when it loads the model again.
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content: bytes = converter.convert()
        except Exception as error:
            raise ExportError(f"the model needs operations that boards do not have: {error}") from error
    return content


def to_graph(functions: dict[str, Any]) -> bytes:
    """Functions as one serialized GraphDef: inputs are `<function>/<input>`, outputs `<function>/out/<output>`."""
    graph = tf.Graph()
    with graph.as_default():
        for name, function in functions.items():
            outputs = {key: tensor.name for key, tensor in function.structured_outputs.items()}
            found = tf.graph_util.import_graph_def(
                function.graph.as_graph_def(), return_elements=list(outputs.values()), name=name
            )
            for key, tensor in zip(outputs, found, strict=True):
                tf.identity(tensor, name=f"{name}/out/{key}")
    content: bytes = graph.as_graph_def().SerializeToString(deterministic=True)
    return content
