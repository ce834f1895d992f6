"""`make watch`: `edge-peer watch` for a fleet, from the workstation, by the operator's certificate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_peer.errors import BrokerError
from edge_peer.operator.fleet.boards import Told
from edge_peer.operator.fleet.status import OPERATOR, broker_of
from edge_peer.operator.live.watch import watch


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 ended by Ctrl-C, 2 it is not known where the broker is, 3 no broker."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_peer.operator.fleet.watch", description="Show a fleet's federation as it happens."
    )
    parser.add_argument(
        "--status", type=Path, default=Path("fleet/status"), help="what `make status` left (%(default)s)"
    )
    parser.add_argument("--pki", type=Path, default=Path("fleet/pki"), help="the operator's certificate (%(default)s)")
    parser.add_argument("--broker", metavar="HOST[:PORT]", help="default: the one that `make status` has noted")
    parser.add_argument("--federation", help="default: the one that `make status` has noted")
    options = parser.parse_args(arguments)
    told = Told.read(options.status)
    broker, why = broker_of(told, options.pki, options.broker)
    if broker is None:
        print(f"watch: broker {why}; `make status` notes where it is", file=sys.stderr)
        return 2
    try:
        return watch(broker, options.federation or told.federation or "default", OPERATOR)
    except BrokerError as error:
        print(f"watch: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    raise SystemExit(main())
