"""What can happen to a peer: the only inputs of the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_peer.protocol.messages import Document, Report
from edge_peer.protocol.settings import PeerSettings
from edge_peer.protocol.tensors import ModelRef, UpdateOffer


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection; the protocol subscribes and says everything again."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone. `taken_over`: another process connected with this peer's id."""

    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class DocumentReceived:
    """A decoded JSON document, or None where a retained one was cleared.

    Attributes:
        peer: Whose topic it came on: its only possible sender.
        retained: The broker kept it from before this subscription; its sender may be gone since.
    """

    peer: str
    kind: str
    document: Document | None
    retained: bool = False


@dataclass(frozen=True, slots=True)
class ModelReceived:
    """A global model arrived, whole or made of a delta: its digest is checked; the shell keeps its vector."""

    peer: str
    ref: ModelRef


@dataclass(frozen=True, slots=True)
class UpdateReceived:
    """An update arrived; the shell keeps its vector under the offer's digest.

    Attributes:
        problem: What is wrong with its vector (shape, dtype, values), or empty.
        norm: L2 norm of its trained weights' part, which the run's settings may bound.
    """

    peer: str
    offer: UpdateOffer
    problem: str = ""
    norm: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingKey:
    """One training: the same key, whoever is controller, gives the same update."""

    run_id: str
    round: int
    base: str


@dataclass(frozen=True, slots=True)
class TrainingDone:
    """The update is ready and kept by the shell under `digest`.

    Attributes:
        norm: L2 norm of its trained weights' part, where the run's settings bound it.
        steps: Local optimizer steps.
        base_loss: Mean loss of the base on the own examples, where the rule asks for it.
        remembers: The shell keeps a memory with it, for the training after it.
    """

    key: TrainingKey
    digest: str
    examples: int
    loss: float
    seconds: float
    norm: float = 0.0
    steps: int = 1
    base_loss: float | None = None
    remembers: bool = False


@dataclass(frozen=True, slots=True)
class LocalEvaluated:
    """The just trained local model was evaluated on the peer's own test split."""

    key: TrainingKey
    report: Report


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """Training ended without an update: the loss diverged, the shard cannot be read, ..."""

    key: TrainingKey
    reason: str


@dataclass(frozen=True, slots=True)
class ModelEvaluated:
    """A global model was evaluated on the peer's own test split."""

    ref: ModelRef
    report: Report
    seconds: float


@dataclass(frozen=True, slots=True)
class AggregateReady:
    """The mean of the accepted updates is computed and kept by the shell under `sha256`."""

    term: int
    run_id: str
    round: int
    sha256: str


@dataclass(frozen=True, slots=True)
class AggregateFailed:
    """The accepted updates could not be combined."""

    term: int
    run_id: str
    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """How the board is now.

    Attributes:
        train: It can train.
        note: Why it cannot; empty where it can.
        strained: It is hot or throttled.
        health: What the board tells, numbers by name.
    """

    train: bool
    note: str
    strained: bool = False
    health: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """The configuration was read again; what it must not change is the same in these settings."""

    settings: PeerSettings


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """The operator or systemd wants the process to end: resign, say goodbye."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """`Peer.next_deadline_s()` has passed."""


Event = (
    Connected
    | Disconnected
    | DocumentReceived
    | ModelReceived
    | UpdateReceived
    | TrainingDone
    | LocalEvaluated
    | TrainingFailed
    | ModelEvaluated
    | AggregateReady
    | AggregateFailed
    | HealthChanged
    | Reconfigured
    | ShutdownRequested
    | TimerFired
)
