"""Draw a run's graphs and report from its CSVs: `python -m edge_peer.operator.graphs runs/latest`.

Written into the run's folder are `report.html`, see `edge_peer.operator.report.page`, and in `graphs/`:

    accuracy.png           every peer and the mean, by round
    accuracy_<peer>.png    one peer: its own model after training, the global model, the others behind
    loss.png               local and global loss, by round
    time.png               where the seconds of a round go
    bytes.png              what a peer sends and receives in a round
    elections.png          accuracy over time, with every election
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edge_peer.errors import ResourceError
from edge_peer.operator.palette import COLOURS, LINES_MAX, PERCENTILES, colour_of, marker_of
from edge_peer.operator.report.page import write_report
from edge_peer.operator.runs.results import Results, Row, read_results

MEAN = "#333333"
#: Room for the legend above bars.
HEADROOM = 1.22


class Look:
    """The same peer has the same colour and marker in every picture of a run."""

    def __init__(self, peers: Sequence[str]) -> None:
        self._peers = sorted(peers)

    def of(self, peer: str) -> dict[str, Any]:
        """Arguments for a line of this peer."""
        index = self._peers.index(peer)
        return {"color": COLOURS[colour_of(index)], "marker": marker_of(index), "markersize": 4, "linewidth": 1.4}


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Draw every graph of a run; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    look = Look(results.invited())
    drawn = []
    pictures: dict[str, Callable[..., None]] = {
        "accuracy": _accuracy,
        "loss": _loss,
        "time": _time,
        "bytes": _bytes,
        "elections": _elections,
        **{f"accuracy_{peer}": partial(_accuracy_of, peer=peer) for peer in results.peers},
    }
    for name, paint in pictures.items():
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        paint(axes, results, look)
        figure.text(0.005, 0.005, results.run_id, ha="left", va="bottom", fontsize=7, color="#777777")
        path = folder / f"{name}.png"
        temporary = folder / f".{name}.{os.getpid()}.png"
        figure.savefig(temporary, dpi=110)
        temporary.replace(path)
        drawn.append(path)
    return drawn


def draw_run(results: Results, folder: Path) -> list[Path]:
    """Draw a run's graphs and write its report into its folder; returns the files."""
    drawn = draw_all(results, folder / "graphs")
    return [*drawn, write_report(results, folder)]


