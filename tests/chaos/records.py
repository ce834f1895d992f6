"""What a played fleet has left behind: round logs, CSVs, logs, what the witness saw, and what was done to it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.chaos.play import PLAY, WITNESS, End, Injection, Played

Line = dict[str, Any]


@dataclass
class Records:
    """Everything that the checker looks at.

    Attributes:
        played: What was done.
        lines: Of the round logs of all peers, by time; each with `run_id` ("" beside the runs) and `at_s`.
        seen: What the witness saw, in order.
        rows: CSV rows by (peer, run).
        logs: Log by peer.
    """

    played: Played
    lines: list[Line] = field(default_factory=list)
    seen: list[Line] = field(default_factory=list)
    rows: dict[tuple[str, str], list[dict[str, str]]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)

    def runs(self) -> list[str]:
        """Runs that were started, in order."""
        return list(dict.fromkeys(line["run_id"] for line in self.lines if line["event"] == "started"))

    def committed(self, run_id: str) -> list[Line]:
        """What all controllers have committed of a run, by time."""
        return [line for line in self.lines if line["event"] == "committed" and line["run_id"] == run_id]

    def end(self, run_id: str) -> Line | None:
        """The last word on how a run ended."""
        ends = [line for line in self.lines if line["event"] == "finished" and line["run_id"] == run_id]
        return max(ends, key=lambda line: line["term"], default=None)

    def chain(self, run_id: str) -> list[Line]:
        """The commits that are in a run's final model, from round 1 on; short where one is not to be found."""
        end = self.end(run_id)
        by_model = {line["sha256"]: line for line in self.committed(run_id)}
        chain: list[Line] = []
        line = by_model.get(end["sha256"]) if end is not None else None
        while line is not None and line not in chain:
            chain.append(line)
            line = by_model.get(line["base"])
        return chain[::-1]

    def documents(self, kind: str) -> Iterator[tuple[str, Line]]:
        """(peer, document) of a kind as the witness saw them, in order; without those that clear."""
        for it in self.seen:
            if it["kind"] == kind and it["document"] is not None:
                yield it["peer"], it["document"]


def read(folder: Path) -> Records:
    """Read a folder that `playing` has left."""
    document = json.loads((folder / PLAY).read_text())
    played = Played(
        document["peers"],
        document["rounds"],
        [Injection(**it) for it in document["injections"]],
        [End(**{**it, "accuracy": {k: tuple(v) for k, v in it["accuracy"].items()}}) for it in document["ends"]],
        [tuple(it) for it in document["ended"]],
        document["failures"],
    )
    records = Records(played, seen=_jsonl(folder / WITNESS))
    for peer in played.peers:
        runs = folder / peer / "runs"
        for path in sorted(runs.rglob("rounds.jsonl")):
            run_id = "" if path.parent == runs else path.parent.name
            for line in _jsonl(path):
                at_s = datetime.fromisoformat(line["time_utc"]).timestamp()
                records.lines.append({**line, "run_id": run_id, "at_s": at_s})
        for path in sorted(runs.glob(f"*/{peer}.csv")):
            with path.open(newline="") as file:
                records.rows[peer, path.parent.name] = list(csv.DictReader(file))
        records.logs[peer] = (folder / f"logs/{peer}.log").read_text(errors="replace")
    records.lines.sort(key=lambda line: line["at_s"])
    return records


def _jsonl(path: Path) -> list[Line]:
    """The whole lines of a file; the last one is torn where its writer was killed in the middle of it."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
