"""A model's manifest, beside the files of a small model: JSON.

The mutator makes digests right again: they protect against damage, and not against whoever wrote the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from typing import Any

import numpy as np
from safetensors.numpy import save

from aggregator_core.layout import Layout
from edge_peer.trainers.artifacts import FEDERATED, FILES, ModelError, load_artifacts
from tests.fuzz.checks import assert_clean, assert_finite
from tests.fuzz.mutators import Bytes, json_bytes
from tests.fuzz.scratch import scratch, write
from tests.fuzz.target import Target
from tests.fuzz.targets.codecs import LAYOUT

FOLDER = scratch()
CONTENTS = {
    "initial.safetensors": save(LAYOUT.split(np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))),
    "train.tflite": b"never opened here",
}
assert set(CONTENTS) == set(FILES)
for name, content in CONTENTS.items():
    write(FOLDER, name, content)


def run(data: bytes) -> str:
    write(FOLDER, "manifest.json", data)
    try:
        found = load_artifacts(FOLDER)
    except ModelError as error:
        assert_clean(str(error), 5000 + len(data))
        return "refused"
    assert found.layout.size == LAYOUT.size
    assert Layout.from_json(json.loads(json.dumps(found.layout.to_json()))) == found.layout
    assert_finite((found.learning_rate, found.initial(), found.input_shape, found.optimizer))
    return "artifacts"


def repaired(text: bytes) -> bytes:
    """With the digests that its fields and files have."""
    manifest = json.loads(text)
    with contextlib.suppress(TypeError, KeyError, AttributeError):
        for name, content in CONTENTS.items():
            if name in manifest["files"]:
                manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest()}
        shared: dict[str, Any] = {name: manifest[name] for name in FEDERATED}
        digested = json.dumps(shared, sort_keys=True, separators=(",", ":")).encode()
        manifest["digest"] = hashlib.sha256(digested).hexdigest()
    return json.dumps(manifest, separators=(",", ":")).encode()


def _mutate(data: bytes, size: int, seed: int, mutate: Bytes) -> bytes:
    rng = random.Random(seed)
    changed = json_bytes(data, size, rng, mutate)
    with contextlib.suppress(ValueError, RecursionError):
        return repaired(changed) if rng.randrange(4) else changed
    return changed


TARGET = Target(
    run,
    frozenset({"refused", "artifacts"}),
    ("edge_peer.trainers.artifacts", "edge_peer.trainers.optimizer", "aggregator_core.layout"),
    length_max=6144,
    mutate=_mutate,
    words=tuple(f'"{name}":'.encode() for name in (*FEDERATED, "format", "digest", "learning_rate", "dataset")),
)
