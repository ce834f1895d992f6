"""Cuts off senders that flood: drops what they send before it is decoded, and names them in the log."""

from __future__ import annotations

import logging

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.topics import Topics
from edge_peer.shell.mqtt import Message
from edge_peer.shell.quotas import Quotas

LOG = logging.getLogger(__name__)
#: How often a sender that goes on is named again.
NAMED_S = 60.0
#: Lines in that time: whoever may choose names must not be able to fill the disk with them.
LINES_MAX = 20
#: Whose messages those are whose topic names no peer.
NOBODY = "(no peer)"
#: Names in the status.
SHOWN_MAX = 3


class FloodGuard:
    """Stands before the inbox of one peer.

    Args:
        topics: The federation's.
        quotas: What a sender may say.
    """

    def __init__(self, topics: Topics, quotas: Quotas) -> None:
        self._topics = topics
        self._quotas = quotas
        #: When each sender was named last, and how many messages of it were dropped since it was cut off.
        self._named_s: dict[str, float] = {}
        self._lines: list[float] = []
        self._cut: dict[str, int] = {}
        #: Messages dropped so far.
        self.dropped = 0

    def admits(self, message: Message, now_s: float, idle_s: float) -> bool:
        """Whether to read a message; its sender is named when it is cut off.

        Args:
            message: It.
            now_s: Monotonic time, for the log.
            idle_s: How much of it this peer has had nothing to do: that is what it has to give. So a flood is one also
                where the peer is too slow, or too busy, to take it in fast.
        """
        try:
            sender, _ = self._topics.parse(message.topic)
        except RemoteProtocolError:
            sender = NOBODY
        if self._quotas.admit(sender, len(message.topic) + len(message.payload), idle_s):
            if self._cut:
                self._heard_again(self._quotas.account(sender), now_s)
            return True
        self.dropped += 1
        sender = self._quotas.account(sender)
        count = self._cut.get(sender, 0) + 1
        self._cut[sender] = count
        if now_s >= self._named_s.get(sender, float("-inf")) + NAMED_S and self._may_say(now_s):
            self._named_s[sender] = now_s
            allowed = self._quotas.allowance
            LOG.warning(
                "%s floods and is cut off: %d of its messages dropped so far. A round takes %.0f messages and %.0f "
                "bytes of a peer at most. It is heard again after some calm seconds; to keep it out, have the broker "
                "refuse its certificate or password",
                sender,
                count,
                allowed.messages,
                allowed.bytes,
            )
        return False

    def tick(self, now_s: float, idle_s: float) -> None:
        """Let those be heard again that have calmed down; call it now and then."""
        for sender in [it for it in self._cut if self._quotas.is_calm(it, idle_s)]:
            self._heard_again(sender, now_s)

    @property
    def status(self) -> str:
        """Who is cut off, for the status of the process; empty: nobody."""
        if not self._cut:
            return ""
        names = sorted(self._cut)
        more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
        return f"cut off because of a flood: {', '.join(names[:SHOWN_MAX])}{more}"

    def _heard_again(self, sender: str, now_s: float) -> None:
        count = self._cut.pop(sender, 0)
        if count and self._may_say(now_s):
            LOG.warning("%s has calmed down and is heard again; %d of its messages were dropped", sender, count)

    def _may_say(self, now_s: float) -> bool:
        self._lines = [at_s for at_s in self._lines if at_s > now_s - NAMED_S]
        if len(self._lines) >= LINES_MAX:
            return False
        self._lines.append(now_s)
        return True
