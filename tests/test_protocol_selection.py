"""Who trains in a round."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.protocol.run_settings import STRATEGIES, RunSettings
from edge_peer.protocol.selection import is_choice, select, why_not
from tests.sim.hand import MODEL, presence

ABLE = {peer: presence(peer, score=float(index)) for index, peer in enumerate("abcdef")}


def picked(used: dict[str, int] | None = None, seed: int = 1, needed: int = 1, **settings: Any) -> tuple[str, ...]:
    return select(ABLE, replace(RunSettings(), **settings), needed, used or {}, random.Random(seed))


def test_all_are_picked() -> None:  # R1
    assert picked(strategy="all") == tuple("abcdef")


def test_a_fraction_is_picked_by_chance() -> None:  # R1
    picks = {picked(strategy="fraction", fraction=0.5, seed=seed) for seed in range(20)}
    assert {len(pick) for pick in picks} == {3}
    assert len(picks) > 5


def test_the_fastest_are_picked() -> None:  # R1
    assert picked(strategy="fastest", fraction=0.5) == ("d", "e", "f")


def test_the_least_used_are_picked() -> None:  # R1
    assert picked({"a": 2, "b": 2, "c": 1, "f": 2}, strategy="least_used", fraction=0.5) == ("c", "d", "e")


@given(
    strategy=st.sampled_from(sorted(STRATEGIES)),
    fraction=st.floats(0, 1),
    needed=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_never_fewer_than_a_round_needs(strategy: str, fraction: float, needed: int, seed: int) -> None:  # R1
    pick = picked(strategy=strategy, fraction=fraction, needed=needed, seed=seed)
    assert len(pick) >= min(needed, len(ABLE))
    assert sorted(set(pick)) == list(pick)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"model_digest": "0" * 64}, "deploy the same artifacts to both"),
        ({"train": False}, "not willing to train"),
        ({"train": False, "note": "disk low"}, "disk low"),
        ({"examples": 0}, "no training examples"),
    ],
)
def test_the_reason_why_not_is_told(changes: dict[str, object], why: str) -> None:  # R7
    reason = why_not(presence("b", **changes), MODEL)
    assert why in reason
    assert bool(reason) is bool(why)


@pytest.mark.parametrize(
    ("reason", "note", "well"),
    [
        ("not picked for this round", "", True),
        ("disk low", "disk low", True),
        ("offline", "", False),
        ("silent", "x", False),
    ],
)
def test_who_is_left_out_by_choice_need_not_answer(reason: str, note: str, well: bool) -> None:  # M4
    assert is_choice(reason, note) is well
