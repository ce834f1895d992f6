"""Whether a controller hears enough of the roster to decide anything: whom it does not hear may follow another one.

The broker's echo tells that the broker lives. Where there are several brokers it does not tell that the others live: a
site that is cut off has a broker that answers, and presences of the others that say online. Whoever is said to be there
and keeps silent is therefore asked, as a trainer is that a round misses, and nothing is decided before a majority of
the roster has been heard. Who is offline by its own word, or by its broker's, is not silent: with one broker for all,
those that are left go on.
"""

from __future__ import annotations

from edge_peer.protocol.context import Context
from edge_peer.protocol.election import quorum
from edge_peer.protocol.tenure import Tenure


class Earshot:
    """Whom of the roster a controller has heard; without a roster it asks nobody."""

    def __init__(self, context: Context, tenure: Tenure) -> None:
        self._context = context
        self._tenure = tenure
        #: Whom it has asked, and what was said of them before.
        self._asked: dict[str, str | None] = {}

    @property
    def waits(self) -> bool:
        """Somebody was asked, and not enough have answered yet."""
        return bool(self._asked)

    def suffices(self, since_s: float) -> bool:
        """Whether something may be decided; else who is silent is asked, and the round waits as long as it takes.

        Args:
            since_s: What was heard before counts only if it is less than a lease old.
        """
        missing = self._missing(since_s)
        if missing:
            self._ask(missing)
        elif self.waits:
            self._go_on()
        return not missing

    def _missing(self, since_s: float) -> dict[str, str]:
        """Who has to be heard before anything is decided, and why."""
        context = self._context
        if context.settings.roster is None:
            return {}
        since_s = min(since_s, context.now_s - context.timing.lease_s)
        roster = set(context.settings.roster)
        there = roster & set(context.roster.said_online())
        heard = {peer for peer in there if context.roster.heard_s(peer) >= since_s} | roster & {context.peer}
        needed = quorum(roster, ())
        if len(heard) >= needed:
            return {}
        why = f"not heard: of the roster {len(heard)} are, and it takes {needed}"
        return dict.fromkeys(sorted(there - heard), why)

    def _ask(self, missing: dict[str, str]) -> None:
        tenure = self._tenure
        tenure.deadline_s = float("inf")
        if self._asked.keys() >= missing.keys():
            return
        if not self.waits:
            self._context.log(f"waits for {', '.join(missing)}: {next(iter(missing.values()))}", "WARNING")
        for peer, why in missing.items():
            self._asked.setdefault(peer, tenure.opening.missing.get(peer))
            tenure.opening.missing[peer] = why
        tenure.changed = True

    def _go_on(self) -> None:
        tenure = self._tenure
        assert tenure.run is not None
        for peer, before in self._asked.items():
            if before is not None:
                tenure.opening.missing[peer] = before
            else:
                tenure.opening.missing.pop(peer, None)
        self._asked = {}
        self._context.log("is heard by enough of the roster again")
        # Whoever was not heard may not have heard of the round, either.
        tenure.deadline_s = self._context.now_s + tenure.run.settings.round_deadline_s
        tenure.changed = True
