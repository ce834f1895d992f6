"""The controller's half of a round, and what its delta makes elsewhere: the same model, or nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CODECS, LARGE, change, contributions, model, offer_of, own_of, ref_of, update_bytes, vector

from aggregator_core.codecs import bound
from edge_peer.errors import ResourceError
from edge_peer.protocol import events as ev
from edge_peer.protocol.commands import Aggregate, Contribution
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.topics import DELTA, UPDATE, Topics
from edge_peer.shell.changes import Change
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.inbox import Inbox
from edge_peer.shell.merging import Merger
from edge_peer.shell.message_sizes import message_bytes
from edge_peer.shell.mqtt import Message
from edge_peer.shell.noise import Noise
from edge_peer.shell.payload import DOCUMENT, decode_delta, encode_model
from edge_peer.shell.vectors import Vectors
from edge_peer.trainers.optimizer import LocalOptimizer

TOPICS = Topics("home")
BASE = model(0, LARGE)


class Controller:
    """A controller with updates of peers a, b and c, and what it makes of them."""

    def __init__(self, folder: Path, run: RunSettings, base: GlobalModel = BASE) -> None:
        self.run = run
        self.vectors = Vectors(base)
        self.inbox = Inbox(TOPICS, LARGE, self.vectors, 9, lambda: run)
        self.merger = Merger(LARGE, self.vectors, Noise(folder, LARGE.trained_size), LocalOptimizer("sgd"))

    def receive(self, peer: str, seed: int) -> Contribution:
        payload = update_bytes(change(seed, LARGE, self.run.scaffold), self.run.codec, LARGE)
        event = self.inbox.read(Message(TOPICS.of(peer, UPDATE), payload, False))
        assert isinstance(event, ev.UpdateReceived)
        assert event.problem == ""
        return Contribution(peer, event.offer)

    def aggregate(self, base: GlobalModel = BASE, round_: int = 4, first: int = 1) -> Aggregate:
        updates = tuple(self.receive(peer, first + i) for i, peer in enumerate("abc"))
        return Aggregate(2, "run-1", round_, base.digest, updates, self.run, 300)

    def merged(self, base: GlobalModel = BASE, round_: int = 4, first: int = 1) -> tuple[ModelRef, GlobalModel]:
        """The next model, held, and its place."""
        event = self.merger.merge(self.aggregate(base, round_, first))
        assert isinstance(event, ev.AggregateReady)
        assert (event.term, event.run_id, event.round) == (2, "run-1", round_)
        found = self.vectors.model(event.sha256)
        assert found is not None
        assert found.digest == event.sha256
        return ref_of(found, round_), found


def follower(base: GlobalModel = BASE) -> Inbox:
    """A peer that holds nothing but a model."""
    return Inbox(TOPICS, LARGE, Vectors(base), 9, lambda: None)


def read(inbox: Inbox, payload: bytes | None) -> ev.Event | None:
    assert payload is not None
    return inbox.read(Message(TOPICS.of("roof", DELTA), payload, False))


# ---------------------------------------------------------------------- merging


def test_a_model_is_held_before_anybody_hears_of_it(tmp_path: Path) -> None:
    controller = Controller(tmp_path, RunSettings(codec="float32"))
    ref, found = controller.merged()
    expected = BASE.vector + np.mean([vector(seed, LARGE) for seed in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(found.vector, expected, rtol=1e-5, atol=1e-6)
    assert ref.sha256 == found.digest
    # Whole models are sent whole.
    assert controller.merger.delta(ref) is None


def test_the_peers_own_update_is_merged_like_any_other(tmp_path: Path) -> None:
    controller = Controller(tmp_path, RunSettings(codec="int8"))
    own = own_of(change(3, LARGE), "int8", LARGE)
    controller.vectors.hold_own(own)
    updates = (controller.receive("a", 1), controller.receive("b", 2), Contribution("c", offer_of(own.change, "int8")))
    mine = controller.merger.merge(Aggregate(2, "run-1", 4, BASE.digest, updates, controller.run, 300))
    other = Controller(tmp_path, controller.run).merged()[0]
    assert mine == ev.AggregateReady(2, "run-1", 4, other.sha256)


def test_what_is_not_held_is_not_merged(tmp_path: Path) -> None:
    controller = Controller(tmp_path, RunSettings())
    good = controller.aggregate()
    wrong = {
        "not held any more": dataclasses.replace(good, base="0" * 64),
        "is not held": dataclasses.replace(good, updates=(*good.updates, *contributions(change(9, LARGE)))),
        "there is no update": dataclasses.replace(good, updates=()),
        "rule 'mode' is not one of": dataclasses.replace(good, settings=RunSettings(rule="mode")),
        "rule krum: 'name' is not one of": dataclasses.replace(
            good, settings=RunSettings(rule="krum", rule_parameters={"name": 1.0})
        ),
        "codec 'zip' is not one of": dataclasses.replace(good, settings=RunSettings(downlink="zip")),
        "bears 0 bad updates among 3": dataclasses.replace(good, settings=RunSettings(rule="krum")),
        "without the change of its control": dataclasses.replace(good, settings=RunSettings(scaffold=True)),
        "clip is 1e-10": dataclasses.replace(good, settings=RunSettings(privacy="central", privacy_clip=1e-10)),
    }
    for reason, command in wrong.items():
        event = controller.merger.merge(command)
        assert isinstance(event, ev.AggregateFailed)
        assert (event.term, event.run_id, event.round) == (2, "run-1", 4)
        assert reason in event.reason
        assert event.reason.isprintable()
        assert controller.vectors.held == (1, 3)
    # It goes on as before.
    assert isinstance(controller.merger.merge(good), ev.AggregateReady)


def test_a_merge_that_overflows_is_refused_and_not_held(tmp_path: Path) -> None:
    full = GlobalModel(np.full(LARGE.size, 3e38, np.float32))
    controller = Controller(tmp_path, RunSettings(), full)
    long = Change(full.vector)
    controller.vectors.hold_update("a", long.digest, long, 9)
    event = controller.merger.merge(Aggregate(2, "run-1", 4, full.digest, contributions(long), controller.run, 100))
    assert isinstance(event, ev.AggregateFailed)
    assert "220 of 220 values are not finite" in event.reason
    assert controller.vectors.held == (1, 1)


def test_noise_without_a_key_ends_the_peer(tmp_path: Path) -> None:
    controller = Controller(tmp_path / "nothing", RunSettings(privacy="central"))
    with pytest.raises(ResourceError, match=r"noise\.key"):
        controller.merger.merge(controller.aggregate())


# ---------------------------------------------------------------------- deltas


@pytest.mark.parametrize("scaffold", [False, True])
@pytest.mark.parametrize("optimizer", ["none", "fedadam"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_delta_makes_the_same_model_elsewhere_round_after_round(
    tmp_path: Path, codec: str, optimizer: str, scaffold: bool
) -> None:
    run = RunSettings(
        codec="int8",
        downlink=codec,
        server_optimizer=optimizer,
        server_parameters={"learning_rate": 0.5} if optimizer != "none" else {},
        scaffold=scaffold,
    )
    controller, elsewhere, base = Controller(tmp_path, run), Vectors(BASE), BASE
    inbox = Inbox(TOPICS, LARGE, elsewhere, 9, lambda: None)
    for round_ in (1, 2, 3):
        ref, made = controller.merged(base, round_, 10 * round_)
        assert read(inbox, controller.merger.delta(ref)) == ev.ModelReceived("roof", ref)
        found = elsewhere.model(ref.sha256)
        assert found is not None
        # Byte for byte, state included: this peer may be the next controller.
        assert encode_model(LARGE, ref, found) == encode_model(LARGE, ref, made)
        controller.vectors.keep_updates(frozenset())
        base = made
    assert inbox.dropped == 0


def test_a_delta_is_smaller_than_the_model(tmp_path: Path) -> None:
    sizes = {}
    for codec in ("float32", "int8", "int4"):
        controller = Controller(tmp_path, RunSettings(downlink=codec))
        payload = controller.merger.delta(controller.merged()[0])
        assert payload is not None
        sizes[codec] = len(payload)
    assert sizes["int4"] < sizes["int8"] < sizes["float32"]


def test_there_is_a_delta_of_the_newest_model_alone(tmp_path: Path) -> None:
    controller = Controller(tmp_path, RunSettings(downlink="int8"))
    assert controller.merger.delta(ref_of(BASE, 3)) is None
    first, made = controller.merged()
    payload = controller.merger.delta(first)
    assert payload is not None
    delta = decode_delta(payload)
    assert (delta.ref, delta.base, delta.codec, delta.optimizer) == (first, BASE.digest, "int8", "none")
    controller.vectors.keep_updates(frozenset())
    second, _ = controller.merged(made, 5, 20)
    assert controller.merger.delta(first) is None
    assert controller.merger.delta(second) is not None


def test_a_round_that_failed_leaves_the_delta_of_the_one_before(tmp_path: Path) -> None:
    controller = Controller(tmp_path, RunSettings(downlink="int8"))
    ref, _ = controller.merged()
    payload = controller.merger.delta(ref)
    failed = controller.merger.merge(Aggregate(2, "run-1", 5, "0" * 64, (), controller.run, 300))
    assert isinstance(failed, ev.AggregateFailed)
    assert controller.merger.delta(ref) == payload


def test_who_has_not_the_base_makes_nothing_and_who_has_the_model_needs_nothing(tmp_path: Path) -> None:
    controller = Controller(tmp_path, RunSettings(downlink="int8"))
    ref, made = controller.merged()
    payload = controller.merger.delta(ref)
    lost = follower(model(9, LARGE))
    assert read(lost, payload) is None
    assert lost.dropped == 0
    assert read(follower(made), payload) == ev.ModelReceived("roof", ref)


def test_a_base_of_other_state_is_another_base(tmp_path: Path) -> None:
    run = RunSettings(downlink="int8", server_optimizer="fedavgm")
    stateful = model(0, LARGE, "momentum")
    controller = Controller(tmp_path, run, stateful)
    ref, _ = controller.merged(stateful)
    assert read(follower(BASE), controller.merger.delta(ref)) is None
    assert read(follower(stateful), controller.merger.delta(ref)) == ev.ModelReceived("roof", ref)


def any_delta(folder: Path) -> tuple[ModelRef, bytes]:
    controller = Controller(folder, RunSettings(downlink="int8", server_optimizer="fedavgm", scaffold=True))
    ref, _ = controller.merged()
    payload = controller.merger.delta(ref)
    assert payload is not None
    return ref, payload


def with_document(payload: bytes, **fields: Any) -> bytes:
    """A delta whose document says something else."""
    end = 8 + int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8:end])
    document = json.loads(header["__metadata__"][DOCUMENT]) | fields
    header["__metadata__"][DOCUMENT] = json.dumps(document)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload[end:]


def test_a_delta_that_lies_makes_nothing(tmp_path: Path) -> None:
    ref, payload = any_delta(tmp_path)
    unlike = dataclasses.asdict(ref) | {"sha256": "1" * 64}
    lies = [
        with_document(payload, ref=unlike),
        with_document(payload, optimizer="none"),
        with_document(payload, optimizer="fedadam"),
        with_document(payload, parameters={"learning_rate": 0.5}),
        with_document(payload, parameters={"name": 1}),
        with_document(payload, parameters={"learning_rate": 1e300}),
        with_document(payload, parameters=[]),
        with_document(payload, codec="int4"),
        with_document(payload, codec="float32"),
        with_document(payload, codec="topk-0.1"),
        with_document(payload, codec="zip"),
        with_document(payload, codec=None),
        with_document(payload, base="x"),
        payload[:-1],
        payload + b"\0",
    ]
    for lie in lies:
        inbox = follower()
        assert read(inbox, lie) is None
        assert inbox.dropped == 1
    assert read(follower(), with_document(payload)) == ev.ModelReceived("roof", ref)


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_a_delta_of_any_changed_bytes_makes_the_same_model_or_none(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    ref, payload = any_delta(tmp_path_factory.getbasetemp())
    content = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    vectors = Vectors(BASE)
    inbox = Inbox(TOPICS, LARGE, vectors, 9, lambda: None)
    event = read(inbox, bytes(content))
    if isinstance(event, ev.ModelReceived):
        assert event.ref.sha256 in {ref.sha256, BASE.digest}
    assert vectors.held[0] - 1 == (vectors.model(ref.sha256) is not None)


# ---------------------------------------------------------------------- the largest message


@pytest.mark.parametrize("scaffold", [False, True])
@pytest.mark.parametrize("optimizer", ["none", "fedavgm", "fedadam"])
@pytest.mark.parametrize("codec", [*CODECS, "topk-1"])
def test_no_message_of_a_run_is_larger_than_is_known_at_its_start(
    tmp_path: Path, codec: str, optimizer: str, scaffold: bool
) -> None:
    run = RunSettings(codec=codec, downlink=codec, server_optimizer=optimizer, scaffold=scaffold)
    controller = Controller(tmp_path, run)
    ref, made = controller.merged()
    delta = controller.merger.delta(ref)
    assert delta is not None
    sent = [encode_model(LARGE, ref, made), delta, update_bytes(change(1, LARGE, scaffold), codec, LARGE)]
    values = [len(it) - 8 - int.from_bytes(it[:8], "little") for it in sent]
    known = message_bytes(LARGE, run)
    assert max(values) <= known
    # With control variates an update of a model with state is larger than the model.
    if (codec, optimizer, scaffold) == ("float32", "none", True):
        assert known == max(values) == 2 * bound("float32", LARGE) > values[0]
