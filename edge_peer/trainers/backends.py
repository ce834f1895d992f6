"""Which backend trains: chosen by name, loaded when it is needed."""

from __future__ import annotations

from edge_peer.trainers.artifacts import ModelArtifacts
from edge_peer.trainers.interface import Trainer

#: Names, as configuration has them.
BACKENDS = frozenset({"litert", "keras"})


def make_trainer(backend: str, artifacts: ModelArtifacts, threads: int) -> Trainer:
    """A backend with a model.

    Args:
        backend: One of `BACKENDS`.
        artifacts: The exported model.
        threads: How many it may use.

    Raises:
        ResourceError: What it needs is not installed, or cannot load the model.
    """
    if backend == "keras":
        from edge_peer.trainers.keras import KerasTrainer  # noqa: PLC0415 - each loads what only it needs

        return KerasTrainer(artifacts, threads)
    from edge_peer.trainers.litert import LiteRTTrainer  # noqa: PLC0415

    return LiteRTTrainer(artifacts, threads)
