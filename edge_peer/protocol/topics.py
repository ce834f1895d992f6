"""Topic names: `fl/v1/<federation>/<peer>/<kind>`, each written by exactly one peer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_peer.errors import RemoteProtocolError

PRESENCE = "presence"
VOTE = "vote"
ROUND = "round"
MODEL = "model"
DELTA = "delta"
UPDATE = "update"
EVALUATION = "evaluation"
STOP = "stop"
START = "start"
SENDING = "sending"
HISTORY = "history"

#: Kinds that are retained: state, not messages.
RETAINED = frozenset({PRESENCE, VOTE, ROUND, MODEL, STOP, START})
#: Kinds whose payload is a safetensors file; all others are small JSON documents.
TENSORS = frozenset({MODEL, DELTA, UPDATE})
KINDS = RETAINED | {DELTA, UPDATE, EVALUATION}
#: Kinds that no peer reads, see `edge_peer.protocol.onlookers`; of them only the history is retained.
FOR_ONLOOKERS = frozenset({SENDING, HISTORY})

ROOT = "fl/v1"
#: A name is one MQTT topic level and a file name on every system: no wildcard, slash, space or leading dot.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def is_name(text: str) -> bool:
    """Whether `text` can name a peer or a federation."""
    return NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one federation."""

    federation: str

    def of(self, peer: str, kind: str) -> str:
        """The topic that `peer` writes its document of `kind` to."""
        return f"{ROOT}/{self.federation}/{peer}/{kind}"

    def filter(self, kind: str) -> str:
        """The subscription that matches every peer's document of `kind`."""
        return f"{ROOT}/{self.federation}/+/{kind}"

    def parse(self, topic: str, kinds: frozenset[str] = KINDS) -> tuple[str, str]:
        """Split a topic into (peer, kind).

        Args:
            topic: As it came.
            kinds: Of which it may be.

        Raises:
            RemoteProtocolError: The topic is not one of this federation's.
        """
        prefix = f"{ROOT}/{self.federation}/"
        parts = topic.removeprefix(prefix).split("/")
        if not topic.startswith(prefix) or len(parts) != 2:
            raise RemoteProtocolError(f"topic {topic[:120]!r} is not {prefix}<peer>/<kind>")
        peer, kind = parts
        if not is_name(peer):
            raise RemoteProtocolError(f"topic {topic[:120]!r}: {peer[:80]!r} is not a peer's name")
        if kind not in kinds:
            raise RemoteProtocolError(f"topic {topic[:120]!r}: unknown kind {kind[:40]!r}")
        return peer, kind
