"""The exported model in a folder: every field and digest is checked before anything uses it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from aggregator_core.layout import Layout, LayoutError
from edge_peer.errors import ResourceError
from edge_peer.protocol.topics import is_name
from edge_peer.trainers.interface import F32
from edge_peer.trainers.optimizer import LocalOptimizer

FORMAT = 2
#: What a model is made for that does not say.
DATASET = "fashion-mnist"
FILES = ("initial.safetensors", "train.tflite")
#: For boards with TensorFlow.
GRAPH = "train.graph"
#: What an int8 model is made of: the integer file, and where its numbers stand. Models that are not quantized lack it.
INT8_TEMPLATE = "int8.tflite"
INT8_RECIPE = "int8.json"
#: Fields that two boards must share to train together; their digest is the model's.
FEDERATED = ("model_id", "layout", "input", "classes", "loss", "optimizer", "batch_size", "files")


class ModelError(ResourceError):
    """A model's artifacts are missing or damaged; the message names file, field, value and remedy."""


@dataclass(frozen=True, slots=True)
class ModelArtifacts:
    """A model as a board needs it.

    Attributes:
        digest: Same on two boards if and only if they can train together.
        input_shape: Of one example, uint8.
        initial_sha256: Digest of the initial weights as a flat little-endian float32 vector.
        learning_rate: What the model was compiled with.
        optimizer: Likewise.
        dataset: What it is made for, as `python -m data_shards --dataset` takes it; the demo's default.
        files: Digest of each file that was exported. Two of them every board needs; which others, depends on it.
    """

    folder: Path
    model_id: str
    digest: str
    layout: Layout
    input_shape: tuple[int, ...]
    classes: int
    batch_size: int
    evaluation_batch_size: int
    initial_sha256: str
    learning_rate: float
    optimizer: LocalOptimizer
    dataset: str
    files: dict[str, str]

    @property
    def train_path(self) -> Path:
        """The TFLite file with the `train` and `infer` signatures."""
        return self.folder / "train.tflite"

    @property
    def graph_path(self) -> Path:
        """The file with the same functions for TensorFlow."""
        return self.folder / GRAPH

    def read(self, name: str) -> bytes:
        """The content of one of `files`; raises ModelError if it is missing or damaged."""
        return _checked(self.folder / "manifest.json", self.folder / name, self.files.get(name))

    def initial(self) -> F32:
        """The weights that every run starts from, shape (p,), float32."""
        return _initial(self.folder / "initial.safetensors", self.layout)


def load_artifacts(folder: Path) -> ModelArtifacts:
    """Read and check a folder of artifacts.

    Raises:
        ModelError: A file is missing, is not the one that the manifest names, or a field is wrong.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise _error(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise _error(path, f"is not JSON ({error})") from None
    if not isinstance(manifest, dict):
        raise _error(path, "is not an object")
    fields = _Fields(path, manifest)
    if fields.integer("format", 1, 1000) != FORMAT:
        raise _error(path, f"format is {manifest['format']}, this program reads {FORMAT}")
    files = {name: _digest(path, name, facts) for name, facts in fields.object("files").items()}
    for name in FILES:
        _checked(path, folder / name, files.get(name))
    shared = {name: fields.get(name) for name in FEDERATED}
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    if fields.get("digest") != digest:
        raise _error(path, f"digest is {str(manifest['digest'])[:12]!r}, but its fields make {digest[:12]!r}")
    try:
        layout = Layout.from_json(manifest["layout"])
    except LayoutError as error:
        raise _error(path, f"layout: {error}") from None
    shape = fields.object("input").get("shape")
    if not isinstance(shape, list) or not shape or not all(_positive(size) for size in shape):
        raise _error(path, f"input.shape is {shape!r}, not a list of positive integers")
    model_id = fields.get("model_id")
    if not isinstance(model_id, str) or not is_name(model_id):
        raise _error(path, f"model_id is {model_id!r}, not a name")
    try:
        optimizer = LocalOptimizer.from_json(fields.object("optimizer"))
    except ValueError as error:
        raise _error(path, str(error)) from None
    vector = _initial(folder / "initial.safetensors", layout)
    return ModelArtifacts(
        folder=folder,
        model_id=model_id,
        digest=digest,
        layout=layout,
        input_shape=tuple(shape),
        classes=fields.integer("classes", 2, 1_000_000),
        batch_size=fields.integer("batch_size", 1, 65_536),
        evaluation_batch_size=fields.integer("evaluation_batch_size", 1, 65_536),
        initial_sha256=hashlib.sha256(vector.astype("<f4", copy=False).tobytes()).hexdigest(),
        learning_rate=fields.positive("learning_rate", 1e3),
        optimizer=optimizer,
        dataset=fields.text("dataset", DATASET),
        files=files,
    )


class _Fields:
    def __init__(self, path: Path, value: dict[str, Any]) -> None:
        self._path, self._value = path, value

    def get(self, name: str) -> Any:
        if name not in self._value:
            raise _error(self._path, f"{name} is missing")
        return self._value[name]

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.get(name)
        if not _positive(value) or not low <= value <= high:
            raise _error(self._path, f"{name} is {value!r}, not an integer from {low} to {high}")
        return int(value)

    def text(self, name: str, default: str) -> str:
        value = self._value.get(name, default)
        if not isinstance(value, str) or not value:
            raise _error(self._path, f"{name} is {value!r}, not a text")
        return value

    def positive(self, name: str, high: float) -> float:
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high:
            raise _error(self._path, f"{name} is {value!r}, not a number above 0 and up to {high:g}")
        return float(value)

    def object(self, name: str) -> dict[str, Any]:
        value = self.get(name)
        if not isinstance(value, dict):
            raise _error(self._path, f"{name} is {value!r}, not an object")
        return value


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _digest(manifest: Path, name: str, facts: Any) -> str:
    digest = facts.get("sha256") if isinstance(facts, dict) else None
    if not isinstance(digest, str):
        raise _error(manifest, f"files.{name} has no sha256")
    return digest


def _checked(manifest: Path, path: Path, expected: str | None) -> bytes:
    if expected is None:
        raise _error(manifest, f"files.{path.name} is missing")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _error(path, f"cannot be read ({error.strerror})") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise _error(path, f"is damaged: sha256 {digest[:12]}, the manifest says {expected[:12]}")
    return content


def _initial(path: Path, layout: Layout) -> F32:
    try:
        vector = layout.join(load(path.read_bytes()))
    except (OSError, SafetensorError, LayoutError) as error:
        raise _error(path, f"does not hold the layout's weights ({error})") from None
    if not np.isfinite(vector).all():
        raise _error(path, "holds weights that are not finite")
    return vector


def _error(path: Path, problem: str) -> ModelError:
    return ModelError(f"{path}: {problem}; make the artifacts with `make model`, or deploy them again")
