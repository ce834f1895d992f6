"""Whether this process still has its peer's name: the broker's copy of its presence says who wrote there last."""

from __future__ import annotations

from collections import Counter

from edge_peer.protocol import commands as do
from edge_peer.protocol.context import Context
from edge_peer.protocol.messages import Presence
from edge_peer.protocol.topics import PRESENCE

#: So often the same other session is found under this peer's name before the name is given up.
RIVAL_COMES_BACK = 3
RIVALS_MAX = 100


class Name:
    """This peer's name, which another process may claim."""

    def __init__(self, context: Context) -> None:
        self._context = context
        #: The broker has echoed this process's presence.
        self._known_here = False
        #: How often another session's presence stood under this name after a reconnection.
        self._rivals: Counter[str] = Counter()

    def on_presence(self, document: Presence | None, retained: bool) -> bool:
        """The broker sent what stands under this name; returns whether the name is another process's.

        An offline presence, or another session's, is put right.
        """
        context = self._context
        if document is not None and document.session == context.settings.session:
            self._known_here = True
            if not document.online:
                context.publish_presence(always=True)
            return False
        if document is not None and retained and self._known_here and len(self._rivals) < RIVALS_MAX:
            # A broker that has gone back to an old snapshot shows an earlier process once. One that comes back each
            # time that it was overwritten lives, and had the name while this process was away. (Not every broker says
            # so when it ends a connection in favour of another.) The other one finds its document, and stays.
            self._rivals[document.session] += 1
            if self._rivals[document.session] >= RIVAL_COMES_BACK:
                context.emit(do.Publish(PRESENCE, document))
                return True
        context.publish_presence(always=True)
        return False
