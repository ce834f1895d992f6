"""Payloads: what is sent is read, and of hostile ones nothing but RemoteProtocolError ever comes out."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save
from tiny import LAYOUT, offer_of, ref_of, vector

from edge_peer.errors import RemoteProtocolError
from edge_peer.shell import payload as payload_module
from edge_peer.shell.payload import (
    DOCUMENT,
    decode_change,
    decode_model,
    decode_model_ref,
    decode_offer,
    digest_of,
    encode_model,
    encode_update,
)

MODEL = vector(1)
REF = ref_of(MODEL)
CHANGE = vector(2)
OFFER = offer_of(CHANGE)
MODEL_BYTES = encode_model(LAYOUT, REF, MODEL)
UPDATE_BYTES = encode_update(OFFER, CHANGE)


def read_model(payload: bytes) -> Any:
    decode_model_ref(LAYOUT, payload)
    return decode_model(LAYOUT, payload)


def read_update(payload: bytes) -> Any:
    offer = decode_offer(payload)
    return offer, decode_change(payload, offer, LAYOUT.size)


READERS = {"model": (read_model, MODEL_BYTES), "update": (read_update, UPDATE_BYTES)}


def built(header: Any, values: bytes = b"") -> bytes:
    """A payload with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def header_of(payload: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(payload[:8], "little")
    return json.loads(payload[8:end]), payload[end:]


def test_a_model_is_read_as_it_was_sent() -> None:
    ref, found = decode_model(LAYOUT, MODEL_BYTES)
    assert ref == REF == decode_model_ref(LAYOUT, MODEL_BYTES)
    assert found.dtype == np.float32
    assert found.tobytes() == MODEL.tobytes()


def test_an_update_is_read_as_it_was_sent_and_does_not_hold_the_payload() -> None:
    offer = decode_offer(UPDATE_BYTES)
    found = decode_change(UPDATE_BYTES, offer, LAYOUT.size)
    assert offer == OFFER
    assert found.tobytes() == CHANGE.tobytes()
    assert found.base is None


def test_the_same_model_is_the_same_bytes() -> None:
    assert {encode_model(LAYOUT, REF, MODEL) for _ in range(50)} == {MODEL_BYTES}
    assert {encode_update(OFFER, CHANGE) for _ in range(50)} == {UPDATE_BYTES}


def test_other_tools_open_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(MODEL_BYTES)
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == {"dense/kernel", "dense/bias"}
        np.testing.assert_array_equal(file.get_tensor("dense/kernel"), MODEL[:6].reshape(2, 3))
        assert json.loads(file.metadata()[DOCUMENT]) == asdict(REF)


def test_the_digest_is_of_little_endian_float32() -> None:
    assert digest_of(np.array([1.0], np.float32)) == digest_of(np.array([1.0], ">f4"))
    assert digest_of(np.array([0.0], np.float32)) == "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"


@pytest.mark.parametrize("kind", READERS)
def test_a_payload_cut_off_anywhere_is_refused(kind: str) -> None:
    read, whole = READERS[kind]
    read(whole)
    for length in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            read(whole[:length])


@pytest.mark.parametrize("kind", READERS)
def test_a_payload_with_more_at_its_end_is_refused(kind: str) -> None:
    read, whole = READERS[kind]
    with pytest.raises(RemoteProtocolError, match=r"37 bytes of values|bytes that belong to no tensor"):
        read(whole + b"\0")


@pytest.mark.parametrize("kind", READERS)
def test_any_changed_value_is_refused(kind: str) -> None:
    read, whole = READERS[kind]
    for place in range(len(whole) - 4 * LAYOUT.size, len(whole)):
        for bit in (0x01, 0x80):
            with pytest.raises(RemoteProtocolError, match=r"digest|not finite"):
                read(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])


