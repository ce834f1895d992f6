"""What the protocol must know of how updates are combined, which is not its own business."""

from __future__ import annotations

import typing

from edge_peer.protocol.run_settings import RunSettings


class Aggregation(typing.Protocol):
    """Answers questions about a run's settings; the same settings always get the same answer."""

    def lacking(self, settings: RunSettings) -> str:
        """What of these settings this peer cannot do, such as a codec that it has not; empty: nothing."""

    def updates_needed(self, settings: RunSettings) -> int:
        """The fewest updates of which a round can make a model; at least `updates_min`."""

    def epsilon(self, settings: RunSettings, rounds: int) -> float | None:
        """What so many rounds cost of privacy at the settings' delta; None: nothing is promised."""


class Mean:
    """Knows nothing but the mean: for a core that is driven without a shell."""

    def lacking(self, settings: RunSettings) -> str:
        """See `Aggregation`."""
        return "" if settings.rule == "fedavg" else f"rule {settings.rule!r} is not known here"

    def updates_needed(self, settings: RunSettings) -> int:
        """See `Aggregation`."""
        return settings.updates_min

    def epsilon(self, settings: RunSettings, rounds: int) -> float | None:  # noqa: ARG002 - nothing is promised
        """See `Aggregation`."""
        return None
