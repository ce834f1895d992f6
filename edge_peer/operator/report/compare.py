"""Two runs or more side by side on one page, for `make compare`: `python -m edge_peer.operator.report.compare RUN RUN`.

What differs in their settings, accuracy by round, by time and by bytes, and the final numbers with the best of each.
The page is of the report's kind: it opens without a network, runs no script, and what a board has said is text in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from edge_peer.errors import ResourceError
from edge_peer.operator.live.progress import seconds
from edge_peer.operator.markup import Markup, join, table, tag
from edge_peer.operator.palette import colour_of, marker_of
from edge_peer.operator.report.charts import Chart, Line, Point, spread, swatch
from edge_peer.operator.report.frame import page, section, setting_text
from edge_peer.operator.runs.config import model_name, read_config
from edge_peer.operator.runs.files import CONFIG, replace_file
from edge_peer.operator.runs.findings import Findings, find
from edge_peer.operator.runs.results import Results, by_round, read_results
from edge_peer.operator.runs.waiting import mean_of, spent_by_all
from edge_peer.operator.words import accuracy_text, bytes_text, counted

COMPARISON = "compare.html"
#: Rows of the table below the curves.
ROWS_MAX = 200
#: More lines than this cannot be told apart.
RUNS_MAX = 12


@dataclass(frozen=True, slots=True)
class Run:
    """One of them.

    Attributes:
        name: Its id, or its path where two have the same id.
        model: Of its configuration.
    """

    name: str
    model: str
    results: Results
    findings: Findings

    @property
    def accuracy(self) -> dict[int, float]:
        """By round."""
        return self.findings.accuracy

    def sent(self) -> dict[int, int]:
        """Bytes that all boards together have sent until the end of each round."""
        rounds = by_round(self.results)
        return dict(zip(rounds, accumulate(sum(row.bytes_sent for row in it) for it in rounds.values()), strict=True))

    def elapsed_s(self) -> dict[int, float]:
        """Seconds from the start until the accuracy of a round was known; without a log the rounds' own sum."""
        known = {it: at_s for it, at_s in self.findings.scored_s.items() if at_s >= 0}
        if known:
            return known
        took = self.results.round_seconds()
        return dict(zip(sorted(took), accumulate(took[it] for it in sorted(took)), strict=True))

    def first_round(self, level: float) -> int | None:
        """Whose accuracy is the level or above."""
        return next((round_ for round_, accuracy in self.accuracy.items() if accuracy >= level), None)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of each run.

    Attributes:
        text: How it is written.
        best: `max` or `min`, or None where there is no better and worse.
    """

    name: str
    values: Sequence[float | None]
    text: Callable[[float], str]
    best: Callable[..., float] | None

    def winners(self) -> list[int]:
        """Places of the runs with the best value; none where all are alike, or only one has any."""
        known = [it for it in self.values if it is not None]
        if self.best is None or len(known) < 2 or len(set(map(self.text, known))) == 1:
            return []
        best = self.text(self.best(known))
        return [place for place, it in enumerate(self.values) if it is not None and self.text(it) == best]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read them.

    Raises:
        ResourceError: One is no run, or the number of them cannot be compared.
    """
    if not 2 <= len(folders) <= RUNS_MAX:
        raise ResourceError(f"{counted(len(folders), 'run')} given: name 2 to {RUNS_MAX}, such as runs/a runs/b")
    read = [(folder, read_results(folder)) for folder in folders]
    ids = [results.run_id for _, results in read]
    return [
        Run(
            results.run_id if ids.count(results.run_id) == 1 else str(folder),
            model_name(read_config(folder / CONFIG)),
            results,
            find(results),
        )
        for folder, results in read
    ]


def level_of(runs: Sequence[Run]) -> float | None:
    """The highest accuracy that all of them reach."""
    best = [max(run.accuracy.values(), default=None) for run in runs]
    known = [it for it in best if it is not None]
    return min(known) if len(known) == len(runs) else None


