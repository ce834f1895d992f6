"""A federation as an operator sees it, as plain values: what `edge-peer status --json` prints and `watch` draws.

It is made of the latest documents alone, without I/O or a clock, so both say the same of the same documents. The fields
are an interface: `docs/monitoring.md` lists them, and what is in one `SCHEMA` stays in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_peer.operator.live.federation import Federation
from edge_peer.protocol.messages import FINISHED, TRAINING, Presence, Round

#: Grows when a field goes or means something else; new fields alone do not change it.
SCHEMA = 1
#: What a board does, in one word, and what that is.
DOING = {
    "offline": "the broker has taken it for gone, or it has said goodbye",
    "electing": "there is no controller",
    "training": "it is in the round, and its update is not there yet",
    "accepted": "its update of this round is in",
    "refused": "its update of this round was refused; `why` says for what",
    "missing": "it is not in this round, or did not answer in time; `why` says so",
    "reported": "the run has finished, and its final report is in",
    "idle": "none of these",
}


@dataclass(frozen=True, slots=True)
class BoardView:
    """One board.

    Attributes:
        name: Of the peer.
        online: It is connected, as far as the broker knows.
        role: `controller`, `trainer`, `waiting` or `offline`.
        doing: One word of the table below.
        why: Why it was refused or is missing; empty: there is nothing to say.
        note: Why it refuses to control or to train, in its own words; empty: it does not.
        control: It is willing to be controller.
        train: It is willing and able to train.
        examples: In its training split.
        test_examples: In its test split.
        score: Its capability; who has more is rather elected.
        strained: It is hot or throttled.
        health: What the board tells of itself, by the names of the CSV's columns.
        accuracy: Of the newest global model that it has told of, on its own test split, 0..1; null: none of this run.
        int8_accuracy: The same of the int8 model.
        evaluated_round: How many rounds are in that model.
        curve: Pairs of round and accuracy of this run so far, at most 64, the newest one up to half a minute old.
        silent_s: Seconds since its last message, by this machine's clock; null: none came since this connection began.
    """

    name: str
    online: bool
    role: str
    doing: str
    why: str
    note: str
    control: bool
    train: bool
    examples: int
    test_examples: int
    score: float
    strained: bool
    health: Mapping[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    int8_accuracy: float | None = None
    evaluated_round: int | None = None
    curve: tuple[tuple[int, float], ...] = ()
    silent_s: float | None = None


@dataclass(frozen=True, slots=True)
class RunView:
    """The run, as its controller says.

    Attributes:
        run_id: Its name.
        number: Its place in the count of runs.
        state: `waiting`, `training` or `finished`.
        round: The round that is being trained; after the end, the number of rounds done.
        rounds_max: The run ends after so many.
        attempt: How often this round was opened.
        target_accuracy: The run ends at it; null: there is none.
        accuracy: Of the newest evaluated global model, weighted by test examples, 0..1.
        int8_accuracy: The same of its int8 model.
        accuracy_round: Which round's model that was.
        participants: Who trains in this round.
        accepted: Whose updates are in.
        reason: Why it ended, or what it waits for.
        complete: It has finished, and all final reports are in or overdue.
        epsilon: What its rounds have cost of privacy; null where none is promised.
    """

    run_id: str
    number: int
    state: str
    round: int
    rounds_max: int
    attempt: int
    target_accuracy: float | None
    accuracy: float | None
    int8_accuracy: float | None
    accuracy_round: int
    participants: tuple[str, ...]
    accepted: tuple[str, ...]
    reason: str
    complete: bool
    epsilon: float | None


@dataclass(frozen=True, slots=True)
class View:
    """The whole federation.

    Attributes:
        federation: Its name.
        controller: Who leads; null: an election is on, or nobody is there.
        term: Of the controller; null: there is none.
        waits_for: What the controller waits for while there is no run; empty: nothing.
        votes: Who has voted for whom in the highest term, while there is no controller.
        run: The run that is on, or the one that has ended last; null: none is known.
        boards: Everybody who has announced itself, by name.
    """

    federation: str
    controller: str | None
    term: int | None
    waits_for: str
    votes: Mapping[str, str]
    run: RunView | None
    boards: tuple[BoardView, ...]

    def count(self, doing: str) -> int:
        """How many boards do that."""
        return sum(it.doing == doing for it in self.boards)


def view(federation: Federation, name: str, silent_s: Mapping[str, float] | None = None) -> View:
    """What follows from the documents.

    Args:
        federation: The documents.
        name: Of the federation.
        silent_s: Seconds since the last message of each peer that has sent one.
    """
    document = federation.round
    boards = tuple(
        _board(federation, peer, presence, document, (silent_s or {}).get(peer))
        for peer, presence in sorted(federation.presences.items())
    )
    return View(
        federation=name,
        controller=federation.controller,
        term=document.term if document is not None else None,
        waits_for=document.reason if document is not None and document.run_id is None else "",
        votes=_votes(federation) if document is None else {},
        run=_run(document),
        boards=boards,
    )


def _votes(federation: Federation) -> dict[str, str]:
    """The votes that count: of who is there, in the session that cast them, in the highest term of them."""
    cast = {
        peer: vote
        for peer, vote in federation.votes.items()
        if peer in federation.presences
        and federation.presences[peer].online
        and federation.presences[peer].session == vote.session
    }
    term = max((it.term for it in cast.values()), default=0)
    return {peer: vote.candidate for peer, vote in sorted(cast.items()) if vote.term == term}


def _run(document: Round | None) -> RunView | None:
    if document is None or document.run_id is None:
        return None
    return RunView(
        run_id=document.run_id,
        number=document.run_number,
        state=document.state,
        round=document.round,
        rounds_max=document.settings.rounds_max,
        attempt=document.attempt,
        target_accuracy=document.settings.target_accuracy,
        accuracy=document.accuracy,
        int8_accuracy=document.int8_accuracy,
        accuracy_round=document.accuracy_round,
        participants=tuple(sorted(document.participants)),
        accepted=tuple(sorted(document.accepted)),
        reason=document.reason,
        complete=document.complete,
        epsilon=document.epsilon,
    )


def _board(
    federation: Federation, peer: str, presence: Presence, document: Round | None, silent_s: float | None
) -> BoardView:
    doing, why = _doing(peer, presence, document)
    newest, curve = _told(federation, peer, document.run_id if document is not None else None)
    return BoardView(
        name=peer,
        online=presence.online,
        role=federation.role(peer),
        doing=doing,
        why=why,
        note=presence.note,
        control=presence.control,
        train=presence.train,
        examples=presence.examples,
        test_examples=presence.test_examples,
        score=presence.score,
        strained=presence.strained,
        health=dict(presence.health),
        accuracy=newest.accuracy if newest is not None else None,
        int8_accuracy=newest.int8_accuracy if newest is not None else None,
        evaluated_round=newest.round if newest is not None else None,
        curve=curve,
        silent_s=silent_s,
    )


@dataclass(frozen=True, slots=True)
class _Score:
    round: int
    accuracy: float
    int8_accuracy: float | None


def _told(federation: Federation, peer: str, run_id: str | None) -> tuple[_Score | None, tuple[tuple[int, float], ...]]:
    """The newest score of a peer in a run, and its curve: of the history that is retained, or what came since."""
    newest: _Score | None = None
    curve: tuple[tuple[int, float], ...] = ()
    history, evaluation = federation.histories.get(peer), federation.evaluations.get(peer)
    if history is not None and history.run_id == run_id:
        rows = [
            _Score(int(round_), accuracy, int8)
            for round_, accuracy, int8 in zip(history.rounds, history.accuracy, history.int8_accuracy, strict=True)
            if round_ is not None and accuracy is not None
        ]
        newest = rows[-1] if rows else None
        curve = tuple((it.round, it.accuracy) for it in rows)
    if evaluation is not None and evaluation.run_id == run_id:
        report = evaluation.report
        if newest is None or evaluation.round >= newest.round:
            newest = _Score(evaluation.round, report.accuracy, report.int8_accuracy)
            curve = (*(it for it in curve if it[0] < evaluation.round), (evaluation.round, report.accuracy))
    return newest, curve


def _doing(peer: str, presence: Presence, document: Round | None) -> tuple[str, str]:
    if not presence.online:
        return "offline", document.missing.get(peer, "") if document is not None else ""
    if document is None:
        return "electing", ""
    if document.state == FINISHED:
        return ("reported" if peer in document.reports else "idle"), ""
    if document.state != TRAINING:
        return "idle", document.missing.get(peer, "")
    if peer in document.accepted:
        return "accepted", ""
    for word, reasons in (("refused", document.refused), ("missing", document.missing)):
        if peer in reasons:
            return word, reasons[peer]
    return ("training" if peer in document.participants else "idle"), ""
