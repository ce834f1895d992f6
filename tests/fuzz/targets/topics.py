"""Topics, as anybody may choose them: `<federation>\\n<topic>`."""

from __future__ import annotations

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.topics import KINDS, Topics, is_name
from tests.fuzz.checks import assert_clean
from tests.fuzz.target import Target


def run(data: bytes) -> str:
    federation, _, topic = data.decode("utf-8", "surrogateescape").partition("\n")
    if not is_name(federation):
        return "no federation"
    topics = Topics(federation)
    try:
        peer, kind = topics.parse(topic)
    except RemoteProtocolError as error:
        assert_clean(str(error))
        return "refused"
    assert topics.of(peer, kind) == topic
    assert "/" not in peer
    assert peer not in (".", "..")
    level = topics.filter(kind).split("/")
    assert [own for own, asked in zip(topic.split("/"), level, strict=True) if asked not in (own, "+")] == []
    return kind


TARGET = Target(
    run,
    KINDS | {"refused"},
    ("edge_peer.protocol.topics",),
    length_max=512,
    words=(b"fl/v1/", b"home", *(f"/{kind}".encode() for kind in sorted(KINDS)), b"+", b"#", b"..", b"$SYS/"),
)
