"""Run seeds of the simulation: `python -m tests.sim 17 --verbose`, or `python -m tests.sim --seeds 2000`."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from edge_peer.protocol.peer import Peer
from tests.sim.scenario import Scenario
from tests.sim.world import World


def failure(seed: int, peer_type: type[Peer] = Peer, transcript: Callable[[str], None] | None = None) -> str:
    """What is wrong with a seed, in one line that says how to replay it; empty: nothing."""
    try:
        World(Scenario.draw(seed), peer_type, transcript).run()
    except Exception as error:  # noqa: BLE001 - whatever is raised is this seed's failure
        if transcript is not None:
            transcript(traceback.format_exc())
        return f"{type(error).__name__}: {error} - replay: python -m tests.sim {seed} --verbose"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", type=int, nargs="*", help="seeds to run")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="run N seeds")
    parser.add_argument("--start", type=int, default=0, metavar="SEED", help="the first of them")
    parser.add_argument("--verbose", action="store_true", help="print everything that happens")
    options = parser.parse_args(arguments)
    seeds = [*options.seed, *range(options.start, options.start + options.seeds)]
    failed = 0
    start_s = time.perf_counter()
    for seed in seeds:
        why = failure(seed, transcript=print if options.verbose else None)
        if why:
            failed += 1
            print(f"seed {seed} ({Scenario.draw(seed).profile}): {why}", flush=True)
    seconds = time.perf_counter() - start_s
    print(f"{len(seeds)} seeds, {failed} failed, {len(seeds) / seconds:.1f} seeds per second")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
