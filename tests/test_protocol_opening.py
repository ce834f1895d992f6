"""What the round log says of a round: all that its model can be made again of, beside the updates' values."""

from __future__ import annotations

import dataclasses
from typing import Any

from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.state import RunRecord, SavedState
from tests.sim.hand import RUN, Hand, digest, presence, ref

SETTINGS = dataclasses.replace(RUN, rounds_max=9, seed=77, target_accuracy=0.5)


def logged(hand: Hand, event: str) -> dict[str, Any]:
    return next(it.fields for it in reversed(hand.all(do.LogRound)) if it.event == event)


def test_a_commit_tells_all_that_its_model_depends_on() -> None:  # R6
    hand = Hand(None, run=SETTINGS)
    hand.lead("b", "c")
    base = hand.document.base
    key = hand.last(do.StartTraining).key
    hand.tell(ev.TrainingDone(key, digest("own"), 10, 0.5, 1.25, steps=40, base_loss=2.5))
    hand.update("b", steps=7, examples=30, base_loss=0.25)
    hand.update("c")
    merge = hand.last(do.Aggregate)
    hand.merge()
    hand.echo()
    fields = logged(hand, "committed")
    assert base is not None
    assert fields["base"] == base.sha256
    assert fields["population"] == merge.population
    assert set(fields["accepted"]) == {"a", "b", "c"}
    for it in merge.updates:
        offer = it.offer
        expected = {
            "digest": offer.digest, "examples": offer.examples, "steps": offer.steps, "codec": offer.codec,
            "loss": offer.loss, "s": offer.seconds,
        }  # fmt: skip
        if offer.base_loss is not None:
            expected["base_loss"] = offer.base_loss
        assert fields["accepted"][it.peer] == expected
    assert "base_loss" not in fields["accepted"]["c"]


def test_the_population_of_a_commit_is_that_of_its_close_and_not_of_the_next_round() -> None:  # R6
    hand = Hand(None, run=SETTINGS)
    hand.lead("b", "c")
    hand.train()
    for peer in ("b", "c"):
        hand.update(peer)
    population = hand.last(do.Aggregate).population
    # Another one comes before the commit: it could not have trained.
    hand.hear("d", presence("d"))
    hand.merge()
    hand.echo()
    assert logged(hand, "committed")["population"] == population


def test_whoever_starts_a_run_or_goes_on_with_it_tells_its_settings() -> None:  # U4
    hand = Hand(None, run=SETTINGS)
    hand.lead("b", "c")
    started = logged(hand, "started")["settings"]
    assert RunSettings(**started) == SETTINGS
    later = Hand(SavedState(elected_term=1, run=RunRecord("run", 1, SETTINGS), held=ref(3)), run=RUN)
    later.lead("b", "c")
    resumed = logged(later, "resumed")
    assert resumed["settings"] == started
    assert (resumed["round"], resumed["sha256"]) == (3, ref(3).sha256)
