"""A trainer's part."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import FINISHED, Report, Round
from edge_peer.protocol.selection import why_not
from edge_peer.protocol.state import RunRecord, SavedState
from edge_peer.protocol.topics import EVALUATION, MODEL, PRESENCE
from tests.sim.hand import RUN, TIMING, Hand, digest, presence, ref, round_document

KEY = ev.TrainingKey("run", 1, ref(0).sha256)


def following(document: Round | None = None, state: SavedState | None = None) -> Hand:
    hand = Hand(state)
    hand.follow(document or round_document("b", base=ref(0)))
    return hand


def done(hand: Hand, key: ev.TrainingKey = KEY) -> None:
    hand.tell(ev.TrainingDone(key, digest(f"update {key}"), 10, 0.5, 1.0))


def test_a_round_starts_the_training_and_the_evaluation_once() -> None:  # T1, T6
    hand = following()
    assert [it.key for it in hand.all(do.StartTraining)] == [KEY]
    assert hand.last(do.StartTraining).settings == RUN
    assert [it.ref for it in hand.all(do.StartEvaluation)] == [ref(0)]
    for beat in range(1, 4):
        hand.hear("b", round_document("b", beat=beat, base=ref(0)))
    assert len(hand.all(do.StartTraining)) == len(hand.all(do.StartEvaluation)) == 1


def test_taking_part_is_saved() -> None:  # T1
    hand = following()
    assert hand.last(do.SaveState).state.run == RunRecord("run", 1, RUN)
    assert hand.last(do.SaveModel).ref == ref(0)


def test_who_is_not_picked_evaluates_only() -> None:  # T6
    hand = following(round_document("b", base=ref(0), participants=("b", "c")))
    assert hand.all(do.StartTraining) == []
    assert hand.all(do.StartEvaluation)


def test_the_update_is_sent_at_once_and_names_what_it_was_made_for() -> None:  # T1, I9
    hand = following()
    done(hand)
    it = hand.newly(do.PublishUpdate)[0].offer
    assert (it.session, it.run_id, it.term, it.round, it.base) == ("a-1", "run", 1, 1, ref(0).sha256)
    assert (it.examples, it.digest) == (10, digest(f"update {KEY}"))


def test_it_is_sent_again_while_it_is_not_listed_as_accepted() -> None:  # T2
    hand = following()
    done(hand)
    hand.wait(TIMING.resend_s - 0.1)
    assert len(hand.all(do.PublishUpdate)) == 1
    hand.wait(0.1)
    assert len(hand.all(do.PublishUpdate)) == 2
    accepted = {"a": digest(f"update {KEY}")}
    hand.hear("b", round_document("b", beat=1, base=ref(0), accepted=accepted))
    hand.wait(TIMING.resend_s)
    assert len(hand.all(do.PublishUpdate)) == 2


@pytest.mark.parametrize("cause", ["connection", "controller", "opening"])
def test_it_is_sent_again_without_training_again(cause: str) -> None:  # T2
    hand = following()
    done(hand)
    if cause == "connection":
        hand.tell(ev.Disconnected())
        hand.tell(ev.Connected())
        hand.hear("b", round_document("b", beat=1, base=ref(0)))
    elif cause == "controller":
        hand.hear("c", round_document("c", term=2, base=ref(0)))
    else:
        hand.hear("b", round_document("b", beat=1, base=ref(0), attempt=2))
    assert len(hand.all(do.PublishUpdate)) == 2
    assert hand.last(do.PublishUpdate).offer.term == (2 if cause == "controller" else 1)
    assert len(hand.all(do.StartTraining)) == 1


def test_a_refused_update_is_not_sent_again_to_the_same_opening() -> None:  # R3, T2
    hand = following()
    done(hand)
    hand.hear("b", round_document("b", beat=1, base=ref(0), refused={"a": "not finite"}))
    hand.wait(TIMING.resend_s)
    assert len(hand.all(do.PublishUpdate)) == 1
    hand.hear("b", round_document("b", beat=2, base=ref(0), attempt=2))
    assert len(hand.all(do.PublishUpdate)) == 2


def test_training_goes_on_over_a_change_of_controller() -> None:  # T1
    hand = following()
    hand.hear("b", presence("b", online=False))
    hand.hear("c", round_document("c", term=2))
    hand.hear("c", round_document("c", term=2, beat=1, base=ref(0)))
    assert hand.all(do.CancelTraining) == []
    assert len(hand.all(do.StartTraining)) == 1
    done(hand)
    assert hand.last(do.PublishUpdate).offer.term == 2


def test_training_of_a_round_that_is_over_is_cancelled() -> None:  # T1
    hand = following()
    hand.tell(ev.ModelReceived("b", ref(1)))
    assert hand.newly(do.CancelTraining) == [do.CancelTraining(KEY)]
    hand.hear("b", round_document("b", beat=1, base=ref(1)))
    assert hand.last(do.StartTraining).key == ev.TrainingKey("run", 2, ref(1).sha256)


def test_rounds_never_go_back() -> None:  # T3, I4
    state = SavedState(elected_term=1, run=RunRecord("run", 1, RUN), held=ref(3))
    hand = following(round_document("b", term=1, base=ref(2)), state)
    assert hand.all(do.StartTraining) == []
    assert hand.peer.state.held == ref(3)


def test_a_later_controller_is_told_of_a_newer_model() -> None:  # T3
    state = SavedState(elected_term=1, run=RunRecord("run", 1, RUN), held=ref(3))
    hand = following(round_document("b", term=2, base=ref(2)), state)
    assert [it.newest for it in hand.published(PRESENCE, new=True)] == [ref(3)]
    said = len(hand.published(PRESENCE))
    hand.hear("b", round_document("b", term=2, beat=1, base=ref(2)))
    assert len(hand.published(PRESENCE)) == said


def test_a_model_that_came_before_its_round_document_is_not_worth_a_word() -> None:  # T3, I9
    hand = following()
    said = len(hand.published(PRESENCE))
    hand.tell(ev.ModelReceived("b", ref(1)))
    assert len(hand.published(PRESENCE)) == said


def test_a_model_that_did_not_come_is_asked_for_again() -> None:  # T4
    hand = following(round_document("b", base=ref(1)))
    assert hand.all(do.StartTraining) == []
    hand.wait(TIMING.resend_s)
    assert hand.newly(do.Subscribe) == [do.Subscribe((MODEL,))]
    hand.tell(ev.ModelReceived("b", ref(1)))
    assert hand.newly(do.StartTraining)
    hand.hear("b", round_document("b", beat=9, base=ref(1)))
    hand.wait(TIMING.resend_s)
    assert hand.newly(do.Subscribe) == []


def test_a_model_that_is_wanted_of_this_peer_is_published() -> None:  # U4
    state = SavedState(elected_term=1, run=RunRecord("run", 1, RUN), held=ref(3))
    wanted = round_document("b", term=2, wanted=ref(3).sha256, wanted_from="a")
    hand = following(wanted, state)
    assert hand.all(do.PublishModel) == [do.PublishModel(ref(3), retained=False)]
    hand.hear("b", replace(wanted, beat=1))
    assert len(hand.all(do.PublishModel)) == 1
    hand.hear("b", replace(wanted, beat=2, wanted_from="c"))
    assert len(hand.all(do.PublishModel)) == 1


def test_a_failed_training_is_said_and_the_next_round_is_tried() -> None:  # T5
    hand = following()
    hand.tell(ev.TrainingFailed(KEY, "the loss diverged"))
    said = hand.published(PRESENCE)[-1]
    assert (said.train, said.note) == (False, "training of round 1 failed: the loss diverged")
    hand.hear("b", round_document("b", beat=1, base=ref(0)))
    assert len(hand.all(do.StartTraining)) == 1
    hand.tell(ev.ModelReceived("b", ref(1)))
    hand.hear("b", round_document("b", beat=2, base=ref(1)))
    assert hand.published(PRESENCE)[-1].train is True
    assert len(hand.all(do.StartTraining)) == 2


def test_a_peer_whose_training_failed_offers_itself_again_after_a_rounds_time() -> None:  # T5, I8
    hand = following()
    hand.tell(ev.TrainingFailed(KEY, "out of memory"))
    waiting = round_document("b", base=ref(0), state="waiting", round=0, participants=())
    for beat in range(1, 21):
        hand.hear("b", replace(waiting, beat=beat))
        hand.wait(3)
    assert hand.published(PRESENCE)[-1].train is True
    hand.hear("b", round_document("b", beat=30, base=ref(0), attempt=2))
    assert len(hand.all(do.StartTraining)) == 2


@pytest.mark.parametrize(
    ("reason", "answers"), [("silent for a whole round", 1), ("offline", 1), ("not picked for this round", 0)]
)
def test_who_is_missed_but_there_says_so(reason: str, answers: int) -> None:  # M4
    hand = following(round_document("b", base=ref(0), participants=("b", "c")))
    said = len(hand.published(PRESENCE))
    missed = round_document("b", beat=1, base=ref(0), participants=("b", "c"), missing={"a": reason})
    hand.hear("b", missed)
    assert len(hand.published(PRESENCE)) == said + answers
    hand.hear("b", replace(missed, beat=2))
    assert len(hand.published(PRESENCE)) == said + answers
    hand.wait(TIMING.resend_s)
    hand.hear("b", replace(missed, beat=3))
    assert len(hand.published(PRESENCE)) == said + 2 * answers


def test_who_has_another_model_says_that_it_is_there_when_it_is_not_heard() -> None:  # M4, C8
    """It trains nothing, but is one of the majority that a controller has to hear."""
    theirs = round_document("b", base=ref(0), model_digest=digest("model b"))
    hand = following(theirs)
    said = len(hand.published(PRESENCE))
    why = why_not(hand.published(PRESENCE)[-1], digest("model b"))
    assert "deploy the same artifacts" in why
    hand.hear("b", replace(theirs, beat=1, missing={"a": why[:300]}))
    assert len(hand.published(PRESENCE)) == said, "nothing new"
    hand.hear("b", replace(theirs, beat=2, missing={"a": "not heard: of the roster 1 are, and it takes 2"}))
    assert len(hand.published(PRESENCE)) == said + 1


def test_a_controller_with_another_model_is_told_off_once() -> None:  # R7
    hand = following(round_document("b", base=ref(0), model_digest=digest("model b")))
    hand.hear("b", round_document("b", beat=1, base=ref(0), model_digest=digest("model b")))
    assert hand.all(do.StartTraining) == hand.all(do.StartEvaluation) == []
    assert hand.log().count("deploy the same artifacts to both") == 1
    assert hand.peer.state.run is None


def evaluated(hand: Hand, base: int) -> None:
    hand.tell(ev.ModelEvaluated(ref(base), Report(0.5, 1.0, 5), 0.1))


def test_the_score_of_each_model_is_told_to_each_controller() -> None:  # T6
    hand = following()
    evaluated(hand, 0)
    it = hand.published(EVALUATION, new=True)[0]
    assert (it.session, it.round, it.sha256, it.final) == ("a-1", 0, ref(0).sha256, False)
    hand.hear("b", round_document("b", beat=1, base=ref(0)))
    assert len(hand.published(EVALUATION)) == 1
    hand.hear("c", round_document("c", term=2, base=ref(0)))
    assert len(hand.published(EVALUATION)) == 2


def test_a_row_is_written_once_a_round() -> None:  # T6
    hand = following()
    evaluated(hand, 0)
    done(hand)
    hand.tell(ev.LocalEvaluated(KEY, Report(0.6, 0.9, 5)))
    hand.tell(ev.ModelReceived("b", ref(1)))
    hand.hear("b", round_document("b", beat=1, base=ref(1)))
    evaluated(hand, 1)
    rows = hand.all(do.WriteRow)
    assert [(it.round, it.role, it.examples) for it in rows] == [(0, "observer", 0), (1, "trainer", 10)]
    assert rows[1].local == Report(0.6, 0.9, 5)
    hand.hear("c", round_document("c", term=2, base=ref(1)))
    assert len(hand.all(do.WriteRow)) == 2


END = round_document("b", beat=5, base=ref(0), state=FINISHED, round=0, reason="stopped", participants=())


def test_at_the_end_the_final_report_is_sent_until_it_is_listed() -> None:  # U8
    hand = following()
    evaluated(hand, 0)
    hand.hear("b", END)
    assert hand.published(EVALUATION)[-1].final is True
    assert hand.all(do.RunFinished) == [do.RunFinished(ref(0), RUN, "stopped")]
    assert hand.all(do.CancelTraining)
    sent = len(hand.published(EVALUATION))
    hand.wait(TIMING.resend_s)
    assert len(hand.published(EVALUATION)) == sent + 1
    hand.hear("b", replace(END, beat=6, reports={"a": Report(0.5, 1.0, 5)}))
    hand.wait(TIMING.resend_s)
    assert len(hand.published(EVALUATION)) == sent + 1
    assert len(hand.all(do.RunFinished)) == 1


def test_a_later_end_of_the_same_run_is_handed_in_too() -> None:  # U7
    hand = following()
    evaluated(hand, 0)
    hand.hear("b", END)
    hand.tell(ev.ModelReceived("c", ref(1)))
    later = round_document("c", term=2, base=ref(1), state=FINISHED, round=1, reason="stopped", participants=())
    hand.hear("c", later)
    evaluated(hand, 1)
    assert [it.ref for it in hand.all(do.RunFinished)] == [ref(0), ref(1)]


def test_a_peer_without_a_test_split_hands_the_model_in() -> None:  # U7
    hand = Hand(test_examples=0)
    hand.follow(round_document("b", base=ref(0)))
    hand.hear("b", END)
    assert hand.all(do.RunFinished) == [do.RunFinished(ref(0), RUN, "stopped")]


def test_who_was_not_in_the_run_reports_too_but_hands_nothing_in() -> None:  # U8, I9
    hand = following(END)
    evaluated(hand, 0)
    assert hand.published(EVALUATION)[-1].final is True
    assert hand.all(do.RunFinished) == hand.all(do.WriteRow) == hand.all(do.StartTraining) == []


def test_a_finished_run_is_never_trained_again() -> None:  # I4
    hand = following()
    hand.hear("b", END)
    hand.hear("b", round_document("b", beat=9, base=ref(0), attempt=2))
    assert len(hand.all(do.StartTraining)) == 1
    again = Hand(hand.peer.state)
    again.follow(round_document("b", beat=9, base=ref(0), attempt=2))
    assert again.all(do.StartTraining) == []


def test_old_models_are_let_go() -> None:  # I10
    hand = following()
    for number in range(1, 30):
        hand.tell(ev.ModelReceived("c", ref(0, run_id=f"x{number}", number=1)))
        hand.tell(ev.ModelReceived("c", replace(ref(1), sha256=digest(str(number)))))
    assert len(hand.peer._context.models) <= 10
    assert hand.all(do.KeepModels)


def test_a_new_model_is_written_while_the_training_from_it_is_on() -> None:  # T7
    """Rule: what others may hear of is on the disk before; what they do not hear of need not wait for the disk."""
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    hand.wait(TIMING.checkpoint_s)
    hand.tell(ev.ModelReceived("b", ref(1)))
    assert not hand.newly(do.SaveModel)
    hand.hear("b", round_document("b", beat=1, base=ref(1)))
    order = [type(it) for it in hand.new if isinstance(it, do.StartTraining | do.SaveModel)]
    assert order == [do.StartTraining, do.SaveModel]
    assert hand.newly(do.SaveModel)[0].ref == ref(1)


def test_a_model_is_on_the_disk_before_its_holder_says_so() -> None:  # T7
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    hand.tell(ev.ModelReceived("b", ref(1)))
    hand.hear("b", presence("b", online=False))
    order = [it for it in hand.new if isinstance(it, do.SaveModel) or getattr(it, "kind", "") == PRESENCE]
    assert isinstance(order[0], do.SaveModel)
    assert order[1].document.newest == ref(1)


def test_rounds_that_follow_each_other_fast_are_not_all_written() -> None:  # T7
    """Rule: SD cards wear out; what nobody has heard of may be lost with the power."""
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    hand.wait(TIMING.checkpoint_s)
    for number in (1, 2, 3):
        hand.tell(ev.ModelReceived("b", ref(number)))
        hand.hear("b", round_document("b", beat=number, base=ref(number)))
    assert [it.ref.round for it in hand.all(do.SaveModel)] == [0, 1]
    hand.wait(TIMING.checkpoint_s)
    assert [it.ref.round for it in hand.all(do.SaveModel)] == [0, 1, 3]
