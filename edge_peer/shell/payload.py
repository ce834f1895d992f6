"""Tensors on the wire and on disk: safetensors files with one JSON document as their metadata.

The format is 8 bytes with the header's length, a JSON header, then the values. Written by the safetensors package; read
here, because a payload from the network is refused by its sizes before anything is made of it.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from aggregator_core import RefusedUpdateError, check_update
from aggregator_core.codecs import CodecNameError, PayloadError, bound
from aggregator_core.layout import Layout
from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.fields import Fields, parse_object
from edge_peer.protocol.tensors import Delta, ModelRef, UpdateOffer
from edge_peer.shell.changes import Change, Encoded
from edge_peer.shell.global_model import SLOTS, GlobalModel

F32 = npt.NDArray[np.float32]
DOCUMENT = "edge_peer"
#: What is encoded stands as bytes: what they mean is the codec's business.
UPDATE_TENSOR = "update"
CONTROL_TENSOR = "control"
#: Arrays of the server's state stand behind the model's tensors.
SERVER = "server_state/"
#: A header is parsed only up to this length, and what a name, a shape and offsets take for each tensor more: parsed
#: JSON takes many times its length of memory.
HEADER_BYTES = 32 << 10
HEADER_BYTES_TENSOR = 512


@dataclass(frozen=True, slots=True)
class Expected:
    """What a tensor must be.

    Attributes:
        dtype: As safetensors names it, `F32` or `U8`.
        shape: Its dimensions; None: a row of 1 to `bytes_max` bytes.
        bytes_max: Of its values.
    """

    dtype: str
    shape: tuple[int, ...] | None
    bytes_max: int

    def admits(self, facts: Any) -> bool:
        """Whether what a header says of a tensor is this."""
        if not isinstance(facts, dict) or facts.get("dtype") != self.dtype:
            return False
        shape = facts.get("shape")
        if self.shape is not None:
            return bool(shape == list(self.shape))
        return isinstance(shape, list) and len(shape) == 1 and _is_int(shape[0]) and 1 <= shape[0] <= self.bytes_max

    def __str__(self) -> str:
        """For a message."""
        if self.shape is not None:
            return f"float32{list(self.shape)}"
        return f"a row of at most {self.bytes_max} bytes"


def float32(*shape: int) -> Expected:
    """A tensor of values as they are."""
    return Expected("F32", shape, 4 * math.prod(shape))


def encode_model(layout: Layout, ref: ModelRef, model: GlobalModel) -> bytes:
    """A global model with its tensors by name, so that other tools can open it; the server's state behind them."""
    server = {f"{SERVER}{name}": values for name, values in model.server.items()}
    return encode_tensors({**layout.split(model.vector), **server}, asdict(ref))


def encode_update(offer: UpdateOffer, change: Encoded) -> bytes:
    """What training changed, in the bytes of the offer's codec."""
    return _encode_change(change, asdict(offer))


def encode_delta(delta: Delta, change: Encoded) -> bytes:
    """What a round changed, in the bytes of the delta's codec."""
    return _encode_change(change, asdict(delta))


def _encode_change(change: Encoded, document: dict[str, Any]) -> bytes:
    parts = {UPDATE_TENSOR: change.vector, CONTROL_TENSOR: change.control}
    return encode_tensors(
        {name: np.frombuffer(part, np.uint8) for name, part in parts.items() if part is not None}, document
    )


def encode_tensors(tensors: Mapping[str, npt.NDArray[Any]], document: dict[str, Any]) -> bytes:
    """Tensors by name, and what they are."""
    # One entry only: with more, the package writes them in an order that differs from process to process.
    return save(dict(tensors), {DOCUMENT: json.dumps(document, sort_keys=True, allow_nan=False)})


def decode_model_ref(layout: Layout, payload: bytes) -> ModelRef:
    """Which model a payload says it is; of its values only the length is checked. Raises RemoteProtocolError."""
    header, start = _header(payload, len(layout.tensors) + len(SLOTS))
    needed = 4 * (layout.size + layout.trained_size * len(_slots(header)))
    if len(payload) - start != needed:
        raise RemoteProtocolError(f"{len(payload) - start} bytes of values, the model has {needed}")
    return ModelRef.read(_document(header))


def decode_model(layout: Layout, payload: bytes) -> tuple[ModelRef, GlobalModel]:
    """A global model, checked against the layout and its own digest.

    Returns:
        Its reference, and the model.

    Raises:
        RemoteProtocolError: Anything else than such a model.
    """
    header, start = _header(payload, len(layout.tensors) + len(SLOTS))
    ref = ModelRef.read(_document(header))
    slots = _slots(header)
    expected = {tensor.name: float32(*tensor.shape) for tensor in layout.tensors}
    parts = _tensors(
        payload, header, start, expected | {f"{SERVER}{slot}": float32(layout.trained_size) for slot in slots}
    )
    vector = np.empty(layout.size, np.float32)
    for tensor in layout.tensors:
        vector[tensor.offset : tensor.offset + tensor.size] = values(parts[tensor.name])
    # Copies: the payload need not be held for as long as the model.
    model = GlobalModel(vector, {slot: values(parts[f"{SERVER}{slot}"]).copy() for slot in slots})
    for array in (model.vector, *model.server.values()):
        if not np.isfinite(array).all():
            raise RemoteProtocolError("model has values that are not finite")
    found = model.digest
    if found != ref.sha256:
        raise RemoteProtocolError(f"model has digest {found[:12]}, its metadata says {ref.sha256[:12]}")
    return ref, model


