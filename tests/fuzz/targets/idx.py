"""IDX files, gzipped or not: a byte of options (dimensions, zipped, packed here), and the file.

With `packed here` the content is gzipped by the target, so that what is mutated stands behind a good checksum.
"""

from __future__ import annotations

import gzip

import numpy as np

from data_shards import idx
from data_shards.errors import DataError
from data_shards.idx import read_idx
from tests.fuzz.checks import assert_clean
from tests.fuzz.scratch import scratch, write
from tests.fuzz.target import Target

FOLDER = scratch()
#: Small enough that the fuzzer comes by a file that is larger.
BYTES_MAX = 1 << 16


def run(data: bytes) -> str:
    options, content = (data[0], data[1:]) if data else (0, b"")
    dimensions, zipped = options & 3, bool(options & 4)
    if options & 8:
        content, zipped = gzip.compress(content, 1), True
    path = write(FOLDER, "file.gz" if zipped else "file", content)
    before, idx.BYTES_MAX = idx.BYTES_MAX, BYTES_MAX
    try:
        array = read_idx(path, dimensions)
    except DataError as error:
        assert_clean(str(error))
        return "too large" if "more than" in str(error) else "refused"
    finally:
        idx.BYTES_MAX = before
    assert array.dtype == np.uint8
    assert array.ndim == dimensions
    assert 0 < array.size <= BYTES_MAX
    return "zipped" if zipped else "plain"


TARGET = Target(
    run,
    frozenset({"refused", "too large", "zipped", "plain"}),
    ("data_shards.idx",),
    length_max=2048,
    words=(b"\0\0\x08\x01", b"\0\0\x08\x03", b"\0\0\0\x01", b"\x1f\x8b\x08"),
)
