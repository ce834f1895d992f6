"""Codecs of updates: what training changed, in fewer bytes than float32.

    payload = encode(name, change, layout, rng)          what is sent
    change = decode(name, payload, layout)               what everybody who receives it works with
    bound(name, layout)                                  the most bytes that a payload may have: refuse more unread

    payload, residual = encode_with_feedback(name, change, residual, layout, rng)

A name is a codec with its parameters, and is itself a valid name of the protocol:

    float32        the values as they are
    float16        rounded to half precision
    int8, int4     integers from -127 to 127 or -7 to 7, with one scale a channel
    topk-0.01      the hundredth of the values that is largest, the others are zero; any fraction up to 1

Tensors of kind `state`, and tensors of a few values, are float32 in all of them (`plan`). With a `random.Random`
integers are rounded stochastically, so that their expectation is what was encoded; without, to the nearest. `decode`
gives the same bytes everywhere, and so does `encode` but for its last, lossless step: another implementation of zlib
may write the same integers in other bytes. Digests are therefore of decoded vectors.
"""

from aggregator_core.codecs.errors import CodecNameError, PayloadError
from aggregator_core.codecs.feedback import encode_with_feedback
from aggregator_core.codecs.registry import FORMS, bound, check_name, decode, encode

__all__ = [
    "FORMS",
    "CodecNameError",
    "PayloadError",
    "bound",
    "check_name",
    "decode",
    "encode",
    "encode_with_feedback",
]
