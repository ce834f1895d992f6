"""What a run's report says of single boards: a small picture and a row of a table each, and who is missing."""

from __future__ import annotations

from pathlib import Path

from edge_peer.operator.fleet.collection import Collection, missing_rows
from edge_peer.operator.markup import Markup, join, table, tag
from edge_peer.operator.report.charts import Line, bands_of, finite, histogram, spark
from edge_peer.operator.report.figures import Picture
from edge_peer.operator.runs.classes import ClassCounts
from edge_peer.operator.runs.results import Results, Row
from edge_peer.operator.runs.waiting import mean_of, spent_by
from edge_peer.operator.words import accuracy_text, counted

#: Of a bar chart's labels, as many are read out.
LABELS_SAID = 20
#: More pictures than this are smaller.
SMALLER = 48
#: With more, they fold out.
NOTICES_SHOWN = 8


def missing_notice(results: Results, folder: Path, problems: list[str]) -> Markup:
    """Which boards and rows the report is without; nothing where it has all."""
    missed = Collection.read(folder).missed
    said = [f"Not reached when the files were collected: {', '.join(missed)}"] if missed else []
    said += [*problems, *missing_rows(results)]
    if not said:
        return Markup("")
    # A board that was off, or came later, has no rows of that time: that is no fault of the collection.
    title = tag("strong", "Not everything is here.")
    items = tag("ul", *(tag("li", it) for it in said))
    if len(said) > NOTICES_SHOWN:
        first = " Rows are missing of boards that were off, came later, or were not reached."
        items = join(first, tag("details", tag("summary", f"All {len(said)}"), items))
    return tag("div", title, items, class_="notice", role="note")


def boards(picture: Picture, counts: dict[str, ClassCounts]) -> list[Markup]:
    """A small picture a board, all with the same axes, and below it what it has of each class."""
    series = {
        "own": picture.points(lambda row: row.local_accuracy),
        "global": picture.points(lambda row: row.global_accuracy),
    }
    places, (median,) = bands_of(list(series["global"].values()), (50,))
    middle = list(zip(places, median, strict=True))
    known = [it for lines in series.values() for points in lines.values() for it in finite(points)]
    y_range, x_range = _reach([y for _, y in known]), _reach([x for x, _ in known])
    labels = sorted({label for it in counts.values() for label in it.trained})
    most = max((max(it.trained.values(), default=0) for it in counts.values()), default=0)
    cards = []
    for peer, rows in picture.results.peers.items():
        lines = [
            Line("", middle, "soft", kind="faint"),
            Line("", series["own"][peer], picture.colour(peer), kind="dotted"),
            Line("", series["global"][peer], picture.colour(peer), kind="thick"),
        ]
        last = rows[-1]
        said = f"{accuracy_text(last.global_accuracy)} after round {last.round}"
        name = tag("b", picture.sign(peer), peer, title=peer)
        curve = spark(lines, f"{peer}: {said}", y_range, x_range)
        shares = _shares(counts[peer], labels, most) if peer in counts else Markup("")
        cards.append(tag("div", name, curve, tag("small", said), shares, class_="board"))
    low, high = y_range
    said = (
        f"Accuracy from {low:.2f} to {high:.2f} over rounds {x_range[0]:.0f} to {x_range[1]:.0f}: the global model on "
        "the board's test split (thick), its own model after training (dotted), and the median board (grey)."
    )
    if labels:
        said += " Bars: its training examples of each class, all boards on the same scale."
    return [
        tag("p", said, class_="soft"),
        tag("div", *cards, class_="boards many" if len(cards) > SMALLER else "boards"),
    ]


def _shares(counts: ClassCounts, labels: list[int], most: int) -> Markup:
    heights = [counts.trained[it] / max(most, 1) for it in labels]
    said = ", ".join(f"{label}: {counts.trained[label]}" for label in labels[:LABELS_SAID])
    return histogram(heights, f"training examples by class: {said}" + (" ..." if len(labels) > LABELS_SAID else ""))


def _reach(values: list[float]) -> tuple[float, float]:
    return min(values, default=0.0), max(values, default=1.0)


def board_table(picture: Picture) -> Markup:
    """A row a board."""
    results, findings = picture.results, picture.findings
    hot = any("temperature_c" in row.health for rows in results.peers.values() for row in rows)
    throttled = any(row.health.get("throttled") for rows in results.peers.values() for row in rows)
    head = [("board", "left"), ("controller of", "left"), ("trained", ""), ("own", ""), ("global", ""),
            ("int8", ""), ("training", ""), ("waits", ""), ("sent", ""), ("received", ""), ("RAM", ""),
            *([("hottest", "")] if hot else []), *([("throttled", "")] if throttled else []),
            ("refused", ""), ("missing", "")]  # fmt: skip
    took_s = results.round_seconds()
    terms: dict[str, list[str]] = {}
    for _, term, peer in results.elections():
        terms.setdefault(peer, []).append(str(term))
    rows = []
    for peer in results.invited():
        own = results.peers.get(peer, [])
        led = terms.get(peer, [])
        cells = [
            (f"term {', '.join(led)}" if len(led) < 2 else f"terms {', '.join(led)}") if led else "",
            *(_numbers(own, took_s) if own else ["no rows"] + [""] * 8),
            *([_hottest(own)] if hot else []),
            *([counted(sum(bool(row.health.get("throttled")) for row in own), "round")] if throttled else []),
            *(str(findings.count(peer, kind) or "") for kind in ("refused", "missing")),
        ]
        name = tag("th", picture.sign(peer), peer, scope="row")
        kinds = [kind or None for _, kind in head[1:]]
        rows.append(tag("tr", name, *(tag("td", it, class_=kind) for it, kind in zip(cells, kinds, strict=True))))
    said = (
        "Accuracies are the last ones: of the board's own model after training, of the global model and of its int8 "
        "form, on the board's test split. A board waits while it neither trains nor evaluates, as a share of the "
        "rounds that it trained in; RAM is its peak. Refused and missing count its updates."
    )
    return join(tag("p", said, class_="soft"), table(head, rows))


def _numbers(rows: list[Row], took_s: dict[int, float]) -> list[str]:
    spent = list(spent_by(rows, took_s).values())
    last = rows[-1]
    own = next((row.local_accuracy for row in reversed(rows) if row.local_accuracy is not None), None)
    int8 = next((row.int8_accuracy for row in reversed(rows) if row.int8_accuracy is not None), None)
    return [
        str(sum(row.examples > 0 for row in rows)),
        accuracy_text(own),
        accuracy_text(last.global_accuracy),
        accuracy_text(int8),
        f"{sum(row.training_s or 0.0 for row in rows):.1f} s",
        f"{mean_of(spent).share:.0%}" if spent else "",
        f"{sum(row.bytes_sent for row in rows) / 1e6:.2f} MB",
        f"{sum(row.bytes_received for row in rows) / 1e6:.2f} MB",
        f"{max(row.rss_peak_bytes for row in rows) / 1e6:.0f} MB",
    ]


def _hottest(rows: list[Row]) -> str:
    known = [row.health["temperature_c"] for row in rows if "temperature_c" in row.health]
    return f"{max(known):.0f} °C" if known else ""
