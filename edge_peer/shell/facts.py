"""What the protocol is told of this peer: what its process has found once, and what its configuration says now."""

from __future__ import annotations

import secrets
from dataclasses import replace

from data_shards.shard import Shard
from edge_peer.config import Config
from edge_peer.protocol.settings import PeerSettings
from edge_peer.shell.aggregation import CoreAggregation
from edge_peer.shell.telemetry import capability
from edge_peer.trainers.artifacts import ModelArtifacts


class Facts:
    """Measures the board and names the session when it is made; both stay as long as the process.

    Args:
        config: As the process was started with.
        artifacts: The model's.
        shard: What this peer trains on; None: nothing.
    """

    def __init__(self, config: Config, artifacts: ModelArtifacts, shard: Shard | None) -> None:
        self._artifacts = artifacts
        self._score, self._parts = capability(0.0)
        self._fixed = PeerSettings(
            peer=config.peer.name,
            session=secrets.token_hex(8),
            model_id=artifacts.model_id,
            model_digest=artifacts.digest,
            initial_sha256=artifacts.initial_sha256,
            examples=len(shard.y_train) if shard is not None else 0,
            test_examples=len(shard.y_test) if shard is not None else 0,
            roster=config.federation.roster,
            min_peers=config.federation.min_peers,
            timing=config.timing,
            peers_max=config.limits.peers_max,
        )

    def told(self, config: Config) -> PeerSettings:
        """With what a reload can change, as this configuration says."""
        return replace(
            self._fixed,
            control=config.peer.control,
            train=config.peer.train,
            controller_trains=config.peer.controller_trains,
            score=self._score + config.peer.priority,
            score_parts={**self._parts, "priority": config.peer.priority},
            run=replace(config.run, learning_rate=config.run.learning_rate or self._artifacts.learning_rate),
            aggregation=CoreAggregation(config.run),
        )
