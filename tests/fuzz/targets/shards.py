"""A peer's shard, and the batches that are read of it.

The mutator makes the digest right again, so that what stands behind it is reached.
"""

from __future__ import annotations

import json
import random

import numpy as np

from data_shards.errors import ShardError
from data_shards.shard import TENSORS, _digest, encode_shard, read_shard, with_shape
from tests.fuzz.checks import assert_clean
from tests.fuzz.mutators import Bytes, join_tensors, split_tensors, tensors_bytes
from tests.fuzz.scratch import scratch, write
from tests.fuzz.target import Target

FOLDER = scratch()
TYPES = {"U8": np.uint8, "I32": np.int32}


def run(data: bytes) -> str:
    try:
        shard = read_shard(write(FOLDER, "roof.safetensors", data))
    except ShardError as error:
        assert_clean(str(error))
        return "refused"
    for x, y in ((shard.x_train, shard.y_train), (shard.x_test, shard.y_test)):
        assert len(x) == len(y) > 0
        assert y.min() >= 0
        assert y.max() < shard.classes
        assert x[np.array([len(x) - 1, 0])].shape == (2, *x.shape[1:])
    again = read_shard(write(FOLDER, "again.safetensors", encode_shard(shard)))
    for name in TENSORS:
        assert np.array_equal(getattr(again, name)[:], getattr(shard, name)[:]), name
    assert again.classes == shard.classes
    flat = with_shape(shard, (*shard.x_train.shape[1:], 1))
    assert flat is not None
    return "shard"


def _mutate(data: bytes, size: int, seed: int, mutate: Bytes) -> bytes:
    rng = random.Random(seed)
    changed = tensors_bytes(data, size, rng, mutate, "peer")
    if rng.randrange(4) == 0:
        return changed
    try:
        header, values = split_tensors(changed)
        arrays = {
            name: np.frombuffer(values[slice(*facts["data_offsets"])], TYPES[facts["dtype"]]).reshape(facts["shape"])
            for name, facts in header.items()
            if name != "__metadata__"
        }
        metadata = header["__metadata__"]
        metadata["sha256"] = _digest(arrays)
        # The package refuses metadata that are no texts.
        header["__metadata__"] = {key: it if isinstance(it, str) else json.dumps(it) for key, it in metadata.items()}
        return join_tensors(header, values)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return changed


TARGET = Target(
    run,
    frozenset({"refused", "shard"}),
    ("data_shards.shard", "data_shards.rows"),
    length_max=2048,
    mutate=_mutate,
    words=(b'"__metadata__"', b'"data_offsets"', b'"classes":"', b'"format":"1"', b'"dtype":"I32"', b'"shape":['),
)
