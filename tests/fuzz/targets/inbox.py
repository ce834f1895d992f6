"""What a peer makes of a row of messages: each is two bytes (sender, kind), two of its length, and its payload."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from edge_peer.protocol import events as ev
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.topics import DELTA, KINDS, MODEL, TENSORS, UPDATE, Topics
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.inbox import Inbox
from edge_peer.shell.mqtt import Message
from edge_peer.shell.payload import DOCUMENT
from edge_peer.shell.vectors import FROM_ONE_PEER_MAX, Vectors
from tests.fuzz.checks import assert_finite
from tests.fuzz.mutators import Bytes, json_bytes, tensors_bytes
from tests.fuzz.target import Target
from tests.fuzz.targets.codecs import LAYOUT
from tests.fuzz.targets.payloads import repaired

FEDERATION = "home"
TOPICS = Topics(FEDERATION)
SENDERS = ("attic", "kitchen", "roof", "shed")
ORDER = tuple(sorted(KINDS))
#: Held at a time, over all senders.
UPDATES_MAX = 6
LED = (None, RunSettings(update_norm_max=1e30), RunSettings(scaffold=True))
#: What every peer of the corpus begins with.
INITIAL = GlobalModel(np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(sender, kind, payload) of an input."""
    place = 0
    while place + 4 <= len(data):
        size = int.from_bytes(data[place + 2 : place + 4], "little")
        yield data[place], data[place + 1], data[place + 4 : place + 4 + size]
        place += 4 + size


def joined(row: list[tuple[int, int, bytes]]) -> bytes:
    """The opposite."""
    parts = (bytes((sender, kind)) + len(it[:65535]).to_bytes(2, "little") + it[:65535] for sender, kind, it in row)
    return b"".join(parts)


def run(data: bytes) -> str:
    vectors = Vectors(INITIAL)
    led = LED[data[0] % 3] if data else None
    inbox = Inbox(TOPICS, LAYOUT, vectors, UPDATES_MAX, lambda: led)
    outcomes = set()
    for number, (sender, kind, payload) in enumerate(messages(data[1:])):
        peer, name = SENDERS[sender % len(SENDERS)], ORDER[kind % len(ORDER)]
        event = inbox.read(Message(TOPICS.of(peer, name), payload, bool(number % 2)))
        models, updates = vectors.held
        assert updates <= UPDATES_MAX
        assert models <= 1 + len(SENDERS) * FROM_ONE_PEER_MAX
        outcomes.add(_check(vectors, peer, name, event))
    return ", ".join(sorted(outcomes - {""})) or "nothing"


def _check(vectors: Vectors, peer: str, kind: str, event: ev.Event | None) -> str:
    """What has come of one message."""
    if event is None:
        return ""
    if isinstance(event, ev.ModelReceived):
        model = vectors.model(event.ref.sha256)
        assert model is not None, "an event of a model that is not held"
        assert model.digest == event.ref.sha256
        assert_finite(model)
        return kind
    if isinstance(event, ev.UpdateReceived):
        assert_finite(event.norm)
        if event.problem:
            assert event.problem.isprintable()
            return "told"
        change = vectors.update(event.offer.digest)
        assert change is not None, "an event of an update that is not held"
        assert change.digest == event.offer.digest
        return UPDATE
    assert isinstance(event, ev.DocumentReceived)
    assert (event.peer, event.kind) == (peer, kind)
    return "document" if event.document is not None else "cleared"


def _mutate(data: bytes, size: int, seed: int, mutate: Bytes) -> bytes:
    rng = random.Random(seed)
    row = list(messages(data[1:]))
    if not row or rng.randrange(20) == 0:
        return mutate(data, size)
    index = rng.randrange(len(row))
    sender, kind, payload = row[index]
    choice = rng.randrange(6)
    name = ORDER[kind % len(ORDER)]
    if choice == 0:
        row.insert(rng.randrange(len(row) + 1), row[rng.randrange(len(row))])
    elif choice == 1:
        row[index] = rng.randrange(len(SENDERS)), kind, payload
    elif choice == 2 and len(row) > 1:
        del row[index]
    elif name in TENSORS:
        changed = tensors_bytes(payload, size, rng, mutate, DOCUMENT)
        row[index] = sender, kind, repaired(name, changed) if name in (MODEL, UPDATE) else changed
    else:
        row[index] = sender, kind, json_bytes(payload, size, rng, mutate)
    return data[:1] + joined(row)


TARGET = Target(
    run,
    frozenset({"document", "cleared", "told", MODEL, DELTA, UPDATE, "nothing"}),
    ("edge_peer.shell.inbox", "edge_peer.shell.vectors", "edge_peer.shell.payload"),
    memory_a_byte=128,
    length_max=12_288,
    mutate=_mutate,
)
