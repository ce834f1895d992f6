"""Quotas: whoever says what a run needs is always heard, whoever says more is cut off alone, and only for a time."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import LARGE

from edge_peer.protocol.messages import Report, Round, Vote, encode
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.settings import Timing
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.topics import VOTE, Topics
from edge_peer.shell.flood import LINES_MAX, NAMED_S, NOBODY, SHOWN_MAX, FloodGuard
from edge_peer.shell.message_sizes import (
    DOCUMENT_BYTES,
    DOCUMENT_BYTES_PEER,
    DOCUMENTS_ROUND,
    ENVELOPE_BYTES,
    allowance,
    message_bytes,
)
from edge_peer.shell.mqtt import Message
from edge_peer.shell.quotas import BURST_ROUNDS, CALM_S, OTHERS, Allowance, Quotas

#: Small numbers, so that limits are reached at once.
SMALL = Allowance(messages=3, bytes=1000, messages_s=2, bytes_s=500)
BURST = int(BURST_ROUNDS * SMALL.messages + CALM_S * SMALL.messages_s)
TOPICS = Topics("home")
PAYLOAD = encode(Vote("session", 3, "roof"))


def quotas(senders_max: int = 100) -> Quotas:
    return Quotas(lambda _: SMALL, 3, senders_max)


def admitted(it: Quotas, sender: str, count: int, now_s: float, size: int = 1) -> int:
    return sum(it.admit(sender, size, now_s) for _ in range(count))


# ---------------------------------------------------------------------- what a sender may say


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200)), max_size=80))
def test_who_says_what_rounds_need_is_heard_however_fast_they_are(rounds: list[tuple[int, int]]) -> None:
    it = quotas()
    for number, (count, size) in enumerate(rounds):
        assert admitted(it, "roof", count, 5.0, size) == count
        it.round_seen("run-1", number)


@given(st.integers(1, 2000))
def test_who_keeps_to_the_pace_is_heard_without_any_round(count: int) -> None:
    it = quotas()
    assert all(it.admit("roof", 250, number / SMALL.messages_s) for number in range(count))


def test_a_burst_is_heard_and_what_goes_beyond_it_is_not() -> None:
    it = quotas()
    assert admitted(it, "roof", BURST + 500, 0.0) == BURST
    it = quotas()
    most = int((BURST_ROUNDS * SMALL.bytes + CALM_S * SMALL.bytes_s) / 1000)
    assert admitted(it, "roof", 500, 0.0, 1000) == most


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.integers(1, 300), st.integers(1, 3000), st.booleans()), min_size=1, max_size=30
    )
)
def test_nobody_gets_more_than_burst_pace_and_rounds_give(steps: list[tuple[float, int, int, bool]]) -> None:
    it = quotas()
    now_s, heard, carried, rounds = 0.0, 0, 0, 0
    for wait_s, count, size, round_ in steps:
        now_s += wait_s
        rounds += round_
        if round_:
            it.round_seen("run-1", rounds)
        taken = admitted(it, "mallory", count, now_s, size)
        heard += taken
        carried += taken * size
    assert heard <= BURST + now_s * SMALL.messages_s + rounds * SMALL.messages
    assert carried <= (BURST_ROUNDS + rounds) * SMALL.bytes + (CALM_S + now_s) * SMALL.bytes_s


def test_one_that_floods_costs_the_others_nothing() -> None:
    it = quotas()
    for second in range(50):
        admitted(it, "mallory", 1000, second, 1000)
        for sender in ("attic", "roof"):
            assert admitted(it, sender, 2, second, 200) == 2
    assert admitted(it, "mallory", 1000, 50.0) == 0


def test_who_was_cut_off_is_heard_again_after_some_calm_seconds_and_not_before() -> None:
    for size in (1, 5000):
        it = quotas()
        # For a while: it does not get worse by that.
        for second in range(20):
            admitted(it, "mallory", 1000, second, size)
        assert not it.is_calm("mallory", 19 + CALM_S - 0.5)
        assert not it.admit("mallory", 1, 19 + CALM_S - 0.5)
        assert it.is_calm("mallory", 19 + CALM_S + 1.1)
        assert it.admit("mallory", 1, 19 + CALM_S + 1.1)


def test_a_flood_that_goes_on_stays_cut_off() -> None:
    it = quotas()
    admitted(it, "mallory", 1000, 0.0)
    # More than the pace, for a long time.
    assert sum(it.admit("mallory", 1, number / (3 * SMALL.messages_s)) for number in range(5000)) == 0


def test_a_round_counts_once_whoever_tells_of_it() -> None:
    it = quotas()
    admitted(it, "roof", BURST, 0.0)
    for _ in range(1000):
        it.round_seen("run-1", 4)
        it.round_seen("run-1", 5)
    assert admitted(it, "roof", 1000, 0.0) == 2 * SMALL.messages


def test_names_that_are_made_up_take_bounded_memory_and_share_what_is_left() -> None:
    it = quotas(senders_max=10)
    assert admitted(it, "roof", 1, 0.0) == 1
    heard = sum(it.admit(f"name{number}", 1, 0.0) for number in range(100_000))
    assert heard == 9 + BURST
    assert len(it._stores) == 11
    assert it.account("name99999") == OTHERS
    assert it.admit("roof", 1, 0.0)


def test_the_allowance_grows_with_who_is_heard() -> None:
    it = Quotas(lambda peers: Allowance(peers, 1, 1, 1), 2, 100)
    for sender in ("a", "b"):
        it.admit(sender, 0, 0.0)
    assert it.allowance.messages == 2
    for sender in ("c", "d", "a"):
        it.admit(sender, 0, 0.0)
    assert it.allowance.messages == 4


# ---------------------------------------------------------------------- what a run needs


@pytest.mark.parametrize("peers", [2, 16, 64, 256])
def test_a_round_of_any_size_fits_into_what_a_controller_may_say(peers: int) -> None:
    """Names, digests and reasons as long as they may be; a document after each update, and some more."""
    names = [f"{number:064}" for number in range(peers)]
    digests = dict.fromkeys(names, "0" * 64)
    ref = ModelRef("r" * 64, 2**52, 2**52, 2**52, "0" * 64)
    settings = RunSettings(rule_parameters=dict.fromkeys(names[:3], 1 / 3), target_accuracy=1 / 3)
    training = Round(
        *("s" * 64, 2**52, 2**52, "training", "m" * 64, "0" * 64, settings, "r" * 64, 2**52, 2**52, ref, 10),
        participants=tuple(names),
        deadline_s=1 / 3,
        accepted=digests,
        closed_accepted=digests,
    )
    finished = Round(
        *("s" * 64, 2**52, 2**52, "finished", "m" * 64, "0" * 64, settings, "r" * 64, 2**52, 2**52, ref, 10),
        deadline_s=1 / 3,
        accepted=digests,
        closed_accepted=digests,
        reports=dict.fromkeys(names, Report(1 / 3, 1 / 3, 2**52, 1 / 3)),
    )
    largest = max(len(encode(it)) for it in (training, finished))
    assert largest <= DOCUMENT_BYTES + DOCUMENT_BYTES_PEER * peers
    allowed = allowance(LARGE, Timing(), peers)
    spoken = peers + DOCUMENTS_ROUND
    assert allowed.messages >= spoken
    worst = RunSettings(server_optimizer="fedadam", scaffold=True, codec="float32")
    assert allowed.bytes >= spoken * largest + 2 * (message_bytes(LARGE, worst) + ENVELOPE_BYTES)


def test_no_timing_makes_what_is_said_again_a_flood() -> None:
    quick = Timing(lease_s=0.1, resend_s=0.1, election_timeout_s=0.05)
    it = Quotas(lambda peers: allowance(LARGE, quick, peers), 3, 100)
    largest = message_bytes(LARGE, RunSettings(scaffold=True, server_optimizer="fedadam"))
    # Beats, an update that is sent again, terms without a winner, each with presence and vote; for a minute.
    for tick in range(600):
        now_s = tick / 10
        for _ in range(3):
            assert it.admit("roof", DOCUMENT_BYTES, now_s)
        assert it.admit("roof", largest, now_s)
        for _ in range(4):
            assert it.admit("roof", DOCUMENT_BYTES, now_s)


# ---------------------------------------------------------------------- who is named


class Fixture:
    def __init__(self, senders_max: int = 100) -> None:
        self.guard = FloodGuard(TOPICS, quotas(senders_max))

    def send(self, peer: str, count: int, now_s: float) -> int:
        message = Message(TOPICS.of(peer, VOTE), PAYLOAD, False)
        return sum(self.guard.admits(message, now_s, now_s) for _ in range(count))


def test_who_floods_is_named_once_and_then_now_and_then_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    it = Fixture()
    assert it.send("mallory", BURST, 0.0) == BURST
    assert caplog.records == []
    it.send("mallory", 5000, 0.0)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("mallory floods and is cut off: 1 of its messages")
    for second in range(1, int(2 * NAMED_S)):
        it.send("mallory", 100, second)
    _, second_ = caplog.records
    assert second_.getMessage().startswith(f"mallory floods and is cut off: {5001 + 100 * (int(NAMED_S) - 1)} of its")
    assert it.guard.dropped == 5000 + 100 * (int(2 * NAMED_S) - 1)


def test_a_flood_is_one_also_for_a_peer_that_is_too_slow_to_take_it_in_fast(caplog: pytest.LogCaptureFixture) -> None:
    it = Fixture()
    message = Message(TOPICS.of("mallory", VOTE), PAYLOAD, False)
    # A message a second is far below the pace, but there is always a next one: the peer is never idle.
    heard = sum(it.guard.admits(message, float(second), 0.0) for second in range(5 * BURST))
    assert heard == BURST
    assert caplog.records[0].getMessage().startswith("mallory floods")
    # Nothing more came for a long time, but the peer had other things to do; then it has a moment to spare.
    it.guard.tick(1e6, 0.0)
    assert it.guard.status != ""
    it.guard.tick(1e6 + 10, CALM_S + 2)
    assert it.guard.status == ""


def test_who_calms_down_is_named_too(caplog: pytest.LogCaptureFixture) -> None:
    it = Fixture()
    it.send("mallory", BURST + 7, 0.0)
    assert it.guard.status == "cut off because of a flood: mallory"
    it.guard.tick(CALM_S - 1, CALM_S - 1)
    assert it.guard.status != ""
    it.guard.tick(CALM_S + 2, CALM_S + 2)
    assert it.guard.status == ""
    assert (
        caplog.records[-1].getMessage() == "mallory has calmed down and is heard again; 7 of its messages were dropped"
    )
    # By what it says, where nobody looks in between.
    it.send("mallory", BURST + 7, 10.0)
    assert it.send("mallory", 1, 20.0) == 1
    assert it.guard.status == ""


def test_topics_that_name_no_peer_count_together(caplog: pytest.LogCaptureFixture) -> None:
    it = Fixture()
    for number in range(BURST + 10):
        it.guard.admits(Message(f"fl/v1/home/..{number}\n/vote", b"", False), 0.0, 0.0)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{NOBODY} floods")
    assert it.send("roof", 1, 0.0) == 1


def test_a_flood_under_many_names_is_a_bounded_number_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    it = Fixture(senders_max=500)
    for number in range(500):
        it.send(f"peer{number}", BURST + 1, 0.0)
    assert len(caplog.records) == LINES_MAX
    assert it.guard.status.count("peer") == SHOWN_MAX
    assert it.guard.status.endswith(" and 497 more")
