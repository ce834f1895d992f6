"""From messages of the broker to events of the protocol. Whatever cannot be read is dropped, counted and logged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from aggregator_core import RefusedUpdateError, l2_norm
from aggregator_core.layout import Layout
from aggregator_core.parameters import ParameterError
from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import decode
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.topics import DELTA, MODEL, UPDATE, Topics
from edge_peer.shell.aggregation import advance
from edge_peer.shell.changes import Change
from edge_peer.shell.mqtt import Message
from edge_peer.shell.payload import (
    decode_change,
    decode_delta,
    decode_model,
    decode_model_ref,
    decode_offer,
    decode_update,
)
from edge_peer.shell.vectors import Vectors

LOG = logging.getLogger(__name__)
#: Different complaints that are logged; a hostile peer must not be able to fill the disk with its messages.
COMPLAINTS_MAX = 200


class Inbox:
    """Decodes for one federation.

    Args:
        updates_max: Received updates that are held at a time.
        led: Settings of the run that this peer leads; None: it leads none.
    """

    def __init__(
        self,
        topics: Topics,
        layout: Layout,
        vectors: Vectors,
        updates_max: int,
        led: Callable[[], RunSettings | None],
    ) -> None:
        self._topics = topics
        self._layout = layout
        self._vectors = vectors
        self._updates_max = updates_max
        self._led = led
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
            if kind == DELTA:
                return self._delta(peer, message.payload)
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
            ref, model = decode_model(self._layout, payload)
            self._vectors.hold_received(peer, ref.sha256, model)
        return ev.ModelReceived(peer, ref)

    def _delta(self, peer: str, payload: bytes) -> ev.Event | None:
        if not payload:
            return None
        delta = decode_delta(payload)
        base = self._vectors.model(delta.base)
        if self._vectors.model(delta.ref.sha256) is None:
            if base is None:
                # It came before its base, or the base was missed: the protocol asks for the whole model.
                LOG.debug("delta of %s for round %d is of no use here: its base is missing", peer, delta.ref.round)
                return None
            change = decode_change(payload, delta.codec, self._layout)
            try:
                model = advance(self._layout, base, change, delta.optimizer, delta.parameters)
            except (RefusedUpdateError, ParameterError) as error:
                raise RemoteProtocolError(str(error)) from None
            found = model.digest
            if found != delta.ref.sha256:
                raise RemoteProtocolError(
                    f"makes a model with digest {found[:12]}, its metadata says {delta.ref.sha256[:12]}"
                )
            self._vectors.hold_received(peer, found, model)
        return ev.ModelReceived(peer, delta.ref)

    def _update(self, peer: str, payload: bytes) -> ev.Event | None:
        if not payload:
            return None
        offer = decode_offer(payload)
        settings = self._led()
        try:
            change = decode_update(payload, offer, self._layout)
            if settings is not None and settings.scaffold != (change.control is not None):
                raise RemoteProtocolError(
                    "has no control variate, the run is with SCAFFOLD" if settings.scaffold else "has a control variate"
                )
        except RemoteProtocolError as error:
            # Its sender is known and can be told, in a document that has to stay readable for everybody else.
            self._complain(f"{peer}'s update", str(error))
            return ev.UpdateReceived(peer, offer, _printable(str(error)[:300])[:300])
        if not self._vectors.hold_update(peer, offer.digest, change, self._updates_max):
            raise RemoteProtocolError("more updates than are held at a time")
        return ev.UpdateReceived(peer, offer, "", self._norm(change, settings))

    def _norm(self, change: Change, settings: RunSettings | None) -> float:
        """Only measured where the run bounds it."""
        if settings is None or settings.update_norm_max == 0:
            return 0.0
        return l2_norm(change.vector[: self._layout.trained_size])

    def _complain(self, sender: str, problem: str) -> None:
        self.dropped += 1
        # Whoever may publish may choose the topic: it must not write lines of its own into the log.
        sender, problem = _printable(sender[:200]), _printable(problem[:300])
        key = (sender[:100], problem[:60])
        if key not in self._complaints and len(self._complaints) >= COMPLAINTS_MAX:
            key = ("others", "")
        self._complaints[key] += 1
        count = self._complaints[key]
        # The first of a kind, then at every power of ten.
        if count == 1 or (count >= 10 and str(count).strip("0") == "1"):
            LOG.warning("%s dropped: %s%s", sender, problem, f" (now {count} times)" if count > 1 else "")


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)
