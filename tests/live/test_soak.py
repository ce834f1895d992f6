"""A short soak: peers are killed, leave and come back, and nothing that stays open is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.soak.play import KILL, LEAVE, RESIGN, STEADY, TRAINER, Soak
from bench.soak.samples import GROWS, Series
from bench.soak.verdict import THREADS_MAX, findings

pytestmark = pytest.mark.live

ROUNDS = 60
#: By then everybody has loaded everything, and been asked for everything once.
WARM = 15


def least(series: Series, first: int, last: int) -> int:
    """Descriptors that are open all the time: a file that is written at this very moment is none of them."""
    return min(it.descriptors for at, it in zip(series.at, series.figures, strict=True) if first <= at <= last)


@pytest.mark.again
def test_a_short_soak_leaves_nothing_open(tmp_path: Path) -> None:
    soak = Soak(tmp_path, 5, ROUNDS, 1, 16, print, gap=(4, 7), away=(2, 6))
    try:
        soak.run()
    finally:
        soak.close()
    assert soak.failures == []
    assert soak.complaints() == {}
    assert all(soak.events[kind] > 0 for kind in (KILL, LEAVE, RESIGN, "join")), soak.events
    assert findings(soak.samples, 5) == []
    steady = {it.name: it for it in soak.samples.series if it.name in (TRAINER, STEADY)}
    assert steady.keys() == {TRAINER, STEADY}
    for series in steady.values():
        assert series.rounds >= ROUNDS - WARM
        assert least(series, WARM, 2 * WARM) == least(series, ROUNDS - WARM, ROUNDS)
        assert max(it.threads for it in series.figures) <= THREADS_MAX
    for kinds in soak.samples.files.values():
        assert kinds.keys() >= {"state", "checkpoint", *GROWS} - {"round log"}
