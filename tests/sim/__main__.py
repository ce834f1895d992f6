"""Run seeds of the simulation: `python -m tests.sim 17 --verbose`, or `python -m tests.sim --seeds 2000`.

Each seed is a federation with its misfortunes. Those of a range are played by as many processes as there are cores; at
the end stands which faults have occurred, how often. A seed that fails prints a line that replays it and its last ones.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import get_context

from edge_peer.protocol.peer import Peer
from tests.sim.scenario import Scenario
from tests.sim.world import World

#: So many lines of the transcript are shown of a seed that fails.
LAST_LINES = 40
CHUNK = 10
REPORT_S = 10.0


def failure(
    seed: int,
    peer_type: type[Peer] = Peer,
    transcript: Callable[[str], None] | None = None,
    occurred: Counter[str] | None = None,
) -> str:
    """What is wrong with a seed, in one line that says how to replay it; empty: nothing.

    Args:
        seed: Which federation.
        peer_type: The core that its boards run.
        transcript: Takes each line of what happens.
        occurred: The faults that have occurred are added to it.
    """
    try:
        world = World(Scenario.draw(seed), peer_type, transcript)
        try:
            world.run()
        finally:
            if occurred is not None:
                occurred.update(world.occurred())
    except Exception as error:  # noqa: BLE001 - whatever is raised is this seed's failure
        if transcript is not None:
            transcript(traceback.format_exc())
        return f"{type(error).__name__}: {error} - replay: python -m tests.sim {seed} --verbose"
    return ""


def last_lines(seed: int) -> list[str]:
    """How the transcript of a seed ends."""
    lines: deque[str] = deque(maxlen=LAST_LINES)
    failure(seed, transcript=lines.append)
    return list(lines)


Played = tuple[int, str, Counter[str]]


def _play(seed: int) -> Played:
    occurred: Counter[str] = Counter()
    return seed, failure(seed, occurred=occurred), occurred


def _let_the_parent_end_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def play(seeds: Sequence[int], processes: int) -> Iterator[Played]:
    """Play seeds in several processes; in the order in which they are done."""
    if processes == 1 or len(seeds) <= CHUNK:
        yield from map(_play, seeds)
        return
    with get_context("fork").Pool(processes, _let_the_parent_end_it) as pool:
        yield from pool.imap_unordered(_play, seeds, CHUNK)


def report(results: Iterable[Played], total: int) -> bool:
    """Print failures as they come, progress, and what has occurred; returns whether all were played and none failed."""
    occurred: Counter[str] = Counter()
    start_s = told_s = time.perf_counter()
    done = failed = 0
    try:
        for seed, why, faults in results:
            done += 1
            occurred += faults
            if why:
                failed += 1
                print(f"seed {seed} ({Scenario.draw(seed).profile}): {why}")
                print("\n".join(f"    {line}" for line in last_lines(seed)), flush=True)
            now_s = time.perf_counter()
            if now_s - told_s > REPORT_S:
                told_s = now_s
                print(f"{done} of {total}, {failed} failed, {done / (now_s - start_s):.0f} a second", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    for what, count in sorted(occurred.items()):
        print(f"{count:>12,} {what}")
    print(f"{done} seeds, {failed} failed, {done / (time.perf_counter() - start_s):.1f} seeds per second")
    return done == total and not failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", type=int, nargs="*", help="seeds to run")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="run N seeds")
    parser.add_argument("--start", type=int, default=0, metavar="SEED", help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="default: a core each")
    parser.add_argument("--verbose", action="store_true", help="print everything that happens")
    options = parser.parse_args(arguments)
    if options.verbose:
        failures = [(seed, why) for seed in options.seed if (why := failure(seed, transcript=print))]
        for seed, why in failures:
            print(f"seed {seed}: {why}")
        return 1 if failures else 0
    seeds = [*options.seed, *range(options.start, options.start + options.seeds)]
    return 0 if report(play(seeds, options.processes), len(seeds)) else 1


if __name__ == "__main__":
    sys.exit(main())
