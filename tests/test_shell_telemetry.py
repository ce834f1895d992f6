"""Measurements of the board: plausible, and in the units that they say."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_peer.protocol.messages import Presence, decode, encode
from edge_peer.protocol.topics import PRESENCE
from edge_peer.shell import telemetry
from edge_peer.shell.telemetry import capability, disk_free_bytes, memory_available_bytes, peak_rss_bytes


def test_peak_memory_is_what_the_kernel_says_elsewhere_and_never_falls() -> None:
    before = peak_rss_bytes()
    assert before == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.05)
    block = np.ones(before // 8 + (8 << 20), np.uint64)
    grown = peak_rss_bytes()
    assert grown > before + (32 << 20)
    del block
    # The kernel counts per thread and adds up now and then.
    assert peak_rss_bytes() > 0.99 * grown


def test_available_memory_is_less_than_all_of_it() -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (1 << 20) < memory_available_bytes() <= whole


def test_free_disk(tmp_path: Path) -> None:
    assert disk_free_bytes(tmp_path) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


@pytest.mark.parametrize("content", ["", "VmHWM:", "VmHWM: many kB", "Other: 5 kB"])
def test_a_kernel_that_does_not_say_it_is_a_zero(tmp_path: Path, content: str) -> None:
    path = tmp_path / "status"
    path.write_text(content)
    assert telemetry.kibibytes(path, "VmHWM:") == 0
    assert telemetry.kibibytes(tmp_path / "nothing", "VmHWM:") == 0
    path.write_text("Name: x\nVmHWM:\t   12 kB\n")
    assert telemetry.kibibytes(path, "VmHWM:") == 12 * 1024


def test_the_score_is_rounded_and_grows_with_the_priority() -> None:
    score, parts = capability(0.0)
    assert score > 0
    assert len(f"{score:g}".strip("0").replace(".", "")) <= 3
    assert set(parts) == {"cores", "gflops", "memory_gb", "priority"}
    assert parts["cores"] == os.cpu_count()
    assert capability(1000.0)[0] >= 1000
    assert capability(1000.0)[1]["priority"] == 1000


@pytest.mark.parametrize("clock", [lambda: 1.0, iter(range(10**6)).__next__], ids=["stands still", "slow"])
def test_any_clock_gives_a_score_that_can_be_sent(monkeypatch: pytest.MonkeyPatch, clock: object) -> None:
    monkeypatch.setattr(telemetry.time, "perf_counter", clock)
    score, parts = capability(1e6)
    presence = Presence(session="session", online=True, score=score, parts=parts)
    assert decode(PRESENCE, encode(presence)) == presence
