"""What the soak takes for growth, and what not."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from bench.processes import Figures, figures
from bench.soak.samples import (
    BROKER,
    CSV,
    KEPT,
    KEPT_BYTES_MAX,
    PROCESS_LOG,
    ROUND_LOG,
    Samples,
    Series,
    kind_of,
    sizes,
)
from bench.soak.verdict import findings, growth, slope, thirds

MIB = 2**20
PEERS = 6


def series(name: str = "p1", rounds: int = 2000, kib: float = 0.0, noise_kib: float = 100.0, **figures_: int) -> Series:
    """A process whose memory grows by `kib` a hundred rounds, with noise that stays for a while like an allocator's."""
    rng = random.Random(1)
    it = Series(name, 7)
    wander = 0.0
    for round_ in range(0, rounds, 4):
        wander = 0.9 * wander + rng.gauss(0, noise_kib / 3)
        rss = 56 * MIB + int(1024 * (kib * round_ / 100 + wander))
        it.at.append(round_)
        it.figures.append(Figures(0.0, rss, **{"threads": 5, "descriptors": 9, **figures_}))
    return it


def samples(*watched: Series, **files: list[tuple[int, int]]) -> Samples:
    it = Samples()
    for i, one in enumerate(watched):
        it._series[one.name, i] = one
    it.files = {"p1": dict(files)}
    return it


@pytest.mark.parametrize("kib", [0.0, 3.0, 20.0, 300.0])
def test_the_slope_is_found_within_its_error(kib: float) -> None:
    found = slope(series(kib=kib))
    assert found is not None
    assert abs(found.kib - kib) <= found.error_kib < 10


def test_a_straight_line_has_no_error() -> None:
    found = slope(series(kib=12.5, noise_kib=0))
    assert found is not None
    assert found.kib == pytest.approx(12.5, abs=0.01)
    assert found.error_kib < 0.01


def test_the_second_half_is_judged_alone() -> None:
    it = series(noise_kib=0)
    it.figures = [
        Figures(0.0, figures.rss_bytes + min(at, 1000) * 1024, figures.threads, figures.descriptors)
        for at, figures in zip(it.at, it.figures, strict=True)
    ]
    whole, later = slope(it), slope(it, later=True)
    assert whole is not None
    assert later is not None
    assert whole.kib > 40
    assert later.kib == pytest.approx(0, abs=0.1)


def test_nothing_is_said_of_a_process_that_was_there_for_a_few_rounds() -> None:
    assert slope(series(rounds=400)) is None
    assert slope(Series("p1", 7)) is None


def test_memory_that_grows_is_found_and_flat_memory_is_not() -> None:
    assert findings(samples(series(), series("p2", kib=-50)), PEERS) == []
    (found,) = findings(samples(series(), series("p2", kib=80)), PEERS)
    assert found.startswith("p2 (process 7): memory grows by ")


def test_a_descriptor_that_stays_open_is_found() -> None:
    leaking = series()
    leaking.figures = [
        Figures(0.0, it.rss_bytes, it.threads, it.descriptors + (at > 1000))
        for at, it in zip(leaking.at, leaking.figures, strict=True)
    ]
    assert findings(samples(leaking), PEERS) == ["p1 (process 7): descriptors from 9 to 10"]


def test_a_file_that_is_open_now_and_then_is_no_leak() -> None:
    assert thirds([9, 9, 10, 9, 11, 9, 9, 12, 9]) == (9, 9)


def test_too_many_threads_or_connections_are_found() -> None:
    assert findings(samples(series(threads=7)), PEERS) == ["p1 (process 7): 7 threads"]
    assert findings(samples(series(BROKER, threads=1, descriptors=18)), PEERS) == []
    assert findings(samples(series(BROKER, threads=1, descriptors=19)), PEERS) == [
        "broker (process 7): 19 descriptors, for 6 peers"
    ]


def line(first: int, last: int) -> list[tuple[int, int]]:
    return [(round_, first + (last - first) * round_ // 1000) for round_ in range(0, 1001, 10)]


def test_files_grow_by_design_within_a_rate_and_else_not() -> None:
    assert growth(line(0, 200_000)) == pytest.approx(200)
    assert findings(samples(**{CSV: line(0, 200_000), ROUND_LOG: line(0, 700_000)}), PEERS) == []
    assert findings(samples(**{CSV: line(0, 500_000)}), PEERS) == ["p1: CSV grows by 500 bytes a round, more than 400"]
    assert findings(samples(checkpoint=line(11_000, 12_000)), PEERS) == []
    assert findings(samples(**{KEPT: line(0, KEPT_BYTES_MAX)}), PEERS) == []
    assert findings(samples(**{KEPT: line(0, 400_000)}), PEERS) == [
        "p1: kept updates are 400000 bytes, to keep were 200000"
    ]
    (found,) = findings(samples(checkpoint=line(100_000, 900_000)), PEERS)
    assert found.startswith("p1: checkpoint was ")


def test_files_are_known_by_their_names(tmp_path: Path) -> None:
    run = tmp_path / "runs/20260101-000000-abcdef"
    (run / "updates/.7.new").mkdir(parents=True)
    for path in (
        run / "p1.csv",
        run / "rounds.jsonl",
        run / "updates/.7.new/p2.safetensors",
        tmp_path / ".state.json.new",
    ):
        path.write_bytes(b"12345")
    assert sizes(tmp_path) == {CSV: 5, ROUND_LOG: 5, KEPT: 5, "state": 5}
    assert kind_of(Path("logs/p1.log")) == PROCESS_LOG
    assert sizes(tmp_path / "gone") == {}


def test_figures_are_of_the_process_that_is_asked_for(tmp_path: Path) -> None:
    before = figures(os.getpid())
    with (tmp_path / "open").open("w"):
        now = figures(os.getpid())
    assert before is not None
    assert now is not None
    assert now.descriptors == before.descriptors + 1
    assert now.rss_bytes > MIB
    assert now.threads >= 1
    assert figures(2**22 + 1) is None
