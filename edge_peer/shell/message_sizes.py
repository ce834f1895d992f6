"""How large the messages of a run can become: known before it starts, because brokers have a limit."""

from __future__ import annotations

from aggregator_core.codecs import bound
from aggregator_core.layout import Layout
from aggregator_core.server_optimizers import OPTIMIZERS
from edge_peer.protocol.run_settings import WHOLE, RunSettings

#: Bytes that a model's or update's metadata and topic take beside its values.
ENVELOPE_BYTES = 16_384


def message_bytes(layout: Layout, run: RunSettings) -> int:
    """Bytes of the values in the largest message of a run: a whole model with the server's state, or a change."""
    kind = OPTIMIZERS.get(run.server_optimizer)
    slots = (len(kind.slots) if kind is not None else 0) + run.scaffold
    whole = 4 * (layout.size + slots * layout.trained_size)
    codecs = {run.codec, run.downlink} - {WHOLE}
    # A control variate travels as a vector of the whole model's size.
    return max(whole, *(bound(codec, layout) * (1 + run.scaffold) for codec in codecs))
