"""What the controllers' round log of a run claims, read as if somebody had changed it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from edge_peer.errors import RemoteProtocolError, ResourceError
from edge_peer.protocol.fields import SECONDS_MAX, Fields
from edge_peer.protocol.run_settings import RunSettings

#: No file of a run is longer; a larger one is not read.
BYTES_MAX = 1 << 28
#: Complaints that are kept: a hostile file must not make a million of them.
FAULTS_MAX = 200


class Verdict:
    """What an audit has found.

    Attributes:
        faults: What contradicts something else, or is damaged, or missing where it must be there.
        notes: What can happen in an honest run, and a reader should know.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.more = 0

    def fault(self, text: str) -> None:
        """Add one, unless there are very many already; then it is counted."""
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(text)
        else:
            self.more += 1

    def note(self, text: str) -> None:
        """Add one."""
        if len(self.notes) < FAULTS_MAX:
            self.notes.append(text)


@dataclass(frozen=True, slots=True)
class Counted:
    """An update as the log tells of it; `steps` is None in logs of releases that did not write it."""

    digest: str
    examples: int
    codec: str
    loss: float
    seconds: float
    steps: int | None
    base_loss: float | None


@dataclass(frozen=True, slots=True)
class Commit:
    """A round that a controller says it has committed.

    Attributes:
        line: Where in the log.
        population: Examples of all who could have trained; None: an earlier release has not written it.
    """

    line: int
    peer: str
    term: int
    round: int
    sha256: str
    base: str
    accepted: dict[str, Counted]
    population: int | None

    @property
    def made(self) -> tuple[int, str]:
        """Round and digest of its model."""
        return self.round, self.sha256

    @property
    def began(self) -> tuple[int, str]:
        """Round and digest of its base."""
        return self.round - 1, self.base

    def __str__(self) -> str:
        """For a message."""
        return f"round {self.round} of term {self.term} ({self.peer})"


@dataclass(frozen=True, slots=True)
class Score:
    """The accuracy of a round's model, as a controller has counted it over so many peers."""

    line: int
    round: int
    accuracy: float
    peers: int


@dataclass(slots=True)
class RoundLog:
    """The lines that can be checked.

    Attributes:
        settings: What the run was made with; None: nobody says so.
        resumed: (line, round, digest) of each takeover.
        ends: (line, round, digest) of each end.
        invited: Everybody who is named as taking part.
    """

    commits: list[Commit] = field(default_factory=list)
    settings: RunSettings | None = None
    resumed: list[tuple[int, int, str]] = field(default_factory=list)
    ends: list[tuple[int, int, str]] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    invited: set[str] = field(default_factory=set)


def content(path: Path) -> bytes:
    """A file's bytes; raises ResourceError where it is none, is too long or cannot be read."""
    try:
        if not path.is_file():
            raise ResourceError(f"{path.name} is missing")
        size = path.stat().st_size
        if size > BYTES_MAX:
            raise ResourceError(f"{path.name} has {size} bytes, more than {BYTES_MAX}")
        return path.read_bytes()
    except OSError as error:
        raise ResourceError(f"{path.name} cannot be read ({error.strerror})") from None


def read_log(path: Path, verdict: Verdict) -> RoundLog:
    """Read a run's round log; lines that cannot be used are faults."""
    log = RoundLog()
    try:
        text = content(path).decode("utf-8", "replace")
    except ResourceError as error:
        verdict.fault(str(error))
        return log
    *lines, torn = text.split("\n")
    if torn:
        verdict.fault(f"{path.name}: the last line is cut off")
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            verdict.fault(f"{path.name}, line {number}: is not JSON")
            continue
        try:
            _take(log, number, Fields(value, f"line {number}"), verdict)
        except RemoteProtocolError as error:
            verdict.fault(f"{path.name}, {error}")
    _order(log, verdict)
    return log


def _take(log: RoundLog, line: int, fields: Fields, verdict: Verdict) -> None:
    event, peer, term = fields.text("event"), fields.name("peer"), fields.count("term", 1)
    if event == "committed":
        log.commits.append(_commit(line, peer, term, fields))
        log.invited |= log.commits[-1].accepted.keys()
    elif event in ("started", "resumed"):
        if fields.has("settings"):
            settings = RunSettings.read(fields.object("settings"))
            if log.settings is not None and log.settings != settings:
                verdict.fault(f"line {line}: {peer} goes on with other settings than the run was started with")
            log.settings = log.settings or settings
        if event == "resumed":
            log.resumed.append((line, fields.count("round"), fields.digest("sha256")))
        else:
            log.invited |= set(fields.names("peers"))
    elif event == "opened":
        log.invited |= set(fields.names("participants"))
    elif event == "finished":
        log.ends.append((line, fields.count("round"), fields.digest("sha256")))
    elif event == "evaluated":
        log.scores.append(
            Score(line, fields.count("round"), fields.number("accuracy", 0, 1), fields.integer("peers", 1))
        )


def _commit(line: int, peer: str, term: int, fields: Fields) -> Commit:
    return Commit(
        line=line,
        peer=peer,
        term=term,
        round=fields.count("round", 1),
        sha256=fields.digest("sha256"),
        base=fields.digest("base"),
        accepted={
            name: Counted(
                digest=it.digest("digest"),
                examples=it.integer("examples", 1, 2**40),
                codec=it.name("codec"),
                loss=it.number("loss", 0, 1e30),
                seconds=it.number("s", 0, SECONDS_MAX),
                steps=it.integer("steps", 1, 2**40) if it.has("steps") else None,
                base_loss=it.number("base_loss", 0, 1e30) if it.has("base_loss") else None,
            )
            for name, it in fields.mapping("accepted")
        },
        population=fields.integer("population") if fields.has("population") else None,
    )


def _order(log: RoundLog, verdict: Verdict) -> None:
    """Within a term rounds go up, one model each."""
    last: dict[tuple[int, str], Commit] = {}
    models: dict[tuple[int, int], Commit] = {}
    for commit in log.commits:
        before = last.get((commit.term, commit.peer))
        if before is not None and before.round >= commit.round:
            verdict.fault(f"line {commit.line}: {commit} stands after round {before.round}")
        last[commit.term, commit.peer] = commit
        other = models.setdefault((commit.term, commit.round), commit)
        if other.sha256 != commit.sha256:
            verdict.fault(
                f"line {commit.line}: {commit} is model {commit.sha256[:12]}, line {other.line} has it as "
                f"{other.sha256[:12]}: two models of one round and term"
            )
