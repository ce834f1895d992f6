"""What travels with tensors: the metadata of models, deltas and updates, whose payload is a safetensors file."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_peer.protocol.fields import SECONDS_MAX, Fields
from edge_peer.protocol.run_settings import NONE


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A global model by its place and digest.

    Attributes:
        run_id: The run that it belongs to.
        run_number: Runs of a federation are counted; a later run has a higher number.
        round: How many rounds of the run are in it; 0 is the initial model.
        term: The term of the controller that committed it.
        sha256: Digest of the flat little-endian float32 vector.
    """

    run_id: str
    run_number: int
    round: int
    term: int
    sha256: str

    @property
    def order(self) -> tuple[int, str, int, int]:
        """Later models compare higher: run, then round, then term."""
        return (self.run_number, self.run_id, self.round, self.term)

    @classmethod
    def read(cls, fields: Fields) -> ModelRef:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(
            run_id=fields.name("run_id"),
            run_number=fields.count("run_number", 1),
            round=fields.count("round"),
            term=fields.count("term", 1),
            sha256=fields.digest("sha256"),
        )


@dataclass(frozen=True, slots=True)
class UpdateOffer:
    """The metadata of an update: which round it was made for, and by what.

    Attributes:
        session: The sender's session.
        run_id: The run.
        term: Term of the controller that asked for it.
        round: The round that it was made for.
        base: Digest of the global model that the training started from.
        digest: Digest of the update's vector, as its payload is decoded; of the control variate's change behind it.
        examples: Training examples that it saw: its weight in the mean.
        codec: How the vector is encoded.
        loss: Mean training loss.
        seconds: How long the training took.
        steps: Local optimizer steps.
        base_loss: Mean loss of the base on the sender's examples before it trained, where the rule asks for it.
    """

    session: str
    run_id: str
    term: int
    round: int
    base: str
    digest: str
    examples: int
    codec: str
    loss: float
    seconds: float
    steps: int = 1
    base_loss: float | None = None

    @classmethod
    def read(cls, fields: Fields) -> UpdateOffer:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(
            session=fields.name("session"),
            run_id=fields.name("run_id"),
            term=fields.count("term", 1),
            round=fields.count("round", 1),
            base=fields.digest("base"),
            digest=fields.digest("digest"),
            examples=fields.integer("examples", 1, 2**40),
            codec=fields.name("codec"),
            loss=fields.number("loss", 0, 1e30),
            seconds=fields.number("seconds", 0, SECONDS_MAX),
            steps=fields.integer("steps", 1, 2**40),
            base_loss=fields.number("base_loss", 0, 1e30) if fields.has("base_loss") else None,
        )


@dataclass(frozen=True, slots=True)
class Delta:
    """What one round has changed, for whoever holds the model before it: everybody makes the same model of it.

    Attributes:
        ref: The model that comes of it.
        base: Digest of the model that it is added to.
        codec: How the combined update is encoded.
        optimizer: The server optimizer that makes the step of it; its state is part of the model.
        parameters: The optimizer's parameters that have not their default.
    """

    ref: ModelRef
    base: str
    codec: str
    optimizer: str = NONE
    parameters: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> Delta:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(
            ref=ModelRef.read(fields.object("ref")),
            base=fields.digest("base"),
            codec=fields.name("codec"),
            optimizer=fields.name("optimizer"),
            parameters=fields.numbers("parameters"),
        )
