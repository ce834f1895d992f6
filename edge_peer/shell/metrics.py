"""Numbers about this peer for Prometheus, in its text format; what is not known is not there.

Names, units and types are by Prometheus's conventions: base units, `_total` for counters, ratios of 0..1. Every sample
has the labels `federation` and `peer`, because several peers of one board can be read by one node_exporter.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ and https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edge_peer.protocol.commands import LogRound, WriteRow
from edge_peer.shell.health import Health

COUNTER, GAUGE, SUMMARY = "counter", "gauge", "summary"
#: Name -> (type, what it is, further labels). docs/monitoring.md is made from this table.
METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "edge_peer_info": (GAUGE, "Always 1; its labels say which software and which model.", ("version", "model")),
    "edge_peer_start_time_seconds": (GAUGE, "When the process started, since 1970.", ()),
    "edge_peer_connected": (GAUGE, "1: there is a connection to the broker; 0: there is none.", ()),
    "edge_peer_connections_total": (COUNTER, "Connections that the broker has accepted.", ()),
    "edge_peer_sent_bytes_total": (COUNTER, "Topic and payload bytes published.", ()),
    "edge_peer_received_bytes_total": (COUNTER, "Topic and payload bytes received.", ()),
    "edge_peer_messages_dropped_total": (COUNTER, "Messages that could not be read or said too much.", ()),
    "edge_peer_controller": (GAUGE, "1: this peer is controller; 0: it is not.", ()),
    "edge_peer_term": (GAUGE, "Highest term in which it knows an elected controller.", ()),
    "edge_peer_terms_led_total": (COUNTER, "Terms that it was elected controller in.", ()),
    "edge_peer_runs_finished_total": (COUNTER, "Runs that it has seen the end of.", ()),
    "edge_peer_round": (GAUGE, "Rounds in the newest global model that it has evaluated.", ()),
    "edge_peer_rounds_total": (COUNTER, "Global models that it has evaluated within a run.", ()),
    "edge_peer_accuracy_ratio": (GAUGE, "Accuracy of that model on its own test split.", ()),
    "edge_peer_int8_accuracy_ratio": (GAUGE, "The same of the int8 model.", ()),
    "edge_peer_loss": (GAUGE, "Mean loss of that model on its own test split.", ()),
    "edge_peer_training_loss": (GAUGE, "Mean loss over its last local epoch.", ()),
    "edge_peer_training_seconds": (SUMMARY, "Local trainings.", ()),
    "edge_peer_evaluation_seconds": (SUMMARY, "Evaluations of global models.", ()),
    "edge_peer_round_seconds": (SUMMARY, "Rounds that it has led, from opening to commit.", ()),
    "edge_peer_updates_total": (
        COUNTER,
        "Updates of the rounds that it has led, by what became of them: accepted, refused or missing.",
        ("outcome",),
    ),
    "edge_peer_examples": (GAUGE, "Examples in its shard: train or test.", ("split",)),
    "edge_peer_strained": (GAUGE, "1: the board is hot or throttled; 0: it is not.", ()),
    "edge_peer_temperature_celsius": (GAUGE, "Of the hottest part of the processor.", ()),
    "edge_peer_throttled": (
        GAUGE,
        "Sum of 1 (low voltage), 2 (frequency capped), 4 (throttled), 8 (temperature limit).",
        (),
    ),
    "edge_peer_memory_available_bytes": (GAUGE, "What programs could still get of the memory.", ()),
    "edge_peer_memory_peak_bytes": (GAUGE, "Largest resident memory of the process so far.", ()),
    "edge_peer_disk_free_bytes": (GAUGE, "Free disk where the peer's state is.", ()),
}
OUTCOMES = ("accepted", "refused", "missing")
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Present:
    """What is so at the moment, beside what has happened.

    Attributes:
        connected: To the broker.
        controller: This peer is.
        term: The highest one that it knows.
        sent: Topic and payload bytes so far.
        received: The same.
        dropped: Messages so far.
        health: Of the board.
        strained: The board is.
        memory_peak: Bytes.
    """

    connected: bool
    controller: bool
    term: int
    sent: int
    received: int
    dropped: int
    health: Health
    strained: bool
    memory_peak: int


class Metrics:
    """Counts what happens to one peer.

    Args:
        federation: Its name.
        peer: Its name.
        version: Of the software.
        model: That is trained.
        examples: By split.
    """

    def __init__(self, federation: str, peer: str, version: str, model: str, examples: Mapping[str, int]) -> None:
        self._labels: Labels = (("federation", federation), ("peer", peer))
        self._values: dict[tuple[str, Labels], float] = {}
        self._set("edge_peer_info", 1, version=version, model=model)
        self._set("edge_peer_start_time_seconds", time.time())
        for split, count in examples.items():
            self._set("edge_peer_examples", count, split=split)
        for name, (kind, _, labels) in METRICS.items():
            # A counter that begins with its first event has no rate at it.
            if kind == COUNTER and not labels:
                self._set(name, 0)
            elif kind == SUMMARY:
                self._set(f"{name}_sum", 0)
                self._set(f"{name}_count", 0)
        for outcome in OUTCOMES:
            self._set("edge_peer_updates_total", 0, outcome=outcome)

    def _set(self, name: str, value: float | None, **labels: str) -> None:
        key = (name, tuple(labels.items()))
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def _add(self, name: str, value: float = 1, **labels: str) -> None:
        key = (name, tuple(labels.items()))
        self._values[key] = self._values.get(key, 0) + value

    def _observe(self, name: str, seconds: float) -> None:
        self._add(f"{name}_sum", seconds)
        self._add(f"{name}_count")

    def connected(self) -> None:
        """The broker has accepted a connection."""
        self._add("edge_peer_connections_total")

    def row(self, row: WriteRow) -> None:
        """A global model was evaluated, and perhaps trained for before."""
        self._set("edge_peer_round", row.round)
        self._add("edge_peer_rounds_total")
        self._set("edge_peer_accuracy_ratio", row.report.accuracy)
        self._set("edge_peer_int8_accuracy_ratio", row.report.int8_accuracy)
        self._set("edge_peer_loss", row.report.loss)
        self._observe("edge_peer_evaluation_seconds", row.evaluation_s)
        if row.training_s is not None:
            self._observe("edge_peer_training_seconds", row.training_s)
        if row.train_loss is not None:
            self._set("edge_peer_training_loss", row.train_loss)

    def logged(self, line: LogRound) -> None:
        """Something happened that a controller logs."""
        if line.event == "elected":
            self._add("edge_peer_terms_led_total")
        elif line.event == "committed":
            seconds = line.fields.get("seconds")
            if isinstance(seconds, int | float):
                self._observe("edge_peer_round_seconds", seconds)
            for outcome in OUTCOMES:
                peers = line.fields.get(outcome)
                if isinstance(peers, dict):
                    self._add("edge_peer_updates_total", len(peers), outcome=outcome)

    def finished(self) -> None:
        """The end of a run has come."""
        self._add("edge_peer_runs_finished_total")

    def text(self, now: Present) -> str:
        """Everything in the text format."""
        health = now.health
        for name, value in (
            ("edge_peer_connected", int(now.connected)),
            ("edge_peer_controller", int(now.controller)),
            ("edge_peer_term", now.term),
            ("edge_peer_sent_bytes_total", now.sent),
            ("edge_peer_received_bytes_total", now.received),
            ("edge_peer_messages_dropped_total", now.dropped),
            ("edge_peer_strained", int(now.strained)),
            ("edge_peer_temperature_celsius", health.temperature_c),
            ("edge_peer_throttled", health.throttled),
            ("edge_peer_memory_available_bytes", health.memory_free_bytes),
            ("edge_peer_disk_free_bytes", health.disk_free_bytes),
            ("edge_peer_memory_peak_bytes", now.memory_peak),
        ):
            self._set(name, value)
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        # Samples of one name must stand together, below what the name is.
        by_name: dict[str, list[str]] = {}
        for (name, labels), value in self._values.items():
            shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in self._labels + labels)
            base = name if name in METRICS else name.rpartition("_")[0]
            by_name.setdefault(base, []).append(f"{name}{{{shown}}} {_number(value)}\n")
        for name, (kind, what, _) in METRICS.items():
            if name in by_name:
                yield f"# HELP {name} {what}\n# TYPE {name} {kind}\n"
                yield from by_name[name]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
