"""What a peer says for people who look on: no peer subscribes to it, and nothing that a peer does depends on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edge_peer.protocol.fields import SECONDS_MAX, Fields

#: Rows of a history; with more rounds, the older ones are thinned out.
ROWS_MAX = 64
#: Newest rows, of which none is left out.
NEWEST = 16


@dataclass(frozen=True, slots=True)
class Sending:
    """An update is on its way: what is told of it in a few bytes, before it is there.

    Attributes:
        session: The sender's session.
        run_id: The run.
        round: The round that it was made for.
        bytes: Of the update's message.
        seconds: How long the training took.
        loss: Mean training loss.
    """

    session: str
    run_id: str
    round: int
    bytes: int
    seconds: float
    loss: float

    @classmethod
    def read(cls, fields: Fields) -> Sending:
        """Decode from JSON fields; raises RemoteProtocolError."""
        return cls(
            session=fields.name("session"),
            run_id=fields.name("run_id"),
            round=fields.count("round", 1),
            bytes=fields.integer("bytes"),
            seconds=fields.number("seconds", 0, SECONDS_MAX),
            loss=fields.number("loss", 0, 1e30),
        )


@dataclass(frozen=True, slots=True)
class History:
    """A peer's rounds of a run so far, as in its CSV; column by column, at most 64 rows, the newest 16 among them.

    Attributes:
        session: The sender's session.
        run_id: The run.
        test_examples: Examples in its test split: its weight in means over peers.
        rounds: How many rounds are in the model, ascending; the other columns are as long.
        accuracy: Of the global model after that round, on its own test split, 0..1.
        loss: Of the same.
        int8_accuracy: Of its int8 model; null where there is none.
        training_s: Seconds of local training; null in a round without an update.
        evaluation_s: Seconds of evaluating the global model.
        bytes_sent: Topic and payload bytes published in that round.
        bytes_received: The same, received.
    """

    session: str
    run_id: str
    test_examples: int
    rounds: tuple[float | None, ...] = ()
    accuracy: tuple[float | None, ...] = ()
    loss: tuple[float | None, ...] = ()
    int8_accuracy: tuple[float | None, ...] = ()
    training_s: tuple[float | None, ...] = ()
    evaluation_s: tuple[float | None, ...] = ()
    bytes_sent: tuple[float | None, ...] = ()
    bytes_received: tuple[float | None, ...] = ()

    @classmethod
    def read(cls, fields: Fields) -> History:
        """Decode from JSON fields; raises RemoteProtocolError."""
        rounds = fields.column("rounds")
        return cls(
            session=fields.name("session"),
            run_id=fields.name("run_id"),
            test_examples=fields.integer("test_examples", 1),
            rounds=rounds,
            **{name: fields.column(name, len(rounds)) for name in COLUMNS[1:]},
        )


#: The columns' names, the round first.
COLUMNS = (
    *("rounds", "accuracy", "loss", "int8_accuracy", "training_s", "evaluation_s", "bytes_sent", "bytes_received"),
)


def thinned(rounds: list[int]) -> int | None:
    """The place of the row to leave out of these, ascending; None: there are not too many.

    It is the one whose neighbours are closest to each other, so that what is left is spread evenly over the run.
    """
    if len(rounds) <= ROWS_MAX:
        return None
    return min(range(1, len(rounds) - NEWEST), key=lambda place: (rounds[place + 1] - rounds[place - 1], place))


def encode(said: Sending | History) -> bytes:
    """As UTF-8 JSON with sorted keys."""
    return json.dumps(asdict(said), separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
