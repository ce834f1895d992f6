"""A board that is hot, and a configuration that is read again: what the others are told, and when."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from edge_peer.errors import LocalProtocolError
from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.context import FIXED, HEALTH_S
from edge_peer.protocol.election import choose, rank
from edge_peer.protocol.messages import Presence, Vote, decode, encode
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.selection import select
from edge_peer.protocol.settings import Timing
from edge_peer.protocol.topics import PRESENCE, VOTE
from tests.sim.hand import RUN, Hand, digest, presence, ref, round_document

HOT = ev.HealthChanged(True, "", True, {"temperature_c": 85.0})
COOL = ev.HealthChanged(True, "", False, {"temperature_c": 60.0})


def said(hand: Hand) -> Presence:
    return hand.published(PRESENCE)[-1]  # type: ignore[no-any-return]


# ---------------------------------------------------------------------- a strained board


def test_a_strained_board_counts_half_in_elections() -> None:  # E3
    strained = presence("a", score=6.0, strained=True)
    assert choose({"a": strained, "b": presence("b", score=4.0)}) == "b"
    assert choose({"a": strained, "b": presence("b", score=2.0)}) == "a"
    assert rank("a", strained)[1] == 3.0
    newer = replace(strained, newest=ref(1))
    assert choose({"a": newer, "b": presence("b", score=4.0)}) == "a"


def test_a_strained_board_counts_half_among_the_fastest() -> None:  # R1
    able = {"a": presence("a", score=6.0, strained=True), "b": presence("b", score=4.0), "c": presence("c", score=1.0)}
    settings = RunSettings(strategy="fastest", fraction=0.3)
    assert select(able, settings, 1, {}, random.Random(1)) == ("b",)
    able["a"] = presence("a", score=6.0)
    assert select(able, settings, 1, {}, random.Random(1)) == ("a",)


def test_strain_is_told_at_once_and_the_score_stays() -> None:  # C2, E3
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    hand.tell(HOT)
    (told,) = hand.published(PRESENCE, new=True)
    assert (told.strained, told.score, told.standing) == (True, 2.0, 1.0)
    assert told.health == {"temperature_c": 85.0}
    assert decode(PRESENCE, encode(told)) == told
    hand.tell(COOL)
    assert (said(hand).strained, said(hand).standing) == (False, 2.0)


def test_within_an_election_strain_does_not_change() -> None:  # E3
    hand = Hand(score=1.5)
    hand.tell(ev.Connected())
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer), retained=True)
    hand.wait(1.0)
    assert hand.peer.role == "electing"
    term = said(hand).election
    hand.tell(HOT)
    assert hand.published(PRESENCE, new=True) == []
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, election=term))
    # As the others see it, who were told of no heat: it is the best.
    assert hand.published(VOTE)[-1] == Vote("a-1", term, "a")
    # Nobody wins: in the next term everybody is told.
    while said(hand).election == term:
        hand.wait(0.1)
    assert (said(hand).election, said(hand).strained) == (term + 1, True)
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, election=term + 1))
    assert hand.published(VOTE)[-1].candidate == "c"


def test_strain_that_was_held_back_is_told_after_the_election() -> None:  # E3
    hand = Hand()
    hand.tell(ev.Connected())
    hand.hear("b", presence("b"), retained=True)
    hand.wait(1.0)
    hand.tell(HOT)
    assert not said(hand).strained
    hand.hear("b", presence("b", election=said(hand).election))
    hand.hear("b", round_document("b", term=said(hand).election))
    assert hand.peer.role == "following"
    hand.hear("b", round_document("b", term=said(hand).election, beat=1))
    assert said(hand).strained


def test_a_strained_controller_stays() -> None:  # C2, C6
    hand = Hand()
    hand.lead("b", "c")
    hand.tell(HOT)
    assert hand.peer.role == "leading"
    assert said(hand).strained


def test_how_the_board_is_goes_along_and_is_renewed_now_and_then() -> None:  # M1
    hand = Hand()
    hand.connect("b", "c")
    hand.hear("b", round_document("b", base=ref(0)))
    hand.tell(COOL)
    count = len(hand.published(PRESENCE))
    for beat in range(1, 1 + int(HEALTH_S) - 10):
        hand.now_s += 1
        hand.hear("b", round_document("b", beat=beat, base=ref(0)))
        hand.tell(ev.HealthChanged(True, "", False, {"temperature_c": 60.0 + beat % 7}))
    assert len(hand.published(PRESENCE)) <= count + 1
    hand.now_s += 20
    hand.tell(ev.HealthChanged(True, "", False, {"temperature_c": 71.5}))
    hand.hear("b", round_document("b", beat=999, base=ref(0)))
    assert said(hand).health["temperature_c"] == 71.5 or len(hand.published(PRESENCE)) == count + 1
    hand.now_s += HEALTH_S
    hand.tell(ev.HealthChanged(True, "", False, {"temperature_c": 42.5}))
    assert said(hand).health == {"temperature_c": 42.5}


def test_a_board_that_tells_nothing_renews_nothing() -> None:  # M1
    hand = Hand()
    hand.connect("b", "c")
    hand.hear("b", round_document("b", base=ref(0)))
    count = len(hand.published(PRESENCE))
    hand.now_s += 2 * HEALTH_S
    hand.hear("b", round_document("b", beat=1, base=ref(0)))
    hand.tell(ev.HealthChanged(True, ""))
    assert len(hand.published(PRESENCE)) == count


# ---------------------------------------------------------------------- a configuration that is read again


def reconfigure(hand: Hand, **changes: Any) -> None:
    hand.tell(ev.Reconfigured(replace(hand.settings, **changes)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": False}, (True, False, 2.0)),
        ({"control": False}, (False, True, 2.0)),
        ({"score": 7.0}, (True, True, 7.0)),
    ],
)
def test_what_changed_is_told_within_the_session(
    changes: dict[str, Any], expected: tuple[bool, bool, float]
) -> None:  # M7
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    reconfigure(hand, **changes)
    (told,) = hand.published(PRESENCE, new=True)
    assert (told.control, told.train, told.score) == expected
    assert told.session == "a-1"
    assert hand.peer.role == "following"


def test_what_did_not_change_is_not_told() -> None:  # M7
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    reconfigure(hand)
    assert hand.new == ()


def test_settings_are_those_of_the_next_run() -> None:  # M7
    hand = Hand()
    hand.lead("b", "c")
    hand.echo()
    assert hand.document.settings == RUN
    run_id = hand.document.run_id
    assert run_id is not None
    reconfigure(hand, run=replace(RUN, rounds_max=77))
    hand.wait(4.0)
    assert (hand.document.run_id, hand.document.settings.rounds_max) == (run_id, RUN.rounds_max)
    waiting = Hand(min_peers=3)
    waiting.lead("b")
    waiting.echo()
    assert waiting.document.run_id is None
    reconfigure(waiting, min_peers=3, run=replace(RUN, rounds_max=77))
    waiting.hear("c", presence("c"))
    waiting.echo()
    assert waiting.document.run_id is not None
    assert waiting.document.settings.rounds_max == 77


def test_a_controller_that_is_to_be_one_no_more_resigns_in_favour_of_another() -> None:  # C6
    hand = Hand()
    hand.lead("b", "c")
    term = hand.peer.term
    reconfigure(hand, control=False)
    assert hand.peer.controller is None
    assert "is to control no more" in hand.log()
    assert (said(hand).control, said(hand).election > term) == (False, True)
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, election=said(hand).election))
    assert hand.published(VOTE)[-1].candidate == "c"


def test_it_stays_while_nobody_else_would() -> None:  # C6
    hand = Hand()
    hand.lead("b", "c")
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, control=False, election=hand.peer.term))
    reconfigure(hand, control=False)
    assert hand.peer.role == "leading"
    hand.hear("b", presence("b", election=hand.peer.term))
    assert hand.peer.role == "electing"


def test_away_from_the_broker_it_is_told_at_the_next_connection() -> None:  # M7
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    hand.tell(ev.Disconnected())
    reconfigure(hand, train=False)
    assert hand.new == ()
    hand.tell(ev.Connected())
    assert said(hand).train is False


OTHERS: dict[str, Any] = {
    "peer": "z",
    "session": "a-2",
    "model_id": "other",
    "model_digest": digest("another"),
    "initial_sha256": digest("another initial"),
    "examples": 11,
    "test_examples": 6,
    "roster": ("a", "b"),
    "min_peers": 3,
    "timing": Timing(),
    "peers_max": 5,
}


@pytest.mark.parametrize("name", FIXED)
def test_what_the_others_count_on_cannot_change(name: str) -> None:  # M7
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    with pytest.raises(LocalProtocolError, match=name):
        reconfigure(hand, **{name: OTHERS[name]})


def test_another_aggregation_answers_anew() -> None:  # M7, R9
    class Knowing:
        def lacking(self, settings: RunSettings) -> str:
            return ""

        def updates_needed(self, settings: RunSettings) -> int:
            return settings.updates_min

        def epsilon(self, settings: RunSettings, rounds: int) -> float | None:
            return None

    hand = Hand()
    hand.follow(round_document("b", base=ref(0), settings=replace(RUN, rule="median")))
    assert said(hand).train is False
    reconfigure(hand, aggregation=Knowing())
    assert (said(hand).train, said(hand).note) == (True, "")
    assert hand.newly(do.StartTraining)