DEEP = b"[" * 10_000
GARBAGE = {
    "empty": b"",
    "a byte": b"\0",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "text": b"hello, this is no safetensors file",
    "json without length": b'{"a": 1}',
    "length of everything": (2**64 - 1).to_bytes(8, "little") + b"{}",
    "length is negative": (2**63).to_bytes(8, "little") + b"{}",
    "length zero": bytes(8) + b"{}",
    "header a list": built([]),
    "header null": built(None),
    "header no json": built(b"{'a': 1}"),
    "header no utf-8": built(b'{"\xff": 1}'),
    "header deep": built(b'{"a": ' + DEEP),
    "header of many digits": built(b'{"a": ' + b"9" * 9000 + b"}"),
    "header nan": built(b'{"a": NaN, "__metadata__": Infinity}'),
    "header empty": built({}),
    "metadata a list": built({"__metadata__": []}),
    "metadata a number": built({"__metadata__": {DOCUMENT: 3}}),
    "document no json": built({"__metadata__": {DOCUMENT: "{"}}),
    "document a list": built({"__metadata__": {DOCUMENT: "[]"}}),
    "document deep": built({"__metadata__": {DOCUMENT: DEEP.decode()}}),
    "document empty": built({"__metadata__": {DOCUMENT: "{}"}}),
    "document surrogate": built(b'{"__metadata__": {"' + DOCUMENT.encode() + b'": "{\\ud800"}}'),
    "pickle": b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("kind", READERS)
def test_garbage_is_refused(kind: str, name: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        READERS[kind][0](GARBAGE[name])
    assert str(raised.value)


def update_with(**facts: Any) -> bytes:
    header, values = header_of(UPDATE_BYTES)
    header["update"].update(facts)
    return built(header, values)


SIZE = 4 * LAYOUT.size
LIES = {
    "dtype": (update_with(dtype="F64"), r"'dtype': 'F64'.*expected float32\[9\]"),
    "dtype a list": (update_with(dtype=["F32"]), r"expected float32"),
    "shape": (update_with(shape=[3, 3]), r"'shape': \[3, 3\].*expected float32\[9\]"),
    "shape too long": (update_with(shape=[10]), r"expected float32\[9\]"),
    "shape negative": (update_with(shape=[-9]), r"expected float32\[9\]"),
    "shape of a number": (update_with(shape=9), r"expected float32\[9\]"),
    "offsets swapped": (update_with(data_offsets=[SIZE, 0]), "do not hold 36 bytes"),
    "offsets beyond": (update_with(data_offsets=[SIZE, 2 * SIZE]), "do not hold 36 bytes"),
    "offsets before": (update_with(data_offsets=[-4, SIZE - 4]), "do not hold 36 bytes"),
    "offsets short": (update_with(data_offsets=[0, SIZE - 4]), "do not hold 36 bytes"),
    "offsets huge": (update_with(data_offsets=[2**70, 2**70 + SIZE]), "do not hold 36 bytes"),
    "offsets of floats": (update_with(data_offsets=[0.0, float(SIZE)]), "do not hold 36 bytes"),
    "offsets of truths": (update_with(data_offsets=[False, SIZE]), "do not hold 36 bytes"),
    "offsets missing": (update_with(data_offsets=None), "do not hold 36 bytes"),
    "three offsets": (update_with(data_offsets=[0, SIZE, SIZE]), "do not hold 36 bytes"),
    "one off": (update_with(data_offsets=[1, SIZE + 1]), "do not hold 36 bytes"),
    "another name": (built({**header_of(UPDATE_BYTES)[0], "other": {}}, bytes(SIZE)), "tensors are"),
    "tensor a list": (built({**header_of(UPDATE_BYTES)[0], "update": []}, bytes(SIZE)), "expected float32"),
    "values of another": (encode_update(OFFER, vector(7)), r"digest \w{12}, the offer says \w{12}"),
    "codec": (encode_update(offer_of(CHANGE, "top-k"), CHANGE), "codec 'top-k' is not known here, only float32"),
    "hole": (built(header_of(UPDATE_BYTES)[0], bytes(4 * SIZE)), "bytes that belong to no tensor"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_about_an_update_are_refused_with_a_reason_that_can_be_told(name: str) -> None:
    content, message = LIES[name]
    offer = decode_offer(content)
    with pytest.raises(RemoteProtocolError, match=message) as raised:
        decode_change(content, offer, LAYOUT.size)
    assert str(raised.value).isprintable()


def test_a_model_whose_tensors_overlap_is_refused() -> None:
    header, values = header_of(MODEL_BYTES)
    header["dense/bias"]["data_offsets"] = [header["dense/kernel"]["data_offsets"][0] + it for it in (0, 12)]
    with pytest.raises(RemoteProtocolError, match="model has digest"):
        read_model(built(header, values))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_is_not_finite_is_refused(value: float) -> None:
    bad = MODEL.copy()
    bad[4] = value
    with pytest.raises(RemoteProtocolError, match="model has values that are not finite"):
        read_model(encode_model(LAYOUT, ref_of(bad), bad))


def test_a_model_of_other_tensors_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match=r"tensors are \['dense/bias', 'other'\], expected"):
        read_model(save({"dense/bias": MODEL[:3], "other": MODEL[:6]}, header_of(MODEL_BYTES)[0]["__metadata__"]))


def test_a_reason_stays_short_and_printable_whatever_the_names_are() -> None:
    header, values = header_of(UPDATE_BYTES)
    header["\n2026 ERROR forged\x1b[31m" + "x" * 20_000] = header.pop("update")
    content = built(header, values)
    with pytest.raises(RemoteProtocolError) as raised:
        decode_change(content, decode_offer(content), LAYOUT.size)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


# ---------------------------------------------------------------------- fuzz


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes changed, taken out, put in, or doubled; mostly in the header, where the structure is."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 12))
        content[place : place + length] = draw(
            st.binary(max_size=12)
            | st.sampled_from([b"NaN", b"-1", b"1e999", b"null", b"[[", b"{}", b'"', b"\xed\xa0\x80", b"9" * 30])
        )
    return bytes(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda it: st.lists(it, max_size=3) | st.dictionaries(st.text(max_size=8), it, max_size=3),
    max_leaves=6,
)


@st.composite
def restructured(draw: st.DrawFn, whole: bytes) -> bytes:
    """A header that is JSON, with any value anywhere in it."""
    header, values = header_of(whole)
    document = json.loads(header["__metadata__"][DOCUMENT])
    for target in draw(st.lists(st.sampled_from(["document", "tensor", "header", "metadata"]), min_size=1, max_size=3)):
        owner: dict[str, Any] = {
            "document": document,
            "tensor": header[min(set(header) - {"__metadata__"})] if len(header) > 1 else {},
            "header": header,
            "metadata": header.get("__metadata__"),
        }[target]
        if isinstance(owner, dict):
            owner[draw(st.sampled_from([*owner, "new"]))] = draw(JSON)
        if isinstance(header.get("__metadata__"), dict) and target == "document":
            header["__metadata__"][DOCUMENT] = json.dumps(document)
    return built(header, values)


def check_refused_or_equal(read: Callable[[bytes], Any], whole: bytes, content: bytes) -> None:
    try:
        _, found = read(content)
    except RemoteProtocolError as error:
        assert str(error)  # noqa: PT017 - a change may also be of no consequence, such as a space in the header
    else:
        assert found.tobytes() == read(whole)[1].tobytes()


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_nothing_but_a_refusal_comes_out_of_mutated_bytes(kind: str, data: st.DataObject) -> None:
    read, whole = READERS[kind]
    check_refused_or_equal(read, whole, data.draw(mutated(whole)))


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_nothing_but_a_refusal_comes_out_of_any_json(kind: str, data: st.DataObject) -> None:
    read, whole = READERS[kind]
    check_refused_or_equal(read, whole, data.draw(restructured(whole)))


@given(st.binary(max_size=300))
@example(b"\x02" + bytes(7) + b"{}")
@settings(deadline=None)
def test_nothing_but_a_refusal_comes_out_of_any_bytes(content: bytes) -> None:
    for read, _ in READERS.values():
        with pytest.raises(RemoteProtocolError):
            read(content)


# ---------------------------------------------------------------------- memory


def peak_of(read: Callable[[bytes], Any], content: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            read(content)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


MEGABYTES = 1 << 20
BLOATED = {
    "header of lists": built(b'{"a": [' + b"[]," * (4 * MEGABYTES) + b"[]]}"),
    "header of spaces": built(b"{" + b" " * (16 * MEGABYTES) + b"}"),
    "document of lists": built({"__metadata__": {DOCUMENT: '{"a": [' + "[]," * MEGABYTES + "[]]}"}}),
    "values": built(header_of(UPDATE_BYTES)[0], bytes(16 * MEGABYTES)),
    "values without a header": bytes(16 * MEGABYTES),
    "shape of everything": update_with(shape=[2**31 - 1]),
}


@pytest.mark.parametrize("name", BLOATED)
@pytest.mark.parametrize("kind", READERS)
def test_a_hostile_payload_takes_little_memory_beside_itself(kind: str, name: str) -> None:
    assert peak_of(READERS[kind][0], BLOATED[name]) < MEGABYTES


def test_the_largest_header_that_is_read_takes_little_memory() -> None:
    limit = payload_module.HEADER_BYTES + payload_module.HEADER_BYTES_TENSOR
    content = built(b'{"a": [' + b"[]," * ((limit - 20) // 3) + b"[]]}")
    assert peak_of(read_update, content) < 4 * MEGABYTES


def test_a_layout_of_many_tensors_has_room_for_its_header() -> None:
    from aggregator_core import Layout, Tensor

    names = [f"model/block_{number:04d}/attention/output/dense/{'x' * 150}/kernel" for number in range(2000)]
    layout = Layout(tuple(Tensor(name, (1, 1), offset) for offset, name in enumerate(names)))
    model = np.arange(2000, dtype=np.float32)
    ref, found = decode_model(layout, encode_model(layout, ref_of(model), model))
    assert ref == decode_model_ref(layout, encode_model(layout, ref, model))
    assert found.tobytes() == model.tobytes()
