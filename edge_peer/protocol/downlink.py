"""How the global model goes out: whole and retained, or as what a round has changed, and whole to who needs it.

The last model of a run is always kept whole by the broker: nobody may be connected who could make it of a delta, and
the controller may be gone for ever when the others come back.
"""

from __future__ import annotations

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.run_settings import WHOLE, RunSettings
from edge_peer.protocol.tensors import ModelRef


class Downlink:
    """What a controller has sent of models on its present connection."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sent: str | None = None
        #: The model that the broker keeps whole, and the one of which the shell has a delta.
        self._whole: str | None = None
        self._delta: str | None = None

    def on_connected(self) -> None:
        """Nothing that was sent on the old connection is known to have arrived."""
        self._sent = None
        self._whole = None

    def made(self, ref: ModelRef, settings: RunSettings) -> None:
        """This controller has made the model itself, so that the shell knows what was changed."""
        self._delta = ref.sha256 if settings.downlink != WHOLE else None

    def send(self, base: ModelRef, settings: RunSettings, last: bool = False) -> None:
        """Publish a model, saved first; once, and not before it is here, when another controller committed it.

        Args:
            base: The model.
            settings: Of its run.
            last: The run is over, so that the broker must keep it, unless it is the initial one, which everybody has.
        """
        keep = last and base.round > 0
        if (self._whole if keep else self._sent) == base.sha256 or base.sha256 not in self._context.models:
            return
        self._sent = base.sha256
        self._context.hold(base)
        if self._delta == base.sha256 and not keep:
            self._context.emit(do.PublishDelta(base))
        elif settings.downlink == WHOLE or base.round > 0:
            # Of a model that another controller has made there is no delta here. The initial model everybody has.
            self._send_whole(base)

    def _send_whole(self, base: ModelRef) -> None:
        self._whole = base.sha256
        self._context.emit(do.PublishModel(base, retained=True))

    def answer_needs(self, base: ModelRef) -> None:
        """Publish it whole when somebody cannot make it of what it has: it has just come, or missed a delta."""
        if self._sent != base.sha256 or self._whole == base.sha256:
            return
        if any(presence.needs == base.sha256 for presence in self._context.roster.online().values()):
            self._send_whole(base)
