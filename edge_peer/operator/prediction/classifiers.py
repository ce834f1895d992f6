"""A trained model that gives logits of examples: the int8 file of a run, or its float32 weights."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from aggregator_core.layout import LayoutError
from edge_peer.config import load_config
from edge_peer.errors import ConfigError, ResourceError
from edge_peer.operator.runs.files import CONFIG, INT8_MODEL, MODEL
from edge_peer.trainers.artifacts import INT8_RECIPE, INT8_TEMPLATE, ModelArtifacts, ModelError, load_artifacts
from edge_peer.trainers.interface import F32, U8
from edge_peer.trainers.runtimes import load_runtime

#: Examples of an invocation of an int8 model; a float model has its own number in its graph.
BATCH = 32
#: Stands in every TFLite file, behind four bytes.
TFLITE = b"TFL3"


class Classifier(Protocol):
    """A model to predict with.

    Attributes:
        path: The file that its weights came from.
        runtime: Name and version of what runs it.
        input_shape: Of one example, uint8.
        classes: How many there are.
        batch: Most examples that `logits` takes.
    """

    path: Path
    runtime: str
    input_shape: tuple[int, ...]
    classes: int
    batch: int

    def logits(self, x: U8) -> F32:
        """Logits (n, classes), float32, of examples (n, ...), uint8."""


class Int8Classifier:
    """A TFLite file that takes uint8 examples and gives int8 logits.

    One output column stands for two classes, as the logit of class 1 against 0.

    Args:
        path: The file.

    Raises:
        ResourceError: It is not there, is no such file, or no interpreter is installed.
    """

    batch = BATCH

    def __init__(self, path: Path) -> None:
        self.path = path
        content = _read(path)
        if content[4:8] != TFLITE:
            raise ResourceError(f"{path}: is not a TFLite file; name a run's folder or its {INT8_MODEL}")
        if not _is_whole(content):
            raise ResourceError(f"{path}: is cut off at {len(content)} bytes; copy it again")
        if path.name == INT8_TEMPLATE and path.with_name(INT8_RECIPE).is_file():
            raise ResourceError(
                f"{path}: is the template that boards write their weights into, and was not trained; name a run's "
                f"folder or its {INT8_MODEL}"
            )
        self.runtime, module = load_runtime()
        try:
            # One thread: a small model is faster with it.
            self._interpreter: Any = module.Interpreter(model_content=content, num_threads=1)
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            _check(path, inputs, outputs)
            self._entry, self._result = inputs[0]["index"], outputs[0]["index"]
            self._allocate(BATCH)
        except (ValueError, RuntimeError) as error:
            raise _unusable(path, self.runtime, error) from None
        scale, zero_point = outputs[0]["quantization"]
        self._scale, self._zero_point = np.float32(scale), np.float32(zero_point)
        self.input_shape = tuple(int(it) for it in inputs[0]["shape"][1:])
        self.classes = max(2, int(outputs[0]["shape"][-1]))

    def logits(self, x: U8) -> F32:
        """See `Classifier.logits`."""
        if len(x) != self._allocated:
            self._allocate(len(x))
        self._interpreter.set_tensor(self._entry, x)
        self._interpreter.invoke()
        values: F32 = (self._interpreter.get_tensor(self._result).astype(np.float32) - self._zero_point) * self._scale
        # Against zero, so that the sign decides, and the softmax is a sigmoid.
        return values if values.shape[1] > 1 else np.hstack([np.zeros_like(values), values])

    def _allocate(self, batch: int) -> None:
        shape = self._interpreter.get_input_details()[0]["shape"][1:]
        self._interpreter.resize_tensor_input(self._entry, [batch, *(int(it) for it in shape)])
        self._interpreter.allocate_tensors()
        self._allocated = batch


class FloatClassifier:
    """The exported model with a federation's float32 weights.

    Args:
        path: The weights, a safetensors file.
        artifacts: The exported model that they belong to.

    Raises:
        ResourceError: The file is not there or does not fit, or no interpreter is installed.
    """

    def __init__(self, path: Path, artifacts: ModelArtifacts) -> None:
        self.path = path
        try:
            self._weights = artifacts.layout.join(load(_read(path)))
        except (SafetensorError, LayoutError) as error:
            raise ResourceError(
                f"{path}: does not hold weights of {artifacts.model_id} in {artifacts.folder} ({error}); name the "
                "artifacts that it was trained with: --artifacts FOLDER"
            ) from None
        if not np.isfinite(self._weights).all():
            raise ResourceError(f"{path}: holds weights that are not finite; train with a smaller learning rate")
        self.runtime, module = load_runtime()
        try:
            self._interpreter = module.Interpreter(model_path=str(artifacts.train_path), num_threads=1)
            self._infer = self._interpreter.get_signature_runner("infer")
        except (ValueError, RuntimeError) as error:
            raise _unusable(artifacts.train_path, self.runtime, error) from None
        self.input_shape, self.classes = artifacts.input_shape, artifacts.classes
        self.batch = artifacts.evaluation_batch_size
        self._x = np.zeros((self.batch, *self.input_shape), np.uint8)
        self._y = np.zeros(self.batch, np.int32)

    def logits(self, x: U8) -> F32:
        """See `Classifier.logits`."""
        self._x[: len(x)] = x
        values: F32 = np.array(self._infer(weights=self._weights, x=self._x, y=self._y)["logits"][: len(x)])
        return values


def open_classifier(where: Path, artifacts: Path | None, as_float: bool) -> Classifier:
    """The model that a user has named.

    Args:
        where: A run's folder, a TFLite file, or a safetensors file of weights.
        artifacts: The exported model's folder, for float32 weights; None: the one in the run's config.toml.
        as_float: Take the float32 weights of a run that has an int8 model too.

    Raises:
        ResourceError: There is no such model, or it cannot be used.
    """
    if where.is_dir():
        int8, weights = where / INT8_MODEL, where / MODEL
        if int8.is_file() and not as_float:
            return Int8Classifier(int8)
        if not weights.is_file():
            # The int8 model is the one that a user expects; a model without QAT has none.
            missing = MODEL if as_float else f"{INT8_MODEL} and no {MODEL}"
            raise ResourceError(f"{where}: has no {missing}; name the folder of a run that has ended{_runs(where)}")
        return FloatClassifier(weights, _artifacts(weights, artifacts))
    if not where.exists():
        raise ResourceError(f"{where}: no such run or file; name a run's folder{_runs(where)}")
    if where.suffix == ".safetensors":
        return FloatClassifier(where, _artifacts(where, artifacts))
    if as_float:
        raise ResourceError(f"{where}: --float takes a run's folder, or {MODEL} with --artifacts FOLDER")
    return Int8Classifier(where)


def _artifacts(weights: Path, folder: Path | None) -> ModelArtifacts:
    """The exported model of weights: in the folder that was named, or where the run's configuration says."""
    if folder is not None:
        return load_artifacts(folder)
    config = weights.with_name(CONFIG)
    remedy = "name the folder of the model's artifacts: --artifacts FOLDER"
    if not config.is_file():
        raise ResourceError(f"{weights}: there is no {CONFIG} beside it that says which model it is of; {remedy}")
    try:
        return load_artifacts(load_config(config).model.artifacts)
    except ConfigError as error:
        raise ResourceError(f"{error.problems[0]}; or {remedy}") from None
    except ModelError as error:
        raise ResourceError(f"{config}: [model] artifacts: {error}; or {remedy}") from None


