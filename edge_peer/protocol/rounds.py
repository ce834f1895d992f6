"""The rounds of a run: opened for those who can train, closed with the updates that are in, committed as a model."""

from __future__ import annotations

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.downlink import Downlink
from edge_peer.protocol.earshot import Earshot
from edge_peer.protocol.ending import Ending
from edge_peer.protocol.messages import Evaluation
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.runs import Runs
from edge_peer.protocol.tensors import ModelRef, UpdateOffer
from edge_peer.protocol.tenure import IDLE, MERGING, OPEN, REPORTING, Tenure

#: A round whose deadline passes this often without enough updates ends the run: every run ends.
VAIN_MAX = 10


class Rounds:
    """A controller's part in the rounds of the run that it leads."""

    def __init__(self, context: Context, tenure: Tenure, downlink: Downlink, runs: Runs, ending: Ending) -> None:
        self._context = context
        self._tenure = tenure
        self._downlink = downlink
        self._runs = runs
        self._ending = ending
        self._earshot = Earshot(context, tenure)

    # ------------------------------------------------------------------ what happens

    def on_update(self, peer: str, offer: UpdateOffer, problem: str, norm: float) -> None:
        """Take in an update, or refuse it; at most one a peer and round, whatever comes how often."""
        tenure = self._tenure
        why = self._not_for_this_round(peer, offer)
        if not problem and tenure.run is not None:
            problem = _misfit(offer, norm, tenure.run.settings)
        if why:
            self._context.log(f"update of {peer} for round {offer.round} not counted: {why}", "DEBUG")
        elif tenure.opening.take(peer, offer, problem):
            tenure.changed = True
        accepted = frozenset(it.digest for it in tenure.opening.accepted.values())
        if offer.digest not in accepted:
            # Only so many are held of a sender at a time: those that do not count would take the room of one that does.
            self._context.emit(do.KeepUpdates(accepted))

    def _not_for_this_round(self, peer: str, offer: UpdateOffer) -> str:
        tenure = self._tenure
        if tenure.phase != OPEN or tenure.run is None or tenure.base is None:
            return "no round is open"
        asked = (tenure.run.run_id, tenure.term, tenure.base.round + 1, tenure.base.sha256)
        if (offer.run_id, offer.term, offer.round, offer.base) != asked:
            return "made for another run, term, round or base"
        return tenure.opening.not_from(peer, offer)

    def on_evaluation(self, peer: str, evaluation: Evaluation) -> None:
        """Note what the current global model scores on a peer's test split."""
        tenure = self._tenure
        if tenure.base is None or tenure.run is None:
            return
        if (evaluation.run_id, evaluation.sha256) == (tenure.run.run_id, tenure.base.sha256):
            if tenure.scores.reports.get(peer) == evaluation.report:
                return
            tenure.scores.reports[peer] = evaluation.report
            # Until all are in, the beat tells whose report is here: a document for each would be n times n of them.
            tenure.changed = tenure.changed or (tenure.phase == REPORTING and tenure.complete)

    def on_aggregate(self, run_id: str, round_: int, sha256: str) -> None:
        """The mean is there; the next step with a lease commits it."""
        if self._is_merging(run_id, round_):
            self._tenure.merged = sha256

    def on_aggregate_failed(self, run_id: str, round_: int, reason: str) -> None:
        """The mean is of no use: train the round again from its base."""
        if self._is_merging(run_id, round_):
            self._context.log(f"round {round_} cannot be merged: {reason}; opening it again", "ERROR")
            self._tenure.opening.accepted = {}
            self._tenure.enter(OPEN)
            self._open_again(f"cannot be merged: {reason}")

    def _is_merging(self, run_id: str, round_: int) -> bool:
        tenure = self._tenure
        if tenure.phase != MERGING or tenure.run is None or tenure.base is None:
            return False
        return (run_id, round_) == (tenure.run.run_id, tenure.base.round + 1)

    # ------------------------------------------------------------------ going on

    def train(self) -> None:
        """Open the next round, wait for its updates, or close it."""
        context, tenure, opening = self._context, self._tenure, self._tenure.opening
        assert tenure.run is not None
        assert tenure.base is not None
        if self._ends_early() or self._runs.is_superseded():
            return
        if tenure.base.round >= tenure.run.settings.rounds_max:
            self._ending.finish(f"reached {tenure.run.settings.rounds_max} rounds")
            return
        if not opening.participants:
            self._open()
            return
        needed = context.settings.aggregation.updates_needed(tenure.run.settings)
        outstanding = opening.outstanding()
        enough = len(opening.accepted) >= needed
        due = context.now_s >= tenure.deadline_s or (enough and not outstanding)
        if (due or self._earshot.waits) and not self._earshot.suffices(opening.opened_s):
            return
        # It may have just been moved.
        late = context.now_s >= tenure.deadline_s
        if enough and (not outstanding or late):
            self._close(outstanding)
        elif late:
            if not opening.extended and outstanding:
                self._extend(outstanding)
            else:
                opening.suspect(outstanding)
                self._open_again("has not got enough updates")
        elif not outstanding and set(opening.able()) - set(opening.participants):
            # Nobody is left to wait for, and others could train.
            self._open()

    def commit(self) -> None:
        """Commit what was made of the updates. The model is on disk before anybody can hear of it."""
        context, tenure = self._context, self._tenure
        assert tenure.run is not None
        assert tenure.base is not None
        if tenure.merged is None or self._runs.is_superseded():
            return
        sha256, tenure.merged = tenure.merged, None
        ref = ModelRef(tenure.run.run_id, tenure.run.number, tenure.base.round + 1, tenure.term, sha256)
        if sha256 not in context.models or not context.hold(ref):
            # While there was no lease something else took its place on this peer.
            tenure.enter(IDLE)
            return
        settings = tenure.run.settings
        tenure.opening.count()
        self._log_commit(ref, tenure.base, settings)
        tenure.set_base(ref)
        self._downlink.made(ref, settings)
        tenure.enter(OPEN)
        if ref.round >= settings.rounds_max:
            self._ending.finish(f"reached {settings.rounds_max} rounds")
        else:
            self._open()

    def _ends_early(self) -> bool:
        """Finish when somebody asks for it, or at the target accuracy."""
        context, tenure = self._context, self._tenure
        assert tenure.run is not None
        assert tenure.base is not None
        for sender, stop in sorted(context.stops.items()):
            if stop.run_id == tenure.run.run_id:
                if not self._earshot.suffices(context.now_s):
                    return True
                self._ending.finish(f"stopped by {sender}" + (f": {stop.reason}" if stop.reason else ""))
                return True
        self._judge(tenure.base, closing=False)
        target = tenure.run.settings.target_accuracy
        accuracy = tenure.scores.accuracy
        reached = target is not None and accuracy is not None and accuracy >= target
        if reached and tenure.scores.round == tenure.base.round and tenure.base.round > 0:
            self._ending.finish(f"reached target accuracy {target:g}")
            return True
        return False

    def _judge(self, base: ModelRef, closing: bool) -> None:
        """The global model's accuracy: the mean over the peers' test splits, weighted by their examples."""
        scores = self._tenure.scores
        if not scores.judge(base, closing):
            return
        self._tenure.log("evaluated", round=base.round, **scores.fields())
        int8 = f", int8 {scores.int8_accuracy:.4f}," if scores.int8_accuracy is not None else ""
        self._context.log(f"round {base.round}: accuracy {scores.accuracy:.4f}{int8} over {len(scores.reports)} peers")

    def _open(self) -> None:
        """Open the next round, or open it again with the peers that are there."""
        context, tenure = self._context, self._tenure
        assert tenure.run is not None
        assert tenure.base is not None
        settings = tenure.run.settings
        if not tenure.opening.open(settings):
            tenure.deadline_s = float("inf")
            needed = context.settings.aggregation.updates_needed(settings)
            tenure.wait_because(f"waiting for trainers: {len(tenure.opening.able())} of {needed}")
            return
        tenure.reason = ""
        tenure.deadline_s = context.now_s + settings.round_deadline_s
        self._downlink.send(tenure.base, settings)
        tenure.changed = True
        tenure.log(
            "opened",
            round=tenure.base.round + 1,
            attempt=tenure.opening.attempt,
            participants=list(tenure.opening.participants),
        )

    def _open_again(self, why: str) -> None:
        """The round was opened in vain; too often, and the run ends, because every run does."""
        tenure, opening = self._tenure, self._tenure.opening
        assert tenure.base is not None
        opening.vain += 1
        if opening.vain >= VAIN_MAX:
            self._ending.finish(f"round {tenure.base.round + 1} {why}, after {opening.vain} openings")
        else:
            self._open()

    def _extend(self, outstanding: list[str]) -> None:
        tenure = self._tenure
        assert tenure.run is not None
        tenure.deadline_s = self._context.now_s + tenure.run.settings.round_deadline_s
        tenure.opening.extend(outstanding)
        tenure.changed = True

    def _close(self, outstanding: list[str]) -> None:
        tenure, opening = self._tenure, self._tenure.opening
        assert tenure.run is not None
        assert tenure.base is not None
        opening.suspect(outstanding)
        self._judge(tenure.base, closing=True)
        if self._ends_early():
            return
        updates, run, base = opening.close(), tenure.run, tenure.base
        tenure.enter(MERGING)
        self._context.emit(
            do.Aggregate(
                tenure.term, run.run_id, base.round + 1, base.sha256, updates, run.settings, opening.population
            )
        )

    def _log_commit(self, ref: ModelRef, base: ModelRef, settings: RunSettings) -> None:
        epsilon = self._context.settings.aggregation.epsilon(settings, ref.round)
        self._tenure.log(
            "committed",
            round=ref.round,
            sha256=ref.sha256,
            base=base.sha256,
            **self._tenure.opening.summary(),
            # Where privacy is promised.
            **({} if epsilon is None else {"epsilon": epsilon}),
        )


def _misfit(offer: UpdateOffer, norm: float, settings: RunSettings) -> str:
    """What is wrong with an update by the run's settings; empty: nothing."""
    if offer.codec != settings.codec:
        return f"codec is {offer.codec}, the run's is {settings.codec}"
    if 0 < settings.update_norm_max < norm:
        return f"L2 norm {norm:.6g} is above the bound {settings.update_norm_max:.6g}"
    return ""
