"""What is known of each board of a fleet: what the boards have told, and what the federation's documents say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_peer.operator.live.federation import Federation
from edge_peer.operator.runs.results import row_of
from edge_peer.protocol.topics import is_name
from edge_peer.shell.x509 import days_left, read_certificates

#: With fewer days left, a certificate is worth a remark.
CERTIFICATE_DAYS = 30


@dataclass(slots=True)
class Board:
    """One row of the table; None: nobody told.

    Attributes:
        state: `up` (the unit is active and the peer online), `active` or `online` (the other was not asked), `no link`
            (active, but not online), `starting`, `stopped`, `failed`, `offline` (no unit was asked) or `no answer`.
        round: Of its newest row, as its own CSV has it.
        accuracy: Of the global model after that round, on its own test split.
        rss_bytes: Resident memory of the daemon.
        throttled: The sum of the flags in `edge_peer.shell.health`; 0: it is not.
        release: Which software it runs.
        restarts: How often systemd has started it again by itself.
        notes: What else there is to know.
    """

    name: str
    state: str
    role: str = ""
    round: int | None = None
    accuracy: float | None = None
    int8_accuracy: float | None = None
    rss_bytes: int | None = None
    temperature_c: float | None = None
    throttled: int | None = None
    disk_free_bytes: int | None = None
    certificate_days: int | None = None
    release: str = ""
    restarts: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether nothing keeps it from its work."""
        return self.state in ("up", "active", "online")


@dataclass(frozen=True, slots=True)
class Told:
    """What the boards have told, as the playbook `status.yml` leaves it.

    Attributes:
        hosts: Who was asked; empty: nobody.
        broker: Host and port; None: not known.
        boards: The facts of each board that answered.
    """

    hosts: tuple[str, ...] = ()
    federation: str = ""
    broker: tuple[str, int] | None = None
    boards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Told:
        """Of the folder with `fleet.json` and `<peer>.json`; what is not there, or of another kind, was not told."""
        fleet = _object(folder / "fleet.json")
        listed = fleet.get("hosts")
        hosts = tuple(it for it in listed if isinstance(it, str) and is_name(it)) if isinstance(listed, list) else ()
        broker, federation = fleet.get("broker"), fleet.get("federation")
        address = None
        if isinstance(broker, dict) and isinstance(broker.get("host"), str) and isinstance(broker.get("port"), int):
            address = broker["host"], broker["port"]
        boards = {host: facts for host in hosts if (facts := _object(folder / f"{host}.json"))}
        return cls(hosts, federation if isinstance(federation, str) else "", address, boards)


def _object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def boards_of(told: Told, federation: Federation | None, now: datetime) -> list[Board]:
    """A row for everybody of whom either side knows.

    Args:
        told: By the boards.
        federation: As the broker keeps it; None: it could not be asked.
        now: By this machine's clock, for the certificates.
    """
    names = sorted({*told.hosts, *(federation.presences if federation is not None else ())})
    boards = []
    for name in names:
        facts = told.boards.get(name) if told.hosts else None
        board = Board(name, _state(name, told, facts, federation))
        if facts is not None:
            _from_board(board, facts, now)
        elif name in told.hosts:
            board.notes.append("does not answer to SSH")
        if federation is not None:
            _from_federation(board, federation)
        boards.append(board)
    releases = Counter(it.release for it in boards if it.release)
    if len(releases) > 1:
        usual = releases.most_common(1)[0][0]
        for board in boards:
            if board.release not in ("", usual):
                board.notes.append(f"runs release {board.release}, others {usual}")
    return boards


def _state(name: str, told: Told, facts: Mapping[str, Any] | None, federation: Federation | None) -> str:
    online = None if federation is None else name in federation.online
    if facts is None:
        if online:
            return "online"
        return "no answer" if name in told.hosts else "offline"
    active = _unit(facts).get("ActiveState", "")
    if active in ("active", "reloading"):
        return {None: "active", True: "up", False: "no link"}[online]
    return {"activating": "starting", "failed": "failed"}.get(active, "stopped")


def _unit(facts: Mapping[str, Any]) -> dict[str, str]:
    unit = facts.get("unit")
    return {key: value for key, value in unit.items() if isinstance(value, str)} if isinstance(unit, dict) else {}


def _from_board(board: Board, facts: Mapping[str, Any], now: datetime) -> None:
    unit = _unit(facts)
    board.rss_bytes = _count(facts.get("rss_bytes"))
    board.disk_free_bytes = _count(facts.get("disk_free_bytes"))
    board.release = facts["release"] if isinstance(facts.get("release"), str) else ""
    restarts = unit.get("NRestarts", "0")
    board.restarts = int(restarts) if restarts.isdecimal() and len(restarts) < 10 else 0
    if board.restarts:
        board.notes.append(f"systemd has restarted it {'once' if board.restarts == 1 else f'{board.restarts} times'}")
    if unit.get("Result", "success") != "success":
        board.notes.append(f"its unit's last result: {unit['Result']}")
    if not board.well and unit.get("UnitFileState") == "disabled":
        board.notes.append("does not start at boot")
    line = facts.get("last_row")
    if isinstance(line, dict) and all(isinstance(it, str) for it in line.values()):
        try:
            row = row_of(line)
        except ValueError:
            board.notes.append("its CSV's last line cannot be read")
        else:
            board.round, board.accuracy, board.int8_accuracy = row.round, row.global_accuracy, row.int8_accuracy
            # What it was before it stopped is not what it is.
            board.role = row.role if board.well else ""
            board.temperature_c = row.health.get("temperature_c")
            board.throttled = _count(row.health.get("throttled"))
    pem = facts.get("certificate")
    if isinstance(pem, str):
        try:
            board.certificate_days = days_left(read_certificates(pem.encode())[0], now)
        except ValueError as error:
            board.notes.append(f"its certificate: {error}")
    elif "certificate" not in facts:
        board.notes.append("has no certificate: make deploy")
    if board.certificate_days is not None and board.certificate_days < CERTIFICATE_DAYS:
        how = "has expired" if board.certificate_days < 0 else f"expires in {board.certificate_days} days"
        board.notes.append(f"its certificate {how}: make rotate-certs")


def _from_federation(board: Board, federation: Federation) -> None:
    presence, document = federation.presences.get(board.name), federation.round
    board.role = federation.role(board.name)
    if presence is None:
        return
    if presence.online:
        health = presence.health
        board.temperature_c = health.get("temperature_c", board.temperature_c)
        board.throttled = _count(health.get("throttled", board.throttled))
        board.disk_free_bytes = board.disk_free_bytes or _count(health.get("disk_free_bytes"))
        if presence.strained:
            board.notes.append("hot or throttled: its score counts half")
        if not presence.control:
            board.notes.append("does not control")
    board.notes += [it for it in (presence.note,) if it and presence.online]
    if document is not None:
        report = document.reports.get(board.name)
        if report is not None:
            board.round, board.accuracy, board.int8_accuracy = document.round, report.accuracy, report.int8_accuracy
        board.notes += [it for it in (document.missing.get(board.name), document.refused.get(board.name)) if it]


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
        return None
    return int(value)
