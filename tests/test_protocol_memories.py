"""Which memory a training begins with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.memories import MEMORIES_MAX, Memories
from edge_peer.protocol.messages import FINISHED, WAITING, Round
from edge_peer.protocol.state import Memory, RunRecord, SavedState
from tests.sim.hand import RUN, Hand, digest, presence, ref, round_document

FEEDBACK = replace(RUN, rounds_max=9, codec="int8", error_feedback=True)


def sha(round_: int, attempt: int = 0) -> str:
    return digest(f"update {round_} {attempt}")


def key(round_: int, base: str = "") -> ev.TrainingKey:
    return ev.TrainingKey("run", round_, base or ref(round_ - 1).sha256)


def opening(round_: int, counted: dict[str, str] | None = None, term: int = 1, beat: int = 0) -> Round:
    """The document of a round, which tells who was counted in the one before."""
    document = round_document("b", term=term, beat=beat, base=ref(round_ - 1), settings=FEEDBACK)
    return replace(document, closed_accepted=counted or {})


def training(hand: Hand) -> do.StartTraining:
    return hand.last(do.StartTraining)


def train(hand: Hand, attempt: int = 0) -> str:
    """The training that was asked for is done; returns the update's digest."""
    asked = training(hand).key
    made = sha(asked.round, attempt)
    hand.tell(ev.TrainingDone(asked, made, 10, 0.5, 1.0, remembers=True))
    return made


def next_round(hand: Hand, round_: int, counted: dict[str, str], term: int = 1, peer: str = "b") -> None:
    """A round's model comes, and its document."""
    hand.tell(ev.ModelReceived(peer, ref(round_ - 1)))
    hand.hear(peer, replace(opening(round_, counted, term, beat=round_), session=f"{peer}-1"))
    assert training(hand).key.round == round_


def following(state: SavedState | None = None, round_: int = 1) -> Hand:
    hand = Hand(state)
    hand.follow(opening(round_))
    return hand


def test_a_list_that_came_before_the_update_holds_when_the_run_goes_on_from_its_model() -> None:  # T8
    memories = Memories("a", ())
    memories.hear(opening(2, {"c": sha(1, 5)}))
    # Another controller, who has not heard of that model, asks for the round again.
    memories.made(key(1), sha(1))
    memories.sent(sha(1))
    assert memories.before(key(2)) == sha(1)
    memories.hear(opening(2))
    assert memories.before(key(2)) is None


def test_an_update_that_is_made_again_may_have_been_sent_by_an_earlier_process() -> None:  # T8
    memories = Memories("a", (Memory("run", 1, sha(1)),))
    memories.made(key(1), sha(1))
    assert memories.before(key(2)) == sha(1)
    memories.made(key(1), sha(1, 1))
    assert memories.before(key(2)) is None, "never sent"


def test_the_first_training_begins_without_a_memory() -> None:  # T8
    assert training(following()).after is None


def test_a_memory_goes_on_where_its_update_was_counted() -> None:  # T8
    hand = following()
    made = train(hand)
    next_round(hand, 2, {"a": made, "c": digest("c")})
    assert training(hand).after == made


def test_a_memory_is_not_used_where_its_update_was_not_counted() -> None:  # T8
    hand = following()
    first = train(hand)
    next_round(hand, 2, {"a": first})
    train(hand)
    next_round(hand, 3, {"c": digest("c")})
    assert training(hand).after == first


def test_a_memory_stays_over_rounds_that_this_peer_was_not_in() -> None:  # T8
    """Rule: the list is of the round that made the base, whatever the document's own round is."""
    hand = following()
    made = train(hand)
    next_round(hand, 2, {"a": made})
    hand.tell(ev.ModelReceived("b", ref(2)))
    counted = {"c": digest("c")}
    waiting = replace(opening(3, counted, beat=5), state=WAITING, round=2, participants=())
    hand.hear("b", waiting)
    hand.hear("b", opening(3, counted, beat=6))
    assert training(hand) == do.StartTraining(key(3), FEEDBACK, made)


def test_the_end_of_a_run_tells_of_its_last_round() -> None:  # T8
    memories = Memories("a", (Memory("run", 1, sha(1)), Memory("run", 2, sha(2))))
    end = replace(opening(3, {"b": digest("b")}), state=FINISHED, round=2)
    memories.hear(end)
    assert memories.before(key(9)) == sha(1)


def test_after_a_takeover_that_forgot_who_was_counted_an_update_that_was_sent_is_taken_for_counted() -> None:  # T8
    hand = following()
    made = train(hand)
    next_round(hand, 2, {}, term=2, peer="c")
    assert training(hand).after == made