def _runs(where: Path) -> str:
    """The runs that stand beside or in a path, as the end of a sentence."""
    folders = {path.parent for folder in (where, where.parent) for path in folder.glob(f"*/{MODEL}")}
    found = sorted(str(it) for it in folders if it != where)
    return f", such as {found[-1]}" if found else ", such as runs/latest"


def _check(path: Path, inputs: list[Any], outputs: list[Any]) -> None:
    """Whether a file takes one batch of examples and gives their logits; raises ResourceError."""
    if len(inputs) != 1 or len(outputs) != 1:
        raise ResourceError(
            f"{path}: takes {len(inputs)} tensors and gives {len(outputs)}, as the file that boards train with does; "
            f"name a run's folder, its {INT8_MODEL}, or its {MODEL} with --artifacts FOLDER"
        )
    for what, tensor, wanted in (("input", inputs[0], np.uint8), ("output", outputs[0], np.int8)):
        if tensor["dtype"] is not wanted:
            raise ResourceError(
                f"{path}: its {what} is {np.dtype(tensor['dtype']).name}, needs {np.dtype(wanted).name}; name an int8 "
                "model that a run has made"
            )
    shapes = [it["shape"].tolist() for it in (inputs[0], outputs[0])]
    if len(shapes[0]) < 2 or len(shapes[1]) != 2 or not outputs[0]["quantization"][0] > 0:
        raise ResourceError(
            f"{path}: takes shape {shapes[0]} and gives {shapes[1]}, not quantized logits (examples, classes); name an "
            "int8 model that a run has made"
        )


def _is_whole(content: bytes) -> bool:
    """Whether a TFLite file goes on to the end of its operator codes, which stand last in it.

    tflite-runtime does not look: it crashes with a file that was cut off.

    Source: the internals of FlatBuffers (https://flatbuffers.dev/internals), and TFLite's schema, where
    `operator_codes` is the second field of `Model`.
    """

    def number(kind: str, at: int) -> int:
        value: int = struct.unpack_from(kind, content, at)[0]
        return value

    try:
        root = number("<I", 0)
        field = root + number("<H", root - number("<i", root) + 6)
        codes = field + number("<I", field)
        for index in range(number("<I", codes)):
            entry = codes + 4 + 4 * index
            table = entry + number("<I", entry)
            if table + number("<H", table - number("<i", table) + 2) > len(content):
                return False
    except struct.error:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror}); name a run's folder or its model") from None


def _unusable(path: Path, runtime: str, error: Exception) -> ResourceError:
    reason = " ".join(str(error).split())
    return ResourceError(f"{path}: {runtime} cannot load it ({reason}); copy it again, or take another run's")
