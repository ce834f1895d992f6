"""Bring together what the peers of a run have written: one folder with all CSVs, one round log, one model, one report.

`make collect` fetches the boards' files first, and then runs `python -m edge_peer.operator.fleet.collect`. It can be
said at any time, during a run too: what an earlier collection has brought is never lost, whatever has become of the
board.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edge_peer.errors import ResourceError
from edge_peer.operator.fleet.collection import Collection, missing_rows
from edge_peer.operator.graphs import draw_run
from edge_peer.operator.markup import printable
from edge_peer.operator.runs.files import (
    CONFIG,
    INT8_MODEL,
    MODEL,
    OTHER_COLUMNS,
    REPORT,
    ROUND_LOG,
    point_latest,
    read_lines,
    replace_file,
)
from edge_peer.operator.runs.results import Results, Table, read_results, row_of
from edge_peer.protocol.topics import is_name
from edge_peer.shell.class_counts import CLASSES
from edge_peer.shell.kept_updates import SUFFIX, UPDATES, round_of


def runs_of(state_dirs: Mapping[str, Path]) -> list[str]:
    """The ids of the runs that any of these peers has a folder of, oldest first."""
    found = {path.name for folder in state_dirs.values() for path in (folder / "runs").glob("*/") if path.is_dir()}
    return sorted(name for name in found if is_name(name))


def gather(state_dirs: Mapping[str, Path], run_id: str, out: Path) -> list[str]:
    """Bring one run's files out of the peers' state folders together, with what is in `out` already.

    Args:
        state_dirs: State folder of each peer.
        run_id: Which run.
        out: Gets `<peer>.csv`, `rounds.jsonl` (of all the run's controllers, by term), `model.safetensors`,
            `model.int8.tflite` if there is one, `config.toml` (of the last controller), `config/<peer>.toml`,
            `classes/<peer>.csv` and `updates/<controller>/<round>/`, where updates were kept.

    Returns:
        What of a peer's CSV could not be used, one sentence each.

    Raises:
        ResourceError: No peer has anything of that run.
    """
    folders = {peer: folder / "runs" / run_id for peer, folder in sorted(state_dirs.items())}
    folders = {peer: folder for peer, folder in folders.items() if folder.is_dir()}
    if not folders:
        raise ResourceError(
            f"no peer has files of run {run_id!r}; there are {', '.join(runs_of(state_dirs)) or 'none'}"
        )
    (out / "config").mkdir(parents=True, exist_ok=True)
    lines = _round_log(state_dirs, folders, out)
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    replace_file(out / ROUND_LOG, text.encode())
    refused: list[str] = []
    for peer, folder in folders.items():
        name = f"{peer}.csv"
        refused += _merge_rows(out / name, (folder / f"{name}{OTHER_COLUMNS}", folder / name))
        _copy(folder / CONFIG, out / "config" / f"{peer}.toml")
        _copy_updates(folder / UPDATES, out / UPDATES / peer)
        _copy(folder / CLASSES / name, out / CLASSES / name)
    last = next((line["peer"] for line in reversed(lines) if line["peer"] in folders), next(iter(folders)))
    for name in (MODEL, INT8_MODEL, CONFIG):
        # Every peer that saw the end has the same model; the last controller certainly has.
        holders = [folder / name for folder in (folders[last], *folders.values()) if (folder / name).is_file()]
        if holders:
            _copy(holders[0], out / name)
    return refused


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(exist_ok=True)
        replace_file(target, source.read_bytes())


def _copy_updates(source: Path, target: Path) -> None:
    """Bring what a controller has kept; rounds that it had to let go since an earlier collection stay."""
    for path in sorted(source.glob(f"*/*{SUFFIX}")):
        # Not what a link leads to: whoever wrote it may have had other things in mind.
        if round_of(path.parent) is None or path.is_symlink() or path.parent.is_symlink() or not path.is_file():
            continue
        place, content = target / path.parent.name / path.name, path.read_bytes()
        if not (place.is_file() and place.read_bytes() == content):
            place.parent.mkdir(parents=True, exist_ok=True)
            replace_file(place, content)


def _round_log(state_dirs: Mapping[str, Path], folders: Mapping[str, Path], out: Path) -> list[dict[str, Any]]:
    """The controllers' logs in the order of their terms: their clocks may differ, terms do not."""
    lines = read_lines(out / ROUND_LOG) + [line for it in folders.values() for line in read_lines(it / ROUND_LOG)]
    terms = {line["term"] for line in lines}
    # The election before a run's first round belongs to no run yet.
    before = [line for folder in state_dirs.values() for line in read_lines(folder / "runs" / ROUND_LOG)]
    lines = [line for line in before if line["term"] in terms] + lines
    once = {json.dumps(line, sort_keys=True): line for line in lines}
    # One log is longer at every collection, and in order; of a term it begins with the election.
    return sorted(once.values(), key=lambda line: (line["term"], line.get("event") != "elected"))


def _merge_rows(target: Path, sources: Iterable[Path]) -> list[str]:
    """Put the rows of the sources over those of a CSV, round by round; returns what could not be used.

    A board that was set up anew in the middle of a run has a file that begins later; an upgrade can have begun one with
    other columns. Rows of an earlier collection stay in both cases.
    """
    refused: list[str] = []
    tables = []
    for path in (target, *sources):
        try:
            tables.append((path, Table.read(path)))
        except ResourceError as error:
            refused.append(str(error))
    columns: dict[str, None] = {}
    rows: dict[int, dict[str, str]] = {}
    for _, table in reversed(tables):
        columns |= dict.fromkeys(table.columns)
    for path, table in tables:
        for number, line in enumerate(table.lines, 2):
            try:
                rows[row_of(line).round] = line
            except ValueError as error:
                refused.append(f"{path}, line {number}: {error}; left out")
    if not rows:
        return refused
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[round_] for round_ in sorted(rows))
    replace_file(target, text.getvalue().encode())
    return refused


