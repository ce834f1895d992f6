"""Global models as what has changed, and what a peer does that cannot do what a run asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.aggregation import Aggregation, Mean
from edge_peer.protocol.messages import FINISHED, TRAINING, WAITING, Report, Round, Stop, Vote
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.state import RunRecord, SavedState
from edge_peer.protocol.topics import MODEL, PRESENCE, ROUND
from tests.sim.hand import INITIAL, ROSTER, RUN, TIMING, Hand, digest, offer, presence, ref, round_document

DELTAS = replace(RUN, rounds_max=9, codec="int8", downlink="int8")


def opening(round_: int, term: int = 1, beat: int = 0, **changes: Any) -> Round:
    return round_document("b", term=term, beat=beat, base=ref(round_ - 1), **{"settings": DELTAS, **changes})


def leading(*peers: str, state: SavedState | None = None, **settings: Any) -> Hand:
    hand = Hand(state, **{"run": DELTAS, **settings})
    hand.lead(*(peers or ("b", "c")))
    return hand


def finish_round(hand: Hand) -> None:
    hand.train()
    for peer in ("b", "c"):
        hand.update(peer, codec=hand.document.settings.codec)
    hand.merge()
    hand.echo()


def unfinished(round_: int, settings: RunSettings = DELTAS) -> SavedState:
    return SavedState(elected_term=1, run=RunRecord("run", 1, settings), held=ref(round_))


# ---------------------------------------------------------------------- the controller's deltas


def test_a_round_is_published_as_a_delta_and_nobody_is_sent_the_whole_model() -> None:  # D1
    hand = leading()
    for _ in range(3):
        finish_round(hand)
    assert [it.ref.round for it in hand.all(do.PublishDelta)] == [1, 2, 3]
    assert hand.all(do.PublishModel) == []


def test_the_model_behind_a_delta_is_saved_before_it_and_the_next_round_opens_after_it() -> None:  # D1, R6, I7
    hand = leading()
    hand.train()
    for peer in ("b", "c"):
        hand.update(peer, codec="int8")
    hand.merge()
    order = [
        type(it)
        for it in hand.new
        if isinstance(it, do.SaveModel | do.PublishDelta) or getattr(it, "kind", "") == ROUND
    ]
    assert order == [do.SaveModel, do.PublishDelta, do.Publish]


def test_the_last_model_of_a_run_is_kept_whole_by_the_broker_and_goes_out_no_other_way() -> None:  # D5, I12
    hand = leading(run=replace(DELTAS, rounds_max=1))
    hand.train()
    for peer in ("b", "c"):
        hand.update(peer, codec="int8")
    hand.merge()
    assert hand.document.state == FINISHED
    assert hand.all(do.PublishDelta) == []
    assert hand.all(do.PublishModel) == [do.PublishModel(hand.base, retained=True)]
    order = [
        type(it)
        for it in hand.new
        if isinstance(it, do.SaveModel | do.PublishModel) or getattr(it, "kind", "") == ROUND
    ]
    assert order == [do.SaveModel, do.PublishModel, do.Publish]
    hand.echo()
    hand.wait(TIMING.lease_s)
    assert len(hand.all(do.PublishModel)) == 1


def test_a_model_that_turns_out_to_be_the_last_one_is_sent_whole_after_its_delta() -> None:  # D5, I12
    hand = leading(run=replace(DELTAS, target_accuracy=0.5))
    finish_round(hand)
    assert [it.ref for it in hand.all(do.PublishDelta)] == [hand.base]
    assert hand.all(do.PublishModel) == []
    for peer in ROSTER:
        hand.evaluate(peer, 0.9)
    assert hand.document.state == FINISHED
    assert hand.all(do.PublishModel) == [do.PublishModel(hand.base, retained=True)]


def test_the_last_model_is_sent_whole_again_on_a_new_connection() -> None:  # D5, M3
    hand = leading(run=replace(DELTAS, rounds_max=1))
    finish_round(hand)
    hand.tell(ev.Disconnected())
    hand.tell(ev.Connected())
    assert hand.newly(do.PublishModel) == [do.PublishModel(hand.base, retained=True)]
    assert hand.all(do.PublishDelta) == []


def test_a_run_that_ends_with_the_initial_model_sends_nothing_that_everybody_has() -> None:  # D4, D5
    hand = leading()
    hand.hear("b", Stop(hand.document.run_id or "", "enough"))
    assert (hand.document.state, hand.base.round) == (FINISHED, 0)
    assert hand.all(do.PublishModel) == hand.all(do.PublishDelta) == []


def test_who_needs_the_model_is_sent_it_whole_and_once() -> None:  # D3
    hand = leading()
    finish_round(hand)
    base = hand.base
    hand.hear("b", presence("b", election=1, needs=base.sha256))
    assert hand.newly(do.PublishModel) == [do.PublishModel(base, retained=True)]
    hand.hear("c", presence("c", election=1, needs=base.sha256))
    hand.wait(TIMING.lease_s / 3)
    assert len(hand.all(do.PublishModel)) == 1
    finish_round(hand)
    assert len(hand.all(do.PublishModel)) == 1
    hand.hear("c", presence("c", election=1, needs=hand.base.sha256))
    assert hand.newly(do.PublishModel) == [do.PublishModel(hand.base, retained=True)]


def test_only_the_present_model_is_sent_to_who_needs_one() -> None:  # D3
    hand = leading()
    finish_round(hand)
    finish_round(hand)
    hand.hear("b", presence("b", election=1, needs=digest("another")))
    hand.hear("c", presence("c", election=1, needs=INITIAL))
    assert hand.all(do.PublishModel) == []


def test_a_need_is_not_answered_without_a_lease() -> None:  # D3, C5
    hand = leading()
    finish_round(hand)
    hand.wait(TIMING.lease_s + 0.1)
    hand.hear("b", presence("b", election=1, needs=hand.base.sha256))
    assert hand.all(do.PublishModel) == []
    hand.echo()
    assert hand.newly(do.PublishModel) == [do.PublishModel(hand.base, retained=True)]


def test_after_a_takeover_the_model_goes_out_whole_once_then_deltas_again() -> None:  # D4
    hand = leading(state=unfinished(2))
    assert hand.all(do.PublishModel) == [do.PublishModel(ref(2), retained=True)]
    assert hand.document.round == 3
    finish_round(hand)
    finish_round(hand)
    assert len(hand.all(do.PublishModel)) == 1
    assert [it.ref.round for it in hand.all(do.PublishDelta)] == [3, 4]


def test_a_takeover_before_the_first_round_is_done_sends_nothing_that_everybody_has() -> None:  # D4
    hand = leading(state=unfinished(0))
    assert (hand.document.state, hand.base.sha256) == (TRAINING, INITIAL)
    assert hand.all(do.PublishModel) == hand.all(do.PublishDelta) == []


def test_on_a_new_connection_the_delta_is_sent_again_and_needs_are_answered_again() -> None:  # D3, M3
    hand = leading()
    finish_round(hand)
    hand.hear("b", presence("b", election=1, needs=hand.base.sha256))
    hand.tell(ev.Disconnected())
    hand.tell(ev.Connected())
    assert [it.ref for it in hand.newly(do.PublishDelta)] == [hand.base]
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, election=1), retained=True)
    hand.wait(TIMING.grace_s)
    hand.echo()
    assert len(hand.all(do.PublishModel)) == 1
    hand.hear("b", presence("b", election=1, needs=hand.base.sha256))
    assert hand.newly(do.PublishModel) == [do.PublishModel(hand.base, retained=True)]


def test_a_controller_without_the_final_model_asks_a_peer_that_has_it() -> None:  # U7, D3
    hand = Hand(unfinished(1))
    end = opening(3, beat=5, state=FINISHED, round=2, reason="reached 2 rounds", participants=())
    hand.follow(end)
    hand.hear("b", presence("b", online=False))
    hand.hear("c", presence("c", election=2, control=False, newest=ref(2)))
    hand.hear("c", Vote("c-1", 2, "a"))
    assert (hand.document.state, hand.document.complete) == (FINISHED, False)
    assert (hand.document.wanted, hand.document.wanted_from) == (ref(2).sha256, "c")
    hand.hear("c", presence("c", online=False))
    assert hand.document.wanted is None
    hand.hear("c", presence("c", session="c-2", newest=ref(2)))
    assert hand.document.wanted_from == "c"
    hand.tell(ev.ModelReceived("c", ref(2)))
    assert hand.document.wanted is None
    assert hand.newly(do.PublishModel) == [do.PublishModel(ref(2), retained=True)]
    hand.tell(ev.ModelEvaluated(ref(2), Report(0.5, 1.0, 5), 0.1))
    hand.echo()
    assert hand.last(do.RunFinished).ref == ref(2)


# ---------------------------------------------------------------------- the trainer's needs


def following(document: Round, state: SavedState | None = None, **settings: Any) -> Hand:
    hand = Hand(state, **settings)
    hand.follow(document)
    return hand


def needs(hand: Hand) -> str | None:
    needed = hand.published(PRESENCE)[-1].needs
    assert needed is None or isinstance(needed, str)
    return needed


def test_who_was_not_there_says_at_once_what_it_needs() -> None:  # D2
    hand = following(opening(5))
    assert needs(hand) == ref(4).sha256
    hand.tell(ev.ModelReceived("b", ref(4)))
    assert hand.last(do.StartTraining).key.base == ref(4).sha256
    hand.hear("b", opening(5, beat=1))
    assert needs(hand) is None
    assert hand.peer.will().needs is None


def test_who_missed_a_delta_while_it_was_there_says_so_when_the_next_one_is_of_no_use() -> None:  # D2
    hand = following(opening(1))
    hand.hear("b", opening(2, beat=1))
    assert needs(hand) is None  # it may be on its way
    hand.hear("b", opening(3, beat=2))
    assert needs(hand) == ref(2).sha256


def test_a_delta_that_does_not_come_is_waited_for_no_longer_than_anything_else() -> None:  # D2, T4
    hand = following(opening(1))
    hand.hear("b", opening(2, beat=1))
    hand.wait(TIMING.resend_s - 0.1)
    assert needs(hand) is None
    hand.wait(0.1)
    assert needs(hand) == ref(1).sha256
    assert hand.newly(do.Subscribe) == [do.Subscribe((MODEL,))]


def test_a_need_is_said_once_and_follows_the_rounds() -> None:  # D2, I9
    hand = following(opening(5))
    said = len(hand.published(PRESENCE))
    hand.wait(TIMING.resend_s)
    hand.hear("b", opening(5, beat=1))
    assert len(hand.published(PRESENCE)) == said
    hand.hear("b", opening(6, beat=2))
    assert len(hand.published(PRESENCE)) == said + 1
    assert needs(hand) == ref(5).sha256


def test_after_a_reconnection_a_missed_delta_is_needed_at_once() -> None:  # D2, M3
    hand = following(opening(1))
    hand.tell(ev.Disconnected())
    hand.tell(ev.Connected())
    assert hand.peer.role == "following"  # what was heard on the last connection still holds
    hand.hear("b", presence("b"), retained=True)
    hand.hear("b", opening(2, beat=1), retained=True)
    assert needs(hand) == ref(1).sha256


def test_with_whole_models_nothing_is_needed_because_the_broker_has_them() -> None:  # D2
    hand = following(opening(5, settings=RUN))
    hand.wait(3 * TIMING.resend_s)
    assert needs(hand) is None


def test_the_final_model_is_needed_too() -> None:  # D2, U7
    hand = following(opening(1))
    end = opening(4, beat=5, state=FINISHED, round=3, reason="stopped", participants=())
    hand.hear("b", end)
    assert needs(hand) == ref(3).sha256


# ---------------------------------------------------------------------- what the run asks for


@dataclass(frozen=True)
class Strict(Mean):
    """Lacks a codec, and has a rule that needs four updates."""

    has_not: str = "topk-0.01"
    needs: int = 4

    def lacking(self, settings: RunSettings) -> str:
        return (
            f"this peer cannot do codec {self.has_not}" if self.has_not in (settings.codec, settings.downlink) else ""
        )

    def updates_needed(self, settings: RunSettings) -> int:
        return max(settings.updates_min, self.needs if settings.rule == "krum" else 0)


STRICT: Aggregation = Strict()
LACKED = replace(DELTAS, codec="topk-0.01")


def test_a_codec_other_than_the_runs_is_refused_with_the_reason() -> None:  # R3
    hand = leading()
    hand.update("b")
    assert hand.document.refused == {"b": "codec is float32, the run's is int8"}
    hand.update("b", codec="int8")
    hand.update("c", codec="int8")
    hand.train()
    assert [it.peer for it in hand.last(do.Aggregate).updates] == ["a", "b", "c"]


def test_an_update_names_its_codec_and_what_the_rule_asks_of_it() -> None:  # T1, R6
    hand = following(opening(1))
    key = hand.last(do.StartTraining).key
    hand.tell(ev.TrainingDone(key, digest("own"), 10, 0.5, 1.0, steps=40, base_loss=2.5))
    sent = hand.last(do.PublishUpdate).offer
    assert (sent.codec, sent.steps, sent.base_loss) == ("int8", 40, 2.5)


def test_what_is_known_of_each_update_reaches_the_rule() -> None:  # R6
    hand = leading()
    key = hand.last(do.StartTraining).key
    hand.tell(ev.TrainingDone(key, digest("own"), 10, 0.5, 1.0, steps=40, base_loss=2.5))
    hand.update("b", codec="int8", steps=7, examples=30)
    hand.update("c", codec="int8", base_loss=0.25)
    merge = hand.last(do.Aggregate)
    assert [(it.peer, it.offer.steps, it.offer.base_loss) for it in merge.updates] == [
        ("a", 40, 2.5),
        ("b", 7, None),
        ("c", 1, 0.25),
    ]
    assert merge.settings == DELTAS
    assert merge.population == 10 + 30 + 10


def test_the_population_is_everybody_who_could_have_trained() -> None:  # R6
    hand = leading(run=replace(DELTAS, strategy="fastest", fraction=0.1))
    assert len(hand.document.participants) == 2
    hand.train()
    hand.update(next(peer for peer in hand.document.participants if peer != "a"), codec="int8")
    assert hand.last(do.Aggregate).population == 30


KRUM = replace(RUN, rule="krum")
FOUR = ("a", "b", "c", "d", "e")


def test_a_run_does_not_start_before_its_rule_has_enough_trainers() -> None:  # U2, R8
    hand = Hand(aggregation=STRICT, run=KRUM, roster=FOUR)
    hand.lead("b", "c")
    assert hand.document.state == WAITING
    assert hand.document.reason == "waiting for peers: 3 of 4 want a run and can train, rule krum needs 4"
    hand.hear("d", presence("d", election=1))
    assert (hand.document.state, hand.document.participants) == (TRAINING, ("a", "b", "c", "d"))


def test_a_round_is_not_closed_with_fewer_updates_than_its_rule_needs() -> None:  # R4, R8
    hand = Hand(aggregation=STRICT, run=KRUM, roster=FOUR)
    hand.lead("b", "c", "d")
    hand.train()
    hand.update("b")
    hand.update("c")
    hand.hear("d", presence("d", online=False))
    assert hand.all(do.Aggregate) == []
    hand.hear("d", presence("d", session="d-2"))
    hand.tell(ev.UpdateReceived("d", offer("d", hand.base, session="d-2")))
    assert [it.peer for it in hand.last(do.Aggregate).updates] == ["a", "b", "c", "d"]


def test_a_round_without_enough_trainers_for_its_rule_waits_and_says_so() -> None:  # R5, R8
    hand = Hand(SavedState(elected_term=1, run=RunRecord("run", 1, KRUM), held=ref(1)), aggregation=STRICT, roster=FOUR)
    hand.lead("b", "c")
    assert (hand.document.state, hand.document.reason) == (WAITING, "waiting for trainers: 3 of 4")


def test_a_fraction_is_never_fewer_than_the_rule_needs() -> None:  # R1, R8
    hand = Hand(aggregation=STRICT, run=replace(KRUM, strategy="fraction", fraction=0.2), roster=FOUR)
    hand.lead("b", "c", "d", "e")
    assert len(hand.document.participants) == 4


def test_a_peer_that_cannot_do_what_the_run_asks_for_says_so_and_is_no_candidate() -> None:  # R7, R9
    hand = following(opening(5, settings=LACKED, participants=("b", "c")), aggregation=STRICT)
    assert hand.all(do.StartEvaluation) == []
    said = hand.published(PRESENCE)[-1]
    assert (said.train, said.control, said.note) == (False, False, "this peer cannot do codec topk-0.01")
    assert said.needs is None  # nobody sends it a model that it can do nothing with
    assert hand.log().count("takes no part in run run: this peer cannot do codec topk-0.01") == 1
    hand.wait(TIMING.resend_s)
    assert hand.newly(do.Subscribe) == []
    assert needs(hand) is None
    hand.hear("b", presence("b", online=False))
    hand.hear("c", presence("c", election=2, control=False))
    hand.wait(TIMING.settle_s)
    assert not hand.peer.state.voted_for


def test_who_learns_that_it_cannot_do_the_run_needs_nothing_any_more() -> None:  # R9, D2
    hand = following(opening(5), aggregation=STRICT)
    assert needs(hand) == ref(4).sha256
    later = round_document("b", beat=1, base=ref(4, run_id="later", number=2), settings=LACKED)
    hand.hear("b", later)
    hand.hear("b", replace(later, beat=2))
    assert needs(hand) is None


def test_it_is_said_only_as_long_as_the_run_is_on() -> None:  # R9
    hand = following(opening(1, settings=LACKED, participants=("b", "c")), aggregation=STRICT)
    hand.hear("c", presence("c", finished=1))
    said = hand.published(PRESENCE)[-1]
    assert (said.train, said.control, said.note) == (True, True, "")


def test_who_was_picked_before_it_could_say_that_it_cannot_does_not_train() -> None:  # R9
    """Rule: what a peer has promised of privacy it keeps, whatever it is asked for."""
    hand = following(opening(1, settings=LACKED), aggregation=STRICT)
    assert hand.all(do.StartTraining) == []
    hand.hear("b", opening(1, beat=1, settings=LACKED, attempt=2))
    hand.hear("b", opening(2, beat=2, settings=LACKED))
    hand.tell(ev.ModelReceived("b", ref(1)))
    assert hand.all(do.StartTraining) == hand.all(do.PublishUpdate) == []


def test_the_settings_that_count_are_those_of_the_round() -> None:  # R9
    """Rule: a controller that never heard of a run's settings goes on with its own."""
    hand = following(opening(1), aggregation=STRICT)
    assert len(hand.all(do.StartTraining)) == 1
    hand.tell(ev.ModelReceived("b", ref(1)))
    hand.hear("b", opening(2, beat=1, settings=LACKED))
    assert len(hand.all(do.StartTraining)) == 1


