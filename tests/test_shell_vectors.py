"""Held vectors: the mean on top of the base, by digest; and nothing is merged that is not there or not finite."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import LAYOUT, vector

from aggregator_core import RefusedUpdateError
from edge_peer.shell.payload import F32, digest_of
from edge_peer.shell.vectors import Vectors

INITIAL = vector(0)
BASE = digest_of(INITIAL)


def holding(*seeds: int) -> tuple[Vectors, list[F32]]:
    vectors, changes = Vectors(INITIAL), [vector(seed) for seed in seeds]
    for change in changes:
        assert vectors.hold_update(f"peer{digest_of(change)[:4]}", digest_of(change), change, 100)
    return vectors, changes


def test_the_merged_model_is_the_base_plus_the_weighted_mean() -> None:
    vectors, changes = holding(1, 2)
    before = INITIAL.copy()
    parts = tuple(
        (f"peer{i}", digest_of(change), count) for i, (change, count) in enumerate(zip(changes, (1, 3), strict=True))
    )
    digest, merged = vectors.merge(BASE, parts)
    expected = INITIAL.astype(np.float64) + (changes[0].astype(np.float64) + 3 * changes[1].astype(np.float64)) / 4
    np.testing.assert_allclose(merged, expected, rtol=1e-6)
    assert merged.dtype == np.float32
    assert digest == digest_of(merged)
    assert vectors.model(digest) is merged
    np.testing.assert_array_equal(INITIAL, before)


def test_the_peers_own_update_is_merged_like_any_other() -> None:
    vectors, (other,) = holding(1)
    own = vector(2)
    vectors.hold_own(digest_of(own), own)
    _, merged = vectors.merge(BASE, (("me", digest_of(own), 1), ("other", digest_of(other), 1)))
    np.testing.assert_allclose(merged, INITIAL + (own + other) / 2, rtol=1e-5)
    assert vectors.own(digest_of(own)) is own
    assert vectors.own(digest_of(other)) is None


def test_what_is_not_held_is_not_merged() -> None:
    vectors, (change,) = holding(1)
    for base, digest in (("0" * 64, digest_of(change)), (BASE, "0" * 64)):
        with pytest.raises(RefusedUpdateError, match="not held any more"):
            vectors.merge(base, (("peer", digest, 1),))
    with pytest.raises(RefusedUpdateError, match="no update"):
        vectors.merge(BASE, ())
    assert vectors.held == (1, 1)


def test_a_merge_that_overflows_is_refused_and_not_held() -> None:
    vectors = Vectors(np.full(LAYOUT.size, 3e38, np.float32))
    change = np.full(LAYOUT.size, 3e38, np.float32)
    vectors.hold_update("peer", digest_of(change), change, 9)
    with np.errstate(over="ignore"), pytest.raises(RefusedUpdateError, match="9 of 9 values are not finite"):
        vectors.merge(digest_of(change), (("peer", digest_of(change), 1),))
    assert vectors.held == (1, 1)


def test_the_initial_model_is_always_held() -> None:
    vectors = Vectors(INITIAL)
    other = vector(1)
    vectors.hold_model(digest_of(other), other)
    vectors.keep_models(frozenset({digest_of(other)}))
    assert vectors.held == (2, 0)
    vectors.keep_models(frozenset())
    assert vectors.held == (1, 0)
    assert vectors.model(BASE) is INITIAL


def test_updates_are_forgotten_but_those_to_keep() -> None:
    vectors, changes = holding(1, 2, 3)
    vectors.keep_updates(frozenset({digest_of(changes[1])}))
    assert vectors.held == (1, 1)
    vectors.merge(BASE, (("peer", digest_of(changes[1]), 1),))


def test_a_problem_is_said_in_words() -> None:
    change = vector(1)
    assert Vectors.problem(change, LAYOUT.size) == ""
    assert Vectors.problem(change[:3], LAYOUT.size) == "shape is [3], the model's is [9]"
