"""Graphs of runs that never happened: what the demo's runs happen not to have."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge_peer.operator.graphs import draw_all
from edge_peer.operator.runs.results import Results, Row

ROW = Row(
    round=0,
    term=1,
    role="trainer",
    time=datetime(2026, 1, 1, tzinfo=timezone.utc),
    examples=100,
    test_examples=50,
    train_loss=1.0,
    local_accuracy=0.5,
    local_loss=1.0,
    global_accuracy=0.5,
    global_loss=1.0,
    int8_accuracy=None,
    training_s=0.1,
    evaluation_s=0.1,
    bytes_sent=0,
    bytes_received=0,
    rss_peak_bytes=60_000_000,
)
LOG = [
    {"event": "committed", "round": 1, "seconds": 0.5, "term": 1, "peer": "a", "time_utc": "2026-01-01T00:00:00+00:00"}
]


@pytest.mark.parametrize("sent", [107_333, 107_800, 108_001])
def test_peers_that_have_sent_the_same_number_of_bytes(tmp_path: Path, sent: int) -> None:
    """Their mean in floating point can be off by a bit, and no bar is shorter than nothing."""
    rows = [ROW, replace(ROW, round=1, bytes_sent=sent, bytes_received=sent + 1)]
    for count in (3, 6, 7):
        draw_all(Results("run", {f"peer{it}": rows for it in range(count)}, LOG), tmp_path)
    assert (tmp_path / "bytes.png").read_bytes().startswith(b"\x89PNG")


def test_int8_is_drawn_where_there_is_some(tmp_path: Path) -> None:
    peers = {"a": [ROW, replace(ROW, round=1)], "b": [ROW, replace(ROW, round=1, test_examples=150)]}
    without = Results("run", peers, LOG)
    assert without.int8_accuracy() == {}
    draw_all(without, tmp_path / "without")
    peers["a"][1] = replace(peers["a"][1], int8_accuracy=0.4)
    peers["b"][1] = replace(peers["b"][1], int8_accuracy=0.8)
    quantized = Results("run", peers, LOG)
    assert quantized.int8_accuracy() == {1: pytest.approx(0.7)}
    draw_all(quantized, tmp_path / "with")
    pictures = [(tmp_path / name / "accuracy.png").read_bytes() for name in ("without", "with")]
    assert pictures[0] != pictures[1]
