"""What a daemon needs before it can start: the model and its board's shard, checked against each other."""

from __future__ import annotations

from data_shards.errors import ShardError
from data_shards.shard import Shard, read_shard, with_shape
from edge_peer.config import Config
from edge_peer.errors import ResourceError
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.trainers.artifacts import ModelArtifacts, ModelError, load_artifacts


def check_run(artifacts: ModelArtifacts, run: RunSettings) -> None:
    """Whether the model can be trained so; raises ModelError."""
    if run.scaffold:
        # Said here, not by every peer in every round: there is no control variate of this model.
        artifacts.optimizer.effective_steps(1, run.learning_rate or artifacts.learning_rate, run.proximal)


def load_resources(config: Config) -> tuple[ModelArtifacts, Shard | None]:
    """The model and the shard, checked against each other.

    Raises:
        ResourceError: One is missing or damaged, or they do not fit; names the command that makes it.
    """
    artifacts = load_artifacts(config.model.artifacts)
    check_run(artifacts, config.run)
    if config.shard.path is None:
        return artifacts, None
    try:
        shard = read_shard(config.shard.path)
    except ShardError as error:
        raise ResourceError(str(error)) from None
    fitting = with_shape(shard, artifacts.input_shape)
    if fitting is None or shard.classes > artifacts.classes:
        raise ModelError(
            f"{config.shard.path}: examples of shape {list(shard.x_train.shape[1:])} in {shard.classes} classes do not "
            f"fit model {artifacts.model_id}, which takes {list(artifacts.input_shape)} in {artifacts.classes}"
        )
    return artifacts, fitting
