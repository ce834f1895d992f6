"""Which peers' training is not in a round's model, and whose fault that is.

A round of the final model either counts a peer's update, or it is one of these:

- late: a fault kept the peer away (killed, stopped, cut off, slowed down, starved) for a part of the round. A round
  does not wait for ever, so it may close without it.
- lost: the broker had the peer's update before the round closed, or a controller had accepted it, and the model lacks
  it although somebody still had it: the peer, which stayed there until the round closed, or the controller that it was
  sent to, to which nothing happened.
- left out: none of these. Nothing kept the peer away, but it has made no update, or was not asked for one.

Only late is allowed. A round that was opened before a peer was heard for the first time is no round of that peer. What
tells them apart is not the product's word: the witness has seen on the broker what arrived and when a peer was heard
again, and the player knows what it did to whom.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.play import Injection
from tests.chaos.records import Line, Records
from tests.chaos.schedule import ALL, LATENCY, LOSS

LATE, LOST, LEFT_OUT = "late", "lost", "left out"
#: From the broker to a controller that is about to close its round; and over a cable that is made slow.
FLIGHT_S = 0.5
SLOW_FLIGHT_S = 5.0


@dataclass(frozen=True)
class Missed:
    """A peer that a round's model has nothing of.

    Attributes:
        run_id, round: Of the model.
        peer: Whose update is missing.
        closed_s: When the round was committed.
        what: LATE, LOST or LEFT_OUT.
    """

    run_id: str
    round: int
    peer: str
    closed_s: float
    what: str

    def __str__(self) -> str:
        return f"{self.peer} in round {self.round} of run {self.run_id}"


def missed(records: Records) -> list[Missed]:
    """All of them, of all runs that have ended, by time."""
    losses = _Losses(records)
    return [it for run_id in records.runs() for line in records.chain(run_id) for it in losses.of(run_id, line)]


class _Losses:
    def __init__(self, records: Records) -> None:
        self._records = records
        heard = {peer: list(_heard(records, peer)) for peer in records.played.peers}
        #: When each was there for the first time.
        self._begun_s = {peer: min(times, default=float("-inf")) for peer, times in heard.items()}
        self._away = {peer: list(_away(records, peer, times)) for peer, times in heard.items()}
        #: (run, round, peer) -> when an update of it was on the broker, and for which term.
        self._sent: dict[tuple[str, int, str], list[tuple[float, int]]] = {}
        self._accepted: dict[tuple[str, int, str], list[tuple[float, int]]] = {}
        for it in records.seen:
            document = it["document"]
            if document is None:
                continue
            if it["kind"] == "update":
                key = (document["run_id"], document["round"], it["peer"])
                self._sent.setdefault(key, []).append((it["at_s"], document["term"]))
            elif it["kind"] == "round" and document["state"] == "training":
                for peer in document["accepted"]:
                    key = (document["run_id"], document["round"], peer)
                    self._accepted.setdefault(key, []).append((it["at_s"], document["term"]))

    def of(self, run_id: str, line: Line) -> Iterator[Missed]:
        for peer in self._records.played.peers:
            if peer not in line["accepted"] and self._begun_s[peer] <= line["at_s"] - line["seconds"]:
                yield Missed(run_id, line["round"], peer, line["at_s"], self._what(run_id, line, peer))

    def _what(self, run_id: str, line: Line, peer: str) -> str:
        key, closed_s = (run_id, line["round"], peer), line["at_s"]
        slow = any(
            it.kind in (LATENCY, LOSS) and it.begun_s <= closed_s <= it.whole_s
            for it in self._records.played.injections
            if it.victim == line["peer"]
        )
        due_s = closed_s - (SLOW_FLIGHT_S if slow else FLIGHT_S)
        known = [*self._sent.get(key, ()), *self._accepted.get(key, ())]
        in_time = [(at_s, term) for at_s, term in known if at_s <= due_s]
        if any(self._was_there(peer, at_s, closed_s) for at_s, _ in in_time):
            return LOST
        # The very controller that had it closed the round, and it was never out of reach meanwhile.
        if any(term == line["term"] and self._was_there(line["peer"], at_s, closed_s) for at_s, term in in_time):
            return LOST
        opened_s = closed_s - line["seconds"] - FLIGHT_S
        return LEFT_OUT if self._was_there(peer, opened_s, closed_s) else LATE

    def _was_there(self, peer: str, since_s: float, until_s: float) -> bool:
        return all(until_s < begun_s or back_s < since_s for begun_s, back_s in self._away[peer])


def _heard(records: Records, peer: str) -> Iterator[float]:
    """When the broker had something of a peer that was there and able to train."""
    return (it["at_s"] for it in records.seen if it["peer"] == peer and _tells_of_life(it))


def _away(records: Records, peer: str, heard: list[float]) -> Iterator[tuple[float, float]]:
    """From a fault's begin until the peer is heard again; at the latest, until a round asked all."""
    for it in records.played.injections:
        if it.victim in (peer, ALL):
            yield it.begun_s, min([it.whole_s, *(at_s for at_s in heard if at_s >= it.ended_s)])


def _tells_of_life(seen: Line) -> bool:
    document = seen["document"]
    if document is None:
        return False
    return seen["kind"] == "update" or (seen["kind"] == "presence" and document["online"] and document["train"])


def cause(records: Records, peer: str | None, at_s: float) -> Injection | None:
    """The fault that something at this time is put down to: one of that peer first, else one that was on."""
    # A round that was open when the fault began was accepted before it.
    near = [it for it in records.played.injections if it.begun_s - 1 <= at_s <= it.whole_s + 1]
    return min(near, key=lambda it: (it.victim not in (peer, ALL), abs(it.begun_s - at_s)), default=None)
