"""Roles of a peer, membership, and that no event of any content stops it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_peer.errors import LocalProtocolError
from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol import peer as peer_module
from edge_peer.protocol.messages import Evaluation, Presence, Report, Round, Start, Stop, Vote, encode
from edge_peer.protocol.peer import Peer
from edge_peer.protocol.roles import LEADING, OFFLINE, STOPPED, TRANSITIONS
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.state import SavedState
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.topics import DELTA, MODEL, PRESENCE, ROUND, START, STOP, VOTE
from tests.sim.__main__ import failure
from tests.sim.hand import INITIAL, ROSTER, RUN, TIMING, Hand, digest, offer, presence, ref, round_document
from tests.sim.hand import MODEL as DIGEST

# ---------------------------------------------------------------------- membership


def test_on_every_connection_everything_is_said_again() -> None:  # M3
    hand = Hand(SavedState(voted_term=2, voted_for="b"))
    hand.tell(ev.Connected())
    first = hand.new
    assert hand.newly(do.Subscribe)[0].kinds == (PRESENCE, ROUND, MODEL, DELTA, STOP, START)
    assert [it.kind for it in hand.newly(do.Publish)] == [PRESENCE, VOTE]
    hand.tell(ev.Disconnected())
    assert hand.tell(ev.Connected()) == first


def test_a_second_connect_without_a_disconnect_is_a_new_connection() -> None:  # M3
    hand = Hand()
    hand.connect("b", "c")
    hand.tell(ev.Connected())
    assert hand.peer.role == "joining"


def test_nobody_is_suspected_in_the_grace_time() -> None:  # M3
    hand = Hand()
    hand.tell(ev.Connected())
    hand.wait(TIMING.grace_s - 0.1)
    assert hand.peer.role == "joining"
    hand.wait(0.1)
    assert hand.peer.role == "electing"


def test_a_controller_that_goes_within_the_grace_time_is_lost_but_no_election_begins() -> None:  # M3
    hand = Hand()
    hand.tell(ev.Connected())
    hand.hear("b", presence("b"))
    hand.hear("b", round_document("b"))
    assert hand.peer.role == "following"
    hand.hear("b", None, ROUND)
    assert hand.peer.role == "electing"
    assert hand.published(PRESENCE)[-1].election == 0
    hand.wait(TIMING.grace_s)
    assert hand.published(PRESENCE)[-1].election == 2


@pytest.mark.parametrize("said", [presence("a", online=False, session="a-1"), presence("a", session="a-0"), None])
def test_an_own_presence_that_is_wrong_is_published_again(said: Presence | None) -> None:  # M5
    hand = Hand()
    hand.connect("b", "c")
    hand.hear("a", said, PRESENCE)
    assert hand.published(PRESENCE, new=True)[-1].session == "a-1"
    hand.hear("a", hand.published(PRESENCE)[-1])
    assert hand.published(PRESENCE, new=True) == []


def test_the_last_will_is_the_presence_offline() -> None:  # M1
    hand = Hand()
    assert hand.peer.will() == replace(hand.peer._context.presence(), online=False)


def test_a_peer_whose_name_is_taken_stops() -> None:  # M6
    hand = Hand()
    hand.connect("b")
    hand.tell(ev.Disconnected(taken_over=True))
    assert hand.last(do.Exit).failed
    assert "another process connected as a" in hand.log()
    assert hand.peer.role == STOPPED
    assert hand.tell(ev.TimerFired()) == ()
    assert hand.peer.next_deadline_s() is None


# ---------------------------------------------------------------------- controllers come and go


@pytest.mark.parametrize(
    "gone",
    [presence("b", online=False), presence("b", session="b-2"), None],
    ids=["offline", "new session", "cleared"],
)
def test_a_controller_is_lost_when_its_presence_goes(gone: Presence | None) -> None:  # E1, M2
    hand = Hand()
    hand.follow(round_document("b"))
    hand.hear("b", gone, PRESENCE)
    assert hand.peer.role == "electing"
    assert hand.published(PRESENCE)[-1].election == 2


def test_a_controller_is_lost_when_its_beats_stop() -> None:  # E1, C4
    hand = Hand()
    hand.follow(round_document("b"))
    hand.wait(TIMING.lease_s - 0.1)
    assert hand.peer.role == "following"
    hand.hear("b", round_document("b", beat=1))
    hand.wait(TIMING.lease_s - 0.1)
    assert hand.peer.role == "following"
    hand.hear("b", round_document("b", beat=1))  # QoS 1 may say it twice; that is no beat
    hand.wait(0.1)
    assert hand.peer.role == "electing"


def test_documents_of_lower_terms_are_ignored() -> None:  # C1
    hand = Hand()
    hand.follow(round_document("b", term=5))
    hand.hear("c", round_document("c", term=4, base=ref(1)))
    assert "follows c" not in hand.log()
    hand.hear("b", presence("b", online=False))
    assert hand.peer.role == "electing"
    hand.hear("c", round_document("c", term=5, beat=1))
    assert hand.peer.role == "following"


def test_an_older_document_of_a_controller_does_not_replace_a_newer_one() -> None:  # C1
    hand = Hand()
    hand.follow(round_document("b", beat=3, base=ref(0)))
    hand.hear("b", round_document("b", beat=2))
    assert hand.peer._context.rounds["b"][0].beat == 3


def test_the_highest_elected_term_survives_a_restart() -> None:  # C1
    hand = Hand(SavedState(elected_term=5))
    hand.follow(round_document("b", term=4))
    assert hand.peer.role == "electing"


def test_a_controller_steps_down_for_a_higher_term_and_takes_its_documents_back() -> None:  # C2, C3
    hand = Hand()
    hand.lead("b", "c")
    hand.hear("c", round_document("c", term=2))
    assert hand.peer.role == "following"
    assert hand.peer.controller is None
    assert hand.newly(do.ClearModel)
    assert hand.published(ROUND, new=True) == [None]
    assert "gives up run" in hand.log()


@pytest.mark.parametrize(("score", "role"), [(1.0, "leading"), (9.0, "following")])
def test_of_two_controllers_in_a_term_the_higher_score_stays(score: float, role: str) -> None:  # C2
    hand = Hand(roster=None)
    hand.lead("b")
    hand.hear("c", presence("c", score=score, newest=ref(5)))
    hand.hear("c", round_document("c", term=1))
    assert hand.peer.role == role


def test_what_an_earlier_process_left_behind_is_taken_back() -> None:  # C3
    hand = Hand(SavedState(elected_term=3))
    hand.tell(ev.Connected())
    hand.hear("a", round_document("a", term=2, session="a-0"), retained=True)
    hand.hear("b", presence("b"))
    hand.hear("b", round_document("b", term=3))
    assert hand.published(ROUND) == []
    hand.wait(TIMING.grace_s)
    assert hand.published(ROUND) == [None]
    assert hand.newly(do.ClearModel)


def test_a_controller_resigns_when_somebody_has_seen_a_later_one() -> None:  # C6
    hand = Hand()
    hand.lead("b", "c")
    hand.hear("c", presence("c", election=1, elected=7))
    assert hand.peer.role == "electing"
    assert "resigns from term 1: c has seen a controller of term 7" in hand.log()
    assert hand.published(PRESENCE)[-1].election == 8


def test_a_controller_that_few_share_the_model_of_resigns() -> None:  # C6
    hand = Hand(min_peers=3)
    hand.lead("b")
    assert hand.document.state == "waiting"
    hand.hear("b", presence("b", election=1, model_digest=digest("model b")))
    assert hand.peer.role == "leading"
    hand.hear("c", presence("c", election=1, model_digest=digest("model b")))
    assert "more peers have c's model than its own" in hand.log()
    assert hand.peer.role == "electing"


def test_who_shuts_down_says_so_first() -> None:  # C7
    hand = Hand()
    hand.lead("b", "c")
    hand.tell(ev.ShutdownRequested())
    kinds = [(it.kind, it.document is None) for it in hand.newly(do.Publish)]
    assert kinds == [(PRESENCE, False), (ROUND, True)]
    assert hand.published(PRESENCE)[-1].online is False
    assert isinstance(hand.new[-1], do.Exit)
    assert hand.last(do.Exit).failed is False


# ---------------------------------------------------------------------- runs, as far as a peer wants one


def test_a_peer_wants_a_run_until_it_has_taken_part_in_a_finished_one() -> None:  # U1, I4
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    assert hand.published(PRESENCE)[-1].wants_run is True
    hand.hear("b", round_document("b", beat=1, base=ref(0), state="finished", round=0, reason="stopped"))
    assert hand.published(PRESENCE)[-1].wants_run is False
    assert hand.published(PRESENCE)[-1].finished == 1
    assert hand.last(do.SaveState).state.run.finished == "stopped"


def test_a_run_that_ended_without_this_peer_is_not_one_that_it_took_part_in() -> None:  # U1
    hand = Hand()
    hand.follow(round_document("b", base=ref(0), state="finished", round=0, complete=True))
    assert hand.published(PRESENCE)[-1].wants_run is True
    assert hand.published(PRESENCE)[-1].finished == 1


def test_a_run_that_anybody_knows_as_finished_is_finished() -> None:  # U7, I4
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    hand.hear("c", presence("c", finished=1))
    assert hand.last(do.SaveState).state.finished == 1
    assert hand.published(PRESENCE)[-1].wants_run is False


@pytest.mark.parametrize(("after", "wants"), [(0, False), (1, True), (2, True)])
def test_a_start_makes_a_peer_want_a_run_once(after: int, wants: bool) -> None:  # U1
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    hand.hear("b", round_document("b", beat=1, base=ref(0), state="finished", round=0))
    hand.hear("operator", Start(after), retained=True)
    assert hand.published(PRESENCE)[-1].wants_run is wants


def test_a_board_that_is_not_well_says_why() -> None:  # T5
    hand = Hand()
    hand.connect("b", "c")
    hand.tell(ev.HealthChanged(False, "disk low"))
    said = hand.published(PRESENCE)[-1]
    assert (said.train, said.note) == (False, "disk low")
    hand.tell(ev.HealthChanged(True, ""))
    assert hand.published(PRESENCE)[-1].train is True


# ---------------------------------------------------------------------- the machine itself


def test_time_that_goes_back_is_a_bug_of_the_shell() -> None:
    hand = Hand()
    hand.connect("b")
    hand.now_s -= 1
    with pytest.raises(LocalProtocolError):
        hand.tell(ev.TimerFired())


def test_a_peer_stops_a_run_by_its_own_retained_stop() -> None:  # U5
    hand = Hand()
    hand.lead("b", "c")
    run_id = hand.document.run_id
    assert run_id is not None
    hand.hear("a", Stop("another", "enough"))
    hand.hear("a", None, STOP)
    assert hand.document.state == "training"
    hand.hear("a", Stop(run_id, "enough"))
    assert (hand.document.state, hand.document.reason) == ("finished", "stopped by a: enough")


def test_a_start_under_this_peers_own_name_counts() -> None:  # U1
    hand = Hand()
    hand.follow(round_document("b", base=ref(0)))
    hand.hear("b", round_document("b", beat=1, base=ref(0), state="finished", round=0))
    hand.hear("a", Start(1))
    assert hand.published(PRESENCE)[-1].wants_run is True


def test_the_term_is_the_highest_elected_one() -> None:  # C1
    hand = Hand()
    hand.follow(round_document("b", term=7))
    assert hand.peer.term == 7


def test_the_status_is_one_line_that_changes_when_it_does() -> None:
    hand = Hand()
    hand.follow(round_document("b", base=ref(0), accuracy=0.5))
    assert hand.last(do.SetStatus).text == (
        "following, term 1, controller b, run run, round 1/2 training, accuracy 0.5000"
    )
    hand.hear("b", round_document("b", beat=1, base=ref(0), accuracy=0.5))
    assert hand.newly(do.SetStatus) == []


def test_only_pairs_of_the_table_occur_and_nearly_all_of_them_do(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, str]] = set()

    def move(self: Peer, cause: str) -> None:
        seen.add((self.role, cause))
        self.role = TRANSITIONS[self.role, cause]

    monkeypatch.setattr(peer_module.Peer, "_move", move)
    for seed in range(105):
        assert failure(seed) == ""
    assert seen <= set(TRANSITIONS)
    # The tests above have these, which faults bring about only rarely.
    rare = {(role, "shut down") for role in (OFFLINE, "joining", "electing")}
    rare |= {(LEADING, "resigned"), (LEADING, "controller seen")}
    assert set(TRANSITIONS) - seen <= rare


NAMES = st.sampled_from(["a", "b", "c", "x"])
SMALL = st.integers(0, 3)
TERMS = st.sampled_from([1, 2, 3, 2**52])
RUNS = st.sampled_from(["run", "other"])
SHAS = st.sampled_from([INITIAL, digest("one"), digest("two")])
REFS = st.builds(ModelRef, RUNS, TERMS, SMALL, TERMS, SHAS)
REPORTS = st.builds(Report, st.floats(0, 1), st.floats(0, 9), st.integers(1, 9))
SESSIONS = st.sampled_from(["a-1", "b-1", "c-1", "b-2"])
DELTAS = replace(RUN, codec="int8", downlink="int8", error_feedback=True)
#: Whole models, deltas, and a rule that this peer has not.
RUN_SETTINGS = st.sampled_from([RUN, DELTAS, replace(DELTAS, rule="krum")])


@st.composite
def any_round(draw: st.DrawFn) -> Round:
    base = draw(REFS)
    state = draw(st.sampled_from(["waiting", "training", "finished"]))
    return round_document(
        draw(NAMES),
        draw(TERMS),
        draw(SMALL),
        base,
        session=draw(SESSIONS),
        state=state,
        round=base.round + (state == "training"),
        model_digest=draw(st.sampled_from([DIGEST, digest("model b")])),
        settings=draw(RUN_SETTINGS),
        participants=draw(st.sampled_from([(), ("a",), ROSTER])),
        accepted=draw(st.dictionaries(NAMES, SHAS, max_size=2)),
        closed_accepted=draw(st.dictionaries(NAMES, SHAS, max_size=2)),
        missing=draw(st.dictionaries(NAMES, st.just("offline"), max_size=2)),
        wanted=draw(st.none() | SHAS),
        wanted_from=draw(st.none() | NAMES),
        reports=draw(st.dictionaries(NAMES, REPORTS, max_size=2)),
        complete=draw(st.booleans()),
    )


PRESENCES = st.builds(
    presence,
    NAMES,
    session=SESSIONS,
    online=st.booleans(),
    control=st.booleans(),
    train=st.booleans(),
    newest=st.none() | REFS,
    election=st.integers(0, 2**52),
    elected=st.sampled_from([0, 1, 2, 2**52]),
    finished=st.sampled_from([0, 1, 2, 2**52]),
    model_digest=st.sampled_from([DIGEST, digest("model b")]),
    needs=st.none() | SHAS,
)
SAID: dict[str, Any] = {
    PRESENCE: PRESENCES,
    VOTE: st.builds(Vote, SESSIONS, TERMS, NAMES),
    ROUND: any_round(),
    "evaluation": st.builds(Evaluation, SESSIONS, RUNS, SMALL, SHAS, REPORTS, st.booleans()),
    STOP: st.builds(Stop, RUNS, st.just("enough")),
    START: st.builds(Start, SMALL),
}
KEYS = st.builds(ev.TrainingKey, RUNS, SMALL, SHAS)
EVENTS = st.one_of(
    st.sampled_from(sorted(SAID)).flatmap(
        lambda kind: st.builds(ev.DocumentReceived, NAMES, st.just(kind), st.none() | SAID[kind], st.booleans())
    ),
    st.sampled_from(sorted(SAID)).flatmap(
        lambda kind: st.builds(ev.DocumentReceived, NAMES, st.just(kind), SAID[kind], st.booleans())
    ),
    st.builds(ev.ModelReceived, NAMES, REFS),
    st.builds(ev.UpdateReceived, NAMES, REFS.map(lambda base: offer("b", base)), st.sampled_from(["", "not finite"])),
    st.builds(ev.TrainingDone, KEYS, SHAS, st.integers(1, 9), *[st.floats(0, 9)] * 2, remembers=st.booleans()),
    st.builds(ev.LocalEvaluated, KEYS, REPORTS),
    st.builds(ev.TrainingFailed, KEYS, st.just("diverged")),
    st.builds(ev.ModelEvaluated, REFS, REPORTS, st.floats(0, 9)),
    st.builds(ev.AggregateReady, TERMS, RUNS, SMALL, SHAS),
    st.builds(ev.AggregateFailed, TERMS, RUNS, SMALL, st.just("not finite")),
    st.builds(ev.HealthChanged, st.booleans(), st.sampled_from(["", "hot"])),
    st.just(ev.Connected()),
    st.just(ev.Disconnected()),
    st.just(ev.TimerFired()),
    st.floats(0, 30),
)


@settings(max_examples=400, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=40),
    roster=st.sampled_from([None, ROSTER]),
    run=st.sampled_from([RUN, DELTAS]),
    leads=st.booleans(),
)
def test_no_sequence_of_events_of_any_content_stops_a_peer(
    events: list[Any], roster: Any, run: RunSettings, leads: bool
) -> None:  # I10
    hand = Hand(roster=roster, run=run)
    if leads:
        hand.lead("b", "c")
    else:
        hand.connect("b", "c")
    for event in events:
        if isinstance(event, float):
            hand.wait(event)
            continue
        hand.tell(event)
        for command in hand.new:
            if isinstance(command, do.Publish) and command.document is not None:
                encode(command.document)
            if isinstance(command, do.SaveState):
                assert SavedState.decode(command.state.encode()) == command.state
    assert Peer(hand.settings, hand.peer.state, random.Random(1), str).role == OFFLINE


def test_a_model_counts_once_it_is_known_whose_it_is() -> None:  # seed 836: a peer led the run of another model
    hand = Hand()
    hand.tell(ev.Connected())
    hand.tell(ev.ModelReceived("b", ref(2)))
    assert hand.peer.state.held is None
    hand.hear("b", presence("b"), retained=True)
    assert hand.peer.state.held == ref(2)
    hand.tell(ev.ModelReceived("c", ref(3)))
    hand.hear("c", presence("c", model_digest="0" * 64), retained=True)
    assert hand.peer.state.held == ref(2)