def test_who_takes_no_part_in_a_run_does_not_ask_for_another_when_it_is_over() -> None:  # R9, U1
    hand = following(opening(1, settings=LACKED), aggregation=STRICT)
    hand.hear("b", opening(1, beat=9, settings=LACKED, state=FINISHED, round=0, participants=()))
    assert hand.published(PRESENCE)[-1].wants_run is False


def test_a_controller_that_cannot_do_what_a_later_run_asks_for_resigns() -> None:  # C6, R9
    hand = Hand(aggregation=STRICT)
    hand.lead("b", "c")
    later = round_document("c", term=0, base=ref(0, run_id="later", number=9), settings=LACKED)
    hand.hear("c", later)
    assert hand.peer.controller is None
    assert "resigns from term 1: this peer cannot do codec topk-0.01" in hand.log()
    assert hand.published(PRESENCE)[-1].control is False


def test_a_controller_does_not_pick_who_cannot_do_the_run() -> None:  # R7
    hand = leading()
    why = "this peer cannot do codec int8"
    hand.hear("c", presence("c", election=1, train=False, control=False, note=why))
    hand.train()
    hand.update("b", codec="int8")
    assert [it.peer for it in hand.last(do.Aggregate).updates] == ["a", "b"]
    hand.merge()
    assert hand.document.participants == ("a", "b")
    assert hand.document.missing == {"c": why}


def test_nothing_is_promised_where_nothing_is_known_of_privacy() -> None:
    assert Mean().epsilon(RUN, 3) is None
    assert Mean().lacking(replace(RUN, rule="krum")) == "rule 'krum' is not known here"
    assert Mean().updates_needed(RUN) == RUN.updates_min


@dataclass(frozen=True)
class Costly(Mean):
    """Every round costs a quarter."""

    def epsilon(self, settings: RunSettings, rounds: int) -> float | None:
        return rounds / 4


def test_the_cost_in_privacy_of_what_is_in_the_model_is_in_document_and_log() -> None:  # R11
    hand = leading(aggregation=Costly())
    assert hand.document.epsilon == 0
    finish_round(hand)
    assert hand.document.epsilon == pytest.approx(0.25)
    committed = [it for it in hand.all(do.LogRound) if it.event == "committed"]
    assert committed[-1].fields["epsilon"] == pytest.approx(0.25)
