"""The inbox: events of good messages; of all others a counted complaint, little memory and few log lines."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LARGE, LAYOUT, change, delta_bytes, model, offer_of, ref_of, update_bytes

from aggregator_core import l2_norm
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import Round, Start, Stop, Vote, decode, encode
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import Delta, ModelRef
from edge_peer.protocol.topics import DELTA, KINDS, MODEL, ROUND, START, STOP, TENSORS, UPDATE, VOTE, Topics
from edge_peer.shell.aggregation import advance
from edge_peer.shell.changes import Change, Encoded, encoded
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.inbox import COMPLAINTS_MAX, Inbox
from edge_peer.shell.mqtt import Message
from edge_peer.shell.payload import encode_delta, encode_model, encode_update
from edge_peer.shell.vectors import FROM_ONE_PEER_MAX, Vectors

TOPICS = Topics("home")
INITIAL = model(0)
ROUND_DOCUMENT = Round("session", 1, 1, "waiting", "cnn", "0" * 64, RunSettings())
BOUNDED = RunSettings(update_norm_max=1e30)


def received(peer: str, it: Change) -> ev.UpdateReceived:
    """The event of a good update."""
    return ev.UpdateReceived(peer, offer_of(it), "", l2_norm(it.vector))


class Fixture:
    """An inbox and what it fills."""

    def __init__(self, updates_max: int = 100) -> None:
        self.vectors = Vectors(INITIAL)
        self.led: RunSettings | None = BOUNDED
        self.inbox = Inbox(TOPICS, LAYOUT, self.vectors, updates_max, lambda: self.led)

    def read(self, peer: str, kind: str, payload: bytes, retained: bool = False) -> ev.Event | None:
        return self.inbox.read(Message(TOPICS.of(peer, kind), payload, retained))

    def update(self, peer: str, seed: int) -> ev.Event | None:
        return self.read(peer, UPDATE, update_bytes(change(seed)))

    def model(self, peer: str, seed: int) -> ev.Event | None:
        it = model(seed)
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
    sent = model(5)
    assert it.model("roof", 5) == ev.ModelReceived("roof", ref_of(sent))
    found = it.vectors.model(sent.digest)
    assert found is not None
    np.testing.assert_array_equal(found.vector, sent.vector)


def test_a_model_comes_with_what_belongs_to_it() -> None:
    it, sent = Fixture(), model(5, LAYOUT, "momentum", "control")
    ref = ref_of(sent)
    assert it.read("roof", MODEL, encode_model(LAYOUT, ref, sent)) == ev.ModelReceived("roof", ref)
    found = it.vectors.model(sent.digest)
    assert found is not None
    assert found.digest == sent.digest != GlobalModel(sent.vector).digest


def test_a_model_that_is_held_already_is_known_by_its_metadata() -> None:
    it = Fixture()
    ref = ref_of(INITIAL, 0)
    assert it.read("roof", MODEL, encode_model(LAYOUT, ref, INITIAL)) == ev.ModelReceived("roof", ref)
    assert it.vectors.held == (1, 0)


def test_an_update_is_held_before_its_event() -> None:
    it = Fixture()
    sent = change(5)
    assert it.update("roof", 5) == received("roof", sent)
    found = it.vectors.update(sent.digest)
    assert found is not None
    np.testing.assert_array_equal(found.vector, sent.vector)


def test_a_bad_update_is_told_and_not_held() -> None:
    it = Fixture()
    nan = change(5)
    nan.vector[3] = np.nan
    bad = {
        "1 of 9 values are not finite": encode_update(offer_of(nan), Encoded(nan.vector.tobytes())),
        "the offer says": encode_update(offer_of(change(6)), encoded("float32", change(7), LAYOUT, None)),
        "codec 'zip'": encode_update(offer_of(change(6), "zip"), Encoded(bytes(36))),
        "update takes 36 bytes, but 32 of 32": encode_update(offer_of(change(6)), Encoded(bytes(32))),
        "expected a row of at most 36 bytes": encode_update(offer_of(change(6)), Encoded(bytes(37))),
        "has a control variate": update_bytes(change(6, control=True)),
    }
    for problem, payload in bad.items():
        event = it.read("roof", UPDATE, payload)
        assert isinstance(event, ev.UpdateReceived)
        assert problem in event.problem
        assert event.problem.isprintable()
        assert len(event.problem) <= 300
    assert it.inbox.dropped == len(bad)
    assert it.vectors.held == (1, 0)


@pytest.mark.parametrize("text", ["\x1b[31m", "a\nb", "\u2028", "\ud800"])
def test_what_is_wrong_with_an_update_can_be_told_in_a_document_whatever_stands_in_it(text: str) -> None:
    """Else one update would keep all from reading the round's document, which repeats the reason to its sender."""
    it, good = Fixture(), update_bytes(change(5))
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    for facts in (text, {"dtype": text}, {"dtype": "U8", "shape": [text]}):
        header["update"] = facts
        changed = json.dumps(header).encode()
        event = it.read("roof", UPDATE, len(changed).to_bytes(8, "little") + changed + good[8 + length :])
        assert isinstance(event, ev.UpdateReceived)
        assert event.problem.isprintable()
        assert "expected a row" in event.problem
        refused = encode(dataclasses.replace(ROUND_DOCUMENT, refused={"roof": event.problem}))
        assert decode(ROUND, refused).refused == {"roof": event.problem}  # type: ignore[union-attr]


