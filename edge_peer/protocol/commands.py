"""What a peer wants done: the only outputs of the protocol. The shell runs them in order.

`SaveState` is durable (fsync) before the next command is run, because what follows may depend on it; `SaveModel` before
the next retained document, which may tell others of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_peer.protocol.events import TrainingKey
from edge_peer.protocol.messages import Document, Report
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.state import SavedState
from edge_peer.protocol.tensors import ModelRef, UpdateOffer


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to these kinds of every peer; again if subscribed, so that the broker sends retained ones anew."""

    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """End the subscription to these kinds."""

    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish a document under this peer's own topic, QoS 1; None clears the retained one."""

    kind: str
    document: Document | None


@dataclass(frozen=True, slots=True)
class PublishModel:
    """Publish a global model that the shell holds; `retained` by the controller only."""

    ref: ModelRef
    retained: bool


@dataclass(frozen=True, slots=True)
class PublishDelta:
    """Publish what the last `Aggregate` has changed, for whoever holds the model before it; not retained."""

    ref: ModelRef


@dataclass(frozen=True, slots=True)
class ClearModel:
    """Clear this peer's retained model."""


@dataclass(frozen=True, slots=True)
class PublishUpdate:
    """Send the kept update with this offer as its metadata."""

    offer: UpdateOffer


@dataclass(frozen=True, slots=True)
class SaveState:
    """Write the state to disk, durably, before the next command."""

    state: SavedState


@dataclass(frozen=True, slots=True)
class SaveModel:
    """Write the model to disk, durably, before the next retained document."""

    ref: ModelRef


@dataclass(frozen=True, slots=True)
class KeepModels:
    """Forget the vectors of all global models but these digests."""

    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class KeepUpdates:
    """Forget the vectors of all received updates but these digests."""

    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Train on the own shard from the base model; answers with TrainingDone, then LocalEvaluated, or TrainingFailed.

    Attributes:
        after: Digest of the own update that was counted last, whose memory this training begins with; None: begins
            without one. All memories but this one are of no use any more.
    """

    key: TrainingKey
    settings: RunSettings
    after: str | None = None


@dataclass(frozen=True, slots=True)
class StartEvaluation:
    """Evaluate a global model on the own test split; answers with ModelEvaluated. Runs before later work."""

    ref: ModelRef


@dataclass(frozen=True, slots=True)
class CancelTraining:
    """The training with this key is of no use any more."""

    key: TrainingKey


@dataclass(frozen=True, slots=True)
class Contribution:
    """One of the updates that are combined: its offer says what is known of it."""

    peer: str
    offer: UpdateOffer


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Combine the kept updates; answers with AggregateReady or AggregateFailed.

    Attributes:
        updates: Sorted by peer, so that every controller computes the same bytes.
        settings: How.
        population: Examples of all peers that could have trained.
    """

    term: int
    run_id: str
    round: int
    base: str
    updates: tuple[Contribution, ...]
    settings: RunSettings
    population: int


@dataclass(frozen=True, slots=True)
class WriteRow:
    """Append the round's row to this peer's CSV; the shell adds time, bytes and memory."""

    run_id: str
    term: int
    round: int
    role: str
    controller: str
    report: Report
    evaluation_s: float
    examples: int
    train_loss: float | None
    training_s: float | None
    local: Report | None


@dataclass(frozen=True, slots=True)
class LogRound:
    """Append to the controller's round log: what happened, and its fields as JSON values."""

    run_id: str | None
    event: str
    fields: dict[str, object]


@dataclass(frozen=True, slots=True)
class RunFinished:
    """Write the final model and the run's effective settings beside the CSV."""

    ref: ModelRef
    settings: RunSettings
    reason: str


@dataclass(frozen=True, slots=True)
class SetStatus:
    """One line for systemd and `edge-peer status`."""

    text: str


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the log; `level` is a name of the logging module."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """Flush what was published and end the process."""

    reason: str
    failed: bool = False


Command = (
    Subscribe
    | Unsubscribe
    | Publish
    | PublishModel
    | PublishDelta
    | ClearModel
    | PublishUpdate
    | SaveState
    | SaveModel
    | KeepModels
    | KeepUpdates
    | StartTraining
    | StartEvaluation
    | CancelTraining
    | Aggregate
    | WriteRow
    | LogRound
    | RunFinished
    | SetStatus
    | Log
    | Exit
)
