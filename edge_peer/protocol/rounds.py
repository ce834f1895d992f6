"""The controller: opens rounds, takes updates in, commits models, ends runs.

Theory of operation. `step` looks at the latest documents and goes as far as they allow; it can be called at any time
and any number of times. `CHANGES` has the phases and what leads from one to another.

The round document is the controller's lease: it is sent again every third of `lease_s`, and nothing is committed unless
the broker has echoed one within `lease_s`. A process that was stopped and wakes up after its term therefore first asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.messages import FINISHED, TRAINING, WAITING, Evaluation, Round
from edge_peer.protocol.opening import Opening
from edge_peer.protocol.run_settings import WHOLE, RunSettings
from edge_peer.protocol.scores import Scores
from edge_peer.protocol.state import RunRecord
from edge_peer.protocol.tensors import ModelRef, UpdateOffer
from edge_peer.protocol.topics import ROUND

IDLE = "idle"
FETCHING = "fetching"
MERGING = "merging"
REPORTING = "reporting"

#: (phase, phase after it) -> why. docs/protocol.md shows this table; any other change is a bug in this program.
CHANGES: dict[tuple[str, str], str] = {
    (IDLE, FETCHING): "a run is unfinished and another peer holds its newest model",
    (IDLE, TRAINING): "the newest model of an unfinished run is here, or enough peers want a new run",
    (IDLE, REPORTING): "an earlier controller finished the newest run",
    (FETCHING, IDLE): "the model came, or its holder is gone or did not send it",
    (TRAINING, MERGING): "all who are there have answered, or the deadline has passed, with enough updates",
    (TRAINING, REPORTING): "target accuracy, last round, a stop, ended elsewhere, or opened in vain too often",
    (TRAINING, IDLE): "somebody holds a newer model, or knows a later run",
    (MERGING, TRAINING): "the mean is saved and published and the next round opens, or it could not be computed",
    (MERGING, REPORTING): "the run has ended elsewhere",
    (MERGING, IDLE): "somebody holds a newer model, or knows a later run",
    (REPORTING, TRAINING): "all final reports are in, or overdue, and enough peers want a new run",
    (REPORTING, IDLE): "all final reports are in, or overdue, and a later run is unfinished",
}
#: No chain of phases that one event sets off is longer; more would be a loop without progress.
STEPS_MAX = 16
#: A round whose deadline passes this often without enough updates ends the run: every run ends.
VAIN_MAX = 10
#: A model that its holder did not send this often is not asked for again.
FETCHES_MAX = 3


class Controller:
    """One peer's time as controller of one term.

    Args:
        context: Shared state.
        term: The term that it was elected in.
        since_s: When the election began. The first lease runs from there: a process that was stopped in between finds
            votes that may be of no worth any more.
    """

    def __init__(self, context: Context, term: int, since_s: float) -> None:
        self._context = context
        self.term = term
        self.phase = IDLE
        self.document: Round | None = None
        self._beat = -1
        self._beat_s = float("-inf")
        self._echo_s = since_s
        self._dirty = True
        self._run: RunRecord | None = None
        self._base: ModelRef | None = None
        self._published: str | None = None
        #: The model that the broker keeps whole, and the one of which the shell has a delta.
        self._whole: str | None = None
        self._delta: str | None = None
        self._opening = Opening(context)
        self._scores = Scores(context)
        self._deadline_s = float("inf")
        self._merged: str | None = None
        self._unsent: Counter[tuple[str, str]] = Counter()
        self._wanted: tuple[ModelRef, str] | None = None
        self._reason = ""
        self._complete = False

    # ------------------------------------------------------------------ what happens

    def on_connected(self) -> None:
        """A new connection: say everything again, and wait for the broker's echo before anything is committed."""
        self._published = None
        self._whole = None
        self._dirty = True
        self._echo_s = float("-inf")
        if self._base is not None and self.phase in (TRAINING, MERGING, REPORTING):
            self._publish_model()

    def on_echo(self, beat: int) -> None:
        """The broker sent our own document back: when it was sent, the broker heard us and nobody had followed us.

        Not the time of the echo's arrival: it may have waited for a process that was stopped.
        """
        if beat == self._beat:
            self._echo_s = max(self._echo_s, self._beat_s)
            if self.document is not None and self.document.state == FINISHED:
                self._context.own_end = self.document.base

    def on_overwritten(self) -> None:
        """Our retained document is not ours any more; say it again."""
        self._dirty = True

    def on_update(self, peer: str, offer: UpdateOffer, problem: str, norm: float) -> None:
        """Take in an update, or refuse it; at most one a peer and round, whatever comes how often."""
        why = self._not_for_this_round(peer, offer)
        if not problem and self._run is not None:
            problem = _misfit(offer, norm, self._run.settings)
        if why:
            self._context.log(f"update of {peer} for round {offer.round} not counted: {why}", "DEBUG")
        elif self._opening.take(peer, offer, problem):
            self._dirty = True
        accepted = frozenset(it.digest for it in self._opening.accepted.values())
        if offer.digest not in accepted:
            # Only so many are held of a sender at a time: those that do not count would take the room of one that does.
            self._context.emit(do.KeepUpdates(accepted))

    def _not_for_this_round(self, peer: str, offer: UpdateOffer) -> str:
        if self.phase != TRAINING or self._run is None or self._base is None:
            return "no round is open"
        asked = (self._run.run_id, self.term, self._base.round + 1, self._base.sha256)
        if (offer.run_id, offer.term, offer.round, offer.base) != asked:
            return "made for another run, term, round or base"
        return self._opening.not_from(peer, offer)

    def on_evaluation(self, peer: str, evaluation: Evaluation) -> None:
        """Note what the current global model scores on a peer's test split."""
        if self._base is None or self._run is None:
            return
        if (evaluation.run_id, evaluation.sha256) == (self._run.run_id, self._base.sha256):
            if self._scores.reports.get(peer) == evaluation.report:
                return
            self._scores.reports[peer] = evaluation.report
            self._dirty = self._dirty or self.phase == REPORTING

    def on_aggregate(self, run_id: str, round_: int, sha256: str) -> None:
        """The mean is there; the next step with a lease commits it."""
        if self.phase != MERGING or self._run is None or self._base is None:
            return
        if (run_id, round_) == (self._run.run_id, self._base.round + 1):
            self._merged = sha256

    def _step_merging(self) -> None:
        """Commit the mean. The model is on disk before anybody can hear of it."""
        context = self._context
        assert self._run is not None
        assert self._base is not None
        if self._merged is None or self._is_superseded():
            return
        sha256, self._merged = self._merged, None
        ref = ModelRef(self._run.run_id, self._run.number, self._base.round + 1, self.term, sha256)
        if sha256 not in context.models or not context.hold(ref):
            # While there was no lease something else took its place on this peer.
            self._enter(IDLE)
            return
        self._opening.count()
        self._log_commit(ref)
        self._set_base(ref)
        self._delta = ref.sha256 if self._run.settings.downlink != WHOLE else None
        self._enter(TRAINING)
        if ref.round >= self._run.settings.rounds_max:
            self._publish_model()
            self._finish(f"reached {self._run.settings.rounds_max} rounds")
        else:
            self._open()

    def on_aggregate_failed(self, run_id: str, round_: int, reason: str) -> None:
        """The mean is of no use: train the round again from its base."""
        if self.phase != MERGING or self._run is None or self._base is None:
            return
        if (run_id, round_) == (self._run.run_id, self._base.round + 1):
            self._context.log(f"round {round_} cannot be merged: {reason}; opening it again", "ERROR")
            self._opening.accepted = {}
            self._enter(TRAINING)
            self._open_again(f"cannot be merged: {reason}")

    # ------------------------------------------------------------------ going on

    def step(self) -> None:
        """Go as far as the latest documents allow, then publish what has changed."""
        steps: dict[str, Callable[[], None]] = {
            IDLE: self._step_idle,
            FETCHING: self._step_fetching,
            TRAINING: self._step_training,
            MERGING: self._step_merging,
            REPORTING: self._step_reporting,
        }
        for _ in range(STEPS_MAX):
            before = (self.phase, self._opening.attempt, self._base)
            if self.phase in (TRAINING, MERGING):
                # Not a decision but knowledge, so it needs no lease.
                self._end_if_over()
            if self._has_lease() or self.phase == IDLE:
                steps[self.phase]()
            if (self.phase, self._opening.attempt, self._base) == before:
                break
        else:
            raise AssertionError(f"controller in {self.phase} made {STEPS_MAX} steps on one event")
        self._answer_needs()
        self._say()

    @property
    def is_short(self) -> bool:
        """Whether a run is on that has too few trainers."""
        return self.phase == TRAINING and not self._opening.participants

    def next_deadline_s(self) -> float:
        """When `step` must be called again at the latest."""
        beat = self._beat_s + self._context.timing.lease_s / 3
        return min(beat, self._deadline_s if self._has_lease() else beat)

    def _has_lease(self) -> bool:
        return self._context.now_s - self._echo_s <= self._context.timing.lease_s

    def resign(self) -> None:
        """Take back the retained documents of a controller that is one no more."""
        self._context.emit(do.Publish(ROUND, None))
        self._context.emit(do.ClearModel())

    def _step_idle(self) -> None:
        context = self._context
        newest, holder = self._newest_model()
        known = context.run
        number = max(newest.run_number if newest else 0, known.number if known else 0)
        if number > context.finished_number():
            self._resume(newest, holder, known)
        elif context.final is not None and context.final.run_number == number and self._run is None:
            self._report_again(context.final)
        else:
            self._start_if_wanted(max(number, context.finished_number()))

    def _newest_model(self) -> tuple[ModelRef | None, str]:
        """The newest model that anybody who is there holds, and who: this peer, where it does."""
        best, holder = self._context.state.held, self._context.peer
        for peer, presence in self._context.roster.online().items():
            newest = presence.newest
            if presence.model_digest != self._context.settings.model_digest:
                continue
            if newest is None or self._unsent[peer, newest.sha256] >= FETCHES_MAX:
                continue
            if best is None or newest.order > best.order:
                best, holder = newest, peer
        return best, holder

    def _is_superseded(self) -> bool:
        """Give up the present base for a newer model of the run, or for a later run, that somebody knows."""
        context = self._context
        assert self._run is not None
        assert self._base is not None
        mine = (self._run.number, self._run.run_id, self._base.round)
        newest, holder = self._newest_model()
        known = context.run
        if newest is not None and (newest.run_number, newest.run_id, newest.round) > mine:
            number, what = newest.run_number, f"{holder} holds round {newest.round} of run {newest.run_id}"
        elif known is not None and (known.number, known.run_id) > mine[:2]:
            number, what = known.number, f"run {known.run_id} is later"
        else:
            return False
        if number <= context.finished_number():
            return False
        context.log(f"gives up round {self._base.round} of run {self._run.run_id}: {what}")
        self._enter(IDLE)
        return True

    def _resume(self, newest: ModelRef | None, holder: str, known: RunRecord | None) -> None:
        """Go on with the unfinished run from its newest model."""
        context = self._context
        if newest is None or (known is not None and (known.number, known.run_id) > (newest.run_number, newest.run_id)):
            # Nobody got further than the initial weights, which everyone has.
            assert known is not None
            newest = ModelRef(known.run_id, known.number, 0, self.term, context.settings.initial_sha256)
            holder = context.peer
        if newest.sha256 not in context.models:
            self._wanted = (newest, holder)
            self._deadline_s = context.now_s + context.timing.resend_s
            self._reason = f"waiting for the model of round {newest.round} from {holder}"
            self._enter(FETCHING)
            return
        settings = known.settings if known is not None and known.run_id == newest.run_id else context.settings.run
        self._run = RunRecord(newest.run_id, newest.run_number, settings)
        context.hold(newest)
        context.log(f"goes on with run {newest.run_id} from round {newest.round}")
        self._log("resumed", round=newest.round, sha256=newest.sha256, settings=_settings_fields(self._run))
        self._enter_run(newest)

    def _start_if_wanted(self, number: int) -> None:
        context = self._context
        settings = context.settings
        able = self._opening.able()
        # Who has not heard yet that the last run is over may only still want that one.
        over = context.finished_number()
        wanting = [
            peer for peer, it in context.everyone().items() if it.wants_run and peer in able and it.finished >= over
        ]
        updates = settings.aggregation.updates_needed(settings.run)
        needed = max(settings.min_peers, updates)
        if len(wanting) < settings.min_peers or len(able) < updates:
            why = f", rule {settings.run.rule} needs {updates}" if updates > settings.run.updates_min else ""
            self._wait_because(f"waiting for peers: {len(wanting)} of {needed} want a run and can train{why}")
            return
        run_id = f"{context.stamp()}-{context.rng.getrandbits(24):06x}"
        # Not below the term: of two runs whose controllers did not know of each other the later one counts.
        number = max(number + 1, self.term)
        self._run = RunRecord(run_id, number, settings.run)
        base = ModelRef(run_id, number, 0, self.term, settings.initial_sha256)
        context.hold(base)
        context.log(f"starts run {run_id} with {len(able)} trainers")
        self._log("started", peers=sorted(able), settings=_settings_fields(self._run))
        self._opening.used = {}
        self._scores.forget()
        self._enter_run(base)

    def _enter_run(self, base: ModelRef) -> None:
        """A run, new or taken over, is this controller's now."""
        context = self._context
        assert self._run is not None
        context.knows_run(self._run)
        self._complete = False
        self._opening.closed = {}
        self._set_base(base)
        self._enter(TRAINING)
        self._deadline_s = float("-inf")

    def _step_fetching(self) -> None:
        context = self._context
        assert self._wanted is not None
        ref, holder = self._wanted
        if ref.sha256 in context.models or holder not in context.roster.online():
            self._wanted = None
            self._enter(IDLE)
        elif context.now_s >= self._deadline_s:
            self._unsent[holder, ref.sha256] += 1
            context.roster.suspect(holder, f"did not send the model of round {ref.round}")
            self._wanted = None
            self._enter(IDLE)

    def _step_training(self) -> None:
        context = self._context
        assert self._run is not None
        assert self._base is not None
        if self._ends_early() or self._is_superseded():
            return
        if self._base.round >= self._run.settings.rounds_max:
            self._finish(f"reached {self._run.settings.rounds_max} rounds")
            return
        if not self._opening.participants:
            self._open()
            return
        needed = context.settings.aggregation.updates_needed(self._run.settings)
        outstanding = self._opening.outstanding()
        if len(self._opening.accepted) >= needed and (not outstanding or context.now_s >= self._deadline_s):
            self._close(outstanding)
        elif context.now_s >= self._deadline_s:
            if not self._opening.extended and outstanding:
                self._extend(outstanding)
            else:
                self._opening.suspect(outstanding)
                self._open_again("has not got enough updates")
        elif not outstanding and set(self._opening.able()) - set(self._opening.participants):
            # Nobody is left to wait for, and others could train.
            self._open()

    def _end_if_over(self) -> None:
        """Finish when anybody knows that the run is over."""
        context = self._context
        assert self._run is not None
        if context.is_finished(self._run):
            final = context.final
            if final is not None and final.run_id == self._run.run_id:
                self._report_again(final)
            else:
                self._finish("finished by an earlier controller")

    def _ends_early(self) -> bool:
        """Finish when somebody asks for it, or at the target accuracy."""
        context = self._context
        assert self._run is not None
        assert self._base is not None
        for sender, stop in sorted(context.stops.items()):
            if stop.run_id == self._run.run_id:
                self._finish(f"stopped by {sender}" + (f": {stop.reason}" if stop.reason else ""))
                return True
        self._judge(closing=False)
        target = self._run.settings.target_accuracy
        accuracy = self._scores.accuracy
        reached = target is not None and accuracy is not None and accuracy >= target
        if reached and self._scores.round == self._base.round and self._base.round > 0:
            self._finish(f"reached target accuracy {target:g}")
            return True
        return False

    def _judge(self, closing: bool) -> None:
        """The global model's accuracy: the mean over the peers' test splits, weighted by their examples."""
        assert self._base is not None
        scores = self._scores
        if not scores.judge(self._base, closing):
            return
        self._log("evaluated", round=self._base.round, **scores.fields())
        int8 = f", int8 {scores.int8_accuracy:.4f}," if scores.int8_accuracy is not None else ""
        self._context.log(
            f"round {self._base.round}: accuracy {scores.accuracy:.4f}{int8} over {len(scores.reports)} peers"
        )

    def _open(self) -> None:
        """Open the next round, or open it again with the peers that are there."""
        context = self._context
        assert self._run is not None
        assert self._base is not None
        settings = self._run.settings
        if not self._opening.open(settings):
            self._deadline_s = float("inf")
            needed = context.settings.aggregation.updates_needed(settings)
            self._wait_because(f"waiting for trainers: {len(self._opening.able())} of {needed}")
            return
        self._reason = ""
        self._deadline_s = context.now_s + settings.round_deadline_s
        self._publish_model()
        self._dirty = True
        self._log(
            "opened",
            round=self._base.round + 1,
            attempt=self._opening.attempt,
            participants=list(self._opening.participants),
        )

    def _open_again(self, why: str) -> None:
        """The round was opened in vain; too often, and the run ends, because every run does."""
        assert self._base is not None
        self._opening.vain += 1
        if self._opening.vain >= VAIN_MAX:
            self._finish(f"round {self._base.round + 1} {why}, after {self._opening.vain} openings")
        else:
            self._open()

    def _extend(self, outstanding: list[str]) -> None:
        context = self._context
        assert self._run is not None
        self._deadline_s = context.now_s + self._run.settings.round_deadline_s
        self._opening.extend(outstanding)
        self._dirty = True

    def _close(self, outstanding: list[str]) -> None:
        assert self._run is not None
        assert self._base is not None
        self._opening.suspect(outstanding)
        self._judge(closing=True)
        if self._ends_early():
            return
        updates, run, base = self._opening.close(), self._run, self._base
        self._enter(MERGING)
        population = self._opening.population
        self._context.emit(
            do.Aggregate(self.term, run.run_id, base.round + 1, base.sha256, updates, run.settings, population)
        )

    def _finish(self, reason: str) -> None:
        """The run is over. This is decided once the document is out; a later controller can only repeat it."""
        context = self._context
        assert self._run is not None
        assert self._base is not None
        self._run = replace(self._run, finished=reason)
        self._reason = reason[:300]
        self._opening.participants = ()
        self._enter(REPORTING)
        self._deadline_s = context.now_s + context.timing.final_report_s
        context.log(f"run {self._run.run_id} finished after round {self._base.round}: {reason}")
        self._log("finished", round=self._base.round, reason=reason, sha256=self._base.sha256)
        context.emit(do.KeepUpdates(frozenset()))
        context.finish(self._build())

    def _report_again(self, final: Round) -> None:
        """An earlier controller finished the run: say so again, and collect the final reports that are missing."""
        assert final.base is not None
        assert final.run_id is not None
        self._run = RunRecord(final.run_id, final.run_number, final.settings, final.reason)
        self._opening.closed = {}
        self._set_base(final.base)
        self._scores.reports = dict(final.reports)
        self._reason = final.reason
        self._complete = final.complete
        if self._complete:
            # No report will come any more that would have it summed up.
            self._scores.sum_up(final.base)
        self._enter(REPORTING)
        overdue_s = self._context.now_s + self._context.timing.final_report_s
        self._deadline_s = float("inf") if self._complete else overdue_s

    def _step_reporting(self) -> None:
        context = self._context
        assert self._base is not None
        assert self._run is not None
        self._seek_final_model(self._base)
        self._publish_model()
        overdue = context.now_s >= self._deadline_s
        if not self._complete and (overdue or self._scores.all_in):
            self._complete = True
            self._scores.sum_up(self._base)
            self._dirty = True
            self._deadline_s = float("inf")
            self._log("reported", round=self._base.round, **self._scores.fields())
            context.finish(self._build())
        if self._complete and self._has_said_so() and not self._is_superseded():
            self._start_if_wanted(self._run.number)

    def _seek_final_model(self, base: ModelRef) -> None:
        """Ask for it where an earlier controller has sent it to others only; its holder sends it again at each beat."""
        context = self._context
        wanted = None
        if base.sha256 not in context.models:
            online = context.roster.online().items()
            holders = [peer for peer, it in online if it.newest is not None and it.newest.sha256 == base.sha256]
            wanted = (base, holders[0]) if holders else None
        if wanted != self._wanted:
            self._wanted = wanted
            self._dirty = True

    def _has_said_so(self) -> bool:
        """Everybody must be able to hear that a run is over before the next one begins."""
        said = self.document
        return said is not None and said.complete and said.base == self._base

    # ------------------------------------------------------------------ saying it

    def _enter(self, phase: str) -> None:
        assert (self.phase, phase) in CHANGES, f"from {self.phase} to {phase}"
        self.phase = phase
        if phase != FETCHING:
            self._wanted = None
        # A merge is over before anybody could read of it; the document after it says what came of it.
        self._dirty = self._dirty or phase != MERGING
        if phase in (IDLE, MERGING):
            self._deadline_s = float("inf")

    def _wait_because(self, reason: str) -> None:
        if self._reason != reason and self.phase != REPORTING:
            self._reason = reason
            self._dirty = True
            self._context.log(reason)

    def _set_base(self, ref: ModelRef) -> None:
        if self._base != ref:
            self._opening.attempt = 0
            self._opening.vain = 0
        self._base = ref
        self._merged = None
        self._scores.reports = {}
        self._opening.clear()
        self._context.emit(do.KeepUpdates(frozenset()))

    def _publish_model(self) -> None:
        """Publish the base, saved first; not before it is here, when another controller committed it."""
        assert self._base is not None
        assert self._run is not None
        base = self._base
        if self._published == base.sha256 or base.sha256 not in self._context.models:
            return
        self._published = base.sha256
        self._context.hold(base)
        if self._delta == base.sha256:
            self._context.emit(do.PublishDelta(base))
        elif self._run.settings.downlink == WHOLE or base.round > 0:
            # Of a model that another controller has made there is no delta here. The initial model everybody has.
            self._publish_whole(base)

    def _publish_whole(self, base: ModelRef) -> None:
        self._whole = base.sha256
        self._context.emit(do.PublishModel(base, retained=True))

    def _answer_needs(self) -> None:
        """Publish the base whole when somebody cannot make it of what it has: it has just come, or missed a delta."""
        base = self._base
        if base is None or self._published != base.sha256 or self._whole == base.sha256 or not self._has_lease():
            return
        if any(presence.needs == base.sha256 for presence in self._context.roster.online().values()):
            self._publish_whole(base)

    def _build(self) -> Round:
        context = self._context
        settings = context.settings
        state = {TRAINING: TRAINING, MERGING: TRAINING, REPORTING: FINISHED}.get(self.phase, WAITING)
        if self.phase == TRAINING and not self._opening.participants:
            state = WAITING
        base = self._base if self.phase in (TRAINING, MERGING, REPORTING) else None
        run = self._run if base is not None else None
        return Round(
            session=settings.session,
            term=self.term,
            beat=max(self._beat, 0),
            state=state,
            model_id=settings.model_id,
            model_digest=settings.model_digest,
            settings=run.settings if run is not None else settings.run,
            run_id=run.run_id if run is not None else None,
            run_number=run.number if run is not None else 0,
            round=(base.round + (state == TRAINING)) if base is not None else 0,
            base=base,
            attempt=self._opening.attempt,
            participants=self._opening.participants,
            deadline_s=min(max(self._deadline_s - context.now_s, 0.0), 1e7),
            accepted={peer: offer.digest for peer, offer in self._opening.accepted.items()},
            closed_accepted=self._opening.closed,
            refused=self._opening.refused,
            missing=self._opening.missing if state == TRAINING or self.is_short else self._silent(),
            wanted=self._wanted[0].sha256 if self._wanted is not None else None,
            wanted_from=self._wanted[1] if self._wanted is not None else None,
            reason=self._reason if state != TRAINING else "",
            accuracy=self._scores.accuracy,
            int8_accuracy=self._scores.int8_accuracy,
            accuracy_round=self._scores.round,
            reports=self._scores.reports if state == FINISHED else {},
            complete=self._complete if state == FINISHED else False,
            epsilon=settings.aggregation.epsilon(run.settings, base.round)
            if run is not None and base is not None
            else None,
        )

    def _silent(self) -> dict[str, str]:
        """Who is taken for gone though its presence says online: it reads this, and answers if it is there."""
        roster = self._context.roster
        return {peer: roster.suspicion(peer)[:300] for peer in roster.said_online() if roster.suspicion(peer)}

    def _say(self) -> None:
        """Publish the round document when it has changed, or when a beat is due."""
        context = self._context
        due = context.now_s >= self._beat_s + context.timing.lease_s / 3
        if not self._dirty and not due:
            return
        self._dirty = False
        self._beat += 1
        self._beat_s = context.now_s
        self.document = self._build()
        context.emit(do.Publish(ROUND, self.document))

    def _log(self, event: str, **fields: object) -> None:
        run_id = self._run.run_id if self._run is not None else None
        self._context.emit(do.LogRound(run_id, event, {"term": self.term, **fields}))

    def _log_commit(self, ref: ModelRef) -> None:
        self._log(
            "committed",
            round=ref.round,
            sha256=ref.sha256,
            base=self._base.sha256 if self._base is not None else "",
            **self._opening.summary(),
            **self._epsilon(ref.round),
        )

    def _epsilon(self, rounds: int) -> dict[str, object]:
        """For the round log, where privacy is promised."""
        assert self._run is not None
        epsilon = self._context.settings.aggregation.epsilon(self._run.settings, rounds)
        return {} if epsilon is None else {"epsilon": epsilon}


def _misfit(offer: UpdateOffer, norm: float, settings: RunSettings) -> str:
    """What is wrong with an update by the run's settings; empty: nothing."""
    if offer.codec != settings.codec:
        return f"codec is {offer.codec}, the run's is {settings.codec}"
    if 0 < settings.update_norm_max < norm:
        return f"L2 norm {norm:.6g} is above the bound {settings.update_norm_max:.6g}"
    return ""


def _settings_fields(run: RunRecord) -> dict[str, object]:
    return {name: getattr(run.settings, name) for name in run.settings.__dataclass_fields__}
