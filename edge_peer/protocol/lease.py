"""How long a controller may decide: a lease time from the newest of its documents that the broker has sent back.

A process that was stopped and wakes up after its term therefore first asks: it says its document and waits.
"""

from __future__ import annotations

from edge_peer.protocol.context import Context


class Lease:
    """One controller's lease, which it renews by saying its document again at every beat.

    Args:
        context: Shared state.
        since_s: When the election began. The first lease runs from there: a process that was stopped in between finds
            votes that may be of no worth any more.

    Attributes:
        beat: Number of the newest document; -1: there is none yet.
    """

    def __init__(self, context: Context, since_s: float) -> None:
        self._context = context
        self.beat = -1
        self._beat_s = float("-inf")
        self._echo_s = since_s

    @property
    def holds(self) -> bool:
        """Whether the controller may decide anything."""
        return self._context.now_s - self._echo_s <= self._context.timing.lease_s

    @property
    def beat_due_s(self) -> float:
        """When the document is to be said again, whether it has changed or not."""
        return self._beat_s + self._context.timing.lease_s / 3

    def next_beat(self) -> None:
        """The document is said now."""
        self.beat += 1
        self._beat_s = self._context.now_s

    def echoed(self, beat: int) -> bool:
        """The broker sent a document back; returns whether it was the newest.

        When it was sent, the broker heard us and nobody had followed us. Not the time of the echo's arrival: it may
        have waited for a process that was stopped.
        """
        if beat != self.beat:
            return False
        self._echo_s = max(self._echo_s, self._beat_s)
        return True

    def lapse(self) -> None:
        """A new connection: the broker must answer again first."""
        self._echo_s = float("-inf")
