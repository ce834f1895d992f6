"""Names of vectors: whoever has the same values has the same digest, on every board."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def digest_of(vector: F32, beside: Mapping[str, F32] | None = None) -> str:
    """SHA-256 of a flat vector as little-endian float32, and of what belongs to it, each with its name before it."""
    digest = hashlib.sha256(np.ascontiguousarray(vector, "<f4").data)
    for name, values in sorted((beside or {}).items()):
        digest.update(f"{name}\0".encode())
        digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.hexdigest()
