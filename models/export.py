"""Turn a Keras model into what a board trains with: `python -m models.export models/image_cnn.py`.

The model's module has a function `build()` that returns a Keras model of logits over uint8 inputs, and the constants
`BATCH`, `EVALUATION_BATCH` and `CLASSES`. Written are, into one folder:

    train.tflite         signatures `train` (one SGD step) and `infer`, of builtin TFLite operations only, on one flat
                         float32 weight vector
    initial.safetensors  the weights that every run starts from
    manifest.json        layout of the vector, input contract, and digests of all of it
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Whatever Keras is set up for elsewhere on this machine.
os.environ["KERAS_BACKEND"] = "tensorflow"

try:
    import keras
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from models import gradients
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    print(
        f"models.export: {error.name} is not installed here; run `make model`, which makes an environment with it",
        file=sys.stderr,
    )
    raise SystemExit(2) from None
import numpy as np
from safetensors.numpy import save

from aggregator_core.layout import Layout, Tensor

FORMAT = 1
#: A relu within rounding of zero may be on in one and off in the other.
CONVERTED_ERROR_MAX = 1e-3
#: What a board's manifest takes as a model's name.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Of a layer; Keras applies them outside of the graph that is exported.
NOT_APPLIED = ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")
REMEDY = (
    "use Dense, Embedding, Conv1D and Conv2D (without groups), DepthwiseConv2D, SeparableConv2D, max and average "
    "pooling of images and rows, ZeroPadding, Cropping, Flatten, Reshape, Permute, Rescaling, LayerNormalization, "
    "GroupNormalization, Add, Subtract, Multiply, Average, Concatenate, and relu, relu6, leaky_relu, elu, sigmoid, "
    "tanh, softmax over channels, silu, gelu or hard_silu; channels last"
)
#: Fields of the manifest that two boards must share to train together.
FEDERATED = ("model_id", "layout", "input", "classes", "loss", "optimizer", "batch_size", "files")


class ExportError(Exception):
    """The model cannot be exported; the message names the layer and what to use instead."""


def load_module(path: Path) -> ModuleType:
    """Import a model's file by its path; raises ExportError when something that export needs is not in it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ExportError(f"{path}: no such Python file; models/image_cnn.py is an example")
    if NAME.fullmatch(path.stem) is None:
        raise ExportError(f"{path}: {path.stem!r} cannot name a model; use letters, digits, '.', '_' and '-'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("build", "BATCH", "EVALUATION_BATCH", "CLASSES"):
        if not hasattr(module, name):
            raise ExportError(f"{path}: {name} is missing; models/image_cnn.py is an example")
    return module


def layout_of(model: keras.Model) -> Layout:
    """Where the model's trainable variables stand in the flat vector."""
    for layer in _layers(model):
        if layer.non_trainable_variables and not getattr(layer, "layers", None):
            raise ExportError(f"layer {layer.name!r} has state that is not trained, which boards do not keep; {REMEDY}")
    if not model.trainable_variables:
        raise ExportError(f"model {model.name!r} has nothing to train; add a Dense or Conv2D layer")
    tensors, offset = [], 0
    for variable in model.trainable_variables:
        shape = tuple(int(size) for size in variable.shape)
        weight = len(shape) > 1
        tensors.append(
            Tensor(variable.path, shape, offset, len(shape) - 1 if weight else None, "weight" if weight else "bias")
        )
        offset += tensors[-1].size
    return Layout(tuple(tensors))


def _layers(model: keras.Model) -> list[Any]:
    """All layers, those of models within the model too."""
    found = []
    for layer in getattr(model, "layers", []):
        found += [layer, *_layers(layer)]
    return found


def check_model(model: keras.Model, module: ModuleType) -> None:
    """Refuse what would be exported without a word, and then train otherwise than in Keras; raises ExportError."""
    if not isinstance(model, keras.Model) or not model.built or not isinstance(model.input_shape, tuple):
        raise ExportError("build() must return a Keras model with one keras.Input")
    if None in model.input_shape[1:]:
        raise ExportError(f"input has shape {list(model.input_shape[1:])}: boards need every dimension; write it out")
    if tuple(model.output_shape) != (None, module.CLASSES):
        raise ExportError(
            f"layer {model.layers[-1].name!r} gives shape {list(model.output_shape[1:])}, CLASSES is {module.CLASSES}: "
            "end with Dense(CLASSES)"
        )
    for layer in _layers(model):
        extra = [name for name in NOT_APPLIED if getattr(layer, name, None) is not None]
        if extra:
            raise ExportError(f"layer {layer.name!r} has a {extra[0]}, which boards do not apply; leave it out")
        if getattr(layer, "mask_zero", False):
            raise ExportError(f"layer {layer.name!r} masks zeros, which operation NotEqual does; leave mask_zero out")


def cross_entropy(logits: Any, labels: Any, classes: int) -> Any:
    """Sparse softmax cross-entropy per example, written out: the fused operation has no builtin gradient."""
    shifted = logits - tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
    log_sum = tf.math.log(tf.reduce_sum(tf.exp(shifted), axis=-1))
    return log_sum - tf.reduce_sum(shifted * tf.one_hot(labels, classes), axis=-1)


def functions(model: keras.Model, module: ModuleType) -> tuple[Any, Any]:
    """The traced `train` and `infer` functions on the flat weight vector.

    Raises:
        ExportError: The model holds an operation that cannot be differentiated on a board.
    """
    layout = layout_of(model)
    image = tuple(model.input_shape[1:])

    def unpack(vector: Any) -> list[Any]:
        return [tf.reshape(vector[it.offset : it.offset + it.size], it.shape) for it in layout.tensors]

    def forward(weights: list[Any], x: Any, training: bool) -> Any:
        with gradients.written_out_gelu():
            logits, _ = model.stateless_call(weights, [], tf.cast(x, tf.float32), training=training)
        return logits

    @tf.function(autograph=False)
    def train(weights: Any, x: Any, y: Any, sample_weight: Any, learning_rate: Any) -> dict[str, Any]:
        parts = unpack(weights)
        with gradients.with_builtin_gradients():
            losses = cross_entropy(forward(parts, x, True), y, module.CLASSES)
            # A padded batch counts its real examples only; an empty one changes nothing.
            loss = tf.reduce_sum(losses * sample_weight) / tf.maximum(tf.reduce_sum(sample_weight), 1e-12)
            grads = tf.gradients(loss, parts)
        for part, grad in zip(layout.tensors, grads, strict=True):
            if grad is None:
                layer = part.name.split("/")[-2]
                raise ExportError(
                    f"layer {layer!r}: no gradient reaches it through an operation behind it, such as the rounding of "
                    "an Embedding's input; use Embedding on the input only"
                )
        flat = tf.concat([tf.reshape(grad, [-1]) for grad in grads], 0)
        return {"weights": weights - learning_rate * flat, "loss": loss}

    @tf.function(autograph=False)
    def infer(weights: Any, x: Any) -> dict[str, Any]:
        return {"logits": forward(unpack(weights), x, False)}

    vector = tf.TensorSpec((layout.size,), tf.float32, name="weights")
    infer_function = infer.get_concrete_function(
        vector, tf.TensorSpec((module.EVALUATION_BATCH, *image), tf.uint8, name="x")
    )
    # First: the gradient of an operation that is refused may not even be traceable.
    check_forward(model, infer_function)
    train_function = train.get_concrete_function(
        vector,
        tf.TensorSpec((module.BATCH, *image), tf.uint8, name="x"),
        tf.TensorSpec((module.BATCH,), tf.int32, name="y"),
        tf.TensorSpec((module.BATCH,), tf.float32, name="sample_weight"),
        tf.TensorSpec((), tf.float32, name="learning_rate"),
    )
    return train_function, infer_function


def check_forward(model: keras.Model, infer: Any) -> None:
    """Refuse a model whose forward graph holds an operation that cannot be differentiated on a board.

    Also one that ends with a softmax: the loss is that of logits, and would learn little from probabilities.
    """
    layers = {layer.name for layer in _layers(model)}

    def layer_of(name: str) -> str:
        # A layer's operations stand below its name, with a number when it is called once more.
        scopes = [scope if scope in layers else re.sub(r"_\d+$", "", scope) for scope in name.split("/")]
        return next((scope for scope in reversed(scopes) if scope in layers), name)

    for name, kind in gradients.unsupported(infer.graph):
        raise ExportError(f"layer {layer_of(name)!r}: operation {kind} cannot be trained on a board; {REMEDY}")
    last = infer.graph.outputs[0].op
    while last.type in ("Identity", "Reshape"):
        last = last.inputs[0].op
    if last.type == "Softmax":
        raise ExportError(
            f"layer {layer_of(last.name)!r} ends the model with a softmax; boards take logits: leave it out"
        )


def convert(train: Any, infer: Any) -> bytes:
    """Both functions as one TFLite file; the converter refuses whatever is not a builtin operation."""
    module = tf.Module()
    module.train, module.infer = train, infer
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(
            module,
            folder,
            signatures={"train": train, "infer": infer},
            # Otherwise TensorFlow looks the gradients up in its own registry when it loads the model again.
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["train", "infer"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content: bytes = converter.convert()
        except Exception as error:
            raise ExportError(f"the model needs operations that boards do not have: {error}") from error
    return content


def check_converted(content: bytes, train: Any, infer: Any, model: keras.Model, vector: Any, classes: int) -> None:
    """Refuse a file that computes something else than the functions that it was made from.

    The converter rewrites graphs, not always rightly: it takes a relu behind a Dense layer without bias for part of
    that layer, writes the layer as an operation that has no activation, and so drops the relu without a word.
    """
    interpreter = Interpreter(model_content=content)
    rng = np.random.default_rng(0)
    weights = (vector + rng.normal(0, 0.05, vector.size)).astype(np.float32)

    def images(name: str) -> Any:
        shape = interpreter.get_signature_runner(name).get_input_details()["x"]["shape"]
        return rng.integers(0, 256, shape).astype(np.uint8)

    x = images("train")
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "infer": (infer, {"weights": weights, "x": images("infer")}),
        "train": (
            train,
            {
                "weights": weights,
                "x": x,
                "y": rng.integers(0, classes, len(x)).astype(np.int32),
                "sample_weight": (np.arange(len(x)) <= len(x) // 2).astype(np.float32),
                "learning_rate": np.float32(0.1),
            },
        ),
    }
    for name, (function, inputs) in cases.items():
        expected = function(**{key: tf.constant(value) for key, value in inputs.items()})
        found = interpreter.get_signature_runner(name)(**inputs)
        for output, value in expected.items():
            distance = float(np.abs(found[output] - value.numpy()).max())
            if not distance <= CONVERTED_ERROR_MAX * max(1.0, float(np.abs(value.numpy()).max())):
                suspects = [layer.name for layer in _layers(model) if getattr(layer, "use_bias", True) is False]
                where = f"layer {suspects[0]!r}" if suspects else f"model {model.name!r}"
                raise ExportError(
                    f"{where}: the converter has changed what {name} computes ({output} differs by {distance:.3g}); "
                    "use layers with a bias"
                )


def export(path: Path, out: Path, seed: int) -> dict[str, Any]:
    """Write the artifacts of a model's file into a folder; nothing is written when something is wrong.

    Args:
        path: The model's Python file.
        out: The folder.
        seed: Of the initial weights.

    Returns:
        The manifest.

    Raises:
        ExportError: The model cannot be trained on a board.
    """
    module = load_module(path)
    # Layers without a name are numbered, and the names are part of the digest: from one on, whatever was built before.
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = module.build()
    check_model(model, module)
    layout = layout_of(model)
    train, infer = functions(model, module)
    vector = np.concatenate([np.asarray(it, np.float32).reshape(-1) for it in model.trainable_variables])
    files = {"initial.safetensors": save(layout.split(vector)), "train.tflite": convert(train, infer)}
    check_converted(files["train.tflite"], train, infer, model, vector, module.CLASSES)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "model_id": path.stem,
        "source": {"file": path.name, "sha256": _sha256(path.read_bytes())},
        "parameters": layout.size,
        "layout": layout.to_json(),
        "input": {"shape": list(model.input_shape[1:]), "dtype": "uint8", "scaling": "in the model's graph"},
        "classes": module.CLASSES,
        "loss": "sparse_categorical_crossentropy",
        "optimizer": {"name": "sgd"},
        "batch_size": module.BATCH,
        "evaluation_batch_size": module.EVALUATION_BATCH,
        "seed": seed,
        "files": {name: {"sha256": _sha256(content), "bytes": len(content)} for name, content in files.items()},
        "made_with": {"tensorflow": tf.__version__, "keras": keras.__version__},
    }
    shared = {name: manifest[name] for name in FEDERATED}
    manifest["digest"] = _sha256(json.dumps(shared, sort_keys=True, separators=(",", ":")).encode())
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _write(out / name, content)
    # Last: a folder with a manifest is whole.
    _write(out / "manifest.json", json.dumps(manifest, sort_keys=True, indent=2).encode() + b"\n")
    return manifest


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="the model's Python file, such as models/image_cnn.py")
    parser.add_argument("--out", type=Path, help="folder for the artifacts (default: models/artifacts/<model>)")
    parser.add_argument("--seed", type=int, default=1, help="of the initial weights (default: 1)")
    options = parser.parse_args(arguments)
    out = options.out or Path(__file__).parent / "artifacts" / options.model.stem
    try:
        manifest = export(options.model, out, options.seed)
    except ExportError as error:
        print(f"models.export: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {manifest['parameters']} parameters, digest {manifest['digest'][:12]}")
    for name, facts in manifest["files"].items():
        print(f"  {name:20} {facts['bytes']:>8} bytes  sha256 {facts['sha256'][:12]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
