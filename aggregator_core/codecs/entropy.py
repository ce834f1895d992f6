"""Bytes without what their frequencies make superfluous: Huffman codes by zlib, and never more than is expected back.

A block is its length in four bytes, little-endian, and a raw DEFLATE stream (RFC 1951) if that is shorter than the
content, else the content itself. The reader knows the content's length, so it knows which of the two it has.

Rounded changes are close to independent: there are no repeated strings to find, only frequencies and runs of zeros. The
strategy Z_RLE looks for no more than those. `make bench-codecs` compares it with zlib's default and with `zstandard`,
which would have to save much to be worth another dependency of every board.
"""

from __future__ import annotations

import zlib

from aggregator_core.codecs.errors import PayloadError
from aggregator_core.codecs.reader import Reader

#: Bytes that a block may have more than its content.
OVERHEAD = 4
#: Z_RLE is the same at all levels but for effort that it does not use.
LEVEL = 6
MEMORY = 9


def deflate(content: bytes) -> bytes:
    """A block of `content`, at most OVERHEAD bytes longer."""
    writer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, MEMORY, zlib.Z_RLE)
    packed = writer.compress(content) + writer.flush()
    if len(packed) >= len(content):
        packed = content
    return len(packed).to_bytes(4, "little") + packed


def inflate(reader: Reader, size: int, what: str) -> bytes | memoryview:
    """Read the block of a content of exactly `size` bytes; takes no more memory than one byte above that.

    Raises:
        PayloadError: The block is cut off, damaged, or of a content of another length.
    """
    packed = reader.take(reader.count(size, f"length of {what}"), what)
    if len(packed) == size:
        return packed
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than there may be: without room for it the stream's end would not be read.
        content = inflater.decompress(packed, size + 1)
    except zlib.error as error:
        raise PayloadError(f"{what} cannot be decompressed: {error}") from None
    if len(content) > size:
        raise PayloadError(f"{what} decompresses to more than {size} bytes")
    if not inflater.eof:
        raise PayloadError(f"{what} ends after {len(content)} of {size} bytes")
    if len(content) < size:
        raise PayloadError(f"{what} decompresses to {len(content)} bytes, not {size}")
    if inflater.unused_data:
        raise PayloadError(f"{len(inflater.unused_data)} bytes follow the end of {what}")
    return content