# ---------------------------------------------------------------------- of a fleet


def state_folders(collected: Path) -> dict[str, Path]:
    """What was fetched of each peer's state folder: `<collected>/<peer>`, with `runs` in it."""
    return {path.parent.name: path.parent for path in sorted(collected.glob("*/runs/")) if is_name(path.parent.name)}


def renewed_runs(state_dirs: Mapping[str, Path], runs: Path) -> list[str]:
    """Runs of which something came since their report was made, and the newest one, oldest first."""
    ids = runs_of(state_dirs)
    renewed = []
    for run_id in ids:
        report = runs / run_id / REPORT
        made_ns = report.stat().st_mtime_ns if report.is_file() else -1
        files = [path for it in state_dirs.values() for path in (it / "runs" / run_id).glob("*") if path.is_file()]
        if run_id == ids[-1] or any(path.stat().st_mtime_ns >= made_ns for path in files):
            renewed.append(run_id)
    return renewed


def assemble(collected: Path, runs: Path, run_id: str) -> tuple[Results, list[str]]:
    """Make `<runs>/<run id>/` of what was fetched, with graphs and report, as `make demo` leaves it.

    Returns:
        The run, and what is missing of it, one sentence each.

    Raises:
        ResourceError: There is nothing of that run, or no row of any peer.
    """
    folder = runs / run_id
    remarks = gather(state_folders(collected), run_id, folder)
    collection = Collection.fetched(collected)
    if collection.hosts:
        collection.write(folder)
    results = read_results(folder)
    remarks += missing_rows(results)
    draw_run(results, folder)
    return results, remarks


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 when a run was put together, 2 when there was none."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_peer.operator.fleet.collect",
        description="Put runs together from the files that were fetched from the boards, with graphs and report.",
    )
    parser.add_argument("--collected", type=Path, default=Path("fleet/collected"), help="fetched files (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs go (default: %(default)s)")
    parser.add_argument("--run", metavar="ID", help="only this run (default: the newest, and all that have grown)")
    options = parser.parse_args(arguments)
    collection = Collection.fetched(options.collected)
    if collection.hosts:
        text = f"collected from {len(collection.hosts) - len(collection.missed)} of {len(collection.hosts)} boards"
        print(text + (f"; not reached: {', '.join(collection.missed)}" if collection.missed else ""))
    state_dirs = state_folders(options.collected)
    ids = [options.run] if options.run else renewed_runs(state_dirs, options.runs)
    if not ids:
        print(f"collect: {options.collected}: no board has files of a run yet", file=sys.stderr)
        return 2
    done = None
    for run_id in ids:
        try:
            if not is_name(run_id):
                raise ResourceError(f"--run {run_id!r}: not a run's id; there are {', '.join(runs_of(state_dirs))}")
            results, remarks = assemble(options.collected, options.runs, run_id)
        except ResourceError as error:
            print(f"collect: {error}", file=sys.stderr)
            continue
        done = options.runs / run_id
        rounds = max(row.round for rows in results.peers.values() for row in rows)
        print(f"run {run_id}: {len(results.peers)} peers, round {rounds}, {printable(results.end()) or 'not finished'}")
        for remark in remarks:
            print(f"  {printable(remark)}")
    if done is None:
        return 2
    if not options.run:
        point_latest(options.runs, done)
    print(f"results in {done}/: CSVs, {done}/graphs/, models, rounds.jsonl; open {done}/{REPORT}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