def test_control_variates_come_where_the_run_has_them() -> None:
    it = Fixture()
    with_control, without = update_bytes(change(6, control=True)), update_bytes(change(7))
    it.led = RunSettings(scaffold=True)
    good, bad = it.read("roof", UPDATE, with_control), it.read("roof", UPDATE, without)
    assert isinstance(good, ev.UpdateReceived)
    assert isinstance(bad, ev.UpdateReceived)
    assert (good.problem, bad.problem) == ("", "has no control variate, the run is with SCAFFOLD")
    assert it.vectors.update(change(6, control=True).digest) is not None
    # Who leads no run does not judge: it may lead one in a moment.
    it.led = None
    unjudged = it.read("roof", UPDATE, without)
    assert isinstance(unjudged, ev.UpdateReceived)
    assert unjudged.problem == ""


def test_the_norm_of_an_update_is_told_and_left_to_the_run_to_judge() -> None:
    it = Fixture()
    long = Change(np.full(LAYOUT.size, 1e30, np.float32))
    event = it.read("roof", UPDATE, update_bytes(long))
    assert isinstance(event, ev.UpdateReceived)
    assert event.problem == ""
    assert event.norm == pytest.approx(3e30)
    for led in (None, RunSettings()):
        it.led = led
        unmeasured = it.read("roof", UPDATE, update_bytes(long))
        assert isinstance(unmeasured, ev.UpdateReceived)
        assert unmeasured.norm == 0.0


def test_the_norm_is_of_what_gradients_train() -> None:
    inbox = Inbox(TOPICS, LARGE, Vectors(model(0, LARGE)), 9, lambda: BOUNDED)
    it = change(5, LARGE)
    event = inbox.read(Message(TOPICS.of("roof", UPDATE), update_bytes(it, layout=LARGE), False))
    assert isinstance(event, ev.UpdateReceived)
    assert event.norm == l2_norm(it.vector[: LARGE.trained_size]) < l2_norm(it.vector)


# ---------------------------------------------------------------------- deltas


def delta_of(
    base: GlobalModel, it: Change, codec: str = "float32", optimizer: str = "none", **parameters: float
) -> tuple[Delta, GlobalModel]:
    """A delta and the model that comes of it."""
    made = advance(LAYOUT, base, it, optimizer, parameters)
    return Delta(ref_of(made, 4), base.digest, codec, optimizer, parameters), made


