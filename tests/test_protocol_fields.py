"""Reading fields of hostile JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.fields import COUNT_MAX, DOCUMENT_BYTES_MAX, ENTRIES_MAX, INTEGER_MAX, Fields, parse_object

READERS: dict[str, Callable[[Fields], Any]] = {
    "text": lambda it: it.text("x"),
    "name": lambda it: it.name("x"),
    "digest": lambda it: it.digest("x"),
    "integer": lambda it: it.integer("x", 1, 10),
    "count": lambda it: it.count("x"),
    "number": lambda it: it.number("x", 0, 1),
    "flag": lambda it: it.flag("x"),
    "one_of": lambda it: it.one_of("x", frozenset({"a", "b"})),
    "object": lambda it: it.object("x"),
    "names": lambda it: it.names("x"),
    "mapping": lambda it: it.mapping("x"),
    "texts": lambda it: it.texts("x"),
    "numbers": lambda it: it.numbers("x"),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
GOOD: list[tuple[str, Any, Any]] = [
    ("text", "Größe 3", "Größe 3"),
    ("name", "board-1", "board-1"),
    ("digest", "0f" * 32, "0f" * 32),
    ("integer", 10, 10),
    ("count", COUNT_MAX, COUNT_MAX),
    ("number", 1, 1.0),
    ("number", 0.5, 0.5),
    ("flag", False, False),
    ("one_of", "a", "a"),
    ("names", ["b", "a"], ("b", "a")),
    ("texts", {"b": "two", "a": "one"}, {"a": "one", "b": "two"}),
    ("numbers", {"cpu": 3}, {"cpu": 3.0}),
]
BAD: list[tuple[str, Any]] = [
    ("text", 1),
    ("text", "x" * 501),
    ("text", "two\nlines"),
    ("text", "red \x1b[31m"),
    ("name", "a/b"),
    ("name", ""),
    ("digest", "0F" * 32),
    ("digest", "0f" * 31),
    ("integer", 0),
    ("integer", 11),
    ("integer", True),
    ("integer", 1.0),
    ("count", COUNT_MAX + 1),
    ("count", -1),
    ("number", True),
    ("number", "0.5"),
    ("number", 1.01),
    ("number", 10**400),
    ("flag", 1),
    ("flag", "true"),
    ("one_of", "c"),
    ("one_of", ["a"]),
    ("object", []),
    ("names", "ab"),
    ("names", ["a", "a"]),
    ("names", ["a", 1]),
    ("names", [f"p{index}" for index in range(ENTRIES_MAX + 1)]),
    ("mapping", {"a": 1}),
    ("mapping", {"a b": {}}),
    ("texts", {"a": 1}),
    ("texts", {f"p{index}": "" for index in range(ENTRIES_MAX + 1)}),
    ("numbers", {"a": "1"}),
    ("numbers", {"a": 1e300}),
]


@pytest.mark.parametrize(("reader", "value", "expected"), GOOD)
def test_good_values_are_read(reader: str, value: Any, expected: Any) -> None:
    assert READERS[reader](Fields({"x": value}, "document")) == expected


@pytest.mark.parametrize(("reader", "value"), BAD, ids=lambda it: str(it)[:30])
def test_bad_values_are_refused_with_their_path(reader: str, value: Any) -> None:
    with pytest.raises(RemoteProtocolError, match=r"document\.x") as caught:
        READERS[reader](Fields({"x": value}, "document"))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_field_is_named(reader: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"document\.x is missing"):
        READERS[reader](Fields({}, "document"))


@given(value=JSON, reader=st.sampled_from(sorted(READERS)))
def test_any_value_is_read_or_refused(value: Any, reader: str) -> None:  # I10
    try:
        READERS[reader](Fields({"x": value}, "document"))
    except RemoteProtocolError:
        return
    json.dumps(value)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"1",
        b"null",
        b'{"x": NaN}',
        b'{"x": Infinity}',
        b'{"x": 1',
        b"[" * 100_000,
        b'{"x":' * 100_000,
        b'{"x": "' + b"a" * DOCUMENT_BYTES_MAX + b'"}',
        b'{"x": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda it: repr(it[:12]),
)
def test_what_is_no_small_json_object_is_refused(payload: bytes) -> None:  # I10
    with pytest.raises(RemoteProtocolError):
        parse_object(payload).integer("x")


@given(payload=st.binary())
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:  # I10
    try:
        parse_object(payload)
    except RemoteProtocolError:
        return
    assert isinstance(json.loads(payload), dict)


def test_an_own_count_goes_on_from_the_highest_that_others_may_claim() -> None:  # I10
    assert INTEGER_MAX > 2 * COUNT_MAX - 2
    assert Fields({"x": None}, "document").has("x") is False
