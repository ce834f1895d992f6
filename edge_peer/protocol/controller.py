"""The controller: leads one run after another, and says where it is in its round document.

Theory of operation. `step` looks at the latest documents and goes as far as they allow; it can be called at any time
and any number of times. Each phase of the tenure is the work of one part: `runs` which run is led, `rounds` its rounds,
`ending` its end.

The round document is the controller's lease: it is sent again every third of `lease_s`, and nothing is committed unless
the broker has echoed one within `lease_s`.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.downlink import Downlink
from edge_peer.protocol.election import choose
from edge_peer.protocol.ending import Ending
from edge_peer.protocol.messages import FINISHED, Evaluation, Round
from edge_peer.protocol.round_document import round_document
from edge_peer.protocol.rounds import Rounds
from edge_peer.protocol.runs import Runs
from edge_peer.protocol.search import Search
from edge_peer.protocol.tensors import UpdateOffer
from edge_peer.protocol.tenure import FETCHING, IDLE, MERGING, OPEN, REPORTING, Tenure
from edge_peer.protocol.topics import ROUND

#: No chain of phases that one event sets off is longer; more would be a loop without progress.
STEPS_MAX = 16


class Controller:
    """One peer's time as controller of one term.

    Args:
        context: Shared state.
        term: The term that it was elected in.
        since_s: When the election began.
    """

    def __init__(self, context: Context, term: int, since_s: float) -> None:
        self._context = context
        self._tenure = Tenure(context, term, since_s)
        self._downlink = Downlink(context)
        search = Search(context)
        self._ending = Ending(context, self._tenure, self._downlink, search)
        self._runs = Runs(context, self._tenure, search, self._ending)
        self._rounds = Rounds(context, self._tenure, self._downlink, self._runs, self._ending)

    @property
    def term(self) -> int:
        """The term that it was elected in."""
        return self._tenure.term

    @property
    def document(self) -> Round | None:
        """The newest round document that it has published."""
        return self._tenure.document

    @property
    def has_lease(self) -> bool:
        """Whether it may decide anything."""
        return self._tenure.lease.holds

    # ------------------------------------------------------------------ what happens

    def on_connected(self) -> None:
        """A new connection: say everything again, and wait for the broker's echo before anything is committed."""
        tenure = self._tenure
        self._downlink.on_connected()
        tenure.changed = True
        tenure.lease.lapse()
        if tenure.base is not None and tenure.run is not None and tenure.phase in (OPEN, MERGING, REPORTING):
            self._downlink.send(tenure.base, tenure.run.settings, last=tenure.phase == REPORTING)

    def on_echo(self, beat: int) -> None:
        """The broker sent our own document back."""
        document = self.document
        if self._tenure.lease.echoed(beat) and document is not None and document.state == FINISHED:
            self._context.own_end = document.base

    def on_overwritten(self) -> None:
        """Our retained document is not ours any more; say it again."""
        self._tenure.changed = True

    def on_update(self, peer: str, offer: UpdateOffer, problem: str, norm: float) -> None:
        """An update came, this peer's own or another's; `problem`: what is wrong with its vector, or empty."""
        self._rounds.on_update(peer, offer, problem, norm)

    def on_evaluation(self, peer: str, evaluation: Evaluation) -> None:
        """A peer tells what a model scores on its test split."""
        self._rounds.on_evaluation(peer, evaluation)

    def on_aggregate(self, run_id: str, round_: int, sha256: str) -> None:
        """The accepted updates were made into a model."""
        self._rounds.on_aggregate(run_id, round_, sha256)

    def on_aggregate_failed(self, run_id: str, round_: int, reason: str) -> None:
        """The accepted updates could not be made into a model."""
        self._rounds.on_aggregate_failed(run_id, round_, reason)

    # ------------------------------------------------------------------ going on

    def step(self) -> None:
        """Go as far as the latest documents allow, then publish what has changed."""
        tenure = self._tenure
        steps: dict[str, Callable[[], None]] = {
            IDLE: self._runs.choose,
            FETCHING: self._runs.fetch,
            OPEN: self._rounds.train,
            MERGING: self._rounds.commit,
            REPORTING: self._report,
        }
        for _ in range(STEPS_MAX):
            before = (tenure.phase, tenure.opening.attempt, tenure.base)
            if tenure.phase in (OPEN, MERGING):
                self._ending.finish_if_over()
            if self.has_lease or tenure.phase == IDLE:
                steps[tenure.phase]()
            if (tenure.phase, tenure.opening.attempt, tenure.base) == before:
                break
        else:
            raise AssertionError(f"controller in {tenure.phase} made {STEPS_MAX} steps on one event")
        if tenure.base is not None and self.has_lease:
            self._downlink.answer_needs(tenure.base)
        self._say()

    def _report(self) -> None:
        """Collect the final reports; then the next run may begin."""
        if self._ending.collect() and not self._runs.is_superseded():
            assert self._tenure.run is not None
            self._runs.start_if_wanted(self._tenure.run.number)

    def next_deadline_s(self) -> float:
        """When `step` must be called again at the latest."""
        beat_s = self._tenure.lease.beat_due_s
        return min(beat_s, self._tenure.deadline_s) if self.has_lease else beat_s

    def why_resign(self) -> str:
        """Why this controller is of no use to the others; empty: it is."""
        context = self._context
        others = context.roster.online()
        for peer, presence in others.items():
            if presence.elected > self.term:
                return f"{peer} has seen a controller of term {presence.elected}"
        if not context.settings.control and any(presence.control for presence in others.values()):
            return "is to control no more"
        if context.lacking():
            return context.lacking()
        if self.document is None or self.document.participants:
            return ""
        best = choose(context.everyone())
        if best is not None and best in others and others[best].model_digest != context.settings.model_digest:
            return f"more peers have {best}'s model than its own"
        return ""

    def resign(self) -> None:
        """Take back the retained documents of a controller that is one no more."""
        self._context.emit(do.Publish(ROUND, None))
        self._context.emit(do.ClearModel())

    def _say(self) -> None:
        """Publish the round document when it has changed, or when a beat is due."""
        context, tenure = self._context, self._tenure
        if not tenure.changed and context.now_s < tenure.lease.beat_due_s:
            return
        tenure.changed = False
        tenure.lease.next_beat()
        tenure.document = round_document(context, tenure)
        context.emit(do.Publish(ROUND, tenure.document))
