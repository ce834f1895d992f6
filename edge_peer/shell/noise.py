"""This peer's noise, for runs with differential privacy.

What is added to an update must not be drawn twice for the same update: who sees it with two different noises knows more
than was promised, and a peer that loses power between training and sending trains again. So the noise of a vector is a
keyed function of it and of how much noise it gets: the same vector gets the same noise, another vector or another
amount gets noise that has nothing to do with it, and nobody without this peer's key can compute either. (Of the same
noise in two amounts the vector could be computed.) The key is made when it is first needed, and stays on the board.
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aggregator_core.parameters import ParameterError
from aggregator_core.privacy import Privacy, clipped, noised
from aggregator_core.privacy_accountant import epsilon
from edge_peer.errors import ResourceError
from edge_peer.protocol.run_settings import RunSettings

F32 = npt.NDArray[np.float32]
KEY_BYTES = 32


def privacy_of(settings: RunSettings) -> Privacy | None:
    """What a run promises; None: nothing. Raises ParameterError."""
    if settings.privacy == "none":
        return None
    return Privacy(settings.privacy, settings.privacy_clip, settings.privacy_noise, settings.privacy_delta)


def cost(settings: RunSettings, rounds: int) -> float | None:
    """Epsilon after so many rounds of a run; None: nothing is promised."""
    try:
        privacy = privacy_of(settings)
        return None if privacy is None else epsilon(privacy.noise_multiplier, rounds, privacy.delta)
    except ParameterError:
        return None


class KeyedBytes(random.Random):
    """Bytes that are a function of a secret and of what they are for: SHAKE256, an extendable-output function."""

    def __new__(cls, key: bytes, purpose: bytes) -> KeyedBytes:  # noqa: ARG004 - what Random seeds itself with
        """Without the arguments, of which `random.Random` would make a seed."""
        return super().__new__(cls)

    def __init__(self, key: bytes, purpose: bytes) -> None:
        super().__init__()
        self._seed = hashlib.sha3_256(key + purpose).digest()
        self._blocks = 0

    def randbytes(self, n: int) -> bytes:
        """The next `n` bytes."""
        self._blocks += 1
        return hashlib.shake_256(self._seed + self._blocks.to_bytes(8, "big")).digest(n)


class Noise:
    """Adds this peer's noise.

    Args:
        folder: Where the key is kept.
        trained_size: Values at a vector's beginning that gradients train.
    """

    def __init__(self, folder: Path, trained_size: int) -> None:
        self._path = folder / "noise.key"
        self._trained_size = trained_size
        self._key = b""
        # The loop's thread and the trainer's.
        self._lock = threading.Lock()

    def shortened(self, vector: F32, privacy: Privacy) -> F32:
        """An update within the run's bounds, shape (p,), float32."""
        return clipped(vector, privacy, self._trained_size)

    def of_own(self, change: F32, privacy: Privacy, place: str) -> F32:
        """A shortened update with this peer's noise, shape (p,), float32; `place` names run and round."""
        return noised(change, privacy, self._trained_size, self._bytes("update", place, change, privacy))

    def of_mean(self, mean: F32, peers: int, privacy: Privacy, place: str) -> F32:
        """The mean of shortened updates with the controller's noise, shape (p,), float32."""
        source = self._bytes("mean", place, mean, privacy, peers)
        return noised(mean, privacy, self._trained_size, source, peers=peers)

    def _bytes(self, what: str, place: str, vector: F32, privacy: Privacy, peers: int = 1) -> KeyedBytes:
        values = hashlib.sha256(np.ascontiguousarray(vector, "<f4").data).hexdigest()
        amount = privacy.deviations(peers, state=self._trained_size < vector.size)
        return KeyedBytes(self._secret(), f"{what}\0{place}\0{amount}\0{values}".encode())

    def _secret(self) -> bytes:
        with self._lock:
            if not self._key:
                self._key = self._read() or self._make()
            return self._key

    def _read(self) -> bytes:
        try:
            key = self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ResourceError(f"{self._path}: cannot be read ({error.strerror})") from None
        return key if len(key) == KEY_BYTES else b""

    def _make(self) -> bytes:
        key = secrets.token_bytes(KEY_BYTES)
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            # Never readable by others, not even for a moment; and on the disk before anything is told with it.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise ResourceError(
                f"{self._path}: cannot be written ({error.strerror}); free some space, or see to its rights, and start "
                "again"
            ) from None
        return key
