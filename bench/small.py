"""A model of 1,300 parameters and a few small examples a peer: what is measured is everything but the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_shards.build import build
from data_shards.datasets import U8, load_dataset
from tests.live.harness import ROOT

ARTIFACTS = ROOT / "tests/models/small_cnn"
#: The middle of an image of 28x28, by halves, is the model's input.
MARGIN, SIDE = 2, 12


def shards(folder: Path, peers: Sequence[str], examples: int = 2, tests: int = 2) -> Path:
    """One shard a peer: Fashion-MNIST, made as small as the model wants it."""
    dataset = load_dataset("fashion-mnist", say=print)
    small = replace(dataset, x_train=_shrunk(dataset.x_train), x_test=_shrunk(dataset.x_test))
    build(small, list(peers), "iid", 1, folder, examples, tests)
    return folder


def _shrunk(x: U8) -> U8:
    """Means of two by two pixels of the middle; shape (n, 12, 12, 1)."""
    middle = x.reshape(len(x), 28, 28)[:, MARGIN : MARGIN + 2 * SIDE, MARGIN : MARGIN + 2 * SIDE]
    blocks = middle.reshape(len(x), SIDE, 2, SIDE, 2)
    mean: U8 = blocks.mean(axis=(2, 4)).astype(middle.dtype)[..., None]
    return mean
