"""Run folders as boards leave them, with what the demo's runs happen not to have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from edge_peer.protocol.run_settings import RunSettings
from edge_peer.shell.history import COLUMNS

RUN_ID = "20260101-000000-abcdef"
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
ROUND_S = 3.0


@dataclass
class Invented:
    """A run that never happened; its accuracy after round r is `accuracy(r)`, on all boards but for a little.

    Attributes:
        led: The controller of each round from 1 on by (first round, peer), its term counts up.
        refused: Reasons by (round, peer).
        missing: Reasons by (round, peer).
        ended: Why; empty: it goes on.
        other: Values of columns that are not the usual ones, by peer and round.
    """

    peers: Sequence[str]
    rounds: int = 6
    settings: RunSettings = field(default_factory=RunSettings)
    led: Sequence[tuple[int, str]] = ()
    refused: Mapping[tuple[int, str], str] = field(default_factory=dict)
    missing: Mapping[tuple[int, str], str] = field(default_factory=dict)
    ended: str = "reached 6 rounds"
    other: Mapping[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)

    def accuracy(self, round_: int) -> float:
        return 0.9 - 0.8 * 0.5**round_

    def time(self, round_: float) -> str:
        return (START + timedelta(seconds=ROUND_S * round_)).isoformat(timespec="microseconds")

    def controllers(self) -> list[tuple[int, int, str]]:
        """First round, term and name of each."""
        return [(first, term, peer) for term, (first, peer) in enumerate(self.led or [(1, self.peers[0])], 1)]

    def controller(self, round_: int) -> tuple[int, str]:
        return next((term, peer) for first, term, peer in reversed(self.controllers()) if first <= max(1, round_))

    def row(self, peer: str, round_: int) -> dict[str, Any]:
        term, controller = self.controller(round_)
        out = round_ == 0 or (round_, peer) in self.missing
        shift = 0.002 * (self.peers.index(peer) % 50)
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        row |= {
            "run_id": RUN_ID, "peer": peer, "term": term, "round": round_, "controller": controller,
            "role": "controller" if peer == controller else "observer" if out else "trainer",
            "time_utc": self.time(round_), "examples": 0 if out else 300, "train_loss": "" if out else 2 / (1 + round_),
            "local_accuracy": "" if out else self.accuracy(round_) - 0.05 - shift, "local_loss": "" if out else 1.0,
            "test_examples": 100, "global_accuracy": self.accuracy(round_) - shift, "global_loss": 2.3 / (1 + round_),
            "int8_accuracy": self.accuracy(round_) - shift - 0.01 if round_ else "", "training_s": "" if out else 1.2,
            "evaluation_s": 0.2, "bytes_sent": 100_000, "bytes_received": 200_000, "rss_peak_bytes": 60_000_000,
        }  # fmt: skip
        return row | self.other.get((peer, round_), {})

    def rows(self, peer: str, rounds: Sequence[int] | None = None) -> str:
        """A peer's CSV."""
        return csv_text([self.row(peer, it) for it in (rounds if rounds is not None else range(self.rounds + 1))])

    def log(self, peer: str) -> list[dict[str, Any]]:
        """What a peer has logged as controller."""
        lines: list[dict[str, Any]] = []
        for first, term, controller in self.controllers():
            if controller != peer:
                continue
            base = {"peer": peer, "term": term}
            lines.append({**base, "event": "elected", "time_utc": self.time(first - 1.1)})
            if term == 1:
                settings = {name: getattr(self.settings, name) for name in self.settings.__dataclass_fields__}
                lines.append({**base, "event": "started", "time_utc": self.time(0), "peers": list(self.peers),
                              "settings": settings})  # fmt: skip
            else:
                lines.append({**base, "event": "resumed", "time_utc": self.time(first - 1), "round": first - 1})
            for round_ in range(first, self.rounds + 1):
                if self.controller(round_) == (term, peer):
                    lines += [{**base, **it} for it in self._round(round_)]
            if self.ended and self.controller(self.rounds) == (term, peer):
                end = {"round": self.rounds, "time_utc": self.time(self.rounds + 0.1)}
                lines.append({**base, **end, "event": "finished", "reason": self.ended})
                lines.append({**base, **end, "event": "reported", "accuracy": self.accuracy(self.rounds),
                              "int8_accuracy": self.accuracy(self.rounds) - 0.01})  # fmt: skip
        return lines

    def _round(self, round_: int) -> list[dict[str, Any]]:
        refused = {peer: why for (at, peer), why in self.refused.items() if at == round_}
        missing = {peer: why for (at, peer), why in self.missing.items() if at == round_}
        accepted = {it: {"examples": 300} for it in self.peers if it not in refused and it not in missing}
        return [
            {"event": "opened", "round": round_, "time_utc": self.time(round_ - 0.9), "participants": list(self.peers)},
            {"event": "committed", "round": round_, "time_utc": self.time(round_), "accepted": accepted,
             "refused": refused, "missing": missing, "seconds": 0.9 * ROUND_S},
            {"event": "evaluated", "round": round_, "time_utc": self.time(round_ + 0.05),
             "accuracy": self.accuracy(round_), "int8_accuracy": self.accuracy(round_) - 0.01},
        ]  # fmt: skip

    def whole(self, folder: Path) -> Path:
        """The folder `runs/<run id>` that a demo or a collection leaves."""
        run = folder / RUN_ID
        run.mkdir(parents=True)
        for peer in self.peers:
            (run / f"{peer}.csv").write_text(self.rows(peer))
        lines = [line for _, _, peer in self.controllers() for line in self.log(peer)]
        (run / "rounds.jsonl").write_text(log_text(sorted(lines, key=lambda it: int(it["term"]))))
        (run / "config.toml").write_text('[model]\nartifacts = "/opt/edge-peer/models/image_cnn"\n')
        return run

    def board(self, folder: Path, peer: str, rounds: Sequence[int] | None = None) -> Path:
        """A peer's state folder; its controllership's log without the rounds above the last of `rounds`."""
        run = folder / "runs" / RUN_ID
        run.mkdir(parents=True, exist_ok=True)
        (run / f"{peer}.csv").write_text(self.rows(peer, rounds))
        last = self.rounds if rounds is None else max(rounds)
        lines = [line for line in self.log(peer) if line.get("round", 0) <= last]
        (folder / "runs" / "rounds.jsonl").write_text(log_text([it for it in lines if it["event"] == "elected"]))
        (run / "rounds.jsonl").write_text(log_text([it for it in lines if it["event"] != "elected"]))
        (run / "config.toml").write_text(f'[peer]\nname = "{peer}"\n')
        return folder


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = tuple(COLUMNS)) -> str:
    """Rows as a peer writes them."""
    lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]
    return "".join(f"{line}\n" for line in lines)


def log_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines as a controller logs them."""
    return "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
