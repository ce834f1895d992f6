"""The arithmetic of federated learning on flat numpy vectors: no I/O, no clock, no global random source."""

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
