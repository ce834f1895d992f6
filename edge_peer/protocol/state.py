"""What a peer must remember over a loss of power, and its JSON form."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edge_peer.protocol.fields import Fields, parse_object
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run that this peer knows.

    Attributes:
        number: Its place in the federation's count of runs.
        settings: What it is made with.
        finished: Why it ended; None while it goes on.
    """

    run_id: str
    number: int
    settings: RunSettings
    finished: str | None = None

    @classmethod
    def read(cls, fields: Fields) -> RunRecord:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(
            run_id=fields.name("run_id"),
            number=fields.integer("number", 1),
            settings=RunSettings.read(fields.object("settings")),
            finished=fields.text("finished") if fields.has("finished") else None,
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """What a trainer remembers from one update to the next: a codec's residual, a control variate.

    Attributes:
        run_id: The run.
        round: The round that the update was made for.
        digest: Of the update; the memory holds once that has been counted.
    """

    run_id: str
    round: int
    digest: str


@dataclass(frozen=True, slots=True)
class SavedState:
    """Durable before anything that depends on it is published.

    Attributes:
        voted_term: The highest term that this peer voted in, and for whom: it never votes twice in a term.
        elected_term: The highest term in which it knows an elected controller: older documents are void.
        run: The newest run that it took part in.
        held: The newest global model on this peer's disk.
        finished: The highest number of a run known as finished.
        memories: Those on this peer's disk; their files name them.
    """

    voted_term: int = 0
    voted_for: str = ""
    elected_term: int = 0
    run: RunRecord | None = None
    held: ModelRef | None = None
    finished: int = 0
    memories: tuple[Memory, ...] = ()

    def encode(self) -> bytes:
        """As UTF-8 JSON, without the memories."""
        fields = {name: value for name, value in asdict(self).items() if name != "memories"}
        return json.dumps(fields, sort_keys=True, allow_nan=False).encode()

    @classmethod
    def decode(cls, payload: bytes) -> SavedState:
        """Read what `encode` wrote; raises RemoteProtocolError when it is damaged."""
        fields = parse_object(payload)
        return cls(
            voted_term=fields.integer("voted_term"),
            voted_for=fields.text("voted_for"),
            elected_term=fields.integer("elected_term"),
            run=RunRecord.read(fields.object("run")) if fields.has("run") else None,
            held=ModelRef.read(fields.object("held")) if fields.has("held") else None,
            finished=fields.integer("finished"),
        )
