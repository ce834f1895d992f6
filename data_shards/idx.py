"""Read IDX files (the format of MNIST), gzipped or not, without trusting their headers.

Source: "The IDX file format" in the description of MNIST by LeCun, Cortes and Burges: two zero bytes, a type (8:
unsigned byte), the number of dimensions, each dimension as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError

#: MNIST's largest file is 47 MB; nothing that small boards train on comes near this.
BYTES_MAX = 1 << 30
UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int, sha256: str | None = None) -> npt.NDArray[np.uint8]:
    """Read a file of unsigned bytes.

    Args:
        path: The file; gzipped if its name ends with .gz.
        dimensions: How many it must have: 3 for images, 1 for labels.
        sha256: What its unzipped content must be.

    Raises:
        DataError: It cannot be read, is not such a file, is too large, or is another one than expected.
    """
    content = read_content(path)
    if sha256 is not None:
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise DataError(
                f"{path}: its content has sha256 {found[:16]}..., expected {sha256[:16]}...: it is damaged or another "
                "file; delete it and fetch it again"
            )
    header = 4 + 4 * dimensions
    if len(content) < header or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE or content[3] != dimensions:
        raise DataError(f"{path}: not an IDX file of unsigned bytes with {dimensions} dimensions")
    shape: tuple[int, ...] = struct.unpack_from(f">{dimensions}I", content, 4)
    if 0 in shape or math.prod(shape) != len(content) - header:
        raise DataError(f"{path}: header says shape {list(shape)}, but {len(content) - header} values follow")
    array: npt.NDArray[Any] = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    return array


def read_content(path: Path) -> bytes:
    """A file's bytes, unzipped if its name ends with .gz; raises DataError."""
    try:
        with path.open("rb") as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            content: bytes = file.read(BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if len(content) > BYTES_MAX:
        raise DataError(f"{path}: more than {BYTES_MAX} bytes unzipped")
    return content
