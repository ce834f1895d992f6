"""Federations over bridged brokers in the simulator: sites are cut off and healed, beside all that befalls boards."""

from __future__ import annotations

import pytest

from edge_peer.protocol.earshot import Earshot
from tests.sim.sites import failure

SEEDS = 120
CHUNK = 40


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_sites_that_are_cut_off_and_healed_break_no_invariant_and_every_run_ends(start: int) -> None:  # C8, I1, I3, I8
    failures = [why for seed in range(start, start + CHUNK) if (why := failure(seed))]
    assert not failures, "\n".join(failures)


def test_a_controller_that_does_not_wait_for_the_others_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:  # C8
    monkeypatch.setattr(Earshot, "suffices", lambda self, since_s: True)
    assert any("C8" in failure(seed) for seed in range(SEEDS))


def test_the_same_seed_is_the_same_world() -> None:
    transcripts: list[list[str]] = [[], []]
    for transcript in transcripts:
        assert failure(5, transcript.append) == ""
    assert transcripts[0] == transcripts[1]
    assert any("is cut off" in line for line in transcripts[0])
