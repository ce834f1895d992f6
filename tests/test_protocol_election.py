"""Electing a controller."""

from __future__ import annotations

import pytest

from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.election import choose, quorum, rank
from edge_peer.protocol.messages import Presence, Vote
from edge_peer.protocol.state import SavedState
from edge_peer.protocol.topics import PRESENCE, VOTE
from tests.sim.hand import TIMING, Hand, presence, ref, round_document

OTHER = "0" * 64


def votes(hand: Hand) -> list[tuple[int, str]]:
    return [(it.term, it.candidate) for it in hand.published(VOTE)]


def test_a_peer_renews_its_presence_when_an_election_begins() -> None:  # E1
    hand = Hand(SavedState(held=ref(2)))
    hand.connect("b", "c")
    said = hand.published(PRESENCE)[-1]
    assert (said.election, said.newest) == (1, ref(2))
    assert hand.peer.role == "electing"


def test_it_votes_at_once_when_all_have_renewed_theirs() -> None:  # E2, I9
    hand = Hand()
    hand.connect("b", "c")
    hand.hear("b", presence("b", election=1))
    assert votes(hand) == []
    hand.hear("c", presence("c", election=1))
    assert votes(hand) == [(1, "a")]


def test_it_votes_after_the_settling_time_among_those_that_have() -> None:  # E2
    hand = Hand()
    hand.connect("b", "c")
    hand.hear("c", presence("c", election=1, score=9.0))
    hand.wait(TIMING.settle_s)
    assert votes(hand) == [(1, "c")]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (presence("b", newest=ref(2)), presence("c", newest=ref(1), score=9.0)),
        (presence("b", newest=ref(0, number=2)), presence("c", newest=ref(9), score=9.0)),
        (presence("b", newest=ref(0)), presence("c", score=9.0)),
        (presence("b", score=9.0), presence("c", score=8.0)),
    ],
)
def test_the_rank_is_newest_model_then_score(better: Presence, worse: Presence) -> None:  # E3
    assert rank("b", better) > rank("c", worse)
    assert choose({"b": better, "c": worse}) == "b"


def test_of_equals_the_last_name_is_chosen() -> None:  # E3
    assert choose({"b": presence("b"), "c": presence("c"), "a": presence("a")}) == "c"


def test_only_the_willing_are_chosen() -> None:  # E3
    assert choose({"b": presence("b", control=False), "c": presence("c", online=False)}) is None
    assert choose({"b": presence("b", control=False), "c": presence("c", score=0.0)}) == "c"


def test_the_model_that_most_have_comes_before_all_else() -> None:  # E3
    fleet = {"a": presence("a"), "b": presence("b"), "c": presence("c", model_digest=OTHER, score=9.0, newest=ref(9))}
    assert choose(fleet) == "b"


def test_the_vote_is_saved_before_it_is_published() -> None:  # E4, I7
    hand = Hand()
    hand.connect("b", "c")
    hand.wait(TIMING.settle_s)
    kinds = [type(it) for it in hand.new if isinstance(it, do.SaveState | do.Publish)]
    assert kinds.index(do.SaveState) < kinds.index(do.Publish)
    saved = hand.newly(do.SaveState)[0].state
    assert (saved.voted_term, saved.voted_for) == (1, "a")


def test_a_better_candidate_does_not_change_a_vote() -> None:  # E4
    hand = Hand()
    hand.connect("b", "c")
    hand.wait(TIMING.settle_s)
    hand.hear("b", presence("b", election=1, score=9.0))
    hand.hear("c", presence("c", election=1, score=9.0))
    assert votes(hand) == [(1, "a")]


def test_a_restart_does_not_vote_again() -> None:  # E4, I2
    hand = Hand(SavedState(voted_term=4, voted_for="c"))
    hand.connect("b", "c")
    assert votes(hand) == [(4, "c")]
    hand.hear("b", presence("b", election=4, score=9.0))
    hand.wait(TIMING.settle_s)
    assert votes(hand) == [(4, "c"), (5, "a")]


