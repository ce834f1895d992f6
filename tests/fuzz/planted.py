"""A target with a bug, by which the tests see that one is found, kept and replayed."""

from __future__ import annotations

from tests.fuzz.target import Target


def run(data: bytes) -> str:
    assert b"!" not in data, "the planted bug"
    return "nothing"


TARGET = Target(run, frozenset({"nothing"}), ("edge_peer.errors",))
