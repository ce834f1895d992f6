"""How much each sender may say, so that one that floods costs the others neither this peer's time nor its memory.

A sender has two stores, of messages and of bytes. They fill with the time that this peer has to spare, and with every
round that it takes part in; each message takes its share. Who has emptied one is cut off: nothing of what it sends is
looked at. Its messages go on to count, down to what `CALM_S` seconds fill up again: so it is heard again that long
after it has calmed down, and not before.

Nothing here reads a clock or writes a log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: What may come at once, in rounds: a peer that hung for some seconds finds as much waiting for it.
BURST_ROUNDS = 32
#: How long who was cut off must be calm.
CALM_S = 4.0
#: The sender that stands for all beyond those that are counted one by one; no peer can have this name.
OTHERS = "(others)"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one sender may say.

    Attributes:
        messages: In a round.
        bytes: In a round, topics and payloads.
        messages_s: In a second, without any round.
        bytes_s: Likewise.
    """

    messages: float
    bytes: float
    messages_s: float
    bytes_s: float


@dataclass(slots=True)
class _Store:
    """A sender's.

    Attributes:
        messages: How many are left; below 0: it is cut off.
        bytes: Likewise.
        at_s: When both were filled.
    """

    messages: float
    bytes: float
    at_s: float


class Quotas:
    """The stores of all senders.

    Args:
        allowance: Of one sender, for a federation of so many peers.
        peers: How many there are at least; more count when they are heard.
        senders_max: So many have stores of their own; the others share one.
    """

    def __init__(self, allowance: Callable[[int], Allowance], peers: int, senders_max: int) -> None:
        self._allowance_of = allowance
        self._peers = peers
        self._senders_max = senders_max
        self._stores: dict[str, _Store] = {}
        self._allowance = allowance(peers)
        self._rounds: list[tuple[str, int]] = []

    @property
    def allowance(self) -> Allowance:
        """Of one sender, as it is now."""
        return self._allowance

    def account(self, sender: str) -> str:
        """In whose name a sender's messages count: its own, or that of all others."""
        known = sender in self._stores or len(self._stores) < self._senders_max
        return sender if known else OTHERS

    def admit(self, sender: str, size: int, now_s: float) -> bool:
        """Whether to look at a message.

        Args:
            sender: Whose name is in its topic.
            size: Its bytes.
            now_s: Time that this peer has had to spare so far.
        """
        store = self._store(self.account(sender), now_s)
        self._pass(store, now_s)
        allowance = self._allowance
        store.messages = max(store.messages - 1, -CALM_S * allowance.messages_s)
        store.bytes = max(store.bytes - size, -CALM_S * allowance.bytes_s)
        return store.messages >= 0 and store.bytes >= 0

    def is_calm(self, sender: str, now_s: float) -> bool:
        """Whether the next message of a sender would be looked at, however small."""
        store = self._stores[self.account(sender)]
        self._pass(store, now_s)
        return store.messages >= 1 and store.bytes >= 0

    def round_seen(self, run_id: str, number: int) -> None:
        """This peer takes part in a round: everybody may say as much more as a round needs."""
        if (run_id, number) in self._rounds:
            return
        # Of a few: the evaluation of one round overlaps with the training of the next.
        self._rounds = [*self._rounds[-3:], (run_id, number)]
        for store in self._stores.values():
            self._fill(store, self._allowance.messages, self._allowance.bytes)

    def _store(self, sender: str, now_s: float) -> _Store:
        store = self._stores.get(sender)
        if store is None:
            if len(self._stores) >= self._peers:
                self._peers += 1
                self._allowance = self._allowance_of(self._peers)
            store = self._stores[sender] = _Store(float("inf"), float("inf"), now_s)
            self._fill(store, 0, 0)
        return store

    def _pass(self, store: _Store, now_s: float) -> None:
        passed_s = max(0.0, now_s - store.at_s)
        store.at_s = now_s
        self._fill(store, passed_s * self._allowance.messages_s, passed_s * self._allowance.bytes_s)

    def _fill(self, store: _Store, messages: float, bytes_: float) -> None:
        allowance = self._allowance
        store.messages = min(
            store.messages + messages, BURST_ROUNDS * allowance.messages + CALM_S * allowance.messages_s
        )
        store.bytes = min(store.bytes + bytes_, BURST_ROUNDS * allowance.bytes + CALM_S * allowance.bytes_s)
