"""Many peers, most of them in one process, as `python -m bench.scale` measures them: a round's cost does not square."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scale.fleet import LEADERS, Fleet
from bench.scale.measure import Measuring

pytestmark = pytest.mark.live

PEERS = 16
#: Of a round: its document to all, the model, an update and an evaluation of each; and a beat now and then.
DELIVERIES_A_PEER = 4.0
#: The broker's counters are read in the middle of a round.
TOLERANCE = 1.15


@pytest.mark.again
def test_a_round_of_many_peers_costs_each_as_many_messages_as_one_of_few(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, PEERS, processes_max=LEADERS, run={})
    try:
        measuring = Measuring(fleet, seconds=3.0, events=0, say=print)
        try:
            fleet.start()
            assert fleet.alone == fleet.peers[:LEADERS]
            assert [len(it) for it in fleet.hosted] == [PEERS - LEADERS]
            measuring.rounds()
            measuring.election_in_run()
        finally:
            measuring.close()
    finally:
        fleet.stop()
    result = measuring.result
    assert DELIVERIES_A_PEER / TOLERANCE < result.sent / PEERS < DELIVERIES_A_PEER * TOLERANCE
    # Every peer's rounds are in its CSV, also of those that share a process.
    for peer in fleet.peers:
        (path,) = fleet.fleet.state_dir(peer).glob("runs/*/*.csv")
        assert len(path.read_text().splitlines()) > result.rounds
    assert result.terms
    assert min(result.terms) >= 1
