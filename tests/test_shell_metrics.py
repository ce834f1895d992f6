"""Metrics as Prometheus reads them, by its own parser; and the file that they stand in."""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from edge_peer.protocol.commands import LogRound, WriteRow
from edge_peer.protocol.messages import Report
from edge_peer.shell.health import Health
from edge_peer.shell.metrics import METRICS, Metrics, Present
from edge_peer.shell.metrics_file import MetricsFile

PRESENT = Present(
    connected=True, controller=False, term=3, sent=10, received=20, dropped=1,
    health=Health(61.5, 6, 0.5, 10**9, 10**10), strained=True, memory_peak=65_000_000,
)  # fmt: skip


def made(**given: str) -> Metrics:
    names = {"federation": "farm", "peer": "kitchen", "version": "0.1.0", "model": "image_cnn", **given}
    return Metrics(**names, examples={"train": 300, "test": 100})


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels, without those that all have; fails where two are the same."""
    found: dict[Any, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("federation") == "farm"
            assert labels.pop("peer") == "kitchen"
            key = (sample.name, tuple(sorted(labels.items())))
            assert key not in found
            assert sample.timestamp is None, "node_exporter refuses a file with timestamps"
            found[key] = sample.value
    return found


def row(round_: int, accuracy: float, training_s: float | None, int8: float | None = None) -> WriteRow:
    report = Report(accuracy, 0.5, 100, int8)
    examples, loss = (300, 1.5) if training_s is not None else (0, None)
    return WriteRow("run-1", 1, round_, "trainer", "roof", report, 0.25, examples, loss, training_s, None)


def test_before_anything_has_happened() -> None:
    found = samples(made().text(PRESENT))
    assert found["edge_peer_info", (("model", "image_cnn"), ("version", "0.1.0"))] == 1
    assert found["edge_peer_examples", (("split", "train"),)] == 300
    assert found["edge_peer_term", ()] == 3
    assert found["edge_peer_temperature_celsius", ()] == 61.5
    assert found["edge_peer_updates_total", (("outcome", "refused"),)] == 0
    assert found["edge_peer_round_seconds_count", ()] == 0
    assert ("edge_peer_accuracy_ratio", ()) not in found, "what is not known is not there"
    unknown = samples(made().text(Present(False, False, 0, 0, 0, 0, Health(), False, 0)))
    assert ("edge_peer_temperature_celsius", ()) not in unknown


def test_what_happens_is_counted() -> None:
    it = made()
    it.connected()
    it.row(row(0, 0.1, None))
    it.row(row(1, 0.5, 2.0, 0.45))
    it.row(row(2, 0.6, 3.0))
    it.logged(LogRound(None, "elected", {"term": 4}))
    outcome: dict[str, Any] = {"accepted": {"a": {}, "b": {}}, "refused": {}, "missing": {"c": "gone"}}
    it.logged(LogRound("run-1", "committed", {"seconds": 1.5, **outcome}))
    it.logged(LogRound("run-1", "evaluated", {"accuracy": 0.6}))
    it.finished()
    found = samples(it.text(PRESENT))
    assert found["edge_peer_round", ()] == 2
    assert found["edge_peer_rounds_total", ()] == 3
    assert found["edge_peer_accuracy_ratio", ()] == 0.6
    # The int8 model of an older round would be taken for the newest one's.
    assert ("edge_peer_int8_accuracy_ratio", ()) not in found
    assert (found["edge_peer_training_seconds_sum", ()], found["edge_peer_training_seconds_count", ()]) == (5, 2)
    assert (found["edge_peer_evaluation_seconds_sum", ()], found["edge_peer_evaluation_seconds_count", ()]) == (0.75, 3)
    assert (found["edge_peer_round_seconds_sum", ()], found["edge_peer_round_seconds_count", ()]) == (1.5, 1)
    for name, peers in outcome.items():
        assert found["edge_peer_updates_total", (("outcome", name),)] == len(peers)
    assert found["edge_peer_terms_led_total", ()] == 1
    assert found["edge_peer_runs_finished_total", ()] == 1
    assert found["edge_peer_connections_total", ()] == 1


def test_names_are_by_the_conventions() -> None:
    it = made()
    it.row(row(1, 0.5, 2.0, 0.45))
    text = it.text(PRESENT)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    # Each that is described is there, with its type and what it is, and no other.
    # The parser takes `_total` off a counter's name.
    assert set(families) == {name.removesuffix("_total") for name in METRICS}
    for name, (kind, what, labels) in METRICS.items():
        family = families[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (kind, what)
        assert all(set(sample.labels) == {"federation", "peer", *labels} for sample in family.samples)
        assert re.fullmatch(r"edge_peer_[a-z0-9_]+", name)
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(ms|kb|mb|percent|minutes)(_|$)", name), "base units"
    assert text.endswith("\n")
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) .+|\w+\{.*\} \S+", line)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_a_label(text: str) -> None:
    families = text_string_to_metric_families(made(model=text).text(PRESENT))
    (info,) = [it for it in families if it.name == "edge_peer_info"]
    assert info.samples[0].labels["model"] == text


# ---------------------------------------------------------------------- the file


def test_the_file_is_written_when_it_is_due(tmp_path: Path) -> None:
    path, said = tmp_path / "run" / "edge-peer.prom", iter("abc")
    before = os.umask(0o077)
    try:
        it = MetricsFile(path, 15.0, lambda: next(said))
        it.write_if_due(100.0)
    finally:
        os.umask(before)
    assert path.read_text() == "a"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "for another user"
    assert it.due_s == 115.0
    it.write_if_due(114.9)
    assert path.read_text() == "a"
    first = path.stat().st_ino
    it.write_if_due(115.0)
    assert path.read_text() == "b"
    assert path.stat().st_ino != first, "another file in its place: nobody sees half of one"
    assert [it.name for it in path.parent.iterdir()] == ["edge-peer.prom"]
    it.remove()
    assert list(path.parent.iterdir()) == []
    it.remove()


def test_a_failure_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    it = MetricsFile(tmp_path / "file" / "edge-peer.prom", 1.0, lambda: "x")
    with caplog.at_level(logging.INFO):
        it.write_if_due(1.0)
        it.write_if_due(2.0)
    assert len(caplog.records) == 1
    assert "edge-peer.prom: not written: " in caplog.text
    (tmp_path / "file").unlink()
    with caplog.at_level(logging.INFO):
        it.write_if_due(3.0)
    assert "written again" in caplog.text
