"""Topic names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.topics import KINDS, NAME, Topics, is_name

TOPICS = Topics("field-7")


@given(peer=st.from_regex(NAME, fullmatch=True), kind=st.sampled_from(sorted(KINDS)))
def test_what_is_made_is_parsed(peer: str, kind: str) -> None:
    topic = TOPICS.of(peer, kind)
    assert topic == f"fl/v1/field-7/{peer}/{kind}"
    assert TOPICS.parse(topic) == (peer, kind)
    assert TOPICS.filter(kind) == topic.replace(f"/{peer}/", "/+/")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fl/v1/field-7/a",
        "fl/v1/field-7/a/presence/more",
        "fl/v1/other/a/presence",
        "fl/v2/field-7/a/presence",
        "fl/v1/field-7//presence",
        "fl/v1/field-7/a/unknown",
        "fl/v1/field-7/+/presence",
        "fl/v1/field-7/#/presence",
        "fl/v1/field-7/.hidden/presence",
        "fl/v1/field-7/a b/presence",
        "fl/v1/field-7/ä/presence",
    ],
)
def test_other_topics_are_refused(topic: str) -> None:
    with pytest.raises(RemoteProtocolError):
        TOPICS.parse(topic)


@given(topic=st.text())
def test_any_text_is_parsed_or_refused(topic: str) -> None:
    for text in (topic, f"fl/v1/field-7/{topic}", f"fl/v1/field-7/{topic}/vote"):
        try:
            peer, kind = TOPICS.parse(text)
        except RemoteProtocolError:
            continue
        assert TOPICS.of(peer, kind) == text


@pytest.mark.parametrize(
    ("text", "is_one"), [("a", True), ("a" * 64, True), ("a" * 65, False), ("", False), ("a\n", False)]
)
def test_names_have_a_length(text: str, is_one: bool) -> None:
    assert is_name(text) is is_one
