"""What a run leaves for people: rows, the round log, the final models, kept updates. None of it stops a run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from edge_peer.config import Config, to_toml
from edge_peer.errors import ResourceError
from edge_peer.protocol import commands as do
from edge_peer.protocol.tensors import ModelRef
from edge_peer.shell.class_counts import CLASSES, class_counts
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.health import Health
from edge_peer.shell.history import History
from edge_peer.shell.payload import encode_model
from edge_peer.shell.store import write_atomically
from edge_peer.shell.telemetry import peak_rss_bytes
from edge_peer.trainers.artifacts import ModelArtifacts
from edge_peer.trainers.deployed import int8_model
from edge_peer.trainers.int8 import NotQuantizableError
from edge_peer.trainers.interface import F32, I32

LOG = logging.getLogger(__name__)


class Records:
    """Writes one peer's records; a full disk costs a record, not the run.

    Args:
        config: Where, and what is written beside the final model; may be replaced.
        artifacts: The model.
    """

    def __init__(self, config: Config, artifacts: ModelArtifacts) -> None:
        self.config = config
        self._artifacts = artifacts
        self._history = History(config.peer.state_dir / "runs", config.peer.name)
        self._bytes = (0, 0)

    def write_row(self, row: do.WriteRow, carried: tuple[int, int], health: Health) -> tuple[int, int]:
        """Append a round's row; returns the bytes sent and received since the row before.

        Args:
            row: What the protocol knows of the round.
            carried: Bytes sent and received so far; the row has what came since the row before.
            health: Of the board.
        """
        sent, received = carried[0] - self._bytes[0], carried[1] - self._bytes[1]
        self._bytes = carried
        with self._only_a_record("CSV"):
            self._history.write_row(row, sent, received, peak_rss_bytes(), health)
        return sent, received

    def log_round(self, command: do.LogRound) -> None:
        """Append to the controller's round log."""
        with self._only_a_record("round log"):
            self._history.log_round(command.run_id, command.event, command.fields)

    def finish(self, command: do.RunFinished, model: GlobalModel | None) -> None:
        """Write the final model, in float and int8, and the configuration in effect."""
        with self._only_a_record("final model"):
            folder = self._history.run_folder(command.ref.run_id)
            if model is not None:
                content = encode_model(self._artifacts.layout, command.ref, model)
                write_atomically(folder / "model.safetensors", content)
                self._write_int8(folder / "model.int8.tflite", model.vector)
            write_atomically(folder / "config.toml", to_toml(self.config).encode())

    def count_classes(self, ref: ModelRef, trained: I32, tested: I32, predicted: I32 | None) -> None:
        """Write what the shard holds of each class, and what the final int8 model takes its test split for."""
        with self._only_a_record("class counts"):
            folder = self._history.run_folder(ref.run_id) / CLASSES
            folder.mkdir(exist_ok=True)
            peer = self.config.peer.name
            content = class_counts(ref.run_id, peer, ref.round, trained, tested, predicted)
            write_atomically(folder / f"{peer}.csv", content)

    def _write_int8(self, path: Path, vector: F32) -> None:
        try:
            content = int8_model(self._artifacts, vector)
        except (NotQuantizableError, ResourceError) as error:
            LOG.warning("no int8 model of the final weights: %s", error)
        else:
            if content is not None:
                write_atomically(path, content)

    def sync(self) -> None:
        """Bring what was appended to the disk."""
        with self._only_a_record("records"):
            self._history.sync()

    @contextlib.contextmanager
    def _only_a_record(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            LOG.error("%s not written: %s", what, error)
