"""What a federation of n peers costs on one machine: `python -m bench.scale --peers 4,16,64,128,256`.

Mosquitto and the daemon as on a board, a model of 1,300 parameters, two examples a peer; so nearly all that is measured
is messages, bookkeeping and waiting. Up to 64 peers each is a process, of more there are some in one process. All of
them share this machine's cores, which the boards of a fleet do not: processor time is the figure that carries over.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from bench.scale.fleet import PROCESSES_MAX, Fleet
from bench.scale.measure import Measuring, Result, row
from bench.tables import report

#: In memory: the boards of a fleet do not share a disk.
MEMORY = Path("/dev/shm")


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__.splitlines()[0])
    it.add_argument("--peers", default="4,16,64,128,256", help="sizes, with commas between (default: %(default)s)")
    it.add_argument("--seconds", type=float, default=15.0, help="how long rounds are watched (default: %(default)g)")
    it.add_argument("--events", type=int, default=3, help="deaths, joins and elections of each (default: %(default)s)")
    it.add_argument(
        "--processes", type=int, default=PROCESSES_MAX, help="up to so many peers, each is one (default: %(default)s)"
    )
    it.add_argument("--keep", type=Path, metavar="FOLDER", help="for logs and states, which are else removed")
    return it


def measure(folder: Path, count: int, options: argparse.Namespace) -> Result:
    """One size."""
    start_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{count:4} peers {time.monotonic() - start_s:7.1f} s: {text}", flush=True)

    fleet = Fleet(folder, count, options.processes, {})
    try:
        measuring = Measuring(fleet, options.seconds, options.events, say)
        fleet.start()
        try:
            measuring.run()
        except TimeoutError as error:
            say(f"FAILED {error}")
        finally:
            measuring.close()
        return measuring.result
    finally:
        fleet.stop()


def main() -> None:
    """Measure and report."""
    options = parser().parse_args()
    results = []
    for count in [int(it) for it in options.peers.split(",")]:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
            folder = options.keep / str(count) if options.keep else Path(name)
            folder.mkdir(parents=True, exist_ok=True)
            results.append(measure(folder, count, options))
    report(
        "scale",
        "Peers of the smallest model on one machine, Mosquitto on loopback",
        [row(result) for result in results],
    )


if __name__ == "__main__":
    main()