def figures(runs: Sequence[Run]) -> list[Figure]:
    """What is compared, each with the way in which it is better."""

    def last(run: Run, of: dict[int, float]) -> float | None:
        return of.get(run.findings.last_round)

    found = [
        Figure("accuracy at the end", [last(it, it.accuracy) for it in runs], _four, max),
        Figure("the same of the int8 model", [last(it, it.findings.int8_accuracy) for it in runs], _four, max),
        Figure("best accuracy of a round", [max(it.accuracy.values(), default=None) for it in runs], _four, max),
    ]
    level = level_of(runs)
    if level is not None:
        first = [it.first_round(level) for it in runs]
        # Every run reaches the level in some round; of that, time or bytes may not be known.
        after = [it.elapsed_s().get(round_ or 0) for it, round_ in zip(runs, first, strict=True)]
        sent = [it.sent().get(round_ or 0) for it, round_ in zip(runs, first, strict=True)]
        found += [
            Figure(f"rounds to accuracy {level:.4f}, which all reach", first, _whole, min),
            Figure("time to it", after, seconds, min),
            Figure("sent by all boards until then", sent, bytes_text, min),
        ]
    spent = [list(spent_by_all(it.results).values()) for it in runs]
    rounds = [it.results.round_seconds() for it in runs]
    faults = [sum(one.kind != "elected" for one in it.findings.happenings) for it in runs]
    return [
        *found,
        Figure("rounds", [it.findings.last_round for it in runs], _whole, None),
        Figure("from start to end", [it.findings.duration_s for it in runs], seconds, min),
        Figure("time of a round, mean", [sum(it.values()) / len(it) if it else None for it in rounds], _seconds, min),
        Figure("of a round the mean board waits", [mean_of(it).share if it else None for it in spent], _share, min),
        Figure("sent by all boards together", [max(it.sent().values(), default=0) for it in runs], bytes_text, min),
        Figure("memory of a board, peak of all", [_memory(it) for it in runs], bytes_text, min),
        Figure("boards", [len(it.results.invited()) for it in runs], _whole, None),
        Figure("elections", [len(it.results.elections()) for it in runs], _whole, None),
        Figure("updates refused or missing", faults, _whole, min),
    ]  # fmt: skip


def _memory(run: Run) -> float:
    return max(row.rss_peak_bytes for rows in run.results.peers.values() for row in rows)


