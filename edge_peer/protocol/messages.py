"""The documents that peers exchange, each with its JSON form and a decoder that trusts nothing.

A decoder ignores fields that it does not know, so that a newer peer can add some; it refuses a document whose
known fields are missing, of another type or out of range.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.fields import SECONDS_MAX, Fields, parse_object
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.topics import EVALUATION, PRESENCE, ROUND, START, STOP, VOTE

WAITING = "waiting"
TRAINING = "training"
FINISHED = "finished"
STATES = frozenset({WAITING, TRAINING, FINISHED})


@dataclass(frozen=True, slots=True)
class Presence:
    """What a peer is and can do; the last will is this document with `online` false.

    Attributes:
        session: New at each start of the process; what an earlier session said is void.
        online: The peer is there.
        control: It is willing to be controller.
        train: It is willing and able to train.
        score: Capability, higher is better.
        parts: The measurements that the score is made of.
        examples: Training examples in its shard.
        test_examples: Examples in its test split.
        model_id: Name of the model that it is deployed with.
        model_digest: Digest of that model's artifacts; only peers with the same one work together.
        newest: The newest global model that it holds.
        wants_run: It wants a run, from its start until it has taken part in a finished one.
        election: The newest term that this document was renewed for (newest model included).
        elected: The highest term in which this peer knows an elected controller: it follows none of a lower one.
        finished: The highest number of a run that this peer knows as finished.
        note: Why it refuses to control or to train, when it does.
        needs: Digest of a global model that it has not and cannot make of what it has.
        strained: The board is hot or throttled: its score counts half where a controller or the fastest are chosen.
        health: How the board is, as far as it tells: temperature, memory and others; as of when this was published.
    """

    session: str
    online: bool
    control: bool = False
    train: bool = False
    score: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    examples: int = 0
    test_examples: int = 0
    model_id: str = "none"
    model_digest: str = "0" * 64
    newest: ModelRef | None = None
    wants_run: bool = False
    election: int = 0
    elected: int = 0
    finished: int = 0
    note: str = ""
    needs: str | None = None
    strained: bool = False
    health: dict[str, float] = field(default_factory=dict)

    @property
    def standing(self) -> float:
        """The score as it counts now; the score itself stays what it is for as long as the session lasts."""
        return self.score / 2 if self.strained else self.score

    @classmethod
    def read(cls, fields: Fields) -> Presence:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(
            session=fields.name("session"),
            online=fields.flag("online"),
            control=fields.flag("control"),
            train=fields.flag("train"),
            score=fields.number("score", 0, 1e9),
            parts=fields.numbers("parts"),
            examples=fields.integer("examples"),
            test_examples=fields.integer("test_examples"),
            model_id=fields.name("model_id"),
            model_digest=fields.digest("model_digest"),
            newest=ModelRef.read(fields.object("newest")) if fields.has("newest") else None,
            wants_run=fields.flag("wants_run"),
            election=fields.count("election"),
            elected=fields.count("elected"),
            finished=fields.count("finished"),
            note=fields.text("note"),
            needs=fields.digest("needs") if fields.has("needs") else None,
            strained=fields.flag("strained") if fields.has("strained") else False,
            health=fields.numbers("health") if fields.has("health") else {},
        )


@dataclass(frozen=True, slots=True)
class Vote:
    """A peer's one vote of a term.

    Attributes:
        session: The session that cast it; it counts while the voter's presence names the same.
        term: Which election it is for.
        candidate: Whom it is for.
    """

    session: str
    term: int
    candidate: str

    @classmethod
    def read(cls, fields: Fields) -> Vote:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(session=fields.name("session"), term=fields.count("term", 1), candidate=fields.name("candidate"))


@dataclass(frozen=True, slots=True)
class Report:
    """A peer's evaluation of one global model on its own test split.

    Attributes:
        accuracy: Share of the examples that the model gets right, 0..1.
        loss: Mean loss.
        examples: Examples in the test split: the weight in means over peers.
        int8_accuracy: The same share for the int8 model of the same weights; None: it has none, or not yet.
    """

    accuracy: float
    loss: float
    examples: int
    int8_accuracy: float | None = None

    @classmethod
    def read(cls, fields: Fields) -> Report:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(
            accuracy=fields.number("accuracy", 0, 1),
            loss=fields.number("loss", 0, 1e30),
            examples=fields.integer("examples", 1),
            int8_accuracy=fields.number("int8_accuracy", 0, 1) if fields.has("int8_accuracy") else None,
        )


@dataclass(frozen=True, slots=True)
class Round:
    """The controller's word: the state of the run. Sent again at every beat, which renews the controller's lease.

    Attributes:
        session: The controller's session; the document is void when its presence names another.
        term: The term that it was elected in.
        beat: Counts this controller's documents within its term; an older one never replaces a newer one.
        state: `waiting` (for peers, trainers or a model), `training` or `finished`.
        model_id: Name of the model that the controller is deployed with.
        model_digest: Digest of its artifacts; a peer with another takes no part.
        settings: What the run is made with.
        run_id: Name of the run; none while there is none.
        run_number: Its place in the count of runs, never below the term that it was started in.
        round: The round that is being trained; after the end, the number of rounds done.
        base: The global model that the round starts from; in `finished`, the final model.
        attempt: 1 for a round's first opening.
        participants: Who is to train in this round.
        deadline_s: Time left until the round is closed, when the document was published.
        accepted: Digest of the accepted update of each peer, of this round.
        closed_accepted: The same of the round before, so that its trainers can let go of their updates.
        refused: Why an update of this round was refused, by peer.
        missing: Why a peer is not in the round, or did not answer, by peer.
        wanted: Digest of a model that `wanted_from` is asked to publish under its own topic.
        wanted_from: Who announced that model.
        reason: Why the run ended, or what the controller waits for.
        accuracy: Accuracy of the newest evaluated global model, weighted by test examples.
        int8_accuracy: The same of its int8 model, over the peers that have told it; none while nobody has.
        accuracy_round: Which round's model that was.
        reports: The final reports, in `finished`.
        complete: All final reports are in, or overdue.
        epsilon: What the rounds in the model have cost of privacy, at `privacy_delta`; none where none is promised.
    """

    session: str
    term: int
    beat: int
    state: str
    model_id: str
    model_digest: str
    settings: RunSettings
    run_id: str | None = None
    run_number: int = 0
    round: int = 0
    base: ModelRef | None = None
    attempt: int = 0
    participants: tuple[str, ...] = ()
    deadline_s: float = 0.0
    accepted: dict[str, str] = field(default_factory=dict)
    closed_accepted: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    wanted: str | None = None
    wanted_from: str | None = None
    reason: str = ""
    accuracy: float | None = None
    int8_accuracy: float | None = None
    accuracy_round: int = 0
    reports: dict[str, Report] = field(default_factory=dict)
    complete: bool = False
    epsilon: float | None = None

    @classmethod
    def read(cls, fields: Fields) -> Round:
        """Decode from JSON fields; raises RemoteProtocolError."""
        document = cls(
            session=fields.name("session"),
            term=fields.count("term", 1),
            beat=fields.count("beat"),
            state=fields.one_of("state", STATES),
            model_id=fields.name("model_id"),
            model_digest=fields.digest("model_digest"),
            settings=RunSettings.read(fields.object("settings")),
            run_id=fields.name("run_id") if fields.has("run_id") else None,
            run_number=fields.count("run_number"),
            round=fields.count("round"),
            base=ModelRef.read(fields.object("base")) if fields.has("base") else None,
            attempt=fields.count("attempt"),
            participants=fields.names("participants"),
            deadline_s=fields.number("deadline_s", 0, SECONDS_MAX),
            accepted=fields.texts("accepted"),
            closed_accepted=fields.texts("closed_accepted"),
            refused=fields.texts("refused"),
            missing=fields.texts("missing"),
            wanted=fields.digest("wanted") if fields.has("wanted") else None,
            wanted_from=fields.name("wanted_from") if fields.has("wanted_from") else None,
            reason=fields.text("reason"),
            accuracy=fields.number("accuracy", 0, 1) if fields.has("accuracy") else None,
            int8_accuracy=fields.number("int8_accuracy", 0, 1) if fields.has("int8_accuracy") else None,
            accuracy_round=fields.count("accuracy_round"),
            reports={peer: Report.read(report) for peer, report in fields.mapping("reports")},
            complete=fields.flag("complete"),
            epsilon=fields.number("epsilon", 0, 1e30) if fields.has("epsilon") else None,
        )
        document.check()
        return document

    def check(self) -> None:
        """Refuse a document whose fields do not fit each other; raises RemoteProtocolError."""
        if self.state in (TRAINING, FINISHED) and (self.run_id is None or self.base is None or self.run_number < 1):
            raise RemoteProtocolError(f"document.state is {self.state!r} without run_id, run_number and base")
        if self.base is not None and (self.base.run_id, self.base.run_number) != (
            self.run_id,
            self.run_number,
        ):
            raise RemoteProtocolError("document.base belongs to another run than document.run_id")
        expected = self.base.round + (self.state == TRAINING) if self.base is not None else None
        if self.state != WAITING and self.round != expected:
            raise RemoteProtocolError(f"document.round is {self.round}, but its base makes it {expected}")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one global model scores on the sender's own test split.

    Attributes:
        session: The sender's session.
        run_id: The run.
        round: How many rounds are in the model.
        sha256: Digest of the model.
        report: What it scores.
        final: The run has finished, with this model.
    """

    session: str
    run_id: str
    round: int
    sha256: str
    report: Report
    final: bool = False

    @classmethod
    def read(cls, fields: Fields) -> Evaluation:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(
            session=fields.name("session"),
            run_id=fields.name("run_id"),
            round=fields.count("round"),
            sha256=fields.digest("sha256"),
            report=Report.read(fields.object("report")),
            final=fields.flag("final"),
        )


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the controller to end this run with its newest model.

    Attributes:
        run_id: Only this run; a later one is not concerned.
        reason: Goes into the reason why the run ended.
    """

    run_id: str
    reason: str

    @classmethod
    def read(cls, fields: Fields) -> Stop:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(run_id=fields.name("run_id"), reason=fields.text("reason"))


@dataclass(frozen=True, slots=True)
class Start:
    """Ask every peer to want another run.

    Attributes:
        after: The newest run that the sender knows: who knows a later one has seen to the request already.
    """

    after: int

    @classmethod
    def read(cls, fields: Fields) -> Start:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(after=fields.count("after"))


Document = Presence | Vote | Round | Evaluation | Stop | Start
DECODERS: dict[str, Any] = {
    PRESENCE: Presence.read,
    VOTE: Vote.read,
    ROUND: Round.read,
    EVALUATION: Evaluation.read,
    STOP: Stop.read,
    START: Start.read,
}


def encode(document: Document) -> bytes:
    """A document as UTF-8 JSON with sorted keys."""
    return json.dumps(document, default=_fields, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()


def _fields(value: Any) -> dict[str, Any]:
    """A document's fields; unlike `dataclasses.asdict` without a copy of all that is in them."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def decode(kind: str, payload: bytes) -> Document:
    """Read a JSON document of `kind`; raises RemoteProtocolError for anything else."""
    document: Document = DECODERS[kind](parse_object(payload))
    return document
