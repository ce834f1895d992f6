"""Thousands of rounds with joins, leaves and kills: `python -m bench.soak --rounds 2000`, or `make soak`.

Real peers and a real broker, a model of 1,300 parameters. All along, memory, descriptors and threads of every process
and the sizes of all files are sampled; afterwards it is said what grows, and the exit code is 1 if anything does that
should not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.soak.play import Soak
from bench.soak.samples import GROWS
from bench.soak.verdict import KIB, findings, growth, slope, thirds
from bench.tables import RESULTS, report, show


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    it = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.splitlines()[0])
    it.add_argument("--rounds", type=int, default=2000, help="of the run (default: %(default)s)")
    it.add_argument("--peers", type=int, default=6, help="at least 5 (default: %(default)s)")
    it.add_argument("--seed", type=int, default=1, help="of what happens (default: %(default)s)")
    it.add_argument("--examples", type=int, default=16, help="for training, a peer (default: %(default)s)")
    it.add_argument("--out", type=Path, default=RESULTS / "soak.json", help="results (default: %(default)s)")
    it.add_argument("--keep", type=Path, metavar="FOLDER", help="for logs and states, which are else removed")
    return it


def process_rows(soak: Soak) -> list[dict[str, Any]]:
    """One for each process that was watched long enough, and the extremes of the others together."""
    rows = []
    for series in soak.samples.series:
        line = slope(series)
        if line is None:
            continue
        rss = [it.rss_bytes // KIB for it in series.figures]
        rows.append(
            {
                "process": series.name,
                "rounds": series.rounds,
                "KiB/100 rounds": round(line.kib, 2),
                "+-": round(line.error_kib, 2),
                "2nd half": round(later.kib, 2) if (later := slope(series, later=True)) is not None else "-",
                "first KiB": rss[0],
                "last KiB": rss[-1],
                "peak KiB": max(rss),
                "descriptors": _from_to([it.descriptors for it in series.figures]),
                "threads": _from_to([it.threads for it in series.figures]),
            }
        )
    return rows


def _from_to(values: list[int]) -> str:
    early, late = thirds(values)
    return f"{early} to {late}"


def file_rows(soak: Soak) -> list[dict[str, Any]]:
    """One for each kind of file."""
    rows = []
    kinds = sorted({kind for kinds in soak.samples.files.values() for kind in kinds})
    for kind in kinds:
        points = {name: found[kind] for name, found in soak.samples.files.items() if kind in found}
        largest = {name: max(size for _, size in it) for name, it in points.items()}
        who = max(largest, key=lambda name: largest[name])
        rates = [growth(it) for it in points.values()]
        rows.append(
            {
                "file": kind,
                "largest bytes": largest[who],
                "of": who,
                "bytes/round": round(max(rates), 1),
                "grows": "by design" if kind in GROWS else "bounded",
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, judge, report; returns the exit code."""
    options = parser().parse_args(arguments)
    if options.peers < 5:
        parser().error(f"--peers {options.peers}: at least 5, for two live all along and a majority must be there")
    start_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - start_s:7.1f} {text}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(folder, options.peers, options.rounds, options.seed, options.examples, say)
        try:
            soak.run()
        except TimeoutError as error:
            soak.failures.append(str(error))
        finally:
            soak.close()
        complaints = soak.complaints()
    found = soak.failures + findings(soak.samples, options.peers)
    took_s = time.monotonic() - start_s
    title = f"{soak.round} rounds of {options.peers} peers, seed {options.seed}, in {took_s:.0f} s"
    happened = ", ".join(f"{kind} {count}" for kind, count in soak.events.items())
    files = file_rows(soak)
    more = {"events": soak.events, "findings": found, "errors": complaints, "files": files}
    rows = process_rows(soak) or [{"process": "none was watched for long enough"}]
    report("soak", f"{title}: {happened}", rows, more, options.out)
    show("Files", files)
    for text, count in list(complaints.items())[:10]:
        print(f"logged {count} times: {text}")
    for finding in found:
        print(f"FOUND {finding}")
    print("nothing grows that should not" if not found else f"{len(found)} found")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
