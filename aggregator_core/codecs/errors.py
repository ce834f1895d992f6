"""What codecs refuse."""

from __future__ import annotations

from aggregator_core.checks import RefusedUpdateError


class CodecNameError(ValueError):
    """No codec has this name; the message says which there are."""


class PayloadError(RefusedUpdateError):
    """A payload is not what its codec writes for this layout; the message is the reason that its sender is told."""
