"""Held vectors: by digest, as many as are needed, and what is kept stays."""

from __future__ import annotations

import pytest
from tiny import CODECS, LARGE, LAYOUT, change, model, own_of

from edge_peer.shell.vectors import FROM_ONE_PEER_MAX, Vectors

INITIAL = model(0)


def holding(*seeds: int) -> Vectors:
    vectors = Vectors(INITIAL)
    for seed in seeds:
        assert vectors.hold_update(f"peer{seed}", change(seed).digest, change(seed), 100)
    return vectors


def test_the_initial_model_is_always_held() -> None:
    vectors, other = Vectors(INITIAL), model(1)
    vectors.hold_model(other.digest, other)
    vectors.keep_models(frozenset({other.digest}))
    assert vectors.held == (2, 0)
    vectors.keep_models(frozenset())
    assert vectors.held == (1, 0)
    assert vectors.model(INITIAL.digest) is INITIAL


def test_models_of_the_same_weights_and_another_state_are_two() -> None:
    vectors, stateful = Vectors(INITIAL), model(0, LAYOUT, "momentum")
    vectors.hold_model(stateful.digest, stateful)
    assert vectors.held == (2, 0)
    assert vectors.model(INITIAL.digest) is INITIAL
    assert vectors.model(stateful.digest) is stateful


def test_of_received_models_the_oldest_goes_unless_it_is_kept() -> None:
    vectors, kept = Vectors(INITIAL), model(1)
    vectors.hold_received("roof", kept.digest, kept)
    vectors.keep_models(frozenset({kept.digest}))
    for seed in range(2, 2 + FROM_ONE_PEER_MAX):
        vectors.hold_received("roof", model(seed).digest, model(seed))
    vectors.hold_received("roof", kept.digest, kept)
    assert vectors.held == (1 + FROM_ONE_PEER_MAX, 0)
    assert vectors.model(model(2).digest) is None
    for seed in range(10, 20):
        vectors.hold_received("roof", model(seed).digest, model(seed))
    assert vectors.model(kept.digest) is kept


def test_the_peers_own_update_is_found_like_any_other() -> None:
    vectors, own = holding(1), own_of(change(2))
    vectors.hold_own(own)
    assert vectors.own(own.digest) is own
    assert vectors.update(own.digest) is own.change
    assert vectors.own(change(1).digest) is None
    assert vectors.update("0" * 64) is None
    other = vectors.update(change(1).digest)
    assert other is not None
    assert other.digest == change(1).digest


@pytest.mark.parametrize("codec", CODECS)
def test_an_own_update_is_kept_as_it_is_sent_and_as_others_work_with_it(codec: str) -> None:
    own = own_of(change(2, LARGE, control=True), codec, LARGE)
    assert own.encoded.decode(codec, LARGE).digest == own.digest == own.change.digest


def test_only_the_newest_own_update_is_held() -> None:
    vectors = Vectors(INITIAL)
    for seed in (1, 2):
        vectors.hold_own(own_of(change(seed)))
    assert vectors.own(change(1).digest) is None
    assert vectors.update(change(1).digest) is None
    assert vectors.own(change(2).digest) is not None


def test_updates_are_forgotten_but_those_to_keep() -> None:
    vectors = holding(1, 2, 3)
    vectors.keep_updates(frozenset({change(2).digest}))
    assert vectors.held == (1, 1)
    assert vectors.update(change(2).digest) is not None
    assert vectors.update(change(1).digest) is None


def test_where_there_is_no_room_the_newest_update_is_not_held() -> None:
    vectors = holding(1, 2, 3)
    assert not vectors.hold_update("peer4", change(4).digest, change(4), 3)
    assert vectors.hold_update("peer1", change(1).digest, change(1), 3)
    assert vectors.held == (1, 3)
    assert vectors.update(change(4).digest) is None
