"""`python -m edge_peer.operator.dashboard FOLDER`: write the page and what Mosquitto needs to serve it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_peer.operator.dashboard.site import write_site
from edge_peer.protocol.topics import is_name


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    it = argparse.ArgumentParser(prog="python -m edge_peer.operator.dashboard", description=__doc__)
    it.add_argument("folder", type=Path, help="gets page/index.html, passwords and acl")
    it.add_argument("--federation", default="+", metavar="NAME", help="whose documents (default: all of the broker)")
    options = it.parse_args(arguments)
    if options.federation != "+" and not is_name(options.federation):
        print(f"dashboard: --federation {options.federation!r}: is no name", file=sys.stderr)
        return 2
    try:
        write_site(options.folder, options.federation)
    except OSError as error:
        print(f"dashboard: {options.folder}: {error.strerror}; choose another folder", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