def _slots(header: dict[str, Any]) -> tuple[str, ...]:
    """Which arrays of the server's state a model has; others are found out as unknown tensors."""
    return tuple(slot for slot in SLOTS if f"{SERVER}{slot}" in header)


def decode_offer(payload: bytes) -> UpdateOffer:
    """Which update a payload says it is, without touching its values; raises RemoteProtocolError."""
    return UpdateOffer.read(_document(_header(payload, 2)[0]))


def decode_delta(payload: bytes) -> Delta:
    """Which change of which model a payload says it is, without touching its values; raises RemoteProtocolError."""
    return Delta.read(_document(_header(payload, 2)[0]))


def decode_update(payload: bytes, offer: UpdateOffer, layout: Layout) -> Change:
    """The values of an update; raises RemoteProtocolError with the reason to tell its sender."""
    change = decode_change(payload, offer.codec, layout)
    found = change.digest
    if found != offer.digest:
        raise RemoteProtocolError(f"values have digest {found[:12]}, the offer says {offer.digest[:12]}")
    return change


def decode_change(payload: bytes, codec: str, layout: Layout) -> Change:
    """The values of an update or a delta, finite; raises RemoteProtocolError."""
    try:
        change = decode_encoded(payload, codec, layout).decode(codec, layout)
        for vector in (change.vector, change.control):
            if vector is not None:
                check_update(vector, layout.size)
    except (PayloadError, CodecNameError, RefusedUpdateError) as error:
        raise RemoteProtocolError(str(error)) from None
    return change


def decode_encoded(payload: bytes, codec: str, layout: Layout) -> Encoded:
    """The bytes of an update or a delta in its codec, views of the payload; raises RemoteProtocolError."""
    header, start = _header(payload, 2)
    try:
        row = Expected("U8", None, bound(codec, layout))
    except CodecNameError as error:
        raise RemoteProtocolError(str(error)) from None
    expected = {UPDATE_TENSOR: row} | ({CONTROL_TENSOR: row} if CONTROL_TENSOR in header else {})
    parts = _tensors(payload, header, start, expected)
    return Encoded(parts[UPDATE_TENSOR], parts.get(CONTROL_TENSOR))


def decode_tensors(
    payload: bytes, expected: dict[str, Expected], optional: frozenset[str]
) -> tuple[Fields, dict[str, F32]]:
    """Tensors by name, of which those in `optional` may be missing, and what they are; raises RemoteProtocolError."""
    header, start = _header(payload, len(expected))
    there = {name: it for name, it in expected.items() if name in header or name not in optional}
    parts = _tensors(payload, header, start, there)
    return _document(header), {name: values(part).copy() for name, part in parts.items()}


def values(part: memoryview) -> F32:
    """A tensor of float32, flat."""
    return np.frombuffer(part, "<f4").astype(np.float32, copy=False)


def _header(payload: bytes, tensors: int) -> tuple[dict[str, Any], int]:
    if len(payload) < 8:
        raise RemoteProtocolError(f"{len(payload)} bytes are no safetensors file")
    length = int.from_bytes(payload[:8], "little")
    if not 2 <= length <= min(HEADER_BYTES + tensors * HEADER_BYTES_TENSOR, len(payload) - 8):
        raise RemoteProtocolError(f"header of {length} bytes in a payload of {len(payload)}")
    try:
        header = json.loads(payload[8 : 8 + length].decode())
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"header is not JSON: {str(error)[:100]}") from None
    if not isinstance(header, dict):
        raise RemoteProtocolError("header is not an object")
    return header, 8 + length


def _document(header: dict[str, Any]) -> Fields:
    metadata = header.get("__metadata__")
    text = metadata.get(DOCUMENT) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise RemoteProtocolError(f"metadata has no {DOCUMENT}")
    return parse_object(text.encode("utf-8", "surrogatepass"))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tensors(
    payload: bytes, header: dict[str, Any], start: int, expected: Mapping[str, Expected]
) -> dict[str, memoryview]:
    """The bytes of exactly these tensors; every offset is checked before it is used."""
    names = {name for name in header if name != "__metadata__"}
    if names != set(expected):
        found = [name[:40] for name in sorted(names)[:5]]
        raise RemoteProtocolError(f"tensors are {found}, expected {sorted(expected)[:5]}")
    parts: dict[str, memoryview] = {}
    total = 0
    for name, it in expected.items():
        facts = header[name]
        if not it.admits(facts):
            said = {key: facts.get(key) for key in ("dtype", "shape")} if isinstance(facts, dict) else facts
            raise RemoteProtocolError(f"{name} is {str(said)[:100]}, expected {it}")
        offsets = facts.get("data_offsets")
        bytes_ = it.bytes_max if it.shape is not None else facts["shape"][0]
        if (
            not isinstance(offsets, list)
            or len(offsets) != 2
            or not all(_is_int(offset) for offset in offsets)
            or not 0 <= offsets[0] <= len(payload)
            or offsets[1] - offsets[0] != bytes_
            or start + offsets[1] > len(payload)
        ):
            raise RemoteProtocolError(f"{name}: offsets {str(offsets)[:60]} do not hold {bytes_} bytes")
        total += bytes_
        parts[name] = memoryview(payload)[start + offsets[0] : start + offsets[1]]
    if start + total != len(payload):
        raise RemoteProtocolError(f"payload of {len(payload)} bytes has bytes that belong to no tensor")
    return parts
