"""Two processes of one name, and peers that come back in the middle of an election."""

from __future__ import annotations

from dataclasses import replace

from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import Presence, Vote
from edge_peer.protocol.name import RIVAL_COMES_BACK
from edge_peer.protocol.topics import PRESENCE, VOTE
from tests.sim.hand import TIMING, Hand, presence


def echo(hand: Hand) -> None:
    """The broker sends the own presence back."""
    hand.hear("a", hand.published(PRESENCE)[-1])


def come_back(hand: Hand, found: Presence) -> None:
    """Lose the connection, and find this document under the own name on the next one."""
    hand.tell(ev.Disconnected())
    hand.tell(ev.Connected())
    hand.hear("a", found, retained=True)


def test_a_process_whose_name_is_taken_again_and_again_stops_and_puts_back_what_it_overwrote() -> None:  # M6
    """Rule: two daemons with the same peer id; the one that lost its session says so and stops."""
    hand = Hand()
    hand.connect("b", "c")
    echo(hand)
    other = presence("a", session="a-2", online=False)
    for _ in range(RIVAL_COMES_BACK - 1):
        come_back(hand, other)
        assert hand.published(PRESENCE)[-1].session == "a-1"
    come_back(hand, other)
    assert hand.newly(do.Publish)[-1].document == other
    assert hand.newly(do.Exit)[0].failed
    assert "every peer needs a name of its own" in hand.log()
    assert hand.peer.role == "stopped"


def test_the_one_that_stays_is_not_stopped_by_its_own_document() -> None:
    hand = Hand()
    hand.connect("b", "c")
    echo(hand)
    hand.tell(ev.Disconnected())
    hand.tell(ev.Connected())
    hand.hear("a", replace(hand.peer.will(), online=False), retained=True)
    assert not hand.all(do.Exit)
    assert hand.published(PRESENCE)[-1].online


def test_what_earlier_processes_left_behind_stops_nobody() -> None:  # M6
    """A broker that comes back with its last snapshot, once and again."""
    hand = Hand()
    hand.tell(ev.Connected())
    hand.hear("a", presence("a", session="a-0"), retained=True)
    echo(hand)
    for number in range(10):
        come_back(hand, presence("a", session=f"a-0{number}"))
        assert hand.published(PRESENCE)[-1].session == "a-1"
    assert not hand.all(do.Exit)


def test_a_stranger_that_overwrites_the_presence_stops_nobody() -> None:  # M5, M6
    """Invariant: no message, from any peer or stranger, stops a peer's process."""
    hand = Hand()
    hand.connect("b", "c")
    echo(hand)
    hand.hear("a", presence("a", session="evil"))
    assert not hand.all(do.Exit)
    assert hand.published(PRESENCE, new=True)[-1].session == "a-1"


def test_an_election_that_others_hold_now_ends_the_grace() -> None:  # M3
    hand = Hand()
    hand.tell(ev.Connected())
    for peer in ("b", "c"):
        hand.hear(peer, presence(peer, election=3, elected=3), retained=True)
    hand.hear("b", presence("b", election=4, elected=3))
    assert hand.peer.role == "electing"
    hand.hear("c", presence("c", election=4, elected=3))
    assert hand.published(VOTE, new=True) == [Vote("a-1", 4, "a")]


def test_a_presence_that_is_only_said_again_does_not() -> None:  # M3
    """Rule: on every (re)connect a peer waits a grace time before it suspects anybody."""
    hand = Hand()
    hand.tell(ev.Connected())
    hand.hear("b", presence("b", election=3, elected=3))
    hand.hear("c", presence("c", election=4, elected=3), retained=True)
    assert hand.peer.role == "joining"
    hand.wait(TIMING.grace_s)
    assert hand.peer.role == "electing"
