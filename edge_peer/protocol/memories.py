"""Which memory a training begins with: that of the last own update which was counted, never of one that was not.

A codec's residual and a control variate advance with each update, but only if the update is counted; otherwise what it
said would be taken for said. The shell writes the memory of an update before the update is sent, so two are on the
disk: the one that the last training began with, and the one that waits for its round to close.
"""

from __future__ import annotations

from edge_peer.protocol.events import TrainingKey
from edge_peer.protocol.messages import Round
from edge_peer.protocol.state import Memory

#: Two are on the disk; between them there may be some of trainings that were cancelled as they ended.
MEMORIES_MAX = 8


class Memories:
    """The memories of one trainer, by the updates that they belong to.

    Args:
        peer: Whose.
        memories: Those on disk, in any order.
    """

    def __init__(self, peer: str, memories: tuple[Memory, ...]) -> None:
        self._peer = peer
        self._memories = sorted(memories, key=lambda it: it.round)
        #: Digests of updates of which this process knows that they are in no model: never sent, or not counted.
        self._idle: set[str] = set()
        #: By model, which own update is in it, as the controller that has closed its round says; the newest last.
        self._told: dict[str, str | None] = {}

    def made(self, key: TrainingKey, digest: str) -> None:
        """The shell keeps a memory with the update that was just made, in place of any of that round or a later one."""
        earlier = [it for it in self._memories if it.run_id == key.run_id and it.round < key.round]
        # The same update as before may have been sent then, by an earlier process of this peer.
        sent = {it.digest for it in self._memories} - self._idle
        self._memories = [*earlier, Memory(key.run_id, key.round, digest)][-MEMORIES_MAX:]
        self._idle = ({digest} - sent) | (self._idle & {it.digest for it in earlier})

    def sent(self, digest: str) -> None:
        """The update goes to a controller, for the first time or again: from now on it may be counted."""
        self._idle.discard(digest)

    def hear(self, document: Round) -> None:
        """Learn whether an update was counted in the round that has made the document's base.

        A controller that did not close that round itself lists nobody. Then the update is taken for counted if it was
        sent, because the round went on; so it is when this peer did not hear the document that lists it. What it has
        heard of a model holds whenever the run goes on from that one, whoever was sent the update meanwhile.
        """
        base, counted = document.base, document.closed_accepted
        if base is None:
            return
        if counted:
            self._told.pop(base.sha256, None)
            self._told[base.sha256] = counted.get(self._peer)
            if len(self._told) > MEMORIES_MAX:
                del self._told[next(iter(self._told))]
        if base.sha256 not in self._told:
            return
        for it in self._memories:
            if (it.run_id, it.round) == (base.run_id, base.round):
                if self._told[base.sha256] == it.digest:
                    self._idle.discard(it.digest)
                else:
                    self._idle.add(it.digest)

    def before(self, key: TrainingKey) -> str | None:
        """Digest of the own update whose memory a training begins with; None: of none."""
        earlier = [
            it
            for it in self._memories
            if it.run_id == key.run_id and it.round < key.round and it.digest not in self._idle
        ]
        return earlier[-1].digest if earlier else None
