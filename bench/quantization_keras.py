"""Quantize trained weights with TensorFlow, as one would without QAT; a part of `bench.quantization`.

    .venv-models/bin/python -m bench.quantization_keras models/image_cnn.py ARTIFACTS FOLDER

FOLDER holds .npz files of `weights`, shape (p,), float32, and `images`, shape (n, ...), uint8. Beside each comes a
.tflite file of the same name: full integer quantization after training, uint8 in and int8 logits out.

Source: https://ai.google.dev/edge/litert/models/post_training_integer_quant.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from edge_peer.shell.store import write_atomically
from edge_peer.trainers.artifacts import load_artifacts
from models.export import load_module


def quantize(model: Any, images: Any) -> bytes:
    """The model in integers, with ranges that these images give; shape (n, ...), uint8."""

    def representative() -> Iterator[list[Any]]:
        for image in images:
            yield [image[None].astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.int8
    content: bytes = converter.convert()
    return content


def main() -> None:
    """Quantize each file of weights."""
    parser = argparse.ArgumentParser(prog="python -m bench.quantization_keras", description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path, help="the model's Python file")
    parser.add_argument("artifacts", type=Path, help="its folder of artifacts, exported with QAT off")
    parser.add_argument("folder", type=Path, help="with .npz files of weights and images")
    options = parser.parse_args()
    layout = load_artifacts(options.artifacts).layout
    for path in sorted(options.folder.glob("*.npz")):
        keras.utils.clear_session()
        model = load_module(options.source).build()
        with np.load(path) as given:
            parts, images = layout.split(given["weights"]), given["images"]
        variables = {it.path: it for it in [*model.trainable_variables, *model.non_trainable_variables]}
        for name, values in parts.items():
            variables[name].assign(values)
        write_atomically(path.with_suffix(".tflite"), quantize(model, images))


if __name__ == "__main__":
    main()
