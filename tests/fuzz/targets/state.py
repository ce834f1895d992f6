"""What a peer finds on its disk: `state\\n`, `checkpoint\\n` or `memory\\n`, and the file.

A file that is damaged is set aside or left alone; the peer goes on in any case.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace

import numpy as np

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.state import SavedState
from edge_peer.protocol.topics import MODEL
from edge_peer.shell.payload import DOCUMENT
from edge_peer.shell.remembered import Remembrance
from edge_peer.shell.store import Store
from tests.fuzz.checks import assert_clean, assert_finite
from tests.fuzz.mutators import Bytes, json_bytes, line_and, tensors_bytes
from tests.fuzz.scratch import scratch, write
from tests.fuzz.target import Target
from tests.fuzz.targets.codecs import LAYOUT
from tests.fuzz.targets.payloads import repaired

FOLDER = scratch()
FILES = {b"state": "state.json", b"checkpoint": "checkpoint.safetensors", b"memory": "memory-0.safetensors"}


def run(data: bytes) -> str:
    line, _, content = data.partition(b"\n")
    if line not in FILES:
        return "no file"
    path = write(FOLDER, FILES[line], content)
    try:
        return {b"state": _state, b"checkpoint": _checkpoint, b"memory": _memory}[line](content)
    finally:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.damaged").unlink(missing_ok=True)


def _state(content: bytes) -> str:
    found, model = Store(FOLDER).load(LAYOUT)
    assert model is None
    try:
        told = SavedState.decode(content)
    except RemoteProtocolError as error:
        assert_clean(str(error))
        assert found == SavedState()
        assert (FOLDER / "state.json.damaged").read_bytes() == content
        return "state set aside"
    assert_finite(told)
    # Which model there is the checkpoint says.
    assert found == replace(told, held=None)
    assert SavedState.decode(told.encode()) == told
    return "state"


def _checkpoint(content: bytes) -> str:
    state, model = Store(FOLDER).load(LAYOUT)
    if model is None:
        assert state == SavedState()
        assert (FOLDER / "checkpoint.safetensors.damaged").read_bytes() == content
        return "checkpoint set aside"
    assert state.held is not None
    assert state.held.sha256 == model.digest
    assert_finite(model)
    return "checkpoint"


def _memory(_content: bytes) -> str:
    remembrance = Remembrance(FOLDER, LAYOUT)
    if not remembrance.memories:
        return "memory left alone"
    (memory,) = remembrance.memories
    remembered = remembrance.after(memory.digest)
    assert_finite(remembered)
    again = scratch()
    try:
        Remembrance(again, LAYOUT).put(memory, remembered, None)
        read = Remembrance(again, LAYOUT)
        assert read.memories == (memory,)
        seen = read.after(memory.digest)
        for name in ("residual", "control"):
            before, after = getattr(remembered, name), getattr(seen, name)
            assert (before is None) == (after is None)
            assert before is None or np.array_equal(before, after)
    finally:
        shutil.rmtree(again)
    return "memory"


def _inner(line: bytes, rest: bytes, size: int, rng: random.Random, mutate: Bytes) -> bytes:
    if line == b"state":
        return json_bytes(rest, size, rng, mutate)
    changed = tensors_bytes(rest, size, rng, mutate, DOCUMENT)
    return repaired(MODEL, changed) if line == b"checkpoint" and rng.randrange(4) else changed


TARGET = Target(
    run,
    frozenset({"state", "state set aside", "checkpoint", "checkpoint set aside", "memory", "memory left alone"}),
    ("edge_peer.protocol.state", "edge_peer.shell.store", "edge_peer.shell.remembered"),
    memory_a_byte=128,
    length_max=8192,
    mutate=line_and(_inner),
    words=(b"state\n", b"checkpoint\n", b"memory\n", b'"voted_term"', b'"residual"', b'"control"'),
)
