"""The controller's half of a round: the updates that are held become the next global model."""

from __future__ import annotations

from aggregator_core import RefusedUpdateError
from aggregator_core.codecs import CodecNameError
from aggregator_core.layout import Layout
from aggregator_core.parameters import ParameterError
from edge_peer.protocol.commands import Aggregate
from edge_peer.protocol.events import AggregateFailed, AggregateReady
from edge_peer.protocol.tensors import Delta, ModelRef
from edge_peer.shell.aggregation import Merged, merge
from edge_peer.shell.noise import Noise
from edge_peer.shell.payload import encode_delta
from edge_peer.shell.vectors import Vectors
from edge_peer.trainers.optimizer import LocalOptimizer


class Merger:
    """Makes models of rounds, and remembers what the newest of them has changed.

    Args:
        layout: Of the model.
        vectors: Where base and updates are held, and the new model will be.
        noise: This peer's, for the runs that ask for it.
        optimizer: The model's.
    """

    def __init__(self, layout: Layout, vectors: Vectors, noise: Noise, optimizer: LocalOptimizer) -> None:
        self._layout = layout
        self._vectors = vectors
        self._noise = noise
        self._optimizer = optimizer
        self._newest: tuple[str, Aggregate, Merged] | None = None

    def merge(self, command: Aggregate) -> AggregateReady | AggregateFailed:
        """Combine the updates; the model is held when this returns."""
        try:
            merged = self._merged(command)
        except (RefusedUpdateError, ParameterError, CodecNameError) as error:
            return AggregateFailed(command.term, command.run_id, command.round, str(error))
        digest = merged.model.digest
        self._vectors.hold_model(digest, merged.model)
        self._newest = (digest, command, merged)
        return AggregateReady(command.term, command.run_id, command.round, digest)

    def _merged(self, command: Aggregate) -> Merged:
        base = self._vectors.model(command.base)
        changes = [self._vectors.update(it.offer.digest) for it in command.updates]
        there = [change for change in changes if change is not None]
        if base is None or len(there) < len(changes):
            raise RefusedUpdateError("the base or an update is not held any more")
        return merge(
            self._layout,
            base,
            there,
            command.updates,
            command.settings,
            command.population,
            self._noise,
            self._optimizer,
        )

    def delta(self, ref: ModelRef) -> bytes | None:
        """The payload of what the newest round has changed; None: it has made another model, or is sent whole."""
        if self._newest is None or self._newest[0] != ref.sha256 or self._newest[2].change is None:
            return None
        _, command, merged = self._newest
        settings = command.settings
        delta = Delta(ref, command.base, settings.downlink, settings.server_optimizer, settings.server_parameters)
        assert merged.change is not None
        return encode_delta(delta, merged.change)