def test_the_memory_of_an_update_that_was_never_sent_is_not_used() -> None:  # T8
    """Rule: a training that ends as its round does gives an update that nobody has, and a controller lists nobody."""
    hand = following()
    hand.tell(ev.ModelReceived("b", ref(1)))
    train(hand)
    assert hand.all(do.PublishUpdate) == []
    hand.hear("c", replace(opening(2, {}, term=2), session="c-1"))
    assert training(hand) == do.StartTraining(key(2), FEEDBACK, None)


def test_an_update_that_is_sent_again_may_be_counted_after_all() -> None:  # T8, T2
    hand = following()
    made = train(hand)
    # Round 1 closes without it, but its model comes to nobody, and the next controller opens the round again.
    hand.hear("b", opening(2, {"b": digest("b")}, beat=1))
    hand.hear("c", replace(opening(1, term=2), session="c-1"))
    assert hand.last(do.PublishUpdate).offer.term == 2
    hand.tell(ev.ModelReceived("c", ref(1, term=2)))
    document = round_document("c", term=2, beat=1, base=ref(1, term=2), settings=FEEDBACK)
    hand.hear("c", replace(document, closed_accepted={"a": made}))
    assert training(hand).after == made


def test_a_round_that_is_opened_again_is_trained_from_the_same_memory() -> None:  # T8, T1
    hand = following()
    first = train(hand)
    next_round(hand, 2, {"a": first})
    train(hand)
    hand.hear("b", replace(opening(2, {"a": first}, beat=9), attempt=2))
    assert len(hand.all(do.StartTraining)) == 2
    assert hand.last(do.PublishUpdate).offer.digest == sha(2)


def test_after_a_restart_the_memories_on_the_disk_are_known() -> None:  # T8, T9
    disk = (Memory("run", 2, sha(2)), Memory("run", 1, sha(1)))
    state = SavedState(elected_term=1, run=RunRecord("run", 1, FEEDBACK), held=ref(2), memories=disk)
    assert training(following(state, 3)).after == sha(2)
    hand = Hand(state)
    hand.follow(opening(3, {"c": digest("c")}))
    assert training(hand).after == sha(1)
    hand = Hand(replace(state, held=ref(1)))
    hand.follow(opening(2))
    # The round whose update is on the disk is trained again, from what it began with.
    assert training(hand).after == sha(1)


def test_another_run_begins_without_a_memory() -> None:  # T8
    state = SavedState(memories=(Memory("earlier", 4, sha(4)),))
    hand = following(state)
    assert training(hand).after is None
    train(hand)
    next_round(hand, 2, {"a": sha(1)})
    assert training(hand).after == sha(1)


def test_a_controller_that_trains_keeps_its_own_memory_too() -> None:  # T8
    hand = Hand(run=FEEDBACK)
    hand.lead("b", "c")
    made = train(hand)
    hand.update("b", codec="int8")
    hand.hear("c", presence("c", online=False))
    hand.merge()
    hand.echo()
    assert training(hand).key.round == 2
    assert training(hand).after == made


@pytest.mark.parametrize("counted", [{}, {"a": "0" * 64}], ids=["nobody", "another"])
def test_a_document_without_a_base_tells_of_no_round(counted: dict[str, str]) -> None:
    memories = Memories("a", (Memory("run", 1, sha(1)),))
    memories.hear(replace(round_document("b"), closed_accepted=counted))
    assert memories.before(key(2)) == sha(1)


STEPS = st.lists(
    st.tuples(st.sampled_from(["made", "sent", "counted", "not counted", "silent"]), st.integers(1, 6)), max_size=30
)


@given(steps=STEPS)
def test_the_choice_is_that_of_a_ledger_of_all_that_happened(steps: list[tuple[str, int]]) -> None:  # T8
    """Against the obvious: a list of every update, with what was heard of it last."""
    memories = Memories("a", ())
    ledger: dict[int, tuple[str, bool]] = {}
    for number, (what, round_) in enumerate(steps):
        if what == "made":
            memories.made(key(round_), sha(round_, number))
            ledger = {past: it for past, it in ledger.items() if past < round_} | {round_: (sha(round_, number), False)}
        elif round_ in ledger:
            made, good = ledger[round_]
            if what == "sent":
                memories.sent(made)
            else:
                said = {"counted": {"a": made}, "not counted": {"b": made}, "silent": {}}[what]
                memories.hear(opening(round_ + 1, said))
            ledger[round_] = (made, {"sent": True, "counted": True, "not counted": False, "silent": good}[what])
        for asked in range(1, 8):
            usable = [made for past, (made, good) in sorted(ledger.items()) if good and past < asked]
            assert memories.before(key(asked)) == (usable[-1] if usable else None)
    assert len(memories._memories) <= MEMORIES_MAX
