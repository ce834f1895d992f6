"""Tensors on the wire and on disk: safetensors files with one JSON document as their metadata.

The format is 8 bytes with the header's length, a JSON header, then the values. Written by the safetensors package; read
here, because a payload from the network is refused by its sizes before anything is made of it.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from aggregator_core.layout import Layout
from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.fields import Fields, parse_object
from edge_peer.protocol.messages import ModelRef, UpdateOffer

F32 = npt.NDArray[np.float32]
DOCUMENT = "edge_peer"
UPDATE_TENSOR = "update"
#: A header is parsed only up to this length, and what a name, a shape and offsets take for each tensor more: parsed
#: JSON takes many times its length of memory.
HEADER_BYTES = 32 << 10
HEADER_BYTES_TENSOR = 512


def digest_of(vector: F32) -> str:
    """SHA-256 of a flat vector as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(vector, "<f4").data).hexdigest()


def encode_model(layout: Layout, ref: ModelRef, vector: F32) -> bytes:
    """A global model with its tensors by name, so that other tools can open it."""
    return _encode(layout.split(vector), asdict(ref))


def encode_update(offer: UpdateOffer, change: F32) -> bytes:
    """What training changed, as one flat tensor."""
    return _encode({UPDATE_TENSOR: change}, asdict(offer))


def _encode(tensors: dict[str, F32], document: dict[str, Any]) -> bytes:
    # One entry only: with more, the package writes them in an order that differs from process to process.
    return save(tensors, {DOCUMENT: json.dumps(document, sort_keys=True, allow_nan=False)})


def decode_model_ref(layout: Layout, payload: bytes) -> ModelRef:
    """Which model a payload says it is; of its values only the length is checked. Raises RemoteProtocolError."""
    header, start = _header(payload, len(layout.tensors))
    if len(payload) - start != 4 * layout.size:
        raise RemoteProtocolError(f"{len(payload) - start} bytes of values, the model has {4 * layout.size}")
    return ModelRef.read(_document(header))


def decode_model(layout: Layout, payload: bytes) -> tuple[ModelRef, F32]:
    """A global model, checked against the layout and its own digest.

    Returns:
        Its reference, and shape (p,) float32.

    Raises:
        RemoteProtocolError: Anything else than such a model.
    """
    header, start = _header(payload, len(layout.tensors))
    ref = ModelRef.read(_document(header))
    vector = np.empty(layout.size, np.float32)
    shapes = {tensor.name: tensor.shape for tensor in layout.tensors}
    parts = _tensors(payload, header, start, shapes)
    for tensor in layout.tensors:
        vector[tensor.offset : tensor.offset + tensor.size] = parts[tensor.name]
    if not np.isfinite(vector).all():
        raise RemoteProtocolError("model has values that are not finite")
    found = digest_of(vector)
    if found != ref.sha256:
        raise RemoteProtocolError(f"model has digest {found[:12]}, its metadata says {ref.sha256[:12]}")
    return ref, vector


def decode_offer(payload: bytes) -> UpdateOffer:
    """Which update a payload says it is, without touching its values; raises RemoteProtocolError."""
    return UpdateOffer.read(_document(_header(payload, 1)[0]))


def decode_change(payload: bytes, offer: UpdateOffer, size: int) -> F32:
    """The values of an update, shape (size,) float32; raises RemoteProtocolError with the reason to tell its sender."""
    header, start = _header(payload, 1)
    if offer.codec != "float32":
        raise RemoteProtocolError(f"codec {offer.codec!r} is not known here, only float32")
    # A copy: the payload and whatever else is in it need not be held until the round is over.
    change: F32 = _tensors(payload, header, start, {UPDATE_TENSOR: (size,)})[UPDATE_TENSOR].copy()
    found = digest_of(change)
    if found != offer.digest:
        raise RemoteProtocolError(f"values have digest {found[:12]}, the offer says {offer.digest[:12]}")
    return change


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


def _tensors(payload: bytes, header: dict[str, Any], start: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, F32]:
    """Exactly these float32 tensors, flat; every offset is checked before it is used."""
    names = {name for name in header if name != "__metadata__"}
    if names != set(shapes):
        found = [name[:40] for name in sorted(names)[:5]]
        raise RemoteProtocolError(f"tensors are {found}, expected {sorted(shapes)[:5]}")
    parts: dict[str, F32] = {}
    for name, shape in shapes.items():
        facts = header[name]
        if not isinstance(facts, dict) or facts.get("dtype") != "F32" or facts.get("shape") != list(shape):
            said = {key: facts.get(key) for key in ("dtype", "shape")} if isinstance(facts, dict) else facts
            raise RemoteProtocolError(f"{name} is {str(said)[:100]}, expected float32{list(shape)}")
        offsets = facts.get("data_offsets")
        bytes_ = 4 * math.prod(shape)
        if (
            not isinstance(offsets, list)
            or len(offsets) != 2
            or not all(isinstance(it, int) and not isinstance(it, bool) for it in offsets)
            or not 0 <= offsets[0] <= len(payload)
            or offsets[1] - offsets[0] != bytes_
            or start + offsets[1] > len(payload)
        ):
            raise RemoteProtocolError(f"{name}: offsets {str(offsets)[:60]} do not hold {bytes_} bytes")
        parts[name] = np.frombuffer(payload, "<f4", bytes_ // 4, start + offsets[0]).astype(np.float32, copy=False)
    if start + sum(4 * math.prod(shape) for shape in shapes.values()) != len(payload):
        raise RemoteProtocolError(f"payload of {len(payload)} bytes has bytes that belong to no tensor")
    return parts
