"""What codecs refuse."""

from __future__ import annotations

from aggregator_core.checks import RefusedUpdateError


class CodecNameError(RefusedUpdateError):
    """No codec has this name; the message says which there are.

    A refused update like the other, because the name may be a stranger's too.
    """


class PayloadError(RefusedUpdateError):
    """A payload is not what its codec writes for this layout; the message is the reason that its sender is told."""