def _four(value: float) -> str:
    return f"{value:.4f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _share(value: float) -> str:
    return f"{value:.0%}"


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all of them, each with its values as text."""
    names = sorted({name for it in runs for name in it.findings.settings})
    rows = [(name, [setting_text(it.findings.settings[name]) if name in it.findings.settings else "unknown"
                    for it in runs]) for name in names]  # fmt: skip
    examples = [sum(max(row.examples for row in rows) for rows in it.results.peers.values()) for it in runs]
    rows = [
        ("model", [it.model for it in runs]),
        ("boards", [str(len(it.results.invited())) for it in runs]),
        ("training examples", [f"{it:,}" for it in examples]),
        *rows,
    ]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def comparison(runs: Sequence[Run]) -> str:
    """The page."""
    names = tag("ul", *(tag("li", _sign(place), it.name) for place, it in enumerate(runs)), class_="plain")
    curves = [
        _curve(runs, "Accuracy by round", "round", lambda run: {it: float(it) for it in run.accuracy}, whole=True),
        _curve(runs, "Accuracy by time", "seconds since the start", Run.elapsed_s),
        _curve(runs, "Accuracy by bytes", "MB sent by all boards together", lambda run: _megabytes(run.sent())),
    ]
    return page(
        f"{counted(len(runs), 'run')} compared",
        tag("h1", f"Which of {counted(len(runs), 'run')} is better?"),
        names,
        _verdict(runs),
        section("Numbers", _numbers(runs)),
        section("Curves", tag("div", *curves, class_="charts"), _rounds(runs)),
        section("Settings that differ", _settings(runs)),
    )


def _megabytes(sent: dict[int, int]) -> dict[int, float]:
    return {round_: it / 1e6 for round_, it in sent.items()}


def _sign(place: int) -> Markup:
    return swatch(f"c{colour_of(place)}", marker_of(place))


def _verdict(runs: Sequence[Run]) -> Markup:
    said = []
    for figure in figures(runs):
        won = figure.winners()
        if won and figure.name in VERDICTS:
            value = figure.values[won[0]]
            assert value is not None
            who = " and ".join(runs[it].name for it in won)
            said.append(tag("li", f"{VERDICTS[figure.name]}: ", tag("b", who), f" ({figure.text(value)})"))
    inside = tag("ul", *said) if said else tag("p", "They are alike in all that is compared.")
    return tag("div", tag("strong", "The best of them"), inside, class_="answer")


#: What is said first, by the figure's name.
VERDICTS = {
    "accuracy at the end": "most accurate",
    "time to it": "first at the accuracy that all reach",
    "sent by all boards until then": "fewest bytes until then",
}


def _numbers(runs: Sequence[Run]) -> Markup:
    head = [("figure", "left"), *((it.name, "") for it in runs)]
    rows = []
    for figure in figures(runs):
        won = figure.winners()
        cells = [
            tag("td", *([tag("b", figure.text(value)), " best"] if place in won else [figure.text(value)]))
            if value is not None
            else tag("td", "")
            for place, value in enumerate(figure.values)
        ]
        rows.append(tag("tr", tag("th", figure.name, scope="row"), *cells))
    said = "The best of each is bold, and says so; less is better of time, bytes, memory, waiting and faults."
    return join(tag("p", said, class_="soft"), table(head, rows))


def _curve(
    runs: Sequence[Run], title: str, label: str, places: Callable[[Run], dict[int, float]], whole: bool = False
) -> Markup:
    lines = []
    for place, run in enumerate(runs):
        at = places(run)
        points: list[Point] = [(at[round_], accuracy) for round_, accuracy in run.accuracy.items() if round_ in at]
        lines.append(Line(run.name, points, f"c{colour_of(place)}", marker_of(place)))
    return Chart(title, label, "accuracy", lines, whole=whole, x_from=0.0).draw()


def _rounds(runs: Sequence[Run]) -> Markup:
    """The numbers of the curves, for who cannot see them; evenly thinned out where there are many."""
    places = [(run.elapsed_s(), run.sent()) for run in runs]
    known = sorted({round_ for run in runs for round_ in run.accuracy})
    rows = []
    for round_ in spread(known, ROWS_MAX):
        cells = []
        for run, (elapsed_s, sent) in zip(runs, places, strict=True):
            cells += [
                accuracy_text(run.accuracy.get(round_)),
                seconds(elapsed_s[round_]) if round_ in elapsed_s else "",
                bytes_text(sent[round_]) if round_ in sent else "",
            ]
        rows.append(tag("tr", tag("th", str(round_), scope="row"), *(tag("td", it) for it in cells)))
    names = [f"{run.name}: {what}" for run in runs for what in ("accuracy", "after", "sent")]
    summary = f"{'All' if len(known) <= ROWS_MAX else f'{ROWS_MAX} of'} {counted(len(known), 'round')}"
    return tag("details", tag("summary", summary), table([("round", "left"), *((it, "") for it in names)], rows))


def _settings(runs: Sequence[Run]) -> Markup:
    different = differences(runs)
    if not different:
        return tag("p", "None: model, boards, examples and every setting of the run are the same.", class_="soft")
    rows = [
        tag("tr", tag("th", name, scope="row"), *(tag("td", it, class_="text") for it in values))
        for name, values in different
    ]
    return table([("setting", "left"), *((it.name, "text") for it in runs)], rows)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_peer.operator.report.compare", description="Put runs side by side on one page."
    )
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folders such as runs/<run id>")
    parser.add_argument("--out", type=Path, help=f"where to (default: {COMPARISON} beside the first run)")
    options = parser.parse_args(arguments)
    try:
        runs = read_runs(options.runs)
        out = options.out or options.runs[0].resolve().parent / COMPARISON
        replace_file(out, comparison(runs).encode())
    except (ResourceError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
