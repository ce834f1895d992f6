"""`python -m edge_peer.operator.certificates`: the fleet's authority, and a certificate for each that speaks in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from edge_peer.errors import ConfigError, EdgePeerError
from edge_peer.operator.certificates.folder import Folder, Lifetimes, Row
from edge_peer.operator.certificates.wanted import read_inventory, wanted

DESCRIPTION = """Make the certificates of a fleet: an authority, one for each peer and the operator, one for the broker.

Says what it does, and does nothing twice: what is there and valid stays. What is missing, damaged, of another
authority, names other addresses than the inventory, or expires within --renew-days is made."""

EPILOG = """exit codes: 0 done (--check: all is well), 1 --check: something has to be made, 2 files or names unusable.

  python -m edge_peer.operator.certificates                          those of fleet/inventory.yml
  python -m edge_peer.operator.certificates kitchen roof --broker kitchen,192.168.1.10
  python -m edge_peer.operator.certificates --check                  days left of each
  python -m edge_peer.operator.certificates --rotate                 new ones under the same authority

A new authority takes over in three steps, with a deployment to all hosts after each; the run goes on meanwhile:

  --authority trust     boards and broker trust the next authority, too
  --authority switch    all certificates anew, signed by it
  --authority forget    the former one is trusted no more"""


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(
        prog="python -m edge_peer.operator.certificates",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    lifetimes = Lifetimes()
    it.add_argument("peers", nargs="*", metavar="PEER", help="names, instead of the inventory")
    it.add_argument(
        "--broker",
        action="append",
        default=[],
        metavar="HOST[,ADDRESS...]",
        help="the broker's host and what else clients call it, instead of the inventory",
    )
    it.add_argument("--inventory", type=Path, default=Path("fleet/inventory.yml"), metavar="FILE")
    it.add_argument("--folder", type=Path, default=Path("fleet/pki"), metavar="FOLDER", help="default: fleet/pki")
    for option, default, text in (
        ("--days", lifetimes.days, "validity of a new certificate"),
        ("--ca-days", lifetimes.authority_days, "validity of a new authority"),
        ("--renew-days", lifetimes.renew_days, "with fewer days left, a certificate is made anew"),
    ):
        it.add_argument(option, type=_days, default=default, metavar="N", help=f"{text} (default: {default})")
    what = it.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="print a table of days left, and change nothing")
    what.add_argument("--rotate", action="store_true", help="make all anew, with new keys, under the same authority")
    what.add_argument("--authority", choices=["trust", "switch", "forget"], help="a step to a new authority")
    return it


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        return _run(options, datetime.now(timezone.utc))
    except EdgePeerError as error:
        print(f"certificates: {error}", file=sys.stderr)
        return 2


def table(rows: Sequence[Row]) -> list[str]:
    """Rows as `--check` prints them."""
    lines = [f"{'certificate':28} {'valid until':11} {'days left':>9}  remarks"]
    for row in rows:
        until = f"{row.not_after:%Y-%m-%d}" if row.not_after is not None else "-"
        left = "-" if row.days_left is None else str(row.days_left)
        lines.append(f"{row.name:28} {until:11} {left:>9}  {row.problem}".rstrip())
    return lines


def _run(options: argparse.Namespace, now: datetime) -> int:
    lifetimes = Lifetimes(options.days, options.ca_days, options.renew_days)
    if lifetimes.renew_days >= lifetimes.days:
        relation = f"--renew-days {lifetimes.renew_days} is not less than --days {lifetimes.days}"
        raise ConfigError([f"{relation}: each run would make all anew; lower the one or raise the other"])
    if options.peers or options.broker:
        brokers = {host: more for host, *more in (it.split(",") for it in options.broker)}
        all_wanted = wanted(options.peers, brokers)
    else:
        all_wanted = read_inventory(options.inventory)
    folder = Folder(options.folder, now, lifetimes, lambda line: print(line, flush=True))
    if options.check:
        rows = folder.check(all_wanted)
        print("\n".join(table(rows)))
        return 1 if any(row.urgent for row in rows) else 0
    if options.authority is not None:
        folder.take_over(options.authority, all_wanted)
    made = folder.make(all_wanted, options.rotate)
    print(f"{options.folder}: {len(made)} made, {len(all_wanted) - len(made)} kept")
    return 0


def _days(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 36_500:
        raise argparse.ArgumentTypeError(f"{text}: must be from 1 to 36500")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
