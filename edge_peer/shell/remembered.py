"""What a trainer remembers from one update to the next, on disk: a reboot loses nothing of it.

Two files take turns. One is of the last update that was counted, the other of the one that waits for its round to
close; which of them holds, the protocol knows. The second is written before its update is sent, so whatever was
counted is here.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aggregator_core.layout import Layout
from edge_peer.errors import RemoteProtocolError, ResourceError
from edge_peer.protocol.state import Memory
from edge_peer.shell.payload import decode_tensors, encode_tensors, float32
from edge_peer.shell.store import write_atomically

F32 = npt.NDArray[np.float32]
LOG = logging.getLogger(__name__)
RESIDUAL, CONTROL = "residual", "control"


@dataclass(frozen=True, slots=True)
class Remembered:
    """The memory behind an update.

    Attributes:
        residual: What the codec has left out so far, shape (p,), float32; None: nothing is fed back.
        control: This peer's control variate, shape (t,), float32; None: there is none.
    """

    residual: F32 | None = None
    control: F32 | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remember."""
        return self.residual is None and self.control is None


class Remembrance:
    """The memories of one trainer; used by one thread at a time.

    Args:
        folder: Where the files are.
        layout: Of the model.

    Raises:
        ResourceError: A file cannot be read.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._paths = [folder / f"memory-{index}.safetensors" for index in (0, 1)]
        self._expected = {RESIDUAL: float32(layout.size), CONTROL: float32(layout.trained_size)}
        self._held: list[tuple[Memory, Remembered] | None] = [self._read(path) for path in self._paths]

    @property
    def memories(self) -> tuple[Memory, ...]:
        """Which there are."""
        return tuple(held[0] for held in self._held if held is not None)

    def after(self, digest: str | None) -> Remembered:
        """The memory of an own update; of none, an empty one."""
        for held in self._held:
            if held is not None and held[0].digest == digest:
                return held[1]
        return Remembered()

    def put(self, memory: Memory, remembered: Remembered, after: str | None) -> None:
        """Keep the memory of a new update, durably, in place of whichever is not that of `after`.

        Raises:
            ResourceError: The disk does not take it.
        """
        first = self._held[0]
        index = 1 if first is not None and first[0].digest == after else 0
        parts = {RESIDUAL: remembered.residual, CONTROL: remembered.control}
        content = encode_tensors({name: part for name, part in parts.items() if part is not None}, asdict(memory))
        try:
            write_atomically(self._paths[index], content)
        except OSError as error:
            raise ResourceError(
                f"{self._paths[index]}: cannot be written ({error.strerror}); free some space, or see to its rights, "
                "and start again"
            ) from None
        self._held[index] = (memory, remembered)

    def _read(self, path: Path) -> tuple[Memory, Remembered] | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResourceError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            fields, parts = decode_tensors(content, self._expected, frozenset(self._expected))
            memory = Memory(fields.name("run_id"), fields.count("round", 1), fields.digest("digest"))
            if not all(np.isfinite(part).all() for part in parts.values()):
                raise RemoteProtocolError("has values that are not finite")
        except RemoteProtocolError as error:
            # Of another model, or damaged: what a codec once left out is not worth stopping for.
            LOG.warning("%s is of no use (%s); going on without it", path, error)
            return None
        return memory, Remembered(parts.get(RESIDUAL), parts.get(CONTROL))
