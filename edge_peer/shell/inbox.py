"""From messages of the broker to events of the protocol. Whatever cannot be read is dropped, counted and logged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from aggregator_core import l2_norm
from aggregator_core.layout import Layout
from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import decode
from edge_peer.protocol.topics import MODEL, UPDATE, Topics
from edge_peer.shell.mqtt import Message
from edge_peer.shell.payload import decode_change, decode_model, decode_model_ref, decode_offer
from edge_peer.shell.vectors import Vectors

LOG = logging.getLogger(__name__)
#: Different complaints that are logged; a hostile peer must not be able to fill the disk with its messages.
COMPLAINTS_MAX = 200


class Inbox:
    """Decodes for one federation.

    Args:
        updates_max: Received updates that are held at a time.
        bounded: Whether the run that this peer leads bounds the norm of updates; they are measured only then.
    """

    def __init__(
        self, topics: Topics, layout: Layout, vectors: Vectors, updates_max: int, bounded: Callable[[], bool]
    ) -> None:
        self._topics = topics
        self._layout = layout
        self._vectors = vectors
        self._updates_max = updates_max
        self._bounded = bounded
        self._complaints: Counter[tuple[str, str]] = Counter()
        #: Messages dropped so far.
        self.dropped = 0

    def read(self, message: Message) -> ev.Event | None:
        """The event that a message is; None when it is dropped or says nothing."""
        sender = message.topic
        try:
            peer, kind = self._topics.parse(message.topic)
            sender = f"{peer}'s {kind}"
            if kind == MODEL:
                return self._model(peer, message.payload)
            if kind == UPDATE:
                return self._update(peer, message.payload)
            document = decode(kind, message.payload) if message.payload else None
            return ev.DocumentReceived(peer, kind, document, message.retained)
        except RemoteProtocolError as error:
            self._complain(sender, str(error))
            return None

    def _model(self, peer: str, payload: bytes) -> ev.Event | None:
        if not payload:
            return None
        ref = decode_model_ref(self._layout, payload)
        if self._vectors.model(ref.sha256) is None:
            ref, vector = decode_model(self._layout, payload)
            self._vectors.hold_received(peer, ref.sha256, vector)
        return ev.ModelReceived(peer, ref)

    def _update(self, peer: str, payload: bytes) -> ev.Event | None:
        if not payload:
            return None
        offer = decode_offer(payload)
        try:
            change = decode_change(payload, offer, self._layout.size)
        except RemoteProtocolError as error:
            # Its sender is known and can be told.
            self._complain(f"{peer}'s update", str(error))
            return ev.UpdateReceived(peer, offer, str(error)[:300])
        problem = self._vectors.problem(change, self._layout.size)
        if problem:
            self._complain(f"{peer}'s update", problem)
        elif not self._vectors.hold_update(peer, offer.digest, change, self._updates_max):
            raise RemoteProtocolError("more updates than are held at a time")
        measured = self._bounded() and not problem
        return ev.UpdateReceived(
            peer, offer, problem, l2_norm(change[: self._layout.trained_size]) if measured else 0.0
        )

    def _complain(self, sender: str, problem: str) -> None:
        self.dropped += 1
        # Whoever may publish may choose the topic: it must not write lines of its own into the log.
        sender, problem = (it if it.isprintable() else ascii(it) for it in (sender[:200], problem[:300]))
        key = (sender[:100], problem[:60])
        if key not in self._complaints and len(self._complaints) >= COMPLAINTS_MAX:
            key = ("others", "")
        self._complaints[key] += 1
        count = self._complaints[key]
        # The first of a kind, then at every power of ten.
        if count == 1 or (count >= 10 and str(count).strip("0") == "1"):
            LOG.warning("%s dropped: %s%s", sender, problem, f" (now {count} times)" if count > 1 else "")
