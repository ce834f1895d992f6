"""The end of a run: decided once, repeated by whoever is controller later; and the final reports of all."""

from __future__ import annotations

from dataclasses import replace

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.downlink import Downlink
from edge_peer.protocol.messages import Round
from edge_peer.protocol.round_document import round_document
from edge_peer.protocol.search import Search
from edge_peer.protocol.state import RunRecord
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.tenure import REPORTING, Tenure


class Ending:
    """A controller's part in the end of the run that it leads, or that an earlier one has ended."""

    def __init__(self, context: Context, tenure: Tenure, downlink: Downlink, search: Search) -> None:
        self._context = context
        self._tenure = tenure
        self._downlink = downlink
        self._search = search

    def finish(self, reason: str) -> None:
        """The run is over. This is decided once the document is out; a later controller can only repeat it."""
        context, tenure = self._context, self._tenure
        assert tenure.run is not None
        assert tenure.base is not None
        tenure.run = replace(tenure.run, finished=reason)
        tenure.reason = reason[:300]
        tenure.opening.participants = ()
        tenure.enter(REPORTING)
        tenure.deadline_s = context.now_s + context.timing.final_report_s
        context.log(f"run {tenure.run.run_id} finished after round {tenure.base.round}: {reason}")
        tenure.log("finished", round=tenure.base.round, reason=reason, sha256=tenure.base.sha256)
        context.emit(do.KeepUpdates(frozenset()))
        context.finish(round_document(context, tenure))

    def finish_if_over(self) -> None:
        """Finish when anybody knows that the run is over. Not a decision but knowledge, so it needs no lease."""
        context, run = self._context, self._tenure.run
        assert run is not None
        if context.is_finished(run):
            final = context.final
            if final is not None and final.run_id == run.run_id:
                self.repeat(final)
            else:
                self.finish("finished by an earlier controller")

    def repeat(self, final: Round) -> None:
        """An earlier controller finished the run: say so again, and collect the final reports that are missing."""
        tenure = self._tenure
        assert final.base is not None
        assert final.run_id is not None
        tenure.run = RunRecord(final.run_id, final.run_number, final.settings, final.reason)
        tenure.opening.closed = {}
        tenure.set_base(final.base)
        tenure.scores.reports = dict(final.reports)
        tenure.reason = final.reason
        tenure.complete = final.complete
        if tenure.complete:
            # No report will come any more that would have it summed up.
            tenure.scores.sum_up(final.base)
        tenure.enter(REPORTING)
        overdue_s = self._context.now_s + self._context.timing.final_report_s
        tenure.deadline_s = float("inf") if tenure.complete else overdue_s

    def collect(self) -> bool:
        """Collect the final reports; returns whether everybody could hear that the run is over."""
        context, tenure = self._context, self._tenure
        assert tenure.base is not None
        assert tenure.run is not None
        self._seek_model(tenure.base)
        self._downlink.send(tenure.base, tenure.run.settings, last=True)
        overdue = context.now_s >= tenure.deadline_s
        if not tenure.complete and (overdue or tenure.scores.all_in):
            tenure.complete = True
            tenure.scores.sum_up(tenure.base)
            tenure.changed = True
            tenure.deadline_s = float("inf")
            tenure.log("reported", round=tenure.base.round, **tenure.scores.fields())
            context.finish(round_document(context, tenure))
        said = tenure.document
        return tenure.complete and said is not None and said.complete and said.base == tenure.base

    def _seek_model(self, base: ModelRef) -> None:
        """Ask for it where an earlier controller has sent it to others only; its holder sends it again at each beat."""
        tenure, wanted = self._tenure, None
        if base.sha256 not in self._context.models:
            holder = self._search.holder_of(base)
            wanted = (base, holder) if holder is not None else None
        if wanted != tenure.wanted:
            tenure.wanted = wanted
            tenure.changed = True
