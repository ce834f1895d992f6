"""A controller decides nothing while too few of the roster are heard: a broker that echoes need not be everybody's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edge_peer.protocol import commands as do
from edge_peer.protocol.messages import FINISHED, TRAINING, Stop
from edge_peer.protocol.rounds import VAIN_MAX
from edge_peer.protocol.selection import NOT_PICKED
from tests.sim.hand import RUN, TIMING, Hand, presence

DEADLINE_S = RUN.round_deadline_s
FIVE = ("a", "b", "c", "d", "e")


def leading(**run: Any) -> Hand:
    hand = Hand(roster=FIVE, run=replace(RUN, **{"updates_min": 1, **run}))
    hand.lead("b", "c", "d", "e")
    return hand


def pass_time(hand: Hand, seconds: float, *heard: str) -> None:
    """The own broker answers at every beat, and of the others these speak."""
    end_s = hand.now_s + seconds
    while hand.now_s < end_s:
        hand.wait(min(TIMING.lease_s / 3, end_s - hand.now_s))
        hand.echo()
        for peer in heard:
            hand.hear(peer, presence(peer, election=hand.document.term))


def cut_off_in_a_round(**run: Any) -> Hand:
    """One whole round; in the next one only `b` is heard, whose broker is this peer's."""
    hand = leading(**run)
    hand.train()
    for peer in ("b", "c", "d", "e"):
        hand.update(peer)
    hand.wait(0.1)
    hand.merge()
    hand.echo()
    assert hand.base.round == 1
    # What was heard last in the round before is too old by then.
    pass_time(hand, TIMING.lease_s + 1, "b")
    hand.train()
    hand.update("b")
    pass_time(hand, DEADLINE_S, "b")
    return hand


def test_a_round_is_not_closed_where_most_keep_silent() -> None:  # C8
    hand = cut_off_in_a_round()
    assert len(hand.all(do.Aggregate)) == 1
    assert hand.document.state == TRAINING
    said = "not heard: of the roster 2 are, and it takes 3"
    assert {peer: hand.document.missing[peer] for peer in ("c", "d", "e")} == dict.fromkeys(("c", "d", "e"), said)
    pass_time(hand, 4 * VAIN_MAX * DEADLINE_S, "b")
    assert len(hand.all(do.Aggregate)) == 1
    assert hand.document.state == TRAINING, "it has not ended the run for being alone"
    assert hand.document.attempt == 1


def test_the_round_goes_on_when_enough_are_heard_again() -> None:  # C8
    hand = cut_off_in_a_round()
    hand.hear("c", presence("c", election=1))
    assert "not heard" not in str(hand.document.missing)
    assert len(hand.all(do.Aggregate)) == 1, "the others may not have heard of the round"
    assert hand.document.deadline_s == DEADLINE_S
    for peer in ("c", "d", "e"):
        hand.update(peer)
    assert len(hand.all(do.Aggregate)) == 2
    assert {it.peer for it in hand.last(do.Aggregate).updates} == set(FIVE)


def test_who_has_said_goodbye_is_not_silent() -> None:  # C8
    """With one broker for all, whoever is left goes on."""
    hand = cut_off_in_a_round()
    for peer in ("c", "d", "e"):
        hand.hear(peer, presence(peer, online=False))
    assert len(hand.all(do.Aggregate)) == 2


def test_a_stop_ends_no_run_where_most_keep_silent() -> None:  # C8, U5
    hand = leading()
    pass_time(hand, TIMING.lease_s + 1, "b")
    hand.hear("b", Stop(str(hand.document.run_id), "enough"))
    assert hand.document.state == TRAINING
    pass_time(hand, DEADLINE_S, "b")
    assert hand.document.state == TRAINING
    hand.hear("d", presence("d", election=1))
    assert hand.document.state == FINISHED
    assert hand.document.reason == "stopped by b: enough"


def test_a_stop_that_was_taken_back_meanwhile_stops_nothing() -> None:  # C8, U5
    hand = leading()
    pass_time(hand, TIMING.lease_s + 1, "b")
    hand.hear("b", Stop(str(hand.document.run_id), "enough"))
    hand.hear("b", None, "stop")
    hand.train()
    for peer in ("b", "c", "d", "e"):
        hand.update(peer)
    assert len(hand.all(do.Aggregate)) == 1


def test_a_round_of_few_asks_the_others_at_most_once_a_lease() -> None:  # C8
    """Whoever neither trains nor tests has nothing to say in a round."""
    hand = leading(strategy="fraction", fraction=0.2, rounds_max=100)
    asked = 0
    for _ in range(20):
        if "a" in hand.document.participants:
            hand.train()
        for peer in set(hand.document.participants) - {"a"}:
            hand.update(peer)
        missing = {it for it, why in hand.document.missing.items() if "not heard" in why}
        asked += bool(missing)
        for peer in missing:
            hand.hear(peer, presence(peer, election=1))
        assert all(why == NOT_PICKED for why in hand.document.missing.values())
        hand.merge()
        hand.echo()
        pass_time(hand, 0.6 * TIMING.lease_s)
    assert hand.base.round == 20
    assert 3 <= asked <= 12, "in twelve leases"


def test_without_a_roster_nobody_is_asked() -> None:  # C8
    hand = Hand(roster=None, run=replace(RUN, updates_min=1))
    hand.lead("b", "c", "d", "e")
    hand.train()
    hand.update("b")
    pass_time(hand, DEADLINE_S, "b")
    assert hand.all(do.Aggregate)


# ---------------------------------------------------------------------- brokers that keep nothing for who comes later


def test_a_controller_that_somebody_does_not_know_of_says_itself_again() -> None:  # C9
    hand = leading()
    hand.hear("f", presence("f"))
    assert not hand.published("presence", new=True), "who has just come is not in an election"
    hand.hear("f", presence("f", election=1))
    assert not hand.published("presence", new=True), "late in the election of this term"
    hand.hear("f", presence("f", election=2))
    assert [it.online for it in hand.published("presence", new=True)] == [True]
    assert hand.published("round", new=True)
    hand.hear("f", presence("f", election=3))
    assert not hand.published("presence", new=True), "nobody makes it say so all the time"
    hand.wait(TIMING.resend_s)
    hand.echo()
    hand.hear("f", presence("f", election=3))
    assert not hand.published("presence", new=True), "that election was heard of"
    hand.hear("f", presence("f", election=4))
    assert hand.published("presence", new=True)
    assert hand.peer.role == "leading"


def test_an_election_that_the_broker_has_kept_is_not_answered() -> None:  # C9
    hand = leading()
    hand.hear("f", presence("f", election=2), retained=True)
    hand.hear("g", presence("g", election=2, online=False))
    assert not hand.published("presence", new=True)
