"""One peer's time as controller of one term: the phase that it is in, and the run and model that it is at.

`CHANGES` has the phases and what leads from one to another. The parts of a controller (runs, rounds, their end) share
this state, as all parts of a peer share the context.
"""

from __future__ import annotations

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.lease import Lease
from edge_peer.protocol.messages import Round
from edge_peer.protocol.opening import Opening
from edge_peer.protocol.scores import Scores
from edge_peer.protocol.state import RunRecord
from edge_peer.protocol.tensors import ModelRef

IDLE = "idle"
FETCHING = "fetching"
OPEN = "training"
MERGING = "merging"
REPORTING = "reporting"

#: (phase, phase after it) -> why. docs/protocol.md shows this table; any other change is a bug in this program.
CHANGES: dict[tuple[str, str], str] = {
    (IDLE, FETCHING): "a run is unfinished and another peer holds its newest model",
    (IDLE, OPEN): "the newest model of an unfinished run is here, or enough peers want a new run",
    (IDLE, REPORTING): "an earlier controller finished the newest run",
    (FETCHING, IDLE): "the model came, or its holder is gone or did not send it",
    (OPEN, MERGING): "all who are there have answered, or the deadline has passed, with enough updates",
    (OPEN, REPORTING): "target accuracy, last round, a stop, ended elsewhere, or opened in vain too often",
    (OPEN, IDLE): "somebody holds a newer model, or knows a later run",
    (MERGING, OPEN): "the mean is saved and published and the next round opens, or it could not be computed",
    (MERGING, REPORTING): "the run has ended elsewhere",
    (MERGING, IDLE): "somebody holds a newer model, or knows a later run",
    (REPORTING, OPEN): "all final reports are in, or overdue, and enough peers want a new run",
    (REPORTING, IDLE): "all final reports are in, or overdue, and a later run is unfinished",
}


class Tenure:
    """What all parts of a controller go by.

    Args:
        context: Shared state of the peer.
        term: The term that it was elected in.
        since_s: When the election began.

    Attributes:
        phase: One of those in `CHANGES`.
        document: The newest round document that was published.
        changed: It does not say any more what is so.
        run: The run that is led, or was last; None: none yet.
        base: The model that the open round starts from; after the end of the run, the final one.
        merged: Digest of what was made of the accepted updates, while it is not committed.
        wanted: A model that another peer is asked for, and who.
        deadline_s: When the phase ends, or something is to be tried again.
        reason: What is waited for, or why the run ended.
        complete: All final reports are in, or overdue.
    """

    def __init__(self, context: Context, term: int, since_s: float) -> None:
        self._context = context
        self.term = term
        self.lease = Lease(context, since_s)
        self.opening = Opening(context)
        self.scores = Scores(context)
        self.phase = IDLE
        self.document: Round | None = None
        self.changed = True
        self.run: RunRecord | None = None
        self.base: ModelRef | None = None
        self.merged: str | None = None
        self.wanted: tuple[ModelRef, str] | None = None
        self.deadline_s = float("inf")
        self.reason = ""
        self.complete = False

    def enter(self, phase: str) -> None:
        """Change the phase."""
        assert (self.phase, phase) in CHANGES, f"from {self.phase} to {phase}"
        self.phase = phase
        if phase != FETCHING:
            self.wanted = None
        # A merge is over before anybody could read of it; the document after it says what came of it.
        self.changed = self.changed or phase != MERGING
        if phase in (IDLE, MERGING):
            self.deadline_s = float("inf")

    def wait_because(self, reason: str) -> None:
        """Say what is waited for, once."""
        if self.reason != reason and self.phase != REPORTING:
            self.reason = reason
            self.changed = True
            self._context.log(reason)

    def set_base(self, ref: ModelRef) -> None:
        """Go on from this model; nothing of the round before is of use any more."""
        if self.base != ref:
            self.opening.attempt = 0
            self.opening.vain = 0
        self.base = ref
        self.merged = None
        self.scores.reports = {}
        self.opening.clear()
        self._context.emit(do.KeepUpdates(frozenset()))

    @property
    def is_short(self) -> bool:
        """Whether a run is on that has too few trainers."""
        return self.phase == OPEN and not self.opening.participants

    def log(self, event: str, **fields: object) -> None:
        """A line of the round log."""
        run_id = self.run.run_id if self.run is not None else None
        self._context.emit(do.LogRound(run_id, event, {"term": self.term, **fields}))
