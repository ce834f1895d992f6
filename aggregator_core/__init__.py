"""The arithmetic of federated learning on flat numpy vectors: no I/O, no clock, no global random source.

What every peer needs is here. Aggregation rules are in `aggregator_core.rules`, server optimizers in
`aggregator_core.server_optimizers`, codecs of updates in `aggregator_core.codecs`: they need not be loaded otherwise.
"""

from aggregator_core.checks import RefusedUpdateError, check_counts, check_update, l2_norm
from aggregator_core.fedavg import StreamingMean, weighted_mean
from aggregator_core.layout import Layout, LayoutError, Tensor

__all__ = [
    "Layout",
    "LayoutError",
    "RefusedUpdateError",
    "StreamingMean",
    "Tensor",
    "check_counts",
    "check_update",
    "l2_norm",
    "weighted_mean",
]
