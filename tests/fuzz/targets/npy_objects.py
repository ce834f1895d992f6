"""The reader of .npy files that hold an object, which must never become the pickle machine that it looks like."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_shards.errors import DataError
from data_shards.npy_objects import HEADER, MAGIC, read_npy_object
from tests.fuzz.checks import assert_clean
from tests.fuzz.target import Target

PLAIN = (str, int, float, bool, bytes, type(None))


def run(data: bytes) -> str:
    try:
        value = read_npy_object(data, "file")
    except DataError as error:
        assert_clean(str(error))
        return "refused"
    assert _weight(value) <= len(data), "more came out than went in"
    return type(value).__name__


def _weight(value: Any) -> int:
    """How many values and bytes there are, each of which takes a byte of the file; fails for what is no data."""
    weight, waiting = 0, [value]
    while waiting:
        it = waiting.pop()
        weight += 1
        if type(it) in (list, tuple):
            waiting.extend(it)
        elif type(it) is dict:
            assert all(type(key) is str for key in it)
            waiting.extend(it.values())
        elif type(it) is np.ndarray:
            assert it.dtype.kind in "iuf"
            assert not it.flags.writeable
            # Values above 127 take two bytes in the file, and others one.
            weight += it.nbytes
        elif type(it) is str:
            weight += len(it.encode("utf-8", "surrogatepass"))
        else:
            assert type(it) in PLAIN, type(it)
    return weight


TARGET = Target(
    run,
    frozenset({"refused", "dict", "list", "tuple", "ndarray", "int", "float", "str", "bool", "NoneType"}),
    ("data_shards.npy_objects",),
    # An instruction of one byte can make a list.
    memory_a_byte=300,
    length_max=2048,
    words=(
        MAGIC,
        HEADER,
        b"cnumpy.core.multiarray\n_reconstruct\nq\x00",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"c_codecs\nencode\n",
        b"cos\nsystem\n",
        b"\x80\x02",
        b"(K\x00t",
        b"\x87R",
        b"\x85",
        b"]q",
        b"}q",
        b"u.",
        b"X\x03\x00\x00\x00",
        b"b.",
    ),
)
