"""The controller: runs and rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.controller import Controller
from edge_peer.protocol.messages import FINISHED, TRAINING, WAITING, Evaluation, Report, Start, Stop, Vote
from edge_peer.protocol.rounds import VAIN_MAX
from edge_peer.protocol.search import FETCHES_MAX
from edge_peer.protocol.state import RunRecord, SavedState
from edge_peer.protocol.tenure import CHANGES
from edge_peer.protocol.topics import ROUND, STOP
from tests.sim.hand import INITIAL, RUN, TIMING, Hand, digest, offer, presence, ref, round_document

DEADLINE_S = RUN.round_deadline_s
OTHER_MODEL = digest("model b")


def leading(*peers: str, **run: Any) -> Hand:
    hand = Hand(run=replace(RUN, **run))
    hand.lead(*(peers or ("b", "c")))
    return hand


def keep_lease(hand: Hand, seconds: float) -> None:
    """Time passes while the broker sends every round document back at once."""
    end_s = hand.now_s + seconds
    while hand.now_s < end_s:
        hand.wait(min(TIMING.lease_s / 3, end_s - hand.now_s))
        hand.echo()


def vote_for_a(peer: str, term: int) -> Vote:
    return Vote(f"{peer}-1", term, "a")


def finish_round(hand: Hand, *peers: str) -> None:
    hand.train()
    for peer in peers or ("b", "c"):
        hand.update(peer)
    hand.merge()
    hand.echo()


def test_the_phases_change_only_as_the_table_says() -> None:
    assert {phase for pair in CHANGES for phase in pair} == {"idle", "fetching", "training", "merging", "reporting"}
    hand = leading()
    assert hand.peer.controller is not None
    with pytest.raises(AssertionError, match="from training to fetching"):
        hand.peer.controller._tenure.enter("fetching")


# ---------------------------------------------------------------------- runs


def test_a_run_starts_when_enough_peers_want_one() -> None:  # U2
    hand = Hand(min_peers=3)
    hand.lead("b")
    assert hand.document.state == WAITING
    assert hand.document.reason == "waiting for peers: 2 of 3 want a run and can train"
    hand.hear("c", presence("c", wants_run=False))
    assert hand.document.state == WAITING
    hand.hear("c", presence("c"))
    assert (hand.document.state, hand.document.round, hand.document.attempt) == (TRAINING, 1, 1)
    assert hand.document.participants == ("a", "b", "c")
    assert (hand.base.round, hand.base.sha256) == (0, INITIAL)


def test_who_has_not_heard_of_the_end_does_not_count_as_wanting() -> None:  # U2
    hand = Hand(SavedState(finished=3))
    hand.lead("b", "c")
    assert hand.document.state == WAITING
    hand.hear("b", presence("b", election=1, finished=3))
    assert hand.document.state == TRAINING


def test_the_number_of_a_run_is_not_below_its_term_and_rises() -> None:  # U3
    hand = Hand(SavedState(elected_term=6))
    hand.lead("b", "c")
    assert hand.document.run_number == 7
    hand = Hand(SavedState(finished=9))
    hand.connect("b", "c")
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, election=1, finished=9))
        hand.hear(peer, vote_for_a(peer, 1))
    assert hand.document.run_number == 10


def unfinished(round_: int, run_id: str = "run", number: int = 1) -> SavedState:
    return SavedState(
        elected_term=1, run=RunRecord(run_id, number, RUN), held=ref(round_, run_id=run_id, number=number)
    )


def test_a_new_controller_goes_on_from_its_newest_model() -> None:  # U4
    hand = Hand(unfinished(1))
    hand.lead("b", "c")
    assert (hand.document.run_id, hand.document.round, hand.document.term) == ("run", 2, 2)
    assert hand.base == ref(1)
    assert hand.document.settings == RUN


def test_a_round_does_not_wait_for_a_controller_whose_lease_ran_out_in_silence() -> None:  # M4, E1
    """Its connection may stand for long: the broker has not missed it yet."""
    hand = Hand(unfinished(1))
    hand.follow(round_document("b", base=ref(1)))
    hand.wait(TIMING.lease_s)
    assert hand.peer.role == "electing"
    hand.hear("c", presence("c", election=2))
    hand.wait(TIMING.settle_s)
    hand.hear("c", vote_for_a("c", 2))
    assert (hand.document.term, hand.document.participants) == (2, ("a", "c"))
    assert hand.document.missing == {"b": "silent for a whole lease"}
    hand.hear("b", presence("b", election=2, elected=2))
    finish_round(hand, "c")
    assert "b" not in hand.document.missing


def test_a_run_of_which_nobody_has_a_model_begins_with_the_initial_one() -> None:  # U4
    hand = Hand(SavedState(elected_term=1, run=RunRecord("run", 1, RUN)))
    hand.lead("b", "c")
    assert (hand.document.run_id, hand.document.round, hand.base.sha256) == ("run", 1, INITIAL)


def fetching() -> Hand:
    hand = Hand(unfinished(1), control=True)
    hand.connect("b", "c")
    newest = ref(2, term=1)
    hand.hear("b", presence("b", election=2, control=False, newest=newest))
    hand.hear("c", presence("c", election=2))
    for peer in ("b", "c"):
        hand.hear(peer, vote_for_a(peer, 2))
    assert hand.peer.role == "leading"
    return hand


def test_a_newer_model_is_asked_of_its_holder() -> None:  # U4
    hand = fetching()
    assert (hand.document.state, hand.document.wanted, hand.document.wanted_from) == (WAITING, ref(2).sha256, "b")
    hand.tell(ev.ModelReceived("b", ref(2)))
    assert hand.peer.state.held == ref(2)
    assert hand.document.state == FINISHED  # RUN has two rounds


def test_a_holder_that_does_not_send_its_model_is_not_asked_for_ever() -> None:  # U4, I8
    hand = fetching()
    for _ in range(FETCHES_MAX):
        assert hand.document.wanted_from == "b"
        keep_lease(hand, TIMING.resend_s)
        hand.hear("b", presence("b", election=2, control=False, newest=ref(2)))
    assert (hand.document.state, hand.document.round) == (TRAINING, 2)


def test_a_holder_that_goes_is_not_waited_for() -> None:  # U4
    hand = fetching()
    hand.hear("b", presence("b", online=False))
    assert hand.document.wanted is None
    assert hand.base == ref(1)


def test_a_controller_gives_its_round_up_for_a_newer_model() -> None:  # U4
    hand = Hand(unfinished(0))
    hand.lead("b", "c")
    assert hand.document.round == 1
    hand.hear("c", presence("c", election=2, newest=ref(1)))
    assert hand.document.wanted_from == "c"
    hand.tell(ev.ModelReceived("c", ref(1)))
    assert (hand.document.state, hand.document.round, hand.base) == (TRAINING, 2, ref(1))


def test_a_controller_gives_its_run_up_for_a_later_one() -> None:  # U3
    hand = leading()
    later = ref(0, run_id="later", number=9)
    hand.hear("c", presence("c", election=1, newest=later))
    assert hand.document.run_id == "later"
    assert "gives up round 0" in hand.log()


def test_of_two_runs_with_one_number_the_later_name_goes_on() -> None:  # U3
    state = SavedState(elected_term=1, run=RunRecord("zz", 1, RUN), held=ref(1, run_id="aa"))
    hand = Hand(state)
    hand.lead("b", "c")
    assert (hand.document.run_id, hand.document.round) == ("zz", 1)


def test_a_later_run_without_a_model_begins_with_the_initial_one() -> None:  # U3
    hand = leading()
    hand.hear("c", round_document("c", term=0, base=ref(0, run_id="later", number=9)))
    assert (hand.document.run_id, hand.document.round) == ("later", 1)


def test_a_finished_later_run_is_no_reason_to_give_one_up() -> None:  # U3, I4
    hand = leading()
    number = hand.document.run_number
    hand.evaluate("b", 0.5)
    hand.hear("c", presence("c", election=1, newest=ref(5, number=number)))
    assert hand.document.run_number == number


def test_an_end_that_another_controller_has_published_is_said_as_it_was() -> None:  # U7
    hand = Hand(unfinished(1))
    hand.lead("b", "c")
    end = round_document("b", base=ref(2), state=FINISHED, round=2, reason="stopped", term=1)
    hand.hear("b", end)
    assert (hand.document.state, hand.document.base, hand.document.reason) == (FINISHED, ref(2), "stopped")


def test_results_that_come_too_late_are_dropped() -> None:  # R2, I5
    hand = leading()
    finish_round(hand)
    merge = hand.last(do.Aggregate)
    base = hand.base
    hand.tell(ev.AggregateReady(merge.term, merge.run_id, merge.round, digest("late")))
    hand.tell(ev.AggregateFailed(merge.term, merge.run_id, merge.round, "late"))
    assert hand.base == base
    assert hand.document.attempt == 1


def test_a_mean_that_was_forgotten_while_there_was_no_lease_is_computed_again() -> None:  # C5, R6
    hand = leading()
    hand.train()
    hand.update("b")
    hand.update("c")
    hand.wait(TIMING.lease_s + 0.1)
    hand.merge()
    hand.peer._context.models.discard(digest(f"mean {hand.document.run_id} 1 1"))
    hand.echo()
    assert (hand.document.state, hand.document.round) == (TRAINING, 1)


def test_a_model_of_another_kind_is_nobodys_newest() -> None:  # R7
    hand = leading()
    hand.hear("c", presence("c", election=1, newest=ref(7, number=9), model_digest=OTHER_MODEL))
    assert hand.document.run_number == 1


# ---------------------------------------------------------------------- rounds


def test_a_round_closes_when_all_have_answered() -> None:  # R4, I9
    hand = leading()
    hand.train()
    hand.update("b")
    assert hand.all(do.Aggregate) == []
    hand.update("c")
    merge = hand.last(do.Aggregate)
    assert [it.peer for it in merge.updates] == ["a", "b", "c"]
    assert (merge.round, merge.base) == (1, INITIAL)


def test_the_model_is_saved_then_published_then_the_next_round_opens() -> None:  # R6, I7
    hand = leading()
    hand.train()
    hand.update("b")
    hand.update("c")
    hand.merge()
    wanted = [
        it for it in hand.new if isinstance(it, do.SaveModel | do.PublishModel) or getattr(it, "kind", "") == ROUND
    ]
    assert [type(it) for it in wanted] == [do.SaveModel, do.PublishModel, do.Publish]
    assert hand.last(do.PublishModel).retained
    assert (hand.document.round, hand.base.round) == (2, 1)
    assert set(hand.document.closed_accepted) == {"a", "b", "c"}
    committed = [it for it in hand.all(do.LogRound) if it.event == "committed"]
    assert set(committed[0].fields["accepted"]) == {"a", "b", "c"}


def test_a_duplicate_counts_once() -> None:  # R2, I5
    hand = leading()
    for _ in range(3):
        hand.update("b")
    hand.train()
    hand.update("c")
    assert len(hand.last(do.Aggregate).updates) == 3


def test_a_second_different_update_is_ignored() -> None:  # R2, I5
    hand = leading()
    hand.update("b")
    hand.update("b", digest=digest("another"))
    assert "second, different update of b" in hand.log()
    hand.train()
    hand.update("c")
    assert {it.peer: it.offer.digest for it in hand.last(do.Aggregate).updates}["b"] == offer("b", hand.base).digest


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"run_id": "another"}, "made for another run, term, round or base"),
        ({"term": 9}, "made for another run, term, round or base"),
        ({"round": 2}, "made for another run, term, round or base"),
        ({"base": digest("another")}, "made for another run, term, round or base"),
        ({"session": "b-0"}, "another session"),
    ],
    ids=lambda it: str(it)[:20],
)
def test_updates_for_anything_else_are_not_counted(changes: dict[str, Any], why: str) -> None:  # R2, I5, M2
    hand = leading()
    made = replace(offer("b", hand.base, hand.document.term), **changes)
    hand.tell(ev.UpdateReceived("b", made))
    assert why in hand.log()
    hand.train()
    hand.update("c")
    assert hand.all(do.Aggregate) == []


def test_an_update_of_who_was_not_picked_is_not_counted() -> None:  # R2
    hand = leading("b", strategy="fastest", fraction=0.1)
    hand.hear("c", presence("c"))
    assert hand.document.participants == ("a", "b")
    hand.update("c")
    assert "update of c for round 1 not counted: not selected for this round" in hand.log()
    assert hand.document.missing == {"c": "offline"}


def test_a_malformed_update_is_refused_with_its_reason() -> None:  # R3
    hand = leading()
    hand.update("b", problem="value 3 is not finite")
    assert hand.document.refused == {"b": "value 3 is not finite"}
    assert hand.published(ROUND, new=True)
    hand.train()
    hand.update("c")
    assert [it.peer for it in hand.last(do.Aggregate).updates] == ["a", "c"]


def test_the_bound_on_the_norm_is_the_runs_own_for_the_controllers_update_too() -> None:  # R3
    hand = leading(update_norm_max=2.0)
    assert hand.peer.led == hand.document.settings
    it = offer("b", hand.base)
    hand.tell(ev.UpdateReceived("b", it, "", 2.5))
    assert hand.document.refused == {"b": "L2 norm 2.5 is above the bound 2"}
    hand.tell(ev.UpdateReceived("c", offer("c", hand.base), "", 2.0))
    key = hand.last(do.StartTraining).key
    hand.tell(ev.TrainingDone(key, digest("own"), 10, 0.5, 1.0, norm=3.0))
    assert set(hand.document.refused) == {"a", "b"}


def test_a_good_update_after_a_refused_one_counts() -> None:  # R3
    hand = leading()
    hand.update("b", problem="value 3 is not finite")
    hand.update("b")
    hand.train()
    hand.update("c")
    assert len(hand.last(do.Aggregate).updates) == 3


def test_the_deadline_closes_a_round_with_enough_updates() -> None:  # R4
    hand = leading()
    hand.train()
    hand.update("b")
    keep_lease(hand, DEADLINE_S - 0.1)
    assert hand.all(do.Aggregate) == []
    keep_lease(hand, 0.1)
    assert [it.peer for it in hand.last(do.Aggregate).updates] == ["a", "b"]
    hand.merge()
    committed = [it for it in hand.all(do.LogRound) if it.event == "committed"][-1]
    assert committed.fields["missing"] == {"c": "no update before the deadline"}


def test_with_too_few_it_is_extended_once_then_opened_again() -> None:  # R5
    hand = leading()
    hand.train()
    keep_lease(hand, DEADLINE_S)
    assert hand.document.attempt == 1
    assert set(hand.document.missing) == {"b", "c"}
    assert "extended once" in hand.document.missing["b"]
    hand.hear("b", presence("b"))
    keep_lease(hand, DEADLINE_S)
    assert (hand.document.attempt, hand.document.participants) == (2, ("a", "b", "c"))
    hand.hear("b", presence("b"))
    keep_lease(hand, 2 * DEADLINE_S)
    assert (hand.document.attempt, hand.document.participants) == (3, ("a", "b"))
    assert hand.document.missing == {"c": "silent for a whole round"}
    assert set(hand.document.accepted) == {"a"}
    hand.update("b")
    assert [it.peer for it in hand.last(do.Aggregate).updates] == ["a", "b"]


def test_who_leaves_is_not_waited_for() -> None:  # R4
    hand = leading()
    hand.train()
    hand.update("b")
    hand.hear("c", presence("c", online=False))
    assert [it.peer for it in hand.last(do.Aggregate).updates] == ["a", "b"]


def test_without_enough_trainers_the_controller_says_whom_it_waits_for() -> None:  # R5
    hand = leading()
    hand.train()
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, online=False))
    keep_lease(hand, DEADLINE_S)
    assert (hand.document.state, hand.document.reason) == (WAITING, "waiting for trainers: 1 of 2")
    assert hand.document.missing == {"b": "offline", "c": "offline"}
    hand.hear("c", presence("c", session="c-2"))
    assert (hand.document.state, hand.document.participants) == (TRAINING, ("a", "c"))


def test_a_late_joiner_is_in_the_next_round() -> None:  # R1
    hand = leading("b")
    hand.hear("c", presence("c"))
    assert hand.document.participants == ("a", "b")
    finish_round(hand, "b")
    assert (hand.document.round, hand.document.participants) == (2, ("a", "b", "c"))


def test_a_late_joiner_helps_out_where_nobody_is_left_to_wait_for() -> None:  # R5
    hand = leading("b")
    hand.train()
    hand.hear("b", presence("b", online=False))
    hand.hear("c", presence("c"))
    assert hand.document.participants == ("a", "c")


def test_a_peer_with_another_model_is_not_picked_and_both_are_told() -> None:  # R7
    hand = Hand()
    hand.connect("b", "c")
    other = presence("c", election=1, model_digest=OTHER_MODEL)
    hand.hear("b", presence("b", election=1))
    hand.hear("c", other)
    for peer in ("b", "c"):
        hand.hear(peer, vote_for_a(peer, 1))
    assert hand.document.participants == ("a", "b")
    assert "deploy the same artifacts to both" in hand.document.missing["c"]


def test_a_mean_that_cannot_be_computed_opens_the_round_again() -> None:  # R5
    hand = leading()
    hand.train()
    hand.update("b")
    hand.update("c")
    merge = hand.last(do.Aggregate)
    hand.tell(ev.AggregateFailed(merge.term, merge.run_id, merge.round, "an update is not held any more"))
    assert (hand.document.attempt, hand.document.accepted) == (2, {})
    assert "cannot be merged" in hand.log()


def test_a_round_that_is_opened_in_vain_too_often_ends_the_run() -> None:  # U5, I8
    hand = leading()
    for _ in range(2 * VAIN_MAX):
        for peer in ("b", "c"):
            hand.hear(peer, presence(peer))
        keep_lease(hand, DEADLINE_S)
    assert hand.document.state == FINISHED
    assert hand.document.reason == f"round 1 has not got enough updates, after {VAIN_MAX} openings"


# ---------------------------------------------------------------------- the lease


def test_the_round_document_is_sent_again_every_third_of_the_lease() -> None:  # C4
    hand = leading()
    beats = len(hand.published(ROUND))
    hand.wait(TIMING.lease_s)
    assert len(hand.published(ROUND)) == beats + 3
    assert [it.beat for it in hand.published(ROUND)] == list(range(beats + 3))


def test_without_an_echo_nothing_is_committed() -> None:  # C5
    hand = leading()
    hand.train()
    hand.wait(TIMING.lease_s + 0.1)
    hand.update("b")
    hand.update("c")
    assert hand.all(do.Aggregate) == []
    hand.echo()
    assert hand.all(do.Aggregate)


def test_a_mean_that_comes_after_the_lease_waits_for_an_echo() -> None:  # C5
    hand = leading()
    hand.train()
    hand.update("b")
    hand.update("c")
    hand.wait(TIMING.lease_s + 0.1)
    hand.merge()
    assert hand.base.round == 0
    hand.echo()
    assert hand.base.round == 1


def test_an_echo_that_lay_about_is_worth_its_age() -> None:  # C5
    hand = leading()
    hand.train()
    hand.now_s += TIMING.lease_s + 0.1  # the process is stopped, and goes on
    hand.echo()
    hand.update("b")
    hand.update("c")
    assert hand.all(do.Aggregate) == []


def test_the_first_lease_runs_from_the_election() -> None:  # C5
    hand = Hand()
    hand.connect("b", "c")
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, election=1))
    assert Controller(hand.peer._context, 1, hand.peer._election.begun_s).has_lease
    hand.now_s += TIMING.lease_s + 0.1  # the process is stopped with the votes in its socket
    hand.hear("b", vote_for_a("b", 1))
    assert hand.peer.role != "leading" or hand.peer.controller is None or not hand.peer.controller.has_lease


def test_a_retained_document_of_another_session_is_said_again() -> None:  # M5
    hand = leading()
    hand.hear("a", round_document("a", term=9, session="a-0"))
    assert hand.published(ROUND, new=True)
    hand.hear("a", None, ROUND)
    assert hand.published(ROUND, new=True)


def test_after_a_reconnection_everything_is_said_again_before_anything_is_decided() -> None:  # M3, C5
    hand = leading()
    hand.train()
    hand.tell(ev.Disconnected())
    hand.tell(ev.Connected())
    assert hand.newly(do.PublishModel)
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer), retained=True)
    hand.wait(TIMING.grace_s)
    assert hand.peer.role == "leading"
    hand.update("b")
    hand.update("c")
    assert hand.all(do.Aggregate) == []
    hand.echo()
    assert len(hand.last(do.Aggregate).updates) == 3


def back_after(hand: Hand, seconds: float) -> None:
    """A controller that has trained, with `c` on its new connection, and without `b`, which is on its way."""
    hand.train()
    hand.tell(ev.Disconnected())
    hand.wait(seconds)
    hand.tell(ev.Connected())
    hand.hear("c", presence("c"), retained=True)
    hand.wait(TIMING.grace_s)
    hand.echo()
    hand.update("c")
    assert hand.peer.role == "leading"
    assert hand.all(do.Aggregate) == []


def test_a_controller_waits_for_who_was_there_as_long_again_as_it_was_away() -> None:  # M3, R4
    hand = leading()
    back_after(hand, 3.0)
    hand.wait(2.9)
    hand.echo()
    assert hand.all(do.Aggregate) == []
    hand.hear("b", presence("b"))
    hand.update("b")
    assert len(hand.last(do.Aggregate).updates) == 3


def test_a_controller_waits_no_longer_than_that_and_never_longer_than_a_lease() -> None:  # M3, R4
    for away_s, waits_s in (3.0, 3.0), (100 * TIMING.lease_s, TIMING.lease_s):
        hand = leading()
        back_after(hand, away_s)
        waited_s = 0.0
        while waited_s + 0.5 < waits_s:
            hand.wait(0.5)
            hand.echo()
            waited_s += 0.5
        assert hand.all(do.Aggregate) == []
        hand.wait(waits_s - waited_s)
        hand.echo()
        assert [it.peer for it in hand.last(do.Aggregate).updates] == ["a", "c"]


def test_when_all_are_back_a_controller_waits_for_nobody() -> None:  # M3, I9
    hand = leading()
    hand.train()
    hand.tell(ev.Disconnected())
    hand.wait(100 * TIMING.lease_s)
    hand.tell(ev.Connected())
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer), retained=True)
    hand.wait(TIMING.grace_s)
    hand.echo()
    hand.update("b")
    hand.update("c")
    assert len(hand.last(do.Aggregate).updates) == 3


# ---------------------------------------------------------------------- the end


def test_the_last_round_ends_the_run() -> None:  # U5
    hand = leading()
    finish_round(hand)
    finish_round(hand)
    assert (hand.document.state, hand.document.round, hand.document.reason) == (FINISHED, 2, "reached 2 rounds")
    assert hand.peer.state.finished == 1


def test_finished_is_saved_before_it_is_published() -> None:  # U7, I7
    hand = leading()
    finish_round(hand)
    hand.train()
    hand.update("b")
    hand.update("c")
    hand.merge()
    order = [it for it in hand.new if isinstance(it, do.SaveState) or getattr(it, "kind", "") == ROUND]
    assert isinstance(order[0], do.SaveState)
    assert order[0].state.finished == 1


@pytest.mark.parametrize(
    ("accuracies", "state"), [((0.7, 0.8, 0.9), FINISHED), ((0.7, 0.8, 0.85), TRAINING)], ids=["reached", "missed"]
)
def test_the_target_accuracy_of_the_global_model_ends_the_run(
    accuracies: tuple[float, ...], state: str
) -> None:  # U5, U6
    hand = leading(target_accuracy=0.8, rounds_max=5)
    finish_round(hand)
    for peer, accuracy in zip("abc", accuracies, strict=True):
        hand.evaluate(peer, accuracy)
    assert hand.document.state == state
    if state == FINISHED:
        assert hand.document.reason == "reached target accuracy 0.8"
        assert hand.document.accuracy == pytest.approx(0.8)


def test_the_accuracy_is_weighted_by_test_examples() -> None:  # U6
    hand = leading(rounds_max=5)
    finish_round(hand)
    hand.evaluate("a", 1.0)
    hand.evaluate("b", 1.0)
    base = hand.base
    hand.hear("c", Evaluation("c-1", base.run_id, base.round, base.sha256, Report(0.0, 1.0, 30)))
    hand.wait(TIMING.lease_s / 3)
    assert (hand.document.accuracy, hand.document.accuracy_round) == (pytest.approx(0.25), 1)


def test_the_accuracy_in_int8_is_a_mean_over_those_who_have_it_and_decides_nothing() -> None:  # U6
    hand = leading(target_accuracy=0.9, rounds_max=5)
    finish_round(hand)
    base = hand.base

    def tell(peer: str, examples: int, int8: float | None) -> None:
        report = Report(0.5, 1.0, examples, int8)
        hand.hear(peer, Evaluation(f"{peer}-1", base.run_id, base.round, base.sha256, report))

    tell("a", 10, 1.0)
    tell("b", 30, 0.9)
    tell("c", 60, None)
    hand.wait(TIMING.lease_s / 3)
    assert (hand.document.accuracy, hand.document.int8_accuracy) == (pytest.approx(0.5), pytest.approx(0.925))
    assert hand.document.state == TRAINING


def test_nobody_has_an_int8_model() -> None:  # U6
    hand = leading(rounds_max=5)
    finish_round(hand)
    for peer in "abc":
        hand.evaluate(peer, 0.5)
    hand.wait(TIMING.lease_s / 3)
    assert (hand.document.accuracy, hand.document.int8_accuracy) == (pytest.approx(0.5), None)


def test_the_initial_model_does_not_end_a_run() -> None:  # U5
    hand = leading(target_accuracy=0.5)
    for peer in "abc":
        hand.evaluate(peer, 0.9)
    assert hand.document.state == TRAINING


def test_scores_of_other_models_and_sessions_do_not_count() -> None:  # U6, M2
    hand = leading(target_accuracy=0.5, rounds_max=5)
    finish_round(hand)
    base = hand.base
    hand.evaluate("a", 0.9)
    hand.evaluate("b", 0.9)
    hand.hear("c", Evaluation("c-0", base.run_id, base.round, base.sha256, Report(0.9, 1.0, 5)))
    hand.hear("c", Evaluation("c-1", base.run_id, base.round, INITIAL, Report(0.9, 1.0, 5)))
    assert hand.document.state == TRAINING


@pytest.mark.parametrize(("sender", "kind"), [("operator", "run"), ("b", "run"), ("operator", "another")])
def test_a_stop_ends_the_run_that_it_names(sender: str, kind: str) -> None:  # U5
    hand = leading()
    run_id = hand.document.run_id if kind == "run" else "another"
    assert run_id is not None
    hand.hear(sender, Stop(run_id, "enough"), retained=True)
    if kind == "run":
        assert (hand.document.state, hand.document.reason) == (FINISHED, f"stopped by {sender}: enough")
    else:
        assert hand.document.state == TRAINING


def test_a_stop_that_was_taken_back_stops_nothing() -> None:  # U5
    hand = Hand(unfinished(1))
    hand.tell(ev.Connected())
    hand.hear("operator", Stop("run", "enough"))
    hand.hear("operator", None, STOP)
    hand.hear("b", presence("b"))
    hand.wait(TIMING.grace_s)
    hand.hear("b", presence("b", election=2))
    hand.hear("b", vote_for_a("b", 2))
    assert hand.document.state == TRAINING


def test_updates_that_do_not_count_are_let_go() -> None:  # R2
    """They would take the room of those that count: of a sender only so many are held at a time."""
    hand = leading()
    hand.update("b")
    accepted = offer("b", hand.base).digest
    assert hand.newly(do.KeepUpdates) == []
    hand.update("b")
    assert hand.newly(do.KeepUpdates) == [], "the same again"
    hand.update("b", digest=digest("another"))
    assert hand.newly(do.KeepUpdates) == [do.KeepUpdates(frozenset({accepted}))]
    hand.update("c", round=7)
    assert hand.newly(do.KeepUpdates) == [do.KeepUpdates(frozenset({accepted}))]
    hand.update("c", codec="int8")
    assert hand.newly(do.KeepUpdates) == [do.KeepUpdates(frozenset({accepted}))]


def test_updates_of_a_round_that_is_given_up_are_let_go() -> None:  # C6, U4
    hand = Hand(unfinished(0))
    hand.lead("b", "c")
    hand.update("b")
    hand.hear("c", presence("c", election=2, newest=ref(1)))
    assert hand.document.wanted == ref(1).sha256
    hand.tell(ev.ModelReceived("c", ref(1)))
    assert hand.base == ref(1)
    assert do.KeepUpdates(frozenset()) in hand.newly(do.KeepUpdates)


def test_updates_that_come_after_the_time_as_controller_are_let_go() -> None:  # C2
    """What was under way when it stepped down, perhaps for long: its connection had stood still."""
    hand = leading()
    update = offer("b", hand.base)
    hand.hear("c", round_document("c", term=5))
    assert hand.peer.role == "following"
    hand.tell(ev.UpdateReceived("b", update, ""))
    assert hand.newly(do.KeepUpdates) == [do.KeepUpdates(frozenset())]


def finished() -> Hand:
    hand = leading()
    finish_round(hand)
    finish_round(hand)
    assert hand.document.state == FINISHED
    return hand


def test_the_end_is_complete_when_all_have_reported() -> None:  # U8, I9
    hand = finished()
    hand.evaluate("a", 0.8)
    hand.evaluate("b", 0.8, final=True)
    assert hand.document.complete is False
    hand.evaluate("c", 0.5, final=True)
    assert hand.document.complete is True
    assert set(hand.document.reports) == {"a", "b", "c"}
    assert hand.document.accuracy == pytest.approx(0.7)


def test_a_controller_hands_the_model_in_when_the_broker_has_heard_of_the_end() -> None:  # U7
    hand = leading(rounds_max=1)
    hand.train()
    hand.update("b")
    hand.update("c")
    hand.merge()
    hand.tell(ev.ModelEvaluated(hand.base, Report(0.5, 1.0, 5), 0.1))
    assert hand.document.state == FINISHED
    assert hand.all(do.RunFinished) == []
    hand.echo()
    assert hand.all(do.RunFinished)[0].ref == hand.base


def test_the_end_is_complete_when_reports_are_overdue() -> None:  # U8, I8
    hand = finished()
    hand.evaluate("b", 0.8, final=True)
    keep_lease(hand, TIMING.final_report_s)
    assert hand.document.complete is True
    assert set(hand.document.reports) == {"b"}


def test_the_next_run_begins_after_the_end_is_said() -> None:  # U8, U2
    hand = finished()
    for peer in "abc":
        hand.evaluate(peer, 0.8, final=True)
    hand.hear("operator", Start(1))
    assert hand.document.state == FINISHED
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, election=1, finished=1))
    assert (hand.document.state, hand.document.run_number) == (TRAINING, 2)
    ended = [it for it in hand.published(ROUND) if it.state == FINISHED]
    assert ended[-1].complete


def test_a_run_without_anybody_to_report_still_says_that_it_has_ended() -> None:  # U8
    hand = Hand(test_examples=0, min_peers=1, run=replace(RUN, rounds_max=1, updates_min=1))
    hand.connect("b", "c")
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, election=1, test_examples=0))
        hand.hear(peer, vote_for_a(peer, 1))
    finish_round(hand)
    assert FINISHED in {it.state for it in hand.published(ROUND)}
    assert hand.document.run_number == 1


def test_a_later_controller_says_the_end_again_and_collects_what_is_missing() -> None:  # U7
    hand = Hand(unfinished(1))
    end = round_document(
        "b",
        beat=5,
        base=ref(2),
        state=FINISHED,
        round=2,
        reason="reached 2 rounds",
        reports={"b": Report(0.9, 1.0, 5)},
    )
    hand.follow(end)
    hand.tell(ev.ModelReceived("b", ref(2)))
    hand.hear("b", presence("b", online=False))
    hand.hear("c", presence("c", election=2))
    hand.hear("c", vote_for_a("c", 2))
    said = hand.document
    assert (said.state, said.reason, said.base, said.term) == (FINISHED, "reached 2 rounds", ref(2), 2)
    assert set(said.reports) == {"b"}
    assert said.complete is False


def test_a_later_controller_says_the_accuracy_of_a_complete_end_again() -> None:  # U7, U6
    hand = Hand(unfinished(1))
    reports = {"b": Report(0.9, 1.0, 5, 0.8), "c": Report(0.6, 1.0, 10)}
    scores = {"reports": reports, "accuracy": 0.7, "int8_accuracy": 0.8, "accuracy_round": 2}
    hand.follow(round_document("b", beat=5, base=ref(2), state=FINISHED, round=2, complete=True, **scores))
    hand.hear("b", presence("b", online=False))
    hand.hear("c", presence("c", election=2))
    hand.hear("c", vote_for_a("c", 2))
    said = hand.document
    assert (said.state, said.term, said.complete) == (FINISHED, 2, True)
    assert (said.accuracy, said.int8_accuracy, said.accuracy_round) == (pytest.approx(0.7), 0.8, 2)


def test_a_controller_whose_run_has_ended_elsewhere_ends_it_without_a_lease() -> None:  # U7, I4
    hand = leading()
    hand.wait(TIMING.lease_s + 0.1)
    number = hand.document.run_number
    hand.hear("c", presence("c", election=1, finished=number))
    assert (hand.document.state, hand.document.reason) == (FINISHED, "finished by an earlier controller")


def test_a_controller_that_does_not_train_waits_only_for_the_others() -> None:  # R4
    hand = Hand(controller_trains=False)
    hand.lead("b", "c")
    assert hand.document.participants == ("b", "c")
    hand.update("b")
    hand.update("c")
    assert [it.peer for it in hand.last(do.Aggregate).updates] == ["b", "c"]
