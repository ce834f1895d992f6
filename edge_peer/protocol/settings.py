"""What the protocol needs to know of its peer, and the times that it waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_peer.protocol.aggregation import Aggregation, Mean
from edge_peer.protocol.run_settings import RunSettings


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds, all on the monotonic clock of the peer itself.

    Attributes:
        grace_s: After a (re)connection nobody is suspected for this long: the others are on their way back too.
        lease_s: A controller that was not heard for this long is not one any more; it sends a beat every third of it.
        settle_s: An election waits at most this long for the presence that every peer renews at its start.
        election_timeout_s: No winner after this time (and up to as much again, by chance): next term.
        startup_window_s: Without a roster, a peer alone waits this long for others before it elects itself.
        resend_s: What should have arrived by now is asked for, or sent, again.
        final_report_s: After the end of a run the controller waits at most this long for final reports.
        checkpoint_s: A trainer writes the global model at most this often while rounds follow each other faster; the
            controller writes every model before it publishes it.
    """

    grace_s: float = 0.5
    lease_s: float = 15.0
    settle_s: float = 0.25
    election_timeout_s: float = 1.5
    startup_window_s: float = 10.0
    resend_s: float = 5.0
    final_report_s: float = 60.0
    checkpoint_s: float = 1.0


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """A peer's fixed facts.

    Attributes:
        peer: Its name; with TLS the common name of its certificate.
        session: Unique to this start of the process.
        control: Willing to be controller.
        train: Willing to train.
        controller_trains: A controller trains too.
        roster: Every peer of the fleet that may vote; None: whoever is seen online.
        min_peers: A run starts when this many want one; without a roster, elections wait for as many.
        initial_sha256: Digest of the model's initial weights.
        run: Settings of the runs that this peer starts as controller.
        aggregation: Knows how updates are combined.
    """

    peer: str
    session: str
    model_id: str
    model_digest: str
    initial_sha256: str
    control: bool = True
    train: bool = True
    controller_trains: bool = True
    score: float = 0.0
    score_parts: dict[str, float] = field(default_factory=dict)
    examples: int = 0
    test_examples: int = 0
    roster: tuple[str, ...] | None = None
    min_peers: int = 2
    run: RunSettings = field(default_factory=RunSettings)
    timing: Timing = field(default_factory=Timing)
    peers_max: int = 1024
    aggregation: Aggregation = field(default_factory=Mean)
