"""What a peer remembers over a loss of power."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.fields import COUNT_MAX
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.state import RunRecord, SavedState
from tests.sim.hand import ref

COUNTS = st.integers(0, COUNT_MAX + 1000)
STATES = st.builds(
    SavedState,
    voted_term=COUNTS,
    voted_for=st.sampled_from(["", "a", "b"]),
    elected_term=COUNTS,
    run=st.none()
    | st.builds(
        RunRecord, st.just("run"), COUNTS.map(lambda it: it + 1), st.just(RunSettings()), st.none() | st.just("stopped")
    ),
    held=st.none() | st.just(ref(3)),
    finished=COUNTS,
)


@given(state=STATES)
def test_what_is_saved_is_read(state: SavedState) -> None:  # I7, and I10: counts from others stay readable
    assert SavedState.decode(state.encode()) == state


@pytest.mark.parametrize("payload", [b"", b"{}", b"null", SavedState(3, "a").encode()[:-9], b'{"voted_term": -1}'])
def test_a_damaged_state_is_refused_and_never_half_read(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        SavedState.decode(payload)
