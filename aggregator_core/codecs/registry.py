"""Codecs by name."""

from __future__ import annotations

import random
import re
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aggregator_core.checks import check_update
from aggregator_core.codecs.errors import CodecNameError, PayloadError
from aggregator_core.codecs.floats import Float16, Float32
from aggregator_core.codecs.integers import Integers
from aggregator_core.codecs.sparse import TopK
from aggregator_core.layout import Layout

F32 = npt.NDArray[np.float32]


class Codec(Protocol):
    """How a change of the weights is written."""

    def encode(self, change: F32, layout: Layout, rng: random.Random | None) -> bytes:
        """The payload of a finite change, shape (p,)."""

    def decode(self, payload: memoryview, layout: Layout) -> F32:
        """The change, shape (p,), in memory of its own; raises PayloadError."""

    def bound(self, layout: Layout) -> int:
        """Bytes of the longest payload."""


CODECS: dict[str, Codec] = {"float32": Float32(), "float16": Float16(), "int8": Integers(8), "int4": Integers(4)}
#: What a name may be, for messages and documents.
FORMS = (*CODECS, "topk-<fraction>")
#: One way to write each fraction: names are compared. Six digits are a millionth.
FRACTION = re.compile(r"topk-(?:(1)|0\.([0-9]{0,5}[1-9]))")


def codec_of(name: str) -> Codec:
    """The codec of a name; raises CodecNameError."""
    if name in CODECS:
        return CODECS[name]
    match = FRACTION.fullmatch(name)
    if match is None:
        raise CodecNameError(
            f"codec {name[:80]!r} is not one of {', '.join(FORMS)}, where a fraction is 1 or like 0.01, with at most "
            "six digits after the point and no zero at the end"
        )
    digits = match[2]
    return TopK(1, 1) if digits is None else TopK(int(digits), 10 ** len(digits))


def check_name(name: str) -> None:
    """Raise CodecNameError if there is no such codec here."""
    codec_of(name)


def bound(name: str, layout: Layout) -> int:
    """Bytes of the longest payload that the codec gives for any change of this layout.

    Raises:
        CodecNameError: There is no such codec.
    """
    return codec_of(name).bound(layout)


def encode(name: str, change: F32, layout: Layout, rng: random.Random | None = None) -> bytes:
    """The payload of a change.

    Args:
        name: The codec, one of FORMS.
        change: Shape (p,), float32, finite; not modified.
        layout: Of the model.
        rng: Of stochastic rounding: the same state gives the same payload. None: rounded to the nearest, which is
            biased; meant for error feedback. Codecs without integers draw nothing.

    Returns:
        At most `bound(name, layout)` bytes.

    Raises:
        CodecNameError: There is no such codec.
        RefusedUpdateError: The change is not finite or does not fit the layout, or a value does not fit the codec.
    """
    codec = codec_of(name)
    check_update(change, layout.size)
    return codec.encode(change, layout, rng)


def decode(name: str, payload: bytes | memoryview, layout: Layout) -> F32:
    """The change of a payload of anybody.

    Args:
        name: The codec that it was written with.
        payload: As `encode` gave it.
        layout: Of the model.

    Returns:
        Shape (p,), float32, finite, in memory of its own.

    Raises:
        CodecNameError: There is no such codec.
        PayloadError: The payload is too long, cut off, goes on after its end, or holds a number that none has.
    """
    codec = codec_of(name)
    view = memoryview(payload).cast("B")
    most = codec.bound(layout)
    if len(view) > most:
        raise PayloadError(f"payload of {len(view)} bytes, codec {name} gives at most {most} for this model")
    return codec.decode(view, layout)
