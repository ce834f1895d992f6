"""The charts of a run's report; the same peer has the same colour and marker in each, and in `graphs/`."""

from __future__ import annotations

from collections.abc import Callable

from edge_peer.operator.markup import Markup
from edge_peer.operator.palette import LINES_MAX, PERCENTILES, colour_of, marker_of
from edge_peer.operator.report.charts import Band, Bars, Chart, Lane, Line, Point, bands_of, swatch
from edge_peer.operator.runs.findings import Findings
from edge_peer.operator.runs.results import Results, Row, by_round
from edge_peer.operator.runs.waiting import mean_of, spent_by_all

#: So many elections have room for their names.
NAMED_MAX = 6
#: Bars further than this are grouped: they would be thinner than a dot.
BARS_MAX = 120
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


class Picture:
    """Draws a run.

    Args:
        results: Its rows.
        findings: What they say.
    """

    def __init__(self, results: Results, findings: Findings) -> None:
        self.results = results
        self.findings = findings
        self.order = {peer: index for index, peer in enumerate(results.invited())}

    def colour(self, peer: str) -> str:
        """Class of the peer's colour."""
        return f"c{colour_of(self.order[peer])}"

    def marker(self, peer: str) -> str:
        """The peer's marker."""
        return marker_of(self.order[peer])

    def sign(self, peer: str) -> Markup:
        """The peer's colour and marker, for a table."""
        return swatch(self.colour(peer), self.marker(peer))

    def points(self, value: Callable[[Row], float | None]) -> dict[str, list[Point]]:
        """A value of every peer by round, where it has one."""
        return {
            peer: [(row.round, it) for row in rows if (it := value(row)) is not None]
            for peer, rows in self.results.peers.items()
        }

    def _peers(self, value: Callable[[Row], float | None]) -> tuple[list[Line], list[Band]]:
        """A line a peer; with many, the median, the middle half and nine tenths."""
        series = self.points(value)
        if len(series) <= LINES_MAX:
            return [Line(peer, it, self.colour(peer), self.marker(peer)) for peer, it in series.items()], []
        places, (low, quarter, median, three_quarters, high) = bands_of(list(series.values()), PERCENTILES)
        bands = [
            Band("nine tenths of the boards", places, low, high, "c5"),
            Band("the middle half", places, quarter, three_quarters, "c0"),
        ]
        return [Line("median board", list(zip(places, median, strict=True)), "c0")], bands

    def accuracy(self) -> Markup:
        """Of the global model, by round: the boards, all together, and as int8."""
        lines, bands = self._peers(lambda row: row.global_accuracy)
        found = self.findings
        lines.append(Line("all test examples", list(found.accuracy.items()), "ink", kind="thick dashed"))
        if found.int8_accuracy:
            lines.append(Line("the same, int8 model", list(found.int8_accuracy.items()), "ink", "s", "dots"))
        return Chart(
            title="Accuracy of the global model on the boards' test splits",
            x_label="round",
            y_label="accuracy",
            lines=lines,
            bands=bands,
            rule=(found.target, f"target {found.target:g}") if found.target is not None else None,
        ).draw()

    def loss(self) -> Markup:
        """Of the global model, by round, and of training."""
        lines, bands = self._peers(lambda row: row.global_loss)
        trained: dict[int, list[tuple[float, int]]] = {}
        for rows in self.results.peers.values():
            for row in rows:
                if row.train_loss is not None and row.examples:
                    trained.setdefault(row.round, []).append((row.train_loss, row.examples))
        means = [
            (round_, sum(loss * count for loss, count in it) / sum(count for _, count in it))
            for round_, it in sorted(trained.items())
        ]
        lines.append(Line("while training, all boards", means, "ink", kind="dotted thick"))
        return Chart(
            "Loss of the global model, and while training", "round", "cross-entropy", lines, bands, zero=True
        ).draw()

    def time(self) -> Markup:
        """Where the seconds of a round go, for the mean board, and how long the slowest one trains."""
        took = self.results.round_seconds()
        slowest: dict[int, float] = {}
        for rows in self.results.peers.values():
            for row in rows:
                slowest[row.round] = max(slowest.get(row.round, 0.0), row.training_s or 0.0)
        spent = spent_by_all(self.results)
        rounds, size = _grouped(sorted(spent))
        means = [mean_of([spent[it] for it in group]) for group in rounds]
        x = [_mean([float(it) for it in group]) for group in rounds]
        training, scoring = [it.training_s for it in means], [it.evaluation_s for it in means]
        both = [one + other for one, other in zip(training, scoring, strict=True)]
        bars = [
            Bars("training", x, training, "c0", width=0.8 * size),
            Bars("evaluating", x, scoring, "c2", training, width=0.8 * size),
            Bars("the rest: waiting for others, sending, merging", x, [it.rest_s for it in means], "c4", both,
                 width=0.8 * size),
        ]  # fmt: skip
        marks = [(place, _mean([slowest.get(it, 0.0) for it in group])) for place, group in zip(x, rounds, strict=True)]
        title = f"Time of a round: {sum(took.values()):.1f} s in {len(took)} rounds"
        if means:
            title += f"; the mean board waits {mean_of(list(spent.values())).share:.0%} of it"
        lines = [Line("training of the slowest board", marks, "ink", "D", "dots")] if x else []
        return Chart(title, "round", "seconds", lines=lines, bars=bars if x else [], zero=True).draw()

    def bytes(self) -> Markup:
        """What a board sends and receives in a round: the mean, and from least to most."""
        found = by_round(self.results)
        rounds, size = _grouped(sorted(found))
        x = [_mean([float(it) for it in group]) for group in rounds]
        means = [
            [_mean([float(getattr(row, name)) for it in group for row in found[it]]) for group in rounds]
            for name in ("bytes_sent", "bytes_received")
        ]
        most = max((it for line in means for it in line), default=0.0)
        scale, unit = next(((scale, unit) for scale, unit in BYTES if most >= scale), (1.0, "B"))
        sent, received = ([it / scale for it in line] for line in means)
        bars = [
            Bars("sent", x, sent, "c0", place=-0.2 * size, width=0.38 * size),
            Bars("received", x, received, "c1", place=0.2 * size, width=0.38 * size),
        ]
        total = sum(row.bytes_sent + row.bytes_received for rows in found.values() for row in rows)
        title = f"Traffic of a board in a round, mean of all ({total / 1e6:.4g} MB in all)"
        return Chart(title, "round", unit, bars=bars, zero=True).draw()

    def course(self) -> Markup:
        """Accuracy over time, with every election, refused and missing update."""
        found = self.findings
        line = [(found.scored_s[it], found.accuracy[it]) for it in found.accuracy if it in found.scored_s]
        elected = [it for it in found.happenings if it.kind == "elected"]
        lanes = [
            Lane(name, [(it.at_s, f"round {it.round}: {it.peer}: {it.text}") for it in found.happenings
                        if it.kind == name], colour, marker)
            for name, colour, marker in (("refused", "bad", "x"), ("missing", "note", "v"))
        ]  # fmt: skip
        named = len(elected) <= NAMED_MAX
        return Chart(
            title="Accuracy over time; an upright line is an election, marks below are updates refused or missing",
            x_label="seconds since the start",
            y_label="accuracy",
            lines=[Line("all test examples", line, "ink", "o", "thick")],
            lanes=lanes,
            upright=[(it.at_s, it.peer if named else "") for it in elected],
            whole=False,
            size=(880, 320),
        ).draw()


def _grouped(rounds: list[int]) -> tuple[list[list[int]], int]:
    """Neighbouring rounds together, so that there are not too many groups; and how many a group has."""
    size = -(-len(rounds) // BARS_MAX) or 1
    return [rounds[it : it + size] for it in range(0, len(rounds), size)], size


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
