"""One peer driven by hand: the test is the broker, the disk, the worker and the clock."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any, TypeVar

from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import TRAINING, Document, Evaluation, Presence, Report, Round, Start, Stop, Vote
from edge_peer.protocol.peer import Peer
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.settings import PeerSettings, Timing
from edge_peer.protocol.state import SavedState
from edge_peer.protocol.tensors import ModelRef, UpdateOffer
from edge_peer.protocol.topics import EVALUATION, PRESENCE, ROUND, START, STOP, VOTE

KINDS = {Presence: PRESENCE, Vote: VOTE, Round: ROUND, Evaluation: EVALUATION, Stop: STOP, Start: START}
ROSTER = ("a", "b", "c")
TIMING = Timing(
    grace_s=1.0,
    lease_s=9.0,
    settle_s=0.5,
    election_timeout_s=2.0,
    startup_window_s=20.0,
    resend_s=5.0,
    final_report_s=30.0,
)
RUN = RunSettings(rounds_max=2, round_deadline_s=60.0, updates_min=2, codec="float32")
Kind = TypeVar("Kind")


def digest(text: str) -> str:
    """Some SHA-256, named so that a test can speak of it."""
    return hashlib.sha256(text.encode()).hexdigest()


INITIAL = digest("initial")
MODEL = digest("model a")


def presence(peer: str, **changes: Any) -> Presence:
    """A peer that is there and willing."""
    said = Presence(
        session=f"{peer}-1",
        online=True,
        control=True,
        train=True,
        score=1.0,
        examples=10,
        test_examples=5,
        model_id="tiny",
        model_digest=MODEL,
        wants_run=True,
    )
    return replace(said, **changes)


def ref(round_: int, term: int = 1, run_id: str = "run", number: int = 1) -> ModelRef:
    """A global model."""
    sha256 = INITIAL if round_ == 0 else digest(f"{run_id} {round_} {term}")
    return ModelRef(run_id, number, round_, term, sha256)


def round_document(peer: str, term: int = 1, beat: int = 0, base: ModelRef | None = None, **changes: Any) -> Round:
    """What a controller says: a round that starts from `base`, or waiting without one."""
    document = Round(
        session=f"{peer}-1",
        term=term,
        beat=beat,
        state="waiting" if base is None else TRAINING,
        model_id="tiny",
        model_digest=MODEL,
        settings=RUN,
    )
    if base is not None:
        document = replace(
            document,
            run_id=base.run_id,
            run_number=base.run_number,
            round=base.round + 1,
            base=base,
            attempt=1,
            participants=ROSTER,
        )
    return replace(document, **changes)


def offer(peer: str, base: ModelRef, term: int = 1, **changes: Any) -> UpdateOffer:
    """An update for the round that starts from `base`."""
    made = UpdateOffer(
        session=f"{peer}-1",
        run_id=base.run_id,
        term=term,
        round=base.round + 1,
        base=base.sha256,
        digest=digest(f"update of {peer} {base}"),
        examples=10,
        codec="float32",
        loss=0.5,
        seconds=1.0,
    )
    return replace(made, **changes)


class Hand:
    """Drives peer `a`.

    Args:
        state: What its disk holds.
        settings: Fields of PeerSettings that differ.
    """

    def __init__(self, state: SavedState | None = None, **settings: Any) -> None:
        facts: dict[str, Any] = {
            "peer": "a",
            "session": "a-1",
            "model_id": "tiny",
            "model_digest": MODEL,
            "initial_sha256": INITIAL,
            "score": 2.0,
            "examples": 10,
            "test_examples": 5,
            "roster": ROSTER,
            "min_peers": 2,
            "run": RUN,
            "timing": TIMING,
        }
        self.settings = PeerSettings(**{**facts, **settings})
        self.peer = Peer(self.settings, state or SavedState(), random.Random(1), lambda: "run")
        self.now_s = 100.0
        #: Everything that it has given, in order; `new` is what the last event gave.
        self.given: list[do.Command] = []
        self.new: tuple[do.Command, ...] = ()

    # ------------------------------------------------------------------ what happens

    def tell(self, event: ev.Event) -> tuple[do.Command, ...]:
        """Hand it an event."""
        self.new = self.peer.handle(event, self.now_s)
        self.given += self.new
        return self.new

    def wait(self, seconds: float) -> tuple[do.Command, ...]:
        """Let time pass, with every timer that it asks for; returns all that it gives."""
        end_s = self.now_s + seconds
        given: list[do.Command] = []
        for _ in range(1000):
            deadline_s = self.peer.next_deadline_s()
            if deadline_s is None or deadline_s > end_s:
                break
            self.now_s = max(self.now_s, deadline_s)
            given += self.tell(ev.TimerFired())
        else:
            raise AssertionError("a busy loop")
        self.now_s = end_s
        self.new = tuple(given)
        return self.new

    def hear(
        self, peer: str, document: Document | None, kind: str = "", retained: bool = False
    ) -> tuple[do.Command, ...]:
        """A document of a peer comes."""
        return self.tell(ev.DocumentReceived(peer, kind or KINDS[type(document)], document, retained))

    def connect(self, *peers: str) -> None:
        """Connect, find these peers there, and let the grace pass."""
        self.tell(ev.Connected())
        for peer in peers:
            self.hear(peer, presence(peer), retained=True)
        self.wait(TIMING.grace_s)

    def echo(self) -> tuple[do.Command, ...]:
        """The broker sends back the newest own round document."""
        return self.hear("a", self.document)

    def follow(self, document: Round, peer: str = "b") -> tuple[do.Command, ...]:
        """Connect and find this controller."""
        self.connect(*(name for name in ROSTER if name != "a"))
        return self.hear(peer, document)

    def lead(self, *peers: str) -> None:
        """Connect and be elected by these peers; what it asks of them is answered at once."""
        self.connect(*peers)
        term = self.last(do.SaveState).state.voted_term + 1 if self.all(do.SaveState) else 1
        term = max(term, self.peer.state.elected_term + 1)
        for peer in peers:
            self.hear(peer, presence(peer, election=term))
        for peer in peers:
            self.hear(peer, Vote(f"{peer}-1", term, "a"))
        assert self.peer.role == "leading", self.peer.role

    # ------------------------------------------------------------------ what it gave

    def all(self, kind: type[Kind]) -> list[Kind]:
        """All commands of a kind so far."""
        return [it for it in self.given if isinstance(it, kind)]

    def last(self, kind: type[Kind]) -> Kind:
        """The newest command of a kind."""
        return self.all(kind)[-1]

    def newly(self, kind: type[Kind]) -> list[Kind]:
        """The commands of a kind that the last event gave."""
        return [it for it in self.new if isinstance(it, kind)]

    def published(self, kind: str, new: bool = False) -> list[Any]:
        """Documents of a kind that it published, `None` where it cleared one."""
        commands = self.newly(do.Publish) if new else self.all(do.Publish)
        return [it.document for it in commands if it.kind == kind]

    @property
    def document(self) -> Round:
        """The newest round document that it published."""
        document = [it for it in self.published(ROUND) if it is not None][-1]
        assert isinstance(document, Round)
        return document

    def log(self) -> str:
        """All log lines."""
        return "\n".join(it.text for it in self.all(do.Log))

    # ------------------------------------------------------------------ a controller's round

    @property
    def base(self) -> ModelRef:
        """The model that its round starts from."""
        assert self.document.base is not None
        return self.document.base

    def update(self, peer: str, problem: str = "", **changes: Any) -> tuple[do.Command, ...]:
        """A peer's update for the open round comes."""
        return self.tell(ev.UpdateReceived(peer, offer(peer, self.base, self.document.term, **changes), problem))

    def train(self) -> tuple[do.Command, ...]:
        """Its own training is done."""
        key = self.last(do.StartTraining).key
        return self.tell(ev.TrainingDone(key, digest(f"update of a {key}"), 10, 0.5, 1.0))

    def merge(self) -> tuple[do.Command, ...]:
        """The mean of the accepted updates is computed."""
        it = self.last(do.Aggregate)
        return self.tell(
            ev.AggregateReady(it.term, it.run_id, it.round, digest(f"mean {it.run_id} {it.round} {it.term}"))
        )

    def evaluate(self, peer: str, accuracy: float, final: bool = False) -> tuple[do.Command, ...]:
        """A peer's score of the present global model comes."""
        base = self.base
        report = Report(accuracy, 1.0, 5)
        if peer == "a":
            self.tell(ev.ModelEvaluated(base, report, 0.1))
            return self.hear("a", self.published(EVALUATION)[-1])
        return self.hear(peer, Evaluation(f"{peer}-1", base.run_id, base.round, base.sha256, report, final))
