"""Which run a controller leads: it goes on with the one that is unfinished, or starts another where enough want one."""

from __future__ import annotations

from edge_peer.protocol.context import Context
from edge_peer.protocol.ending import Ending
from edge_peer.protocol.search import Search
from edge_peer.protocol.state import RunRecord
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.tenure import FETCHING, IDLE, OPEN, Tenure


class Runs:
    """A controller's choice of its run, while it has none or when a later one turns up."""

    def __init__(self, context: Context, tenure: Tenure, search: Search, ending: Ending) -> None:
        self._context = context
        self._tenure = tenure
        self._search = search
        self._ending = ending

    def choose(self) -> None:
        """Take the newest run up: go on with it, repeat its end, or start one after it."""
        context = self._context
        newest, holder = self._search.newest()
        known = context.run
        number = max(newest.run_number if newest else 0, known.number if known else 0)
        if number > context.finished_number():
            self._resume(newest, holder, known)
        elif context.final is not None and context.final.run_number == number and self._tenure.run is None:
            self._ending.repeat(context.final)
        else:
            self.start_if_wanted(max(number, context.finished_number()))

    def fetch(self) -> None:
        """Wait for the model from its holder, within a bound."""
        context, tenure = self._context, self._tenure
        assert tenure.wanted is not None
        ref, holder = tenure.wanted
        if ref.sha256 in context.models or holder not in context.roster.online():
            tenure.enter(IDLE)
        elif context.now_s >= tenure.deadline_s:
            self._search.was_not_sent(ref, holder)
            tenure.enter(IDLE)

    def is_superseded(self) -> bool:
        """Give up the present base for a newer model of the run, or for a later run, that somebody knows."""
        context, tenure = self._context, self._tenure
        assert tenure.run is not None
        assert tenure.base is not None
        mine = (tenure.run.number, tenure.run.run_id, tenure.base.round)
        newest, holder = self._search.newest()
        known = context.run
        if newest is not None and (newest.run_number, newest.run_id, newest.round) > mine:
            number, what = newest.run_number, f"{holder} holds round {newest.round} of run {newest.run_id}"
        elif known is not None and (known.number, known.run_id) > mine[:2]:
            number, what = known.number, f"run {known.run_id} is later"
        else:
            return False
        if number <= context.finished_number():
            return False
        context.log(f"gives up round {tenure.base.round} of run {tenure.run.run_id}: {what}")
        tenure.enter(IDLE)
        return True

    def _resume(self, newest: ModelRef | None, holder: str, known: RunRecord | None) -> None:
        """Go on with the unfinished run from its newest model."""
        context, tenure = self._context, self._tenure
        if newest is None or (known is not None and (known.number, known.run_id) > (newest.run_number, newest.run_id)):
            # Nobody got further than the initial weights, which everyone has.
            assert known is not None
            newest = ModelRef(known.run_id, known.number, 0, tenure.term, context.settings.initial_sha256)
            holder = context.peer
        if newest.sha256 not in context.models:
            tenure.wanted = (newest, holder)
            tenure.deadline_s = context.now_s + context.timing.resend_s
            tenure.reason = f"waiting for the model of round {newest.round} from {holder}"
            tenure.enter(FETCHING)
            return
        settings = known.settings if known is not None and known.run_id == newest.run_id else context.settings.run
        tenure.run = RunRecord(newest.run_id, newest.run_number, settings)
        context.hold(newest)
        context.log(f"goes on with run {newest.run_id} from round {newest.round}")
        tenure.log("resumed", round=newest.round, sha256=newest.sha256, settings=_settings_fields(tenure.run))
        self._enter(newest)

    def start_if_wanted(self, number: int) -> None:
        """Start a run after that of this number, if enough peers want one and can train."""
        context, tenure = self._context, self._tenure
        settings = context.settings
        able = tenure.opening.able()
        # Who has not heard yet that the last run is over may only still want that one.
        over = context.finished_number()
        wanting = [
            peer for peer, it in context.everyone().items() if it.wants_run and peer in able and it.finished >= over
        ]
        updates = settings.aggregation.updates_needed(settings.run)
        needed = max(settings.min_peers, updates)
        if len(wanting) < settings.min_peers or len(able) < updates:
            why = f", rule {settings.run.rule} needs {updates}" if updates > settings.run.updates_min else ""
            tenure.wait_because(f"waiting for peers: {len(wanting)} of {needed} want a run and can train{why}")
            return
        run_id = f"{context.stamp()}-{context.rng.getrandbits(24):06x}"
        # Not below the term: of two runs whose controllers did not know of each other the later one counts.
        number = max(number + 1, tenure.term)
        tenure.run = RunRecord(run_id, number, settings.run)
        base = ModelRef(run_id, number, 0, tenure.term, settings.initial_sha256)
        context.hold(base)
        context.log(f"starts run {run_id} with {len(able)} trainers")
        tenure.log("started", peers=sorted(able), settings=_settings_fields(tenure.run))
        tenure.opening.used = {}
        tenure.scores.forget()
        self._enter(base)

    def _enter(self, base: ModelRef) -> None:
        """A run, new or taken over, is this controller's now."""
        tenure = self._tenure
        assert tenure.run is not None
        self._context.knows_run(tenure.run)
        tenure.complete = False
        tenure.opening.closed = {}
        tenure.set_base(base)
        tenure.enter(OPEN)
        tenure.deadline_s = float("-inf")


def _settings_fields(run: RunRecord) -> dict[str, object]:
    return {name: getattr(run.settings, name) for name in run.settings.__dataclass_fields__}
