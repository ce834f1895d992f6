"""The peers' CSVs against the round log: two records of one run, by different hands."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from edge_peer.errors import ResourceError
from edge_peer.operator.audit.log import BYTES_MAX, Commit, RoundLog, Verdict
from edge_peer.operator.runs.results import Row, Table, row_of
from edge_peer.protocol.topics import is_name

#: Six digits in a CSV, and a sum in another order.
ACCURACY_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Line:
    """A CSV's line: its text by column, and what it means."""

    where: str
    texts: dict[str, str]
    row: Row


def read_tables(run: Path, verdict: Verdict) -> dict[str, list[Line]]:
    """The lines of every peer's CSV; what cannot be read is a fault."""
    tables = {}
    for path in sorted(run.glob("*.csv")):
        if not is_name(path.stem):
            verdict.fault(f"{path.name}: no peer has such a name")
            continue
        try:
            if path.stat().st_size > BYTES_MAX:
                raise ResourceError(f"{path.name} has more than {BYTES_MAX} bytes")
            table = Table.read(path)
        except OSError as error:
            verdict.fault(f"{path.name} cannot be read ({error.strerror})")
            continue
        except ResourceError as error:
            verdict.fault(str(error))
            continue
        lines = []
        for number, texts in enumerate(table.lines, 2):
            where = f"{path.name}, line {number}"
            try:
                lines.append(Line(where, texts, row_of(texts)))
            except (ValueError, OverflowError) as error:
                verdict.fault(f"{where}: {error}")
        if not table.lines:
            verdict.note(f"{path.name}: there is no row in it")
        tables[path.stem] = lines
    if not tables:
        verdict.note("there is no peer's CSV")
    return tables


def check_rows(tables: dict[str, list[Line]], run_id: str, log: RoundLog, verdict: Verdict) -> None:
    """Each row against the commit that it is of."""
    commits = {(it.round, it.term): it for it in log.commits}
    for peer, lines in tables.items():
        last = -1
        for line in lines:
            row = line.row
            for name, expected in (("run_id", run_id), ("peer", peer)):
                if line.texts.get(name, expected) != expected:
                    verdict.fault(f"{line.where}: {name} is {line.texts[name][:80]!r}, not {expected}")
            if row.round <= last:
                verdict.fault(f"{line.where}: round {row.round} stands after round {last}")
            last = row.round
            if row.round == 0:
                continue
            commit = commits.get((row.round, row.term))
            if commit is None:
                verdict.fault(
                    f"{line.where}: no log tells of round {row.round} in term {row.term}; collect that of its "
                    "controller"
                )
            else:
                _check_row(peer, line, commit, verdict)


def _check_row(peer: str, line: Line, commit: Commit, verdict: Verdict) -> None:
    counted = commit.accepted.get(peer)
    # A peer that was started again after it had sent its update has nothing to say of it.
    if counted is None or line.row.examples == 0:
        return
    if line.row.examples != counted.examples:
        verdict.fault(f"{line.where}: examples is {line.row.examples}, the log counts {counted.examples}")
    trained = line.texts.get("training_s") == f"{counted.seconds:.6g}"
    # Trained again after a restart, the loss may be another: that is not what was counted.
    if trained and line.texts.get("train_loss") != f"{counted.loss:.6g}":
        verdict.fault(f"{line.where}: train_loss is {line.texts.get('train_loss')}, the log has {counted.loss:.6g}")


def check_scores(tables: dict[str, list[Line]], log: RoundLog, verdict: Verdict) -> None:
    """The accuracies that controllers have counted, where all peers' rows are there."""
    everybody = set(tables) | log.invited
    models: dict[int, set[str]] = defaultdict(set)
    for commit in log.commits:
        models[commit.round].add(commit.sha256)
    rows: dict[int, list[Row]] = defaultdict(list)
    for lines in tables.values():
        for line in lines:
            rows[line.row.round].append(line.row)
    for score in log.scores:
        there = rows[score.round]
        total = sum(it.test_examples for it in there)
        if score.peers != len(everybody) or len(there) != len(everybody) or len(models[score.round]) > 1 or not total:
            continue
        mean = sum(it.global_accuracy * it.test_examples for it in there) / total
        if not abs(mean - score.accuracy) <= ACCURACY_TOLERANCE:
            verdict.fault(
                f"line {score.line}: accuracy of round {score.round} is {score.accuracy:.6g}, the peers' rows make "
                f"{mean:.6g}"
            )
