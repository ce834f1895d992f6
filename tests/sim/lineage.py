"""Which updates are in which model: the truth, against which a trainer's choice of memory is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_peer.protocol import commands as do
from edge_peer.protocol.events import TrainingKey
from edge_peer.protocol.messages import Round
from edge_peer.protocol.roles import LEADING

if TYPE_CHECKING:
    from tests.sim.process import Process


@dataclass(frozen=True)
class Made:
    """An update that a board really trained.

    Attributes:
        change: As it was sent.
        trained: What the training gave, before the codec and without what an earlier one had left out.
    """

    peer: str
    session: str
    key: TrainingKey
    examples: int
    change: np.ndarray
    trained: np.ndarray


class Lineage:
    """Every model with its base and what was counted in it; and what each process has heard of that.

    Args:
        made: All updates that were ever trained, by digest.
    """

    def __init__(self, made: dict[str, Made]) -> None:
        self._made = made
        self._parents: dict[str, tuple[str, dict[str, str]]] = {}
        self._heard: dict[tuple[str, str, str, int], dict[str, str]] = {}
        self._last: dict[str, Round | None] = {}
        #: Updates that went to a controller.
        self.sent: set[str] = set()

    def merged(self, command: do.Aggregate, digest: str) -> None:
        """A model was made."""
        self._parents[digest] = (command.base, {it.peer: it.offer.digest for it in command.updates})

    def hear(self, process: Process) -> None:
        """After each event: the document that the process's trainer has been given."""
        peer = process.peer
        document = None
        if peer.controller is not None and peer.role == LEADING:
            document = peer.controller.document
            if process.own is not None:
                # It goes to the controller within this process.
                self.sent.add(process.own[0])
        elif peer._following is not None:
            document = peer._context.rounds[peer._following][0]
        if document is None or document is self._last.get(process.session):
            return
        self._last[process.session] = document
        if document.base is not None and document.closed_accepted:
            key = (process.name, process.session, document.base.run_id, document.base.round)
            self._heard[key] = document.closed_accepted

    def counted(self, peer: str, model: str) -> list[str]:
        """The updates of a peer that are in a model, the newest first."""
        found = []
        while model in self._parents:
            model, updates = self._parents[model]
            if peer in updates:
                found.append(updates[peer])
        return found

    def wrong_memory(self, process: Process, key: TrainingKey, after: str | None, on_disk: set[str]) -> str:
        """What is wrong with a training that begins with the memory of `after`; empty: nothing.

        It must be that of the newest own update in the base. docs/protocol.md has the excuses: no list that tells of
        the update has reached this process; or its memory is not on the disk any more, because this peer has trained
        that round twice, or has gone further in a branch of the run that was given up.
        """
        after = after if after in on_disk else None
        counted = self.counted(process.name, key.base)
        newest = counted[0] if counted else None
        if after == newest:
            return ""
        if after is not None and after not in counted:
            return self._uncounted(process, key, after)
        assert newest is not None
        made = self._made[newest]
        if newest not in on_disk and (self._trained_again(newest) or self._went_further(made, on_disk - set(counted))):
            return ""
        return f"without the memory of its update of round {made.key.round}, which was counted"

    def _trained_again(self, digest: str) -> bool:
        made = self._made[digest]
        place = (made.peer, made.key.run_id, made.key.round)
        return any((it.peer, it.key.run_id, it.key.round) == place and it is not made for it in self._made.values())

    def _went_further(self, made: Made, others: set[str]) -> bool:
        elsewhere = {digest for _, updates in self._parents.values() for digest in updates.values()}
        return any(self._made[it].key.round > made.key.round for it in others & elsewhere)

    def _uncounted(self, process: Process, key: TrainingKey, after: str) -> str:
        made = self._made[after]
        if (made.peer, made.key.run_id) != (process.name, key.run_id) or made.key.round >= key.round:
            return f"with the memory of {made.peer}'s {made.key}"
        what = f"with the memory of its update of round {made.key.round}"
        if made.session == process.session and after not in self.sent:
            return f"{what}, which was never sent"
        heard = self._heard.get((process.name, process.session, key.run_id, made.key.round))
        if heard is not None and heard.get(process.name) != after:
            return f"{what}, which it knows was not counted"
        return ""
