"""`edge-peer audit`: whether the files of a run agree with each other; its models made again where updates are kept.

An audit shows that log, CSVs, updates and models fit together, and finds what was damaged or changed in one of them.
Nothing is signed: who changes all of them, so that they fit, is not found out.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edge_peer.config import load_config
from edge_peer.errors import ConfigError, RemoteProtocolError, ResourceError
from edge_peer.operator.audit.chain import follow
from edge_peer.operator.audit.log import RoundLog, Verdict, content, read_log
from edge_peer.operator.audit.replay import MISSING, RECOMPUTED, Outcome, Replay
from edge_peer.operator.audit.rows import Line, check_rows, check_scores, read_tables
from edge_peer.operator.markup import printable
from edge_peer.operator.runs.files import CONFIG, MODEL, ROUND_LOG
from edge_peer.operator.words import counted
from edge_peer.protocol.tensors import ModelRef
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.payload import decode_model, encode_model
from edge_peer.trainers.artifacts import ModelArtifacts, load_artifacts


def audit(run: Path, artifacts: Path | None) -> int:
    """Print what holds of each round, what does not fit, and the verdict.

    Args:
        run: A run's folder, as a demo or a collection leaves it; or that of a controller's own files.
        artifacts: The model's folder; None: the one in the run's config.toml.

    Returns:
        The exit code: 0 when nothing contradicts anything, 1 otherwise.

    Raises:
        ResourceError: There is no such run, or the artifacts cannot be used.
    """
    if not run.is_dir():
        raise ResourceError(f"{run}: no such run; `ls runs` shows those that there are")
    verdict = Verdict()
    outcomes = examine(run, _artifacts(run, artifacts), verdict)
    for round_, outcome, title in outcomes:
        print(printable(f"round {round_:<4} {outcome.state:<13} {title}{outcome.why}"))
    for note in verdict.notes:
        print(printable(f"note   {note}"))
    for fault in verdict.faults:
        print(printable(f"FAULT  {fault}"))
    if verdict.more:
        print(f"FAULT  and {verdict.more} more")
    states = Counter(outcome.state for _, outcome, _ in outcomes)
    said = ", ".join(f"{count} {state}" for state, count in sorted(states.items(), reverse=True))
    faults = len(verdict.faults) + verdict.more
    print(
        f"{counted(faults, 'fault') if faults else 'clean'}: {counted(len(outcomes), 'round')}, {said or 'none done'}"
    )
    return 1 if faults else 0


def examine(run: Path, artifacts: ModelArtifacts, verdict: Verdict) -> list[tuple[int, Outcome, str]]:
    """What an audit finds: (round, how far it could be checked, whose it is), in the order of the rounds."""
    log = read_log(run / ROUND_LOG, verdict)
    tables = read_tables(run, verdict)
    run_id = _run_id(run, tables, verdict)
    final = _final(run, run_id, artifacts, verdict)
    initial = artifacts.initial_sha256
    chain = follow(log, (final[0].round, final[0].sha256) if final is not None else _end(log), initial, verdict)
    replay = Replay(run, run_id, artifacts, log, verdict)
    outcomes = [(round_, Outcome(MISSING, "no log tells of it"), "") for round_ in chain.missing]
    for round_, commit in chain.commits.items():
        outcomes.append((round_, replay.round(commit), f"{commit.sha256[:12]}, term {commit.term}, {commit.peer}: "))
    replay.unknown_folders()
    _check_end(run, log, final, verdict)
    if final is not None and outcomes and outcomes[-1][1].state == RECOMPUTED:
        _check_bytes(run, artifacts, final[0], replay.final, verdict)
    check_rows(tables, run_id, log, verdict)
    check_scores(tables, log, verdict)
    return sorted(outcomes, key=lambda it: it[0])


def _artifacts(run: Path, folder: Path | None) -> ModelArtifacts:
    if folder is not None:
        return load_artifacts(folder)
    remedy = "name the folder of the model's artifacts: --artifacts FOLDER"
    try:
        return load_artifacts(load_config(run / CONFIG).model.artifacts)
    except ConfigError as error:
        raise ResourceError(f"{error.problems[0]}; or {remedy}") from None
    except ResourceError as error:
        raise ResourceError(f"{run / CONFIG}: [model] artifacts: {error}; or {remedy}") from None


def _run_id(run: Path, tables: dict[str, list[Line]], verdict: Verdict) -> str:
    """The run's name by its files; a folder may have been given another."""
    folder = run.resolve().name
    named = Counter(line.texts.get("run_id", folder) for lines in tables.values() for line in lines)
    if not named or folder in named:
        return folder
    run_id = named.most_common(1)[0][0]
    verdict.note(f"the folder is called {folder}, the run {run_id[:80]}")
    return run_id


def _final(run: Path, run_id: str, artifacts: ModelArtifacts, verdict: Verdict) -> tuple[ModelRef, GlobalModel] | None:
    path = run / MODEL
    if not path.is_file():
        return None
    try:
        ref, model = decode_model(artifacts.layout, content(path))
    except (RemoteProtocolError, ResourceError) as error:
        verdict.fault(f"{MODEL}: {error}")
        return None
    if ref.run_id != run_id:
        verdict.fault(f"{MODEL}: is of run {ref.run_id}, not {run_id}")
    return ref, model


def _end(log: RoundLog) -> tuple[int, str] | None:
    return log.ends[-1][1:] if log.ends else None


def _check_end(run: Path, log: RoundLog, final: tuple[ModelRef, GlobalModel] | None, verdict: Verdict) -> None:
    """The final model's file against the ends that the log tells of."""
    if final is None:
        if not log.ends:
            verdict.note("the run has not ended: no controller says so, and there is no final model")
        elif not (run / MODEL).is_file():
            verdict.fault(f"the run has ended, but {MODEL} is missing")
        return
    ref = final[0]
    if not any((round_, sha256) == (ref.round, ref.sha256) for _, round_, sha256 in log.ends):
        verdict.fault(f"{MODEL}: is {ref.sha256[:12]} of round {ref.round}, and no log tells of such an end")
    if log.commits and ref.round > 0 and ref.term not in {commit.term for commit in log.commits}:
        verdict.fault(f"{MODEL}: is of term {ref.term}, in which no log tells of a round")
    known = {commit.made for commit in log.commits}
    for line, round_, sha256 in log.ends:
        if (round_, sha256) != (ref.round, ref.sha256):
            text = f"line {line}: the run ends with {sha256[:12]} of round {round_}, {MODEL} is {ref.sha256[:12]}"
            # A controller that was cut off can have ended the run before the others went on.
            (verdict.note if (round_, sha256) in known else verdict.fault)(text)


def _check_bytes(
    run: Path, artifacts: ModelArtifacts, ref: ModelRef, made: GlobalModel | None, verdict: Verdict
) -> None:
    """The final model's file against the model that was made again: every byte, not only its digest."""
    if made is not None and made.digest == ref.sha256:
        try:
            same = content(run / MODEL) == encode_model(artifacts.layout, ref, made)
        except ResourceError as error:
            verdict.fault(str(error))
            return
        if not same:
            verdict.fault(f"{MODEL}: is not the file that the recomputed model makes")
