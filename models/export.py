"""Turn a Keras model into what a board trains with: `python -m models.export models/image_cnn.py`.

The model's module has a function `build()` that returns a Keras model of logits over uint8 inputs, and the constants
`BATCH`, `EVALUATION_BATCH` and `CLASSES`. A model that is compiled says its loss and optimizer so; without, they are
sparse categorical cross-entropy and SGD. With `QAT = "full"` (or "weights") it is trained to be quantized, with
`WEIGHT_BITS = 4` to sixteen values a weight. `DATASET` is what the demo trains it on. Written are, into one folder:

    train.tflite         signatures `train` (one optimizer step) and `infer`, of builtin TFLite operations only, on one
                         flat float32 weight vector
    train.graph          the same functions for TensorFlow, with its own gradients
    int8.tflite          with QAT: the model in integers, into which a board writes the weights of the federation
    int8.json            where in it they stand
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
from dataclasses import replace
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

    from models import quantization
    from models.checks import REMEDY, check_converted, check_forward, check_model, check_training
    from models.conversion import to_graph, to_tflite
    from models.training.losses import loss_of
    from models.training.optimizers import optimizer_of
    from models.training.step import Functions, Recipe, state_of
    from models.unrolled import unroll
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

from aggregator_core.layout import Layout
from edge_peer.trainers.artifacts import DATASET
from models.errors import ExportError

__all__ = ["REMEDY", "ExportError", "export", "load_module", "main", "prepared"]

FORMAT = 2
#: What a board's manifest takes as a model's name.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: What a model's file says as QAT when it is not to be quantized, and when it says nothing.
OFF = "off"
#: Fields of the manifest that two boards must share to train together.
FEDERATED = ("model_id", "layout", "input", "classes", "loss", "optimizer", "batch_size", "files")


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


def prepared(module: ModuleType, seed: int) -> Recipe:
    """A model's module as what its training step is made of.

    Args:
        module: From `load_module`.
        seed: Of the initial weights.

    Raises:
        ExportError: The model, its loss or its optimizer is none that boards have.
    """
    # Layers without a name are numbered, and the names are part of the digest: from one on, whatever was built before.
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = module.build()
    if not isinstance(model, keras.Model) or not model.built or not isinstance(model.input_shape, tuple):
        raise ExportError("build() must return a Keras model with one keras.Input")
    loss = loss_of(model)
    unroll(model)
    check_model(model, module, loss)
    recipe = Recipe(
        model,
        loss,
        optimizer_of(model),
        module.BATCH,
        module.EVALUATION_BATCH,
        module.CLASSES,
        getattr(module, "DATASET", DATASET),
    )
    mode = getattr(module, "QAT", OFF)
    if mode == OFF:
        return recipe
    if mode not in quantization.training.MODES:
        modes = ", ".join(repr(it) for it in (OFF, *quantization.training.MODES))
        raise ExportError(f"QAT is {mode!r}: choose one of {modes}")
    try:
        plan = quantization.plan.make_plan(model, getattr(module, "WEIGHT_BITS", 8))
        trained = quantization.training.prepare(model, plan, mode)
    except quantization.QuantizationError as error:
        raise ExportError(str(error)) from None
    return replace(
        recipe, model=trained, plan=plan, kernels=lambda parts: quantization.training.fake_quantize_kernels(parts, plan)
    )


def traced(recipe: Recipe, builtin: bool) -> tuple[Functions, dict[str, Any]]:
    """A recipe's functions, and the two of them by name; raises ExportError."""
    functions = Functions(recipe, builtin)
    # First: the gradient of an operation that is refused may not even be traceable.
    check_forward(recipe.model, functions.infer)
    train = functions.trace_train()
    check_training(recipe.model, train)
    return functions, {"train": train, "infer": functions.infer}


def int8_files(recipe: Recipe, layout: Layout, seed: int) -> dict[str, bytes]:
    """The integer file that boards write their weights into, and where in it; raises ExportError."""
    try:
        template, places = quantization.template.make_template(recipe.model, recipe.plan, layout, seed)
    except quantization.QuantizationError as error:
        raise ExportError(str(error)) from None
    return {"int8.tflite": template, "int8.json": json.dumps(places, sort_keys=True, separators=(",", ":")).encode()}


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
    recipe = prepared(load_module(path), seed)
    model = recipe.model
    functions, signatures = traced(recipe, builtin=True)
    layout = functions.layout
    variables = [*model.trainable_variables, *state_of(model)]
    vector = np.concatenate([np.asarray(it, np.float32).reshape(-1) for it in variables])
    files = {
        "initial.safetensors": save(layout.split(vector)),
        "train.tflite": to_tflite(signatures),
        "train.graph": to_graph(traced(recipe, builtin=False)[1]),
    }
    check_converted(files["train.tflite"], signatures, model, vector, recipe.classes)
    if recipe.plan is not None:
        files |= int8_files(recipe, layout, seed)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "model_id": path.stem,
        "source": {"file": path.name, "sha256": _sha256(path.read_bytes())},
        "parameters": functions.trained_size,
        "layout": layout.to_json(),
        "input": {"shape": list(model.input_shape[1:]), "dtype": "uint8", "scaling": "in the model's graph"},
        "classes": recipe.classes,
        "loss": recipe.loss.to_json(),
        "optimizer": recipe.optimizer.to_json(),
        "dataset": recipe.dataset,
        "learning_rate": recipe.optimizer.learning_rate,
        "batch_size": recipe.batch,
        "evaluation_batch_size": recipe.evaluation_batch,
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
