"""What peers say for people who look on: read back as it was said, or refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.tables import attributes
from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.fields import Fields, parse_object
from edge_peer.protocol.onlookers import COLUMNS, NEWEST, ROWS_MAX, History, Sending, encode, thinned
from edge_peer.protocol.topics import FOR_ONLOOKERS, KINDS, RETAINED, Topics

NUMBERS = st.none() | st.floats(0, 1e9)
SENDING = Sending("s", "run", 3, 27_000, 0.5, 1.25)
HISTORY = History("s", "run", 100, *[(1.0, None)] * len(COLUMNS))


@given(data=st.data(), length=st.integers(0, 5))
def test_what_is_said_is_read_back(data: st.DataObject, length: int) -> None:
    columns = [tuple(data.draw(st.lists(NUMBERS, min_size=length, max_size=length))) for _ in COLUMNS]
    history = History("s", "run", 100, *columns)
    assert History.read(parse_object(encode(history))) == history
    assert Sending.read(parse_object(encode(SENDING))) == SENDING


@pytest.mark.parametrize("said", [SENDING, HISTORY], ids=lambda it: type(it).__name__)
def test_a_document_that_lacks_a_field_is_refused(said: Sending | History) -> None:
    fields = json.loads(encode(said))
    for name in fields:
        rest = {key: value for key, value in fields.items() if key != name}
        with pytest.raises(RemoteProtocolError, match=f"{name} is missing"):
            type(said).read(Fields(rest, "document"))


@pytest.mark.parametrize("value", [1, "x", [1, "x"], [True, 1], [1], [1, 2, 3], [1e300, 0], {"0": 1}])
def test_a_column_that_is_none_is_refused(value: object) -> None:
    fields = {**json.loads(encode(HISTORY)), "loss": value}
    with pytest.raises(RemoteProtocolError, match="loss"):
        History.read(Fields(fields, "document"))


@pytest.mark.parametrize("said", [Sending, History], ids=lambda it: it.__name__)
def test_every_field_is_described(said: type[Sending] | type[History]) -> None:
    assert list(attributes(said)) == [item.name for item in dataclasses.fields(said)]


def test_peers_neither_read_them_nor_take_them() -> None:
    assert not FOR_ONLOOKERS & (KINDS | RETAINED)
    for kind in FOR_ONLOOKERS:
        with pytest.raises(RemoteProtocolError, match="unknown kind"):
            Topics("home").parse(f"fl/v1/home/roof/{kind}")


def test_no_row_is_left_out_too_early_nor_one_of_the_newest() -> None:
    assert thinned(list(range(ROWS_MAX))) is None
    rounds: list[int] = []
    for number in range(500):
        rounds.append(number)
        place = thinned(rounds)
        if place is not None:
            assert 0 < place < len(rounds) - NEWEST
            del rounds[place]
        assert len(rounds) <= ROWS_MAX
