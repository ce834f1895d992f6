"""Which memory a training begins with: that of the last own update which was counted, never of one that was not.

A codec's residual and a control variate advance with each update, but only if the update is counted; otherwise what it
said would be taken for said. The shell writes the memory of an update before the update is sent, so two are known: the
last one that was counted, and the one that waits for its round to close.
"""

from __future__ import annotations

from edge_peer.protocol.events import TrainingKey
from edge_peer.protocol.messages import Round
from edge_peer.protocol.state import Memory


class Memories:
    """The memories of one trainer, by the updates that they belong to.

    Args:
        peer: Whose.
        memories: Those on disk, in any order.
    """

    def __init__(self, peer: str, memories: tuple[Memory, ...]) -> None:
        self._peer = peer
        self._memories = sorted(memories, key=lambda it: it.round)

    def made(self, key: TrainingKey, digest: str) -> None:
        """The shell keeps a memory with the update that was just made."""
        self._memories = [it for it in self._memories if it.run_id == key.run_id and it.round < key.round][-1:]
        self._memories.append(Memory(key.run_id, key.round, digest))

    def hear(self, document: Round) -> None:
        """Let go of a memory whose update was not counted in the round that has just closed.

        A controller that did not close that round itself lists nobody. Then the update is taken for counted: it was
        sent, and the round went on.
        """
        counted = document.closed_accepted
        if counted:
            self._memories = [
                it
                for it in self._memories
                if it.run_id != document.run_id
                or it.round != document.round - 1
                or counted.get(self._peer) == it.digest
            ]

    def before(self, key: TrainingKey) -> str | None:
        """Digest of the own update whose memory a training begins with; None: of none."""
        earlier = [it for it in self._memories if it.run_id == key.run_id and it.round < key.round]
        return earlier[-1].digest if earlier else None
