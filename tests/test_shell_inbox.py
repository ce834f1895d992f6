"""The inbox: events of good messages; of all others a counted complaint, little memory and few log lines."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LAYOUT, offer_of, ref_of, vector

from aggregator_core import l2_norm
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import Start, Stop, Vote, encode
from edge_peer.protocol.topics import KINDS, MODEL, START, STOP, TENSORS, UPDATE, VOTE, Topics
from edge_peer.shell.inbox import COMPLAINTS_MAX, Inbox
from edge_peer.shell.mqtt import Message
from edge_peer.shell.payload import encode_model, encode_update
from edge_peer.shell.vectors import FROM_ONE_PEER_MAX, Vectors

TOPICS = Topics("home")
INITIAL = vector(0)


def received(peer: str, change: np.ndarray) -> ev.UpdateReceived:
    """The event of a good update."""
    return ev.UpdateReceived(peer, offer_of(change), "", l2_norm(change))


class Fixture:
    """An inbox and what it fills."""

    def __init__(self, updates_max: int = 100) -> None:
        self.vectors = Vectors(INITIAL)
        self.bounded = True
        self.inbox = Inbox(TOPICS, LAYOUT, self.vectors, updates_max, lambda: self.bounded)

    def read(self, peer: str, kind: str, payload: bytes, retained: bool = False) -> ev.Event | None:
        return self.inbox.read(Message(TOPICS.of(peer, kind), payload, retained))

    def update(self, peer: str, seed: int) -> ev.Event | None:
        change = vector(seed)
        return self.read(peer, UPDATE, encode_update(offer_of(change), change))

    def model(self, peer: str, seed: int) -> ev.Event | None:
        it = vector(seed)
        return self.read(peer, MODEL, encode_model(LAYOUT, ref_of(it), it))


def test_a_document_comes_from_whose_topic_it_is() -> None:
    vote = Vote("session", 3, "roof")
    event = Fixture().read("kitchen", VOTE, encode(vote), retained=True)
    assert event == ev.DocumentReceived("kitchen", VOTE, vote, retained=True)


def test_an_empty_payload_is_a_cleared_document() -> None:
    it = Fixture()
    for kind in KINDS - TENSORS:
        assert it.read("kitchen", kind, b"") == ev.DocumentReceived("kitchen", kind, None)
    for kind in TENSORS:
        assert it.read("kitchen", kind, b"") is None
    assert it.inbox.dropped == 0


def test_a_model_is_held_before_its_event() -> None:
    it = Fixture()
    model = vector(5)
    assert it.model("roof", 5) == ev.ModelReceived("roof", ref_of(model))
    found = it.vectors.model(ref_of(model).sha256)
    assert found is not None
    np.testing.assert_array_equal(found, model)


def test_a_model_that_is_held_already_is_known_by_its_metadata() -> None:
    it = Fixture()
    ref = ref_of(INITIAL, 0)
    assert it.read("roof", MODEL, encode_model(LAYOUT, ref, INITIAL)) == ev.ModelReceived("roof", ref)
    assert it.vectors.held == (1, 0)


def test_an_update_is_held_before_its_event() -> None:
    it = Fixture()
    change = vector(5)
    assert it.update("roof", 5) == received("roof", change)
    base = ref_of(INITIAL).sha256
    digest, merged = it.vectors.merge(base, (("roof", offer_of(change).digest, 100),))
    np.testing.assert_allclose(merged, INITIAL + change, rtol=1e-6)
    assert it.vectors.model(digest) is merged


def test_a_bad_update_is_told_and_not_held() -> None:
    it = Fixture()
    nan = vector(5)
    nan[3] = np.nan
    bad = {
        "1 of 9 values are not finite": encode_update(offer_of(nan), nan),
        "the offer says": encode_update(offer_of(vector(6)), vector(7)),
        "codec 'zip'": encode_update(offer_of(vector(6), "zip"), vector(6)),
        "expected float32[9]": encode_update(offer_of(vector(6)), vector(6)[:8]),
    }
    for problem, payload in bad.items():
        event = it.read("roof", UPDATE, payload)
        assert isinstance(event, ev.UpdateReceived)
        assert problem in event.problem
        assert event.problem.isprintable()
        assert len(event.problem) <= 300
    assert it.inbox.dropped == len(bad)
    assert it.vectors.held == (1, 0)


def test_the_norm_of_an_update_is_told_and_left_to_the_run_to_judge() -> None:
    it = Fixture()
    long = np.full(LAYOUT.size, 1e30, np.float32)
    event = it.read("roof", UPDATE, encode_update(offer_of(long), long))
    assert isinstance(event, ev.UpdateReceived)
    assert event.problem == ""
    assert event.norm == pytest.approx(3e30)
    it.bounded = False
    unmeasured = it.read("roof", UPDATE, encode_update(offer_of(long), long))
    assert isinstance(unmeasured, ev.UpdateReceived)
    assert unmeasured.norm == 0.0


# ---------------------------------------------------------------------- what is not one

BAD_TOPICS = [
    "fl/v1/home",
    "fl/v1/home/kitchen",
    "fl/v1/home/kitchen/vote/more",
    "fl/v1/other/kitchen/vote",
    "fl/v1/home//vote",
    "fl/v1/home/../vote",
    "fl/v1/home/kitchen/votes",
    "fl/v1/home/kitchen\n2026 ERROR forged/vote",
    "fl/v1/home/\x1b[31mred/vote",
    "",
    "/" * 60_000,
    "$SYS/broker/uptime",
]


@pytest.mark.parametrize("topic", BAD_TOPICS, ids=range(len(BAD_TOPICS)))
def test_a_foreign_topic_is_dropped_with_one_clean_log_line(caplog: pytest.LogCaptureFixture, topic: str) -> None:
    it = Fixture()
    assert it.inbox.read(Message(topic, encode(Vote("session", 3, "roof")), False)) is None
    assert it.inbox.dropped == 1
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 600


HOSTILE = [
    b"\0",
    b"null",
    b"[]",
    b"{}",
    b"{" * 100_000,
    b'{"a":' * 50_000,
    b"\xff" * 100,
    b'{"session": NaN}',
    b"9" * 100_000,
    b'"' + b"x" * (2 << 20) + b'"',
    json.dumps({"session": "s", "term": 10**400, "candidate": "c"}).encode(),
    json.dumps({"session": "\n", "term": 1, "candidate": "c", "run_id": "r", "reason": "\x1b[31m"}).encode(),
    b'{"session": "\\ud800", "term": 1, "candidate": "\\ud800", "run_id": "\\ud800", "reason": "\\ud800"}',
    encode_model(LAYOUT, ref_of(INITIAL), INITIAL)[:-1],
    encode_update(offer_of(INITIAL), INITIAL)[:40],
]


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_hostile_payloads_of_every_kind_are_dropped_and_logged(
    caplog: pytest.LogCaptureFixture, kind: str, payload: bytes
) -> None:
    it = Fixture()
    assert it.read("roof", kind, payload) is None
    assert it.inbox.dropped == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"roof's {kind} dropped: ")
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 600
    assert it.vectors.held == (1, 0)


GOOD = {
    VOTE: encode(Vote("session", 3, "roof")),
    STOP: encode(Stop("run-1", "enough")),
    START: encode(Start(3)),
    MODEL: encode_model(LAYOUT, ref_of(vector(1)), vector(1)),
    UPDATE: encode_update(offer_of(vector(2)), vector(2)),
}


@pytest.mark.parametrize("kind", GOOD)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_messages_never_raise(kind: str, data: st.DataObject) -> None:
    content = bytearray(GOOD[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    it = Fixture()
    event = it.read("roof", kind, bytes(content))
    assert (event is None) <= (it.inbox.dropped == 1 or not content)


@given(st.text(max_size=80), st.binary(max_size=60))
@settings(deadline=None)
def test_any_topic_and_payload_never_raise(topic: str, payload: bytes) -> None:
    it = Fixture()
    for name in (topic, f"fl/v1/home/{topic}", f"fl/v1/home/roof/{topic}"):
        it.inbox.read(Message(name, payload, False))


# ---------------------------------------------------------------------- bounds


def test_one_peer_cannot_fill_the_memory_with_models() -> None:
    it = Fixture()
    for seed in range(1, 50):
        assert it.model("mallory", seed) == ev.ModelReceived("mallory", ref_of(vector(seed)))
    assert it.vectors.held == (1 + FROM_ONE_PEER_MAX, 0)
    # The newest are there, and the initial weights; others' models are not touched.
    it.model("roof", 100)
    for seed in range(200, 250):
        it.model("mallory", seed)
    assert it.vectors.model(ref_of(vector(100)).sha256) is not None
    assert it.vectors.model(ref_of(vector(249)).sha256) is not None
    assert it.vectors.model(ref_of(INITIAL).sha256) is not None


def test_what_the_protocol_keeps_is_not_pushed_out() -> None:
    it = Fixture()
    it.model("roof", 1)
    kept = ref_of(vector(1)).sha256
    it.vectors.keep_models(frozenset({kept}))
    for seed in range(2, 30):
        it.model("roof", seed)
    assert it.vectors.model(kept) is not None
    it.vectors.keep_models(frozenset({kept}))
    assert it.vectors.held == (2, 0)


def test_one_peer_cannot_take_the_room_of_the_others_updates(caplog: pytest.LogCaptureFixture) -> None:
    it = Fixture(updates_max=20)
    events = [it.update("mallory", seed) for seed in range(1, 50)]
    assert [event is not None for event in events] == [True] * FROM_ONE_PEER_MAX + [False] * (49 - FROM_ONE_PEER_MAX)
    assert "more updates than are held at a time" in caplog.text
    assert it.update("roof", 100) == received("roof", vector(100))
    # The first one may be accepted already: it is still there, and may be sent again.
    assert it.update("mallory", 1) == received("mallory", vector(1))
    it.vectors.keep_updates(frozenset())
    assert it.vectors.held == (1, 0)
    assert it.update("mallory", 7) is not None


def test_all_peers_together_have_a_limit_too() -> None:
    it = Fixture(updates_max=5)
    events = [it.update(f"peer{seed}", seed) for seed in range(10)]
    assert sum(event is not None for event in events) == 5
    assert it.vectors.held == (1, 5)


def test_repeated_complaints_are_logged_at_powers_of_ten(caplog: pytest.LogCaptureFixture) -> None:
    it = Fixture()
    for _ in range(1000):
        it.read("roof", VOTE, b"{}")
    assert it.inbox.dropped == 1000
    assert [record.getMessage().partition(" (now ")[2] for record in caplog.records] == [
        "",
        "10 times)",
        "100 times)",
        "1000 times)",
    ]


def test_a_thousand_different_complaints_are_a_bounded_number_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    it = Fixture()
    for number in range(5000):
        it.read(f"peer{number}", VOTE, json.dumps({"session": f"!{number}"}).encode())
    assert it.inbox.dropped == 5000
    assert COMPLAINTS_MAX < len(caplog.records) < COMPLAINTS_MAX + 10


def events_of(it: Fixture, messages: list[tuple[str, str, bytes]]) -> list[Any]:
    return [it.read(*message) for message in messages]


def test_after_any_rubbish_good_messages_are_read_as_before() -> None:
    it, good = Fixture(), [("roof", kind, payload) for kind, payload in sorted(GOOD.items())]
    expected = events_of(Fixture(), good)
    assert None not in expected
    for kind in sorted(KINDS):
        for payload in HOSTILE:
            it.read("roof", kind, payload)
    assert events_of(it, good) == expected
