"""What survives a loss of power: small state and the newest model, each written whole or not at all."""

from __future__ import annotations

import logging
import os
import queue
import threading
from dataclasses import replace
from pathlib import Path

from aggregator_core.layout import Layout
from edge_peer.errors import RemoteProtocolError, ResourceError
from edge_peer.protocol.state import SavedState
from edge_peer.protocol.tensors import ModelRef
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.payload import decode_model, encode_model

LOG = logging.getLogger(__name__)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that after a loss of power at any instant it is the old or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Store:
    """The files of one peer.

    Args:
        folder: Made if it is not there.

    Raises:
        ResourceError: It cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._state_path = folder / "state.json"
        self._checkpoint_path = folder / "checkpoint.safetensors"
        self._state: bytes = b""
        self._held: ModelRef | None = None
        self._thread: threading.Thread | None = None
        self._models: queue.SimpleQueue[tuple[Layout, ModelRef, GlobalModel]] = queue.SimpleQueue()
        self._written = threading.Event()
        self._written.set()
        self._failed: BaseException | None = None
        self.bytes_written = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / ".writable", b"")
            (folder / ".writable").unlink()
        except OSError as error:
            raise ResourceError(
                f"[peer] state_dir = {str(folder)!r} cannot be written to ({error.strerror}); make it and give it to "
                "the user that the peer runs as"
            ) from None

    def load(self, layout: Layout) -> tuple[SavedState, GlobalModel | None]:
        """What the last process left; a damaged file is set aside and the peer goes on with the rest."""
        state = SavedState()
        content = self._read(self._state_path)
        if content is not None:
            try:
                state = SavedState.decode(content)
                self._state = content
            except RemoteProtocolError as error:
                self._set_aside(self._state_path, error)
        content = self._read(self._checkpoint_path)
        held: ModelRef | None = None
        model: GlobalModel | None = None
        if content is not None:
            try:
                held, model = decode_model(layout, content)
                self._held = held
            except RemoteProtocolError as error:
                self._set_aside(self._checkpoint_path, error)
        # The checkpoint itself says which model it is; it is written more often than the state.
        return replace(state, held=held), model

    def save_state(self, state: SavedState) -> None:
        """Write the state, unless it is there already; raises ResourceError when the disk does not take it."""
        content = replace(state, held=None).encode()
        if content != self._state:
            self._write(self._state_path, content)
            self._state = content

    def save_model(self, layout: Layout, ref: ModelRef, model: GlobalModel) -> None:
        """Begin to write the newest model, unless it is there already; `settle` waits for it.

        On a thread of its own: a slow card takes as long as a round, in which the broker wants to be answered.

        Raises:
            ResourceError: The disk has not taken the one before.
        """
        self.settle()
        if ref != self._held:
            self._held = ref
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_models, name="disk", daemon=True)
                self._thread.start()
            self._written.clear()
            self._models.put((layout, ref, model))

    def _write_models(self) -> None:
        while True:
            try:
                self._write(self._checkpoint_path, encode_model(*self._models.get()))
            except BaseException as error:  # noqa: BLE001 - not lost: `settle` raises it where the loop sees it
                self._failed = error
            self._written.set()

    def settle(self, wait: bool = True) -> None:
        """Return when the model is on the disk; without `wait`, look only whether writing it has failed.

        Raises:
            ResourceError: The disk does not take it.
        """
        if wait:
            self._written.wait()
        if self._failed is not None:
            raise self._failed

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomically(path, content)
        except OSError as error:
            # What follows depends on it, so there is no going on without.
            raise ResourceError(
                f"{path}: cannot be written ({error.strerror}); free some space, or see to its rights, and start again"
            ) from None
        self.bytes_written += len(content)

    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResourceError(f"{path}: cannot be read ({error.strerror})") from None

    @staticmethod
    def _set_aside(path: Path, error: Exception) -> None:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        LOG.error("%s is damaged (%s); set aside as %s, going on without it", path, error, aside.name)
