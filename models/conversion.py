"""Traced functions as the files that boards run: TFLite for the interpreter, a graph for TensorFlow."""

from __future__ import annotations

import tempfile
from typing import Any

import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from models.errors import ExportError


def to_tflite(functions: dict[str, Any]) -> bytes:
    """Functions as the signatures of one TFLite file; the converter refuses whatever is not a builtin operation.

    The first is the file's primary graph, the only one that tflite-runtime 2.14 gives to XNNPACK.

    Raises:
        ExportError: An operation is none of TFLite's.
    """
    # The converter sorts them by name; these are as long as those that they stand for.
    names = list(functions)
    sorted_names = [f"{number}{name[1:]}" for number, name in enumerate(names)]
    functions = dict(zip(sorted_names, functions.values(), strict=True))
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
            content = bytearray(converter.convert())
        except Exception as error:
            raise ExportError(f"the model needs operations that boards do not have: {error}") from error
    file = schema.Model.GetRootAs(content, 0)
    for index, name in enumerate(names):
        table = file.SignatureDefs(index)._tab
        # Field 2 is the key, a string with its length in front.
        start = table.Indirect(table.Pos + table.Offset(8)) + 4
        content[start : start + len(name)] = name.encode()
    return bytes(content)


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
    definition = graph.as_graph_def()
    for node in definition.node:
        # Gradients are in the graph already; the name counts what was traced in this process before.
        node.attr.pop("_gradient_op_type", None)
    content: bytes = definition.SerializeToString(deterministic=True)
    return content
