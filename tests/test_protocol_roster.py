"""Who is there."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given

from edge_peer.protocol.messages import Vote
from edge_peer.protocol.roster import Member, Roster
from tests.sim.hand import presence


def roster(*peers: str, peers_max: int = 9) -> Roster:
    made = Roster("a", peers_max)
    for peer in peers:
        made.on_presence(peer, presence(peer))
    return made


def test_who_says_so_is_online() -> None:  # M1
    them = roster("c", "b")
    assert list(them.online()) == ["b", "c"]
    them.on_presence("b", presence("b", online=False))
    assert list(them.online()) == ["c"]
    them.on_presence("c", None)
    assert them.online() == {}
    assert them.presence("c") is None


def test_this_peer_is_no_member() -> None:
    them = roster("a")
    assert them.online() == {}
    assert them.admits("a") is False


def test_an_older_document_of_a_session_does_not_replace_a_newer_one() -> None:
    them = roster()
    them.on_presence("b", presence("b", election=3))
    them.on_presence("b", presence("b", election=2, wants_run=False))
    assert them.presence("b") == presence("b", election=3)
    them.on_presence("b", presence("b", election=2, online=False))
    assert them.online() == {}


def test_a_new_session_starts_afresh() -> None:  # M2
    them = roster()
    them.on_presence("b", presence("b", election=3))
    them.on_vote("b", Vote("b-1", 3, "a"))
    them.suspect("b", "silent")
    them.on_presence("b", presence("b", session="b-2"))
    assert list(them.online()) == ["b"]
    assert them.votes() == {}


def test_votes_count_while_their_voter_is_online_with_that_session() -> None:  # E5
    them = roster("b", "c")
    them.on_vote("b", Vote("b-1", 3, "a"))
    them.on_vote("c", Vote("c-0", 3, "a"))
    them.on_vote("d", Vote("d-1", 3, "a"))
    assert set(them.votes()) == {"b"}
    them.on_vote("b", Vote("b-1", 2, "c"))
    assert them.votes()["b"].term == 3
    them.on_presence("b", presence("b", online=False))
    assert them.votes() == {}


def test_a_cleared_vote_is_none() -> None:  # E5
    them = roster("b")
    them.on_vote("b", Vote("b-1", 3, "a"))
    them.on_vote("b", None)
    assert them.votes() == {}


def test_the_silent_are_gone_until_they_are_heard() -> None:  # M4
    them = roster("b")
    them.suspect("b", "silent for a whole round")
    assert them.online() == {}
    assert list(them.said_online()) == ["b"]
    assert them.suspicion("b") == "silent for a whole round"
    them.heard("b", 7.0)
    assert list(them.online()) == ["b"]
    assert them.heard_s("b") == 7.0
    assert them.heard_s("unknown") == float("-inf")


def test_who_does_not_show_up_on_a_connection_is_not_there() -> None:  # M3
    them = roster("b", "c")
    them.disconnected()
    assert list(them.online()) == ["b", "c"]
    them.on_presence("c", replace(presence("c"), wants_run=False))
    them.grace_over()
    assert list(them.online()) == ["c"]


def test_an_old_document_of_a_session_shows_that_it_is_known_here() -> None:  # M3
    them = roster()
    them.on_presence("b", presence("b", election=3))
    them.disconnected()
    them.on_presence("b", presence("b", election=2))
    them.grace_over()
    assert them.online() == {"b": presence("b", election=3)}


def test_strangers_do_not_fill_the_memory() -> None:  # I10
    them = roster(*(f"p{index}" for index in range(100)), peers_max=5)
    assert len(them.online()) == 5
    assert them.admits("another") is False
    assert them.admits("p1") is True
    them.heard("another", 1.0)
    them.on_vote("another", Vote("x", 1, "a"))
    them.suspect("another", "silent")
    assert len(them.said_online()) == 5


def derived(members: dict[str, Member]) -> tuple[object, ...]:
    """What a roster answers, worked out from all its members."""
    said = {peer: it.presence for peer, it in sorted(members.items()) if it.presence is not None and it.presence.online}
    online = {peer: it for peer, it in said.items() if not members[peer].suspected}
    votes = {}
    for peer, it in said.items():
        vote = members[peer].vote
        if vote is not None and vote.session == it.session:
            votes[peer] = vote
    terms = [term for it in online.values() for term in (it.election, it.elected + 1)]
    highest = max([*terms, *(vote.term for vote in votes.values())], default=0)
    finished = max((it.finished for it in said.values()), default=0)
    for_a = sum((vote.term, vote.candidate) == (2, "a") for vote in votes.values())
    return list(online.items()), list(said.items()), list(votes.items()), highest, finished, for_a


PEERS = st.sampled_from("bcdef")
PRESENCES = st.builds(
    presence,
    PEERS,
    session=st.sampled_from(["1", "2"]),
    online=st.booleans(),
    election=st.integers(0, 3),
    elected=st.integers(0, 3),
    finished=st.integers(0, 3),
)
VOTES = st.builds(Vote, st.sampled_from(["1", "2"]), st.integers(1, 3), st.sampled_from("ab"))
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("on_presence"), PEERS, st.none() | PRESENCES),
        st.tuples(st.just("on_vote"), PEERS, st.none() | VOTES),
        st.tuples(st.just("heard"), PEERS, st.just(1.0)),
        st.tuples(st.just("suspect"), PEERS, st.just("silent")),
        st.tuples(st.sampled_from(["disconnected", "grace_over"])),
    ),
    max_size=40,
)


@given(CHANGES)
def test_what_is_kept_up_to_date_is_what_the_members_say(changes: list[tuple[object, ...]]) -> None:
    them = Roster("a", 4)
    for name, *arguments in changes:
        before = them.online()
        then = dict(before)
        getattr(them, str(name))(*arguments)
        assert before == then
        answers = (
            list(them.online().items()),
            list(them.said_online().items()),
            list(them.votes().items()),
            them.highest_term(),
            them.highest_finished(),
            them.voted(2, "a"),
        )
        assert answers == derived(them._members)
