"""A folder for decoders that read files: in memory where there is such a file system, gone with the process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")


def scratch() -> Path:
    """A new folder."""
    folder = Path(tempfile.mkdtemp(prefix="edge-peer-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def write(folder: Path, name: str, content: bytes) -> Path:
    """A file in it."""
    path = folder / name
    path.write_bytes(content)
    return path
