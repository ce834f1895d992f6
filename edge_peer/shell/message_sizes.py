"""How large the messages of a run can become, and how many there are: both have limits, which are known before it."""

from __future__ import annotations

from aggregator_core.codecs import bound
from aggregator_core.layout import Layout
from aggregator_core.server_optimizers import OPTIMIZERS
from edge_peer.protocol.run_settings import WHOLE, RunSettings
from edge_peer.protocol.settings import Timing
from edge_peer.shell.global_model import SLOTS
from edge_peer.shell.quotas import Allowance

#: Bytes that a model's or update's metadata and topic take beside its values.
ENVELOPE_BYTES = 16_384
#: Bytes of a document, and of what it says of each peer: a name in five places, two digests, a reason, a report.
DOCUMENT_BYTES = 4096
DOCUMENT_BYTES_PEER = 512
#: What a controller says in a round beside a document for each update; no trainer says as much.
DOCUMENTS_ROUND = 16
#: Messages with tensors that one peer sends in a round: a model and a delta, or an update and once again.
TENSORS_ROUND = 2
#: Rounds a second that a peer which takes no part in them must be able to look on at.
ROUNDS_S = 5
#: Messages that go with one renewal of a lease, one term without a winner, or one that is sent again.
DOCUMENTS_AGAIN = 4


def message_bytes(layout: Layout, run: RunSettings) -> int:
    """Bytes of the values in the largest message of a run: a whole model with the server's state, or a change."""
    kind = OPTIMIZERS.get(run.server_optimizer)
    slots = (len(kind.slots) if kind is not None else 0) + run.scaffold
    whole = 4 * (layout.size + slots * layout.trained_size)
    codecs = {run.codec, run.downlink} - {WHOLE}
    # A control variate travels as a vector of the whole model's size.
    return max(whole, *(bound(codec, layout) * (1 + run.scaffold) for codec in codecs))


def allowance(layout: Layout, timing: Timing, peers: int) -> Allowance:
    """What one sender may need to say in a federation of so many peers, whatever its runs are made with.

    A controller says the most: after every update that it has accepted it publishes the round again, to all, and what
    it says of a round grows with the peers, too.
    """
    largest = 4 * (layout.size + len(SLOTS) * layout.trained_size) + ENVELOPE_BYTES
    messages = float(peers + DOCUMENTS_ROUND)
    bytes_ = TENSORS_ROUND * largest + messages * (DOCUMENT_BYTES + DOCUMENT_BYTES_PEER * peers)
    again_s = DOCUMENTS_AGAIN * (3 / timing.lease_s + 1 / timing.resend_s + 1 / timing.election_timeout_s)
    return Allowance(
        messages=messages,
        bytes=bytes_,
        messages_s=ROUNDS_S * messages + again_s,
        bytes_s=ROUNDS_S * bytes_ + again_s * largest,
    )