def _by_round(axes: Any, title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend(axes: Any, entries: int) -> None:
    axes.legend(fontsize=8, ncols=1 + entries // 7, frameon=False)


def _lines(axes: Any, results: Results, look: Look, value: Callable[[Row], float | None]) -> None:
    """A line a peer; with many peers the median and bands of the middle half and of nine tenths."""
    series = {
        peer: [(row.round, it) for row in rows if (it := value(row)) is not None]
        for peer, rows in results.peers.items()
    }
    if len(series) <= LINES_MAX:
        for peer, points in series.items():
            axes.plot([x for x, _ in points], [y for _, y in points], label=peer, **look.of(peer))
        return
    rounds = sorted({x for points in series.values() for x, _ in points})
    by_round = [[y for points in series.values() for x, y in points if x == round_] for round_ in rounds]
    cuts = np.array([np.percentile(values, PERCENTILES) for values in by_round]).T
    axes.fill_between(rounds, cuts[0], cuts[4], color=COLOURS[5], alpha=0.25, label="nine tenths of the peers")
    axes.fill_between(rounds, cuts[1], cuts[3], color=COLOURS[0], alpha=0.35, label="the middle half")
    axes.plot(rounds, cuts[2], color=COLOURS[0], linewidth=2, label="median peer")


def _accuracy(axes: Any, results: Results, look: Look) -> None:
    mean = results.accuracy()
    _lines(axes, results, look, lambda row: row.global_accuracy)
    axes.plot(list(mean), list(mean.values()), color=MEAN, linewidth=2.4, linestyle="--", label="mean")
    last = max(mean)
    int8 = results.int8_accuracy()
    if int8:
        style = {"color": MEAN, "linewidth": 1, "linestyle": "none", "marker": "s", "markersize": 4}
        axes.plot(list(int8), list(int8.values()), label="mean, int8 model", **style, markerfacecolor="none")
    title = f"Global model: {mean[last]:.4f} after round {last}"
    if last in int8:
        title += f", as int8 {int8[last]:.4f}"
    _by_round(axes, title, "accuracy on the peer's test split")
    _legend(axes, len(results.peers))


def _accuracy_of(axes: Any, results: Results, look: Look, peer: str) -> None:
    if len(results.peers) <= LINES_MAX:
        for other, rows in results.peers.items():
            if other != peer:
                axes.plot(
                    [row.round for row in rows], [row.global_accuracy for row in rows], color="#CCCCCC", linewidth=1
                )
    rows = results.peers[peer]
    style = look.of(peer)
    axes.plot([row.round for row in rows], [row.global_accuracy for row in rows], label="global model", **style)
    trained = [(row.round, row.local_accuracy) for row in rows if row.local_accuracy is not None]
    axes.plot(
        [round_ for round_, _ in trained],
        [accuracy for _, accuracy in trained],
        label="own model after training",
        **{**style, "linestyle": ":", "marker": "x"},
    )
    led = [row for row in rows if row.role == "controller"]
    if led:
        rounds, accuracies = [row.round for row in led], [row.global_accuracy for row in led]
        ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": MEAN}
        axes.plot(rounds, accuracies, linestyle="none", label="was controller", **ring)
    _by_round(
        axes, f"{peer}: {rows[-1].global_accuracy:.4f} after round {rows[-1].round}", "accuracy on its test split"
    )
    _legend(axes, 3)


def _loss(axes: Any, results: Results, look: Look) -> None:
    _lines(axes, results, look, lambda row: row.global_loss)
    if len(results.peers) <= LINES_MAX:
        for peer, rows in results.peers.items():
            trained = [row for row in rows if row.train_loss is not None]
            style = {**look.of(peer), "linestyle": ":", "marker": "", "linewidth": 1}
            axes.plot([row.round for row in trained], [row.train_loss for row in trained], **style)
    dotted = " (dotted: while training)" if len(results.peers) <= LINES_MAX else ""
    _by_round(axes, f"Loss: global model on the test splits{dotted}", "cross-entropy")
    axes.set_ylim(bottom=0)
    _legend(axes, len(results.peers))


def _time(axes: Any, results: Results, _look: Look) -> None:
    """The slowest trainer is what a round waits for; what is left is waiting, sending and merging."""
    seconds = results.round_seconds()
    rows = [row for rows in results.peers.values() for row in rows]
    training = {
        round_: max((it.training_s or 0.0 for it in rows if it.round == round_), default=0) for round_ in seconds
    }
    rounds = sorted(seconds)
    slowest = np.array([min(training[round_], seconds[round_]) for round_ in rounds])
    rest = np.array([seconds[round_] for round_ in rounds]) - slowest
    axes.bar(rounds, slowest, color=COLOURS[0], label="training (the slowest peer)")
    axes.bar(rounds, rest, bottom=slowest, color=COLOURS[4], label="the rest: evaluating, sending, waiting, merging")
    total = float(slowest.sum() + rest.sum())
    axes.set_ylim(top=HEADROOM * max(slowest + rest, default=1.0))
    _by_round(axes, f"Time: {len(rounds)} rounds in {total:.2f} s", "seconds")
    _legend(axes, 2)


def _bytes(axes: Any, results: Results, _look: Look) -> None:
    rounds = sorted({row.round for rows in results.peers.values() for row in rows})
    width = 0.4
    for shift, name, colour in ((-width / 2, "bytes_sent", COLOURS[0]), (width / 2, "bytes_received", COLOURS[1])):
        values = [
            [getattr(row, name) / 1000 for rows in results.peers.values() for row in rows if row.round == round_]
            for round_ in rounds
        ]
        middle = np.array([np.mean(it) for it in values])
        low, high = np.array([min(it) for it in values]), np.array([max(it) for it in values])
        axes.bar(
            np.array(rounds) + shift,
            middle,
            width,
            # The mean of equal numbers can be off by a bit.
            yerr=np.maximum(0, (middle - low, high - middle)),
            error_kw={"elinewidth": 1, "ecolor": MEAN},
            color=colour,
            label=name.removeprefix("bytes_"),
        )
    axes.set_ylim(top=HEADROOM * axes.dataLim.ymax)
    _by_round(axes, "Traffic of a peer (mean; the lines reach from least to most)", "kilobytes a round")
    _legend(axes, 2)


def _elections(axes: Any, results: Results, look: Look) -> None:
    for peer, rows in results.peers.items():
        style = look.of(peer) if len(results.peers) <= LINES_MAX else {"color": "#BBBBBB", "linewidth": 0.7}
        label = peer if len(results.peers) <= LINES_MAX else None
        axes.plot([row.time for row in rows], [row.global_accuracy for row in rows], label=label, **style)
    for time, term, peer in results.elections():
        axes.axvline(time, color=MEAN, linewidth=1, linestyle="--")
        axes.annotate(
            f"term {term}: {peer}",
            (time, 0.3),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8,
            rotation=90,
            va="bottom",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_title("Elections (by the boards' own clocks, UTC)")
    axes.set_ylabel("accuracy on the peer's test split")
    if len(results.peers) <= LINES_MAX:
        _legend(axes, len(results.peers))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_peer.operator.graphs", description="Draw a run's graphs from its CSV files."
    )
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/latest"), help="its folder (runs/latest)")
    options = parser.parse_args(arguments)
    try:
        drawn = draw_run(read_results(options.run), options.run)
    except ResourceError as error:
        print(f"graphs: {error}", file=sys.stderr)
        return 2
    for path in drawn:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