@pytest.mark.parametrize("optimizer", ["none", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
@pytest.mark.parametrize("control", [False, True])
def test_a_delta_makes_the_same_model_of_the_same_base(optimizer: str, control: bool) -> None:
    it, base = Fixture(), INITIAL
    for seed in (5, 6):
        sent = change(seed, control=control)
        delta, made = delta_of(base, sent, "float32", optimizer)
        assert it.read("roof", DELTA, delta_bytes(delta, sent)) == ev.ModelReceived("roof", delta.ref)
        found = it.vectors.model(made.digest)
        assert found is not None
        assert found.vector.tobytes() == made.vector.tobytes()
        assert {slot: values.tobytes() for slot, values in found.server.items()} == {
            slot: values.tobytes() for slot, values in made.server.items()
        }
        base = found
    assert it.inbox.dropped == 0


def test_a_delta_of_a_model_that_is_held_already_is_known_by_its_metadata() -> None:
    it, sent = Fixture(), change(5)
    delta, made = delta_of(INITIAL, sent)
    it.vectors.hold_model(made.digest, made)
    assert it.read("roof", DELTA, delta_bytes(delta, sent)) == ev.ModelReceived("roof", delta.ref)
    assert it.vectors.model(made.digest) is made


def test_a_delta_whose_base_is_missing_is_no_fault_of_its_sender(caplog: pytest.LogCaptureFixture) -> None:
    it, sent = Fixture(), change(5)
    delta, _ = delta_of(model(9), sent)
    assert it.read("roof", DELTA, delta_bytes(delta, sent)) is None
    assert (it.inbox.dropped, it.vectors.held) == (0, (1, 0))
    assert caplog.records == []
    # Once the base is there, the same bytes are of use.
    it.model("roof", 9)
    assert it.read("roof", DELTA, delta_bytes(delta, sent)) == ev.ModelReceived("roof", delta.ref)


def test_a_delta_that_makes_another_model_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    it, sent = Fixture(), change(5)
    delta, _ = delta_of(INITIAL, sent)
    huge = Change(np.full(LAYOUT.size, 3e38, np.float32))
    faster, _ = delta_of(INITIAL, sent, "float32", "fedavgm", learning_rate=0.5)
    full = GlobalModel(np.full(LAYOUT.size, 3e38, np.float32))
    it.vectors.hold_model(full.digest, full)
    stateful = model(8, LAYOUT, "momentum")
    it.vectors.hold_model(stateful.digest, stateful)

    def changed(**fields: Any) -> Delta:
        return dataclasses.replace(delta, **fields)

    bad = {
        "makes a model with digest": delta_bytes(delta, change(6)),
        "its metadata says 000000000000": delta_bytes(changed(ref=ModelRef("run-1", 1, 4, 2, "0" * 64)), sent),
        "makes a model": delta_bytes(delta, change(5, control=True)),
        "makes a": delta_bytes(dataclasses.replace(faster, parameters={"learning_rate": 0.25}), sent),
        "values are not finite": delta_bytes(changed(base=full.digest), huge),
        "leaves float32": delta_bytes(changed(optimizer="fedavgm", parameters={"learning_rate": 1000.0}), huge),
        "optimizer 'adam' is not one of": delta_bytes(changed(optimizer="adam"), sent),
        "optimizer none: 'rate' is not": delta_bytes(changed(parameters={"rate": 1.0}), sent),
        "optimizer fedavgm: 'name' is not one of": delta_bytes(
            changed(optimizer="fedavgm", parameters={"name": 1.0}), sent
        ),
        "momentum is 1.0, not a number from 0 and below 1": delta_bytes(
            changed(optimizer="fedavgm", parameters={"momentum": 1.0}), sent
        ),
        "remembers ['mean', 'square'], the state has ['momentum']": delta_bytes(
            changed(optimizer="fedadam", base=stateful.digest), sent
        ),
        "codec 'zip' is not one of": encode_delta(changed(codec="zip"), Encoded(bytes(36))),
        "update takes 36 bytes": encode_delta(delta, Encoded(bytes(35))),
        "9 of 9 values are not finite": encode_delta(delta, Encoded(b"\xff" * 36)),
        "is missing": encode_update(offer_of(sent), encoded("float32", sent, LAYOUT, None)),
    }
    for problem, payload in bad.items():
        caplog.clear()
        assert it.read("roof", DELTA, payload) is None, problem
        (record,) = caplog.records
        assert record.getMessage().startswith("roof's delta dropped: ")
        assert problem in record.getMessage()
        assert record.getMessage().isprintable()
    assert it.inbox.dropped == len(bad)
    assert it.vectors.held == (3, 0)


def test_one_peer_cannot_fill_the_memory_with_deltas() -> None:
    it = Fixture()
    for seed in range(1, 30):
        delta, _ = delta_of(INITIAL, change(seed))
        assert it.read("mallory", DELTA, delta_bytes(delta, change(seed))) is not None
    assert it.vectors.held == (1 + FROM_ONE_PEER_MAX, 0)


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
    update_bytes(change(1))[:40],
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
    MODEL: encode_model(LAYOUT, ref_of(model(1)), model(1)),
    UPDATE: update_bytes(change(2)),
    DELTA: delta_bytes(delta_of(INITIAL, change(3), "float32", "fedavgm", momentum=0.5)[0], change(3)),
}


@pytest.mark.parametrize("kind", GOOD)
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_mutated_messages_never_raise(kind: str, data: st.DataObject) -> None:
    content = bytearray(GOOD[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    it = Fixture()
    event = it.read("roof", kind, bytes(content))
    # A base that is not held is nobody's fault.
    assert (event is None) <= (it.inbox.dropped == 1 or not content or kind == DELTA)


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
        assert it.model("mallory", seed) == ev.ModelReceived("mallory", ref_of(model(seed)))
    assert it.vectors.held == (1 + FROM_ONE_PEER_MAX, 0)
    # The newest are there, and the initial weights; others' models are not touched.
    it.model("roof", 100)
    for seed in range(200, 250):
        it.model("mallory", seed)
    assert it.vectors.model(model(100).digest) is not None
    assert it.vectors.model(model(249).digest) is not None
    assert it.vectors.model(INITIAL.digest) is not None


def test_what_the_protocol_keeps_is_not_pushed_out() -> None:
    it = Fixture()
    it.model("roof", 1)
    kept = model(1).digest
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
    assert it.update("roof", 100) == received("roof", change(100))
    # The first one may be accepted already: it is still there, and may be sent again.
    assert it.update("mallory", 1) == received("mallory", change(1))
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
