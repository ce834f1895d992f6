"""What a run says of itself: was its target reached, how each round went, who took part, and what went wrong when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from edge_peer.operator.live.progress import seconds
from edge_peer.operator.runs.results import Results, is_number, time_of
from edge_peer.operator.words import counted
from edge_peer.protocol.run_settings import RunSettings


@dataclass(slots=True)
class RoundFacts:
    """One committed round, as its controller tells it.

    Attributes:
        seconds: From its opening to its commit, on the controller's clock; None: it does not say.
        accepted: Whose updates are in it.
        refused: Why an update is not, by peer.
        missing: Why there was none, by peer.
    """

    round: int
    term: int
    controller: str
    seconds: float | None
    accepted: tuple[str, ...]
    refused: dict[str, str]
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something on the time axis: `elected`, `refused` or `missing`.

    Attributes:
        at_s: Seconds after the run's start, by the clock of the board that tells it.
    """

    kind: str
    at_s: float
    round: int
    peer: str
    text: str


@dataclass(slots=True)
class Findings:
    """A run, judged.

    Attributes:
        settings: What it was made with, as the round log has it; empty: the log of its start is not there.
        accuracy: By round, over all test splits: the controllers' numbers, and where they are missing, the CSVs' mean.
        int8_accuracy: The same of the int8 model.
        scored_s: When the accuracy of a round was known, in seconds after the start.
        target_round: The first round whose accuracy is the target or above.
        duration_s: From the start to the end, or to what is the latest; None: no clock tells.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    rounds: list[RoundFacts] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    accuracy: dict[int, float] = field(default_factory=dict)
    int8_accuracy: dict[int, float] = field(default_factory=dict)
    scored_s: dict[int, float] = field(default_factory=dict)
    end: str = ""
    target_round: int | None = None
    duration_s: float | None = None

    @property
    def target(self) -> float | None:
        """The accuracy to reach, if one was set."""
        value = self.settings.get("target_accuracy")
        return float(value) if value is not None and is_number(value) else None

    @property
    def rounds_max(self) -> int | None:
        """How many rounds were allowed, where that is known."""
        value = self.settings.get("rounds_max")
        return value if isinstance(value, int) else None

    @property
    def last_round(self) -> int:
        """How many rounds are in the newest model that was evaluated."""
        return max(self.accuracy, default=0)

    def answer(self) -> tuple[str, str]:
        """A word (`Reached`, `Not reached`, `Under way`, `Ended` or `Done`), and the sentence that explains it."""
        last = self.last_round
        if not self.accuracy:
            return "Under way" if not self.end else "Ended", "No accuracy is known yet."
        now = f"accuracy {self.accuracy[last]:.4f} after {counted(last, 'round')}"
        best = max(self.accuracy, key=lambda round_: (self.accuracy[round_], -round_))
        if self.target is not None and self.target_round is not None:
            after = self.scored_s.get(self.target_round)
            took = f", {seconds(after)} after the start" if after is not None and after >= 0 else ""
            said = f"The target of {self.target:g} was reached in round {self.target_round}{took}"
            return "Reached", f"{said}: accuracy {self.accuracy[self.target_round]:.4f}."
        if not self.end:
            of = f" of at most {self.rounds_max}" if self.rounds_max is not None else ""
            return "Under way", f"As far as collected: {now}{of}."
        if self.target is not None:
            said = f"The target of {self.target:g} was not reached: {now}"
            return "Not reached", said + (f"; the best was {self.accuracy[best]:.4f} in round {best}." if best != last
                                          else ", which is the best.")  # fmt: skip
        return "Done", f"No target was set; {now}."

    def count(self, peer: str, kind: str) -> int:
        """How often a peer's update was `refused` or `missing`."""
        return sum(it.kind == kind and it.peer == peer for it in self.happenings)


def find(results: Results) -> Findings:
    """Read out of a run what it says."""
    found = Findings(end=results.end())
    start = _start(results)
    found.accuracy, found.int8_accuracy = results.accuracy(), results.int8_accuracy()
    settled: set[int] = set()
    latest: datetime | None = None
    for line in results.log:
        time = time_of(line)
        if time is not None:
            latest = time if latest is None else max(latest, time)
        at_s = (time - start).total_seconds() if time is not None and start is not None else None
        name, round_ = line.get("event"), line.get("round")
        if name == "started" and isinstance(line.get("settings"), dict):
            found.settings = line["settings"]
        elif name == "elected":
            found.happenings.append(Happening(name, at_s or 0.0, 0, line["peer"], f"controller of term {line['term']}"))
        elif not isinstance(round_, int) or round_ < 0:
            continue
        elif name == "committed":
            _committed(found, line, round_, at_s)
        elif name in ("evaluated", "reported") and is_number(line.get("accuracy")):
            # What all have reported at the end is worth more than what came in time for the next round.
            found.accuracy[round_] = float(line["accuracy"])
            if is_number(line.get("int8_accuracy")):
                found.int8_accuracy[round_] = float(line["int8_accuracy"])
            if at_s is not None and round_ not in settled:
                found.scored_s[round_] = at_s
            settled.add(round_)
    found.accuracy = dict(sorted(found.accuracy.items()))
    found.int8_accuracy = dict(sorted(found.int8_accuracy.items()))
    found.rounds.sort(key=lambda it: it.round)
    found.happenings.sort(key=lambda it: it.at_s)
    target = found.target
    if target is not None:
        found.target_round = next((it for it, accuracy in found.accuracy.items() if accuracy >= target), None)
    if start is not None and latest is not None:
        elapsed_s = (latest - start).total_seconds()
        # A board without a clock of its own can be years behind; the rounds' own seconds are right then.
        rounds_s = sum(it.seconds or 0.0 for it in found.rounds)
        found.duration_s = max(elapsed_s, rounds_s)
    return found


def _start(results: Results) -> datetime | None:
    """When the run began, by the clock of its first controller; else when its first row was written."""
    times = [time_of(line) for line in results.events("started")]
    rows = [row.time for rows in results.peers.values() for row in rows]
    return next((it for it in times if it is not None), min(rows, default=None))


def _committed(found: Findings, line: dict[str, Any], round_: int, at_s: float | None) -> None:
    accepted, refused, missing = (_by_peer(line.get(name)) for name in ("accepted", "refused", "missing"))
    seconds_ = float(line["seconds"]) if is_number(line.get("seconds")) else None
    facts = RoundFacts(round_, line["term"], line["peer"], seconds_, tuple(accepted), refused, missing)
    # A controller that died behind its commit can leave a second one of the same round: the later term's counts.
    found.rounds = [it for it in found.rounds if it.round != round_] + [facts]
    for kind, reasons in (("refused", refused), ("missing", missing)):
        for peer, reason in reasons.items():
            found.happenings.append(Happening(kind, at_s or 0.0, round_, peer, reason))


def _by_peer(value: object) -> dict[str, str]:
    return {str(peer): str(text) for peer, text in value.items()} if isinstance(value, dict) else {}


def changed_settings(settings: dict[str, Any]) -> dict[str, tuple[Any, bool]]:
    """Every setting of a run, and whether it is another than the default."""
    plain = RunSettings()
    return {name: (value, getattr(plain, name, None) != value) for name, value in sorted(settings.items())}
