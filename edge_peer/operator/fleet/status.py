"""`make status`: how every board of a fleet is, as the boards' systemd and the federation's documents tell.

Each of the two can be missing: a board whose peer has stopped still answers to SSH, and a federation goes on when this
machine has no way to its boards. What could not be asked is said.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_peer.config import PORT_TLS, BrokerSection
from edge_peer.errors import EdgePeerError
from edge_peer.operator.fleet.boards import CERTIFICATE_DAYS, Board, Told, boards_of
from edge_peer.operator.live.federation import Federation, look
from edge_peer.operator.live.session import Session
from edge_peer.operator.live.status import summary
from edge_peer.operator.markup import printable
from edge_peer.shell.health import NAMES

OPERATOR = "operator"
#: A deployment needs room for two releases.
DISK_BYTES = 400e6
STYLES = {"up": "green", "active": "green", "online": "green", "starting": "yellow", "stopped": "yellow"}


def broker_of(told: Told, pki: Path, address: str | None) -> tuple[BrokerSection | None, str]:
    """The fleet's broker, by the operator's certificate; None and why where it is not known."""
    where = _address(address) if address else told.broker
    if where is None:
        return None, "not asked: nobody told where it is (--broker HOST:PORT)"
    host, port = where
    ca, certificate, key = pki / "ca.crt", pki / f"{OPERATOR}.crt", pki / f"{OPERATOR}.key"
    missing = [path.name for path in (ca, certificate, key) if not path.is_file()]
    if missing:
        return None, f"not asked: {pki} has no {', '.join(missing)}; make certs"
    return BrokerSection(host=host, port=port, tls_ca=ca, tls_certificate=certificate, tls_key=key), ""


def look_at(told: Told, pki: Path, address: str | None, name: str | None) -> tuple[Federation | None, str]:
    """What the broker keeps; without one, None and why."""
    broker, why = broker_of(told, pki, address)
    if broker is None:
        return None, why
    try:
        with Session(broker, name or told.federation or "default", OPERATOR) as session:
            return look(session), ""
    except (EdgePeerError, OSError) as error:
        return None, str(error)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon and port.isdecimal() else (text, PORT_TLS)


def show(boards: Sequence[Board], console: Console) -> None:
    """Print the table, and below it what has no room in it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("board", overflow="fold")
    for name in ("state", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("round", "acc.", "int8", "RAM MB", "°C", "slow", "disk GB", "cert days"):
        table.add_column(name, justify="right")
    for it in boards:
        table.add_row(
            Text(printable(it.name)),
            Text(it.state, style=STYLES.get(it.state, "bold red")),
            Text(it.role, style="bold" if it.role == "controller" else ""),
            _number(it.round),
            _number(it.accuracy, 1, ".3f"),
            _number(it.int8_accuracy, 1, ".3f"),
            _number(it.rss_bytes, 1e6, ".0f"),
            _number(it.temperature_c, 1, ".0f"),
            # A word, for those who see no colours.
            "" if it.throttled is None else Text("yes", style="bold red") if it.throttled else "no",
            _number(it.disk_free_bytes, 1e9, ".1f", it.disk_free_bytes is not None and it.disk_free_bytes < DISK_BYTES),
            _number(
                it.certificate_days, 1, "d", it.certificate_days is not None and it.certificate_days < CERTIFICATE_DAYS
            ),
        )
    console.print(table)
    for it in boards:
        slow = [name for flag, name in NAMES.items() if it.throttled and it.throttled & flag]
        notes = [*it.notes, *([f"slowed down: {', '.join(slow)}"] if slow else [])]
        if notes:
            said = printable("; ".join(dict.fromkeys(notes)))
            console.print(Text(f"{it.name}: {said}"))


def _number(value: float | None, unit: float = 1, form: str = "d", alarming: bool = False) -> Text:
    text = "" if value is None else format(value if unit == 1 else value / unit, form)
    return Text(text, style="bold red" if alarming else "")


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(
        prog="python -m edge_peer.operator.fleet.status",
        description="Show how every board is, by what `make status` has asked of them and by what the broker keeps.",
        epilog="exit codes: 0 all boards are up and have a controller, 1 not so, 2 neither boards nor broker answer.",
    )
    it.add_argument("--status", type=Path, default=Path("fleet/status"), help="what the boards said (%(default)s)")
    it.add_argument("--pki", type=Path, default=Path("fleet/pki"), help="the operator's certificate (%(default)s)")
    it.add_argument("--broker", metavar="HOST[:PORT]", help="default: the inventory's")
    it.add_argument("--federation", help="default: the inventory's")
    it.add_argument("--json", action="store_true", help="for scripts: broker, controller, round, and boards by name")
    return it


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parser().parse_args(arguments)
    told = Told.read(options.status)
    federation, why = look_at(told, options.pki, options.broker, options.federation)
    boards = boards_of(told, federation, datetime.now(timezone.utc))
    if options.json:
        document = federation.round if federation is not None else None
        print(
            json.dumps(
                {
                    "broker": why or "answers",
                    "controller": federation.controller if federation is not None else None,
                    "round": asdict(document) if document is not None else None,
                    "boards": {it.name: {**asdict(it), "well": it.well} for it in boards},
                },
                indent=2,
                sort_keys=True,
            )
        )
    else:
        console = Console(highlight=False)
        for line in summary(federation) if federation is not None else [f"broker: {why}"]:
            console.print(Text(printable(line)))
        if not told.hosts:
            console.print(Text(f"boards: not asked; {options.status} has nothing of them (make status)"))
        if boards:
            show(boards, console)
    if federation is None and not told.boards:
        print("status: neither boards nor broker answer", file=sys.stderr)
        return 2
    well = all(it.well for it in boards) and (federation is None or federation.controller is not None)
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
