"""What a daemon needs before it starts: model, shard and run, checked against each other."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_peer.config import Config, ModelSection, PeerSection
from edge_peer.errors import ResourceError
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.shell.resources import load_resources
from edge_peer.trainers.artifacts import FEDERATED

ARTIFACTS = Path(__file__).parent.parent / "models/artifacts/sensor_cnn"


def config_of(folder: Path, **optimizer: Any) -> Config:
    """A configuration for the model, with another optimizer in its manifest."""
    artifacts = folder / "model"
    shutil.copytree(ARTIFACTS, artifacts)
    manifest = json.loads((artifacts / "manifest.json").read_bytes())
    manifest["optimizer"] |= optimizer
    shared = {name: manifest[name] for name in FEDERATED}
    manifest["digest"] = hashlib.sha256(json.dumps(shared, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (artifacts / "manifest.json").write_text(json.dumps(manifest))
    return Config(PeerSection("kitchen", folder / "state"), ModelSection(artifacts))


def test_a_model_without_a_control_variate_is_told_before_a_run_begins(tmp_path: Path) -> None:
    config = config_of(tmp_path, name="adam")
    # All else can be done with it.
    assert load_resources(config)[0].optimizer.name == "adam"
    with pytest.raises(ResourceError, match=r"the model's optimizer is 'adam', .*SGD .*or do without control variates"):
        load_resources(replace(config, run=RunSettings(scaffold=True)))


def test_control_variates_of_sgd_with_momentum_are_known(tmp_path: Path) -> None:
    config = replace(config_of(tmp_path, momentum=0.9), run=RunSettings(scaffold=True))
    artifacts, shard = load_resources(config)
    assert (artifacts.optimizer.momentum, shard) == (0.9, None)
