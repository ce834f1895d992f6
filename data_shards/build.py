"""Divide a data set into a folder of shards with a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_shards.datasets import Dataset
from data_shards.errors import DataError
from data_shards.shard import Shard, encode_shard, write_atomically
from data_shards.split import BY_SUBJECT, Division, Indices, divide, limit, matching_test, own_test

FORMAT = 1
MANIFEST = "manifest.json"


def build(
    dataset: Dataset,
    peers: Sequence[str],
    scheme: str,
    seed: int,
    out: Path,
    examples: int | None = None,
    test_examples: int | None = None,
) -> dict[str, Any]:
    """Write one shard a peer and `manifest.json`, the same bytes for the same arguments.

    The manifest goes first and comes last, so a folder with a manifest is whole; the shards that an earlier manifest
    lists go too: their examples are in the new ones.

    Args:
        dataset: What is divided.
        peers: Names, one shard each.
        scheme: See `split`.
        seed: Of everything that is drawn.
        out: The folder; made if it is not there.
        examples: At most this many training examples a peer.
        test_examples: At most this many test examples a peer.

    Returns:
        The manifest.

    Raises:
        DataError: The division is impossible, or the folder cannot be written to.
    """
    rng = np.random.default_rng(seed)
    parts = divide(scheme, dataset.y_train, len(peers), rng, dataset.subjects_train)
    train = [limit(part, examples, rng) for part in parts]
    test = [limit(part, test_examples, rng) for part in _tests(dataset, scheme, parts, train, rng)]
    entries = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove_earlier(out)
        for peer, mine, tested in zip(peers, train, test, strict=True):
            entries[peer] = _write_shard(dataset, peer, mine, tested, scheme, seed, out)
        manifest = {
            "format": FORMAT,
            "dataset": dataset.name,
            "dataset_sha256": dataset.sha256,
            "classes": dataset.classes,
            "scheme": scheme,
            "seed": seed,
            "examples_max": examples,
            "test_examples_max": test_examples,
            "peers": entries,
        }
        write_atomically(out / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n")
    except OSError as error:
        raise DataError(
            f"--out {out}: cannot be written to ({error.strerror}): choose another folder, or free some space"
        ) from None
    return manifest


def _tests(dataset: Dataset, scheme: str, parts: Division, train: Division, rng: np.random.Generator) -> Division:
    """Each peer's part of the test set: of its own subjects, or of the classes of its training examples."""
    if scheme == BY_SUBJECT and dataset.subjects_train is not None and dataset.subjects_test is not None:
        # Of all its subjects, also of one of whom the limit has left no training example.
        return own_test([dataset.subjects_train[part] for part in parts], dataset.subjects_test)
    return matching_test([dataset.y_train[part] for part in train], dataset.y_test, rng)


def _write_shard(
    dataset: Dataset, peer: str, mine: Indices, tested: Indices, scheme: str, seed: int, out: Path
) -> dict[str, Any]:
    """Write one peer's file; returns its entry of the manifest."""
    shard = Shard(
        x_train=dataset.x_train[mine],
        y_train=dataset.y_train[mine],
        x_test=dataset.x_test[tested],
        y_test=dataset.y_test[tested],
        classes=dataset.classes,
        metadata={
            "peer": peer,
            "dataset": dataset.name,
            "dataset_sha256": dataset.sha256,
            "scheme": scheme,
            "seed": str(seed),
        },
    )
    content = encode_shard(shard)
    write_atomically(out / f"{peer}.safetensors", content)
    # Only where the data set says it.
    owners = {} if dataset.subjects_train is None else {"subjects": np.unique(dataset.subjects_train[mine]).tolist()}
    return {
        **owners,
        "file": f"{peer}.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "train": len(mine),
        "test": len(tested),
        "train_classes": _counts(shard.y_train, dataset.classes),
        "test_classes": _counts(shard.y_test, dataset.classes),
    }


def _remove_earlier(out: Path) -> None:
    manifest = out / MANIFEST
    try:
        peers = json.loads(manifest.read_bytes())["peers"]
    except (OSError, ValueError, KeyError, TypeError):
        peers = {}
    manifest.unlink(missing_ok=True)
    for peer in peers if isinstance(peers, dict) else ():
        if Path(peer).name == peer:
            (out / f"{peer}.safetensors").unlink(missing_ok=True)


def _counts(labels: npt.NDArray[np.int32], classes: int) -> list[int]:
    return [int(count) for count in np.bincount(labels, minlength=classes)]
