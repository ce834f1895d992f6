"""What a run's report says of single boards: a small picture and a row of a table each, and who is missing."""

from __future__ import annotations

from pathlib import Path

from edge_peer.operator.charts import Line, bands_of, finite, spark, swatch
from edge_peer.operator.collection import Collection, missing_rows
from edge_peer.operator.markup import Markup, join, table, tag
from edge_peer.operator.report_charts import Picture
from edge_peer.operator.results import Results, Row
from edge_peer.operator.words import accuracy_text, counted


def missing_notice(results: Results, folder: Path) -> Markup:
    """Which boards and rows the report is without; nothing where it has all."""
    missed = Collection.read(folder).missed
    said = [f"Not reached when the files were collected: {', '.join(missed)}"] if missed else []
    said += missing_rows(results)
    if not said:
        return Markup("")
    # A board that was off, or came later, has no rows of that time: that is no fault of the collection.
    title = tag("strong", "Not everything is here.")
    return tag("div", title, tag("ul", *(tag("li", it) for it in said)), class_="notice", role="note")


def boards(picture: Picture) -> list[Markup]:
    """A small picture a board, all with the same axes."""
    series = {
        "own": picture.points(lambda row: row.local_accuracy),
        "global": picture.points(lambda row: row.global_accuracy),
    }
    places, (median,) = bands_of(list(series["global"].values()), (50,))
    middle = list(zip(places, median, strict=True))
    known = [it for lines in series.values() for points in lines.values() for it in finite(points)]
    y_range, x_range = _reach([y for _, y in known]), _reach([x for x, _ in known])
    cards = []
    for peer, rows in picture.results.peers.items():
        lines = [
            Line("", middle, "soft", kind="faint"),
            Line("", series["own"][peer], picture.colour(peer), kind="dotted"),
            Line("", series["global"][peer], picture.colour(peer), kind="thick"),
        ]
        last = rows[-1]
        said = f"{accuracy_text(last.global_accuracy)} after round {last.round}"
        name = tag("b", swatch(picture.colour(peer), picture.marker(peer)), peer, title=peer)
        cards.append(
            tag("div", name, spark(lines, f"{peer}: {said}", y_range, x_range), tag("small", said), class_="board")
        )
    low, high = y_range
    said = (
        f"Accuracy from {low:.2f} to {high:.2f} over rounds {x_range[0]:.0f} to {x_range[1]:.0f}: the global model on "
        "the board's test split (thick), its own model after training (dotted), and the median board (grey)."
    )
    return [tag("p", said, class_="soft"), tag("div", *cards, class_="boards")]


def _reach(values: list[float]) -> tuple[float, float]:
    return min(values, default=0.0), max(values, default=1.0)


def board_table(picture: Picture) -> Markup:
    """A row a board."""
    results, findings = picture.results, picture.findings
    hot = any("temperature_c" in row.health for rows in results.peers.values() for row in rows)
    throttled = any(row.health.get("throttled") for rows in results.peers.values() for row in rows)
    head = [("board", "left"), ("controller of", "left"), ("rounds trained", ""), ("own", ""), ("global", ""),
            ("int8", ""), ("training", ""), ("sent", ""), ("received", ""), ("RAM, peak", ""),
            *([("hottest", "")] if hot else []), *([("throttled", "")] if throttled else []),
            ("refused", ""), ("missing", "")]  # fmt: skip
    terms: dict[str, list[str]] = {}
    for _, term, peer in results.elections():
        terms.setdefault(peer, []).append(str(term))
    rows = []
    for peer in results.invited():
        own = results.peers.get(peer, [])
        led = terms.get(peer, [])
        cells = [
            (f"term {', '.join(led)}" if len(led) < 2 else f"terms {', '.join(led)}") if led else "",
            *(_numbers(own) if own else ["no rows"] + [""] * 7),
            *([_hottest(own)] if hot else []),
            *([counted(sum(bool(row.health.get("throttled")) for row in own), "round")] if throttled else []),
            *(str(findings.count(peer, kind) or "") for kind in ("refused", "missing")),
        ]
        name = tag("th", swatch(picture.colour(peer), picture.marker(peer)), peer, scope="row")
        kinds = [kind or None for _, kind in head[1:]]
        rows.append(tag("tr", name, *(tag("td", it, class_=kind) for it, kind in zip(cells, kinds, strict=True))))
    said = (
        "Accuracies are the last ones: of the board's own model after training, of the global model and of its int8 "
        "form, on the board's test split. Refused and missing count its updates."
    )
    return join(tag("p", said, class_="soft"), table(head, rows))


def _numbers(rows: list[Row]) -> list[str]:
    last = rows[-1]
    own = next((row.local_accuracy for row in reversed(rows) if row.local_accuracy is not None), None)
    int8 = next((row.int8_accuracy for row in reversed(rows) if row.int8_accuracy is not None), None)
    return [
        str(sum(row.examples > 0 for row in rows)),
        accuracy_text(own),
        accuracy_text(last.global_accuracy),
        accuracy_text(int8),
        f"{sum(row.training_s or 0.0 for row in rows):.1f} s",
        f"{sum(row.bytes_sent for row in rows) / 1e6:.2f} MB",
        f"{sum(row.bytes_received for row in rows) / 1e6:.2f} MB",
        f"{max(row.rss_peak_bytes for row in rows) / 1e6:.0f} MB",
    ]


def _hottest(rows: list[Row]) -> str:
    known = [row.health["temperature_c"] for row in rows if "temperature_c" in row.health]
    return f"{max(known):.0f} °C" if known else ""