def test_a_majority_of_the_roster_elects() -> None:  # E6, I1
    hand = Hand(roster=("a", "b", "c", "d", "e"))
    hand.connect("b", "c")
    hand.hear("b", presence("b", election=1))
    hand.hear("c", presence("c", election=1))
    hand.hear("b", Vote("b-1", 1, "a"))
    assert hand.peer.role == "electing"
    hand.hear("b", Vote("b-1", 1, "a"))
    assert hand.peer.role == "electing"
    hand.hear("c", Vote("c-1", 1, "a"))
    assert hand.peer.role == "leading"


@pytest.mark.parametrize(
    ("vote", "why"),
    [
        (Vote("b-0", 1, "a"), "another session"),
        (Vote("b-1", 2, "a"), "another term"),
        (Vote("b-1", 1, "c"), "another candidate"),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_other_votes_do_not_elect(vote: Vote, why: str) -> None:  # E5
    hand = Hand()
    hand.connect("b")
    hand.hear("b", presence("b", election=1))
    hand.hear("b", vote)
    assert hand.peer.role == "electing", why


def test_votes_of_peers_outside_the_roster_do_not_elect() -> None:  # E10
    hand = Hand()
    hand.connect("b", "x", "y")
    for peer in ("b", "x", "y"):
        hand.hear(peer, presence(peer, election=1))
    hand.hear("x", Vote("x-1", 1, "a"))
    hand.hear("y", Vote("y-1", 1, "a"))
    assert hand.peer.role == "electing"
    hand.hear("b", Vote("b-1", 1, "a"))
    assert hand.peer.role == "leading"


def test_a_peer_outside_the_roster_does_not_vote_and_is_no_candidate() -> None:  # E10
    hand = Hand(roster=("b", "c"))
    hand.connect("b", "c")
    hand.wait(60)
    assert votes(hand) == []
    inside = Hand()
    inside.connect("x", "b")
    inside.hear("x", presence("x", election=1, score=9.0))
    inside.hear("b", presence("b", election=1))
    assert votes(inside) == [(1, "a")]


def test_a_term_without_a_winner_ends_by_chance_and_the_next_is_higher() -> None:  # E7
    ends = set()
    for seed in range(8):
        hand = Hand()
        hand.peer._context.rng.seed(seed)
        hand.connect("b", "c")
        begun_s = hand.now_s
        while hand.published(PRESENCE)[-1].election == 1:
            hand.wait(0.05)
        ends.add(round(hand.now_s - begun_s, 1))
        assert hand.published(PRESENCE)[-1].election == 2
    assert len(ends) > 3
    assert min(ends) >= TIMING.settle_s + TIMING.election_timeout_s
    assert max(ends) <= TIMING.settle_s + 2 * TIMING.election_timeout_s + 0.1


def test_the_silent_of_an_election_are_taken_for_gone() -> None:  # M4
    hand = Hand(roster=None)
    hand.connect("b", "c")
    hand.hear("b", presence("b", election=1))
    hand.wait(5)
    assert "c kept silent in the election of term 1" in hand.log()
    hand.hear("b", presence("b", election=2))
    hand.hear("b", Vote("b-1", 2, "a"))
    assert hand.peer.role == "leading"


def test_a_peer_joins_the_election_of_a_higher_term() -> None:  # E7
    hand = Hand()
    hand.connect("b", "c")
    hand.hear("b", presence("b", election=7))
    assert hand.published(PRESENCE)[-1].election == 7
    hand.hear("c", Vote("c-1", 8, "b"))
    assert hand.published(PRESENCE)[-1].election == 8


def test_an_election_is_above_every_controller_that_somebody_knows() -> None:  # E7
    hand = Hand()
    hand.tell(ev.Connected())
    hand.hear("b", presence("b", elected=6), retained=True)
    hand.wait(TIMING.grace_s)
    assert hand.published(PRESENCE)[-1].election == 7


@pytest.mark.parametrize("state", [SavedState(voted_term=5, voted_for="a"), SavedState(elected_term=5)])
def test_no_peer_leads_in_a_term_of_its_last_process(state: SavedState) -> None:  # E8
    hand = Hand(state)
    hand.connect("b", "c")
    hand.hear("b", Vote("b-1", 5, "a"))
    hand.hear("c", Vote("c-1", 5, "a"))
    assert hand.peer.role == "electing"
    assert hand.published(PRESENCE)[-1].election == 6


def test_without_a_roster_a_peer_waits_for_others() -> None:  # E9
    hand = Hand(roster=None, min_peers=3)
    hand.connect("b")
    assert hand.published(PRESENCE)[-1].election == 0
    hand.hear("c", presence("c"))
    assert hand.published(PRESENCE)[-1].election == 1


def test_without_a_roster_and_others_a_peer_elects_itself_after_the_window() -> None:  # E9
    hand = Hand(roster=None)
    hand.connect()
    hand.wait(TIMING.startup_window_s - TIMING.grace_s - 0.1)
    assert hand.peer.role == "electing"
    hand.wait(0.1 + TIMING.settle_s)
    assert hand.peer.role == "leading"


def test_an_unwilling_peer_votes_but_does_not_lead() -> None:  # E3
    hand = Hand(control=False)
    hand.connect("b", "c")
    hand.wait(TIMING.settle_s)
    assert votes(hand) == []
    hand.hear("b", presence("b", election=1))
    assert votes(hand) == [(1, "b")]
    for peer in ("b", "c"):
        hand.hear(peer, Vote(f"{peer}-1", 1, "a"))
    assert hand.peer.role == "electing"


def test_an_election_without_a_candidate_waits_without_spinning() -> None:  # E2
    hand = Hand(control=False)
    hand.connect()
    hand.wait(60)  # fails on a busy loop
    assert hand.published(PRESENCE)[-1].election > 5


def test_a_controller_ends_the_election() -> None:  # E1
    hand = Hand()
    hand.connect("b", "c")
    hand.hear("b", round_document("b", term=1))
    assert hand.peer.role == "following"
    assert hand.last(do.SaveState).state.elected_term == 1


@pytest.mark.parametrize(
    ("roster", "seen", "votes_needed"), [("abc", "a", 2), ("abcd", "", 3), (None, "ab", 2), (None, "a", 1)]
)
def test_a_quorum_is_a_majority(roster: str | None, seen: str, votes_needed: int) -> None:  # E6
    assert quorum(roster, seen) == votes_needed


def test_only_who_votes_for_itself_reads_the_votes() -> None:  # E6
    hand = Hand()
    hand.connect("b", "c")
    hand.hear("b", presence("b", election=1))
    hand.hear("c", presence("c", election=1))
    assert votes(hand) == [(1, "a")]
    assert [it.kinds for it in hand.newly(do.Subscribe)] == [(VOTE,)]
    hand.hear("b", Vote("b-1", 1, "a"))
    assert hand.peer.role == "leading"
    assert (VOTE,) in [it.kinds for it in hand.newly(do.Unsubscribe)]
    other = Hand()
    other.connect("b", "c")
    for peer in ("b", "c"):
        other.hear(peer, presence(peer, election=1, score=9.0))
    assert votes(other) == [(1, "c")]
    assert all(VOTE not in it.kinds for it in other.all(do.Subscribe))


def test_a_term_is_not_given_up_while_its_documents_still_come() -> None:  # E2, E7
    others = [f"p{index:02}" for index in range(32)]
    hand = Hand(roster=("a", *others))
    hand.connect(*others)
    for peer in others[:-1]:
        hand.wait(TIMING.settle_s / 20)
        hand.hear(peer, presence(peer, election=1))
    # Longer than the settling time of a few peers, and still nobody is taken for silent.
    assert votes(hand) == []
    hand.wait(TIMING.settle_s)
    assert [term for term, _ in votes(hand)] == [1]


def test_documents_without_end_do_not_hold_up_an_election() -> None:  # E2, E7
    hand = Hand()
    hand.connect("b", "c")
    hand.hear("b", presence("b", election=1))
    begun = hand.now_s
    for count in range(100):
        hand.wait(TIMING.settle_s / 4)
        hand.hear("b", presence("b", election=1, note=f"{count}"))
        if votes(hand):
            break
    assert hand.now_s - begun <= TIMING.settle_s * 2
