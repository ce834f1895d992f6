"""What a run's report says of classes: who has which, how that goes with accuracy, and what is taken for what."""

from __future__ import annotations

from collections import Counter

from edge_peer.operator.markup import Markup, join, table, tag
from edge_peer.operator.palette import LINES_MAX
from edge_peer.operator.report.charts import Chart, Line, Point
from edge_peer.operator.report.figures import Picture
from edge_peer.operator.report.style import SHADES
from edge_peer.operator.runs.classes import ClassCounts
from edge_peer.operator.words import accuracy_text, counted

#: With more, a matrix has no room on a page; the commonest confusions have.
CLASSES_MAX = 20
CONFUSIONS_MAX = 20
#: With more boards the table folds out.
BOARDS_SHOWN = 16


def classes(picture: Picture, counts: dict[str, ClassCounts]) -> list[Markup]:
    """The section; it says why where there is nothing to show."""
    if not counts:
        said = (
            "No class counts were collected. Boards write them when they have seen the end of a run, and not in runs "
            "with differential privacy."
        )
        return [tag("p", said, class_="soft")]
    total: Counter[tuple[int, int]] = sum((it.confusion for it in counts.values()), Counter())
    trained: Counter[int] = sum((it.trained for it in counts.values()), Counter())
    labels = sorted({*trained, *(label for pair in total for label in pair)})
    parts = [_confusion(total, labels, len(counts))] if total else [
        tag("p", "The model has no int8 form: no confusions were counted.", class_="soft")
    ]  # fmt: skip
    side_by_side = tag("div", *parts, _skew(picture, counts, trained), class_="charts matrices")
    return [side_by_side, _shares(picture, counts, labels)]


def _confusion(total: Counter[tuple[int, int]], labels: list[int], boards: int) -> Markup:
    hits = sum(count for (label, taken_for), count in total.items() if label == taken_for)
    examples = sum(total.values())
    caption = tag("figcaption", f"What the final int8 model takes the test examples of {counted(boards, 'board')} for")
    said = f"{hits:,} of {examples:,} are right, which is {hits / examples:.4f}. "
    if len(labels) > CLASSES_MAX:
        said += f"The commonest confusions among {len(labels)} classes:"
        return tag("figure", caption, tag("p", said, class_="soft"), _commonest(total))
    said += "A row is a class, a column what its examples are taken for; shading is the share of the row."
    head = [("class", "left"), *((str(it), "") for it in labels), ("recall", "")]
    rows = []
    for label in labels:
        row = [total[label, it] for it in labels]
        of = sum(row)
        cells = [
            tag("td", str(count or ""), class_=_shade(count / of if of else 0.0, label == taken_for))
            for count, taken_for in zip(row, labels, strict=True)
        ]
        recall = tag("td", f"{total[label, label] / of:.2f}" if of else "", class_="total")
        rows.append(tag("tr", tag("th", str(label), scope="row"), *cells, recall))
    taken = [sum(total[it, label] for it in labels) for label in labels]
    precisions = [f"{total[label, label] / of:.2f}" if of else "" for label, of in zip(labels, taken, strict=True)]
    last = tag("tr", tag("th", "precision", scope="row"), *(tag("td", it, class_="total") for it in precisions),
               tag("td", f"{hits / examples:.2f}", class_="total"))  # fmt: skip
    return tag("figure", caption, tag("p", said, class_="soft"), table(head, [*rows, last], "matrix"))


def _commonest(total: Counter[tuple[int, int]]) -> Markup:
    of: Counter[int] = Counter()
    for (label, _), count in total.items():
        of[label] += count
    wrong = [(count, label, taken_for) for (label, taken_for), count in total.items() if label != taken_for]
    rows = [
        tag("tr", tag("th", str(label), scope="row"), tag("td", str(taken_for)), tag("td", f"{count:,}"),
            tag("td", f"{count / of[label]:.1%}"))
        for count, label, taken_for in sorted(wrong, key=lambda it: (-it[0], it[1:]))[:CONFUSIONS_MAX]
    ]  # fmt: skip
    return table([("class", "left"), ("taken for", ""), ("examples", ""), ("of the class", "")], rows)


def _shade(share: float, right: bool) -> str | None:
    step = round(share * SHADES)
    return f"{'h' if right else 'w'}{min(step, SHADES)}" if step else None


def skew_of(own: Counter[int], all_: Counter[int]) -> float:
    """How far a board's classes are from those of all boards together, 0..1 (total variation distance).

    It is the share of the board's examples that would have to be of other classes.
    """
    mine, whole = sum(own.values()), sum(all_.values())
    if not mine or not whole:
        return 0.0
    return sum(abs(own[it] / mine - all_[it] / whole) for it in {*own, *all_}) / 2


def _skew(picture: Picture, counts: dict[str, ClassCounts], trained: Counter[int]) -> Markup:
    points: dict[str, list[Point]] = {}
    for peer, it in counts.items():
        rows = picture.results.peers.get(peer)
        if rows and it.trained:
            points[peer] = [(skew_of(it.trained, trained), rows[-1].global_accuracy)]
    if len(points) <= LINES_MAX:
        lines = [Line(peer, it, picture.colour(peer), picture.marker(peer), "lone all") for peer, it in points.items()]
    else:
        lines = [Line("a board", [it for each in points.values() for it in each], "c0", "o", "dots all")]
    return Chart(
        title="Accuracy of the global model by how a board's classes differ",
        x_label="distance of its classes from those of all (0: the same)",
        y_label="accuracy on its test split",
        lines=lines,
        whole=False,
        x_from=0.0,
    ).draw()


def _shares(picture: Picture, counts: dict[str, ClassCounts], labels: list[int]) -> Markup:
    few = len(labels) <= CLASSES_MAX
    shown = labels if few else []
    head = [
        ("board", "left"),
        ("global accuracy", ""),
        ("examples", ""),
        ("classes", ""),
        *((str(it), "") for it in shown),
    ]
    rows = []
    for peer, it in counts.items():
        own = picture.results.peers.get(peer)
        of = sum(it.trained.values())
        cells = [tag("td", str(it.trained[label] or ""), class_=_shade(it.trained[label] / of if of else 0, True))
                 for label in shown]  # fmt: skip
        rows.append(
            tag("tr", tag("th", picture.sign(peer), peer, scope="row"),
                tag("td", accuracy_text(own[-1].global_accuracy if own else None)), tag("td", f"{of:,}"),
                tag("td", str(len(+it.trained))), *cells)
        )  # fmt: skip
    said = "Training examples of each class by board, shaded by their share of the board's; beside it the accuracy of "
    said += "the newest global model that it evaluated."
    what = join(tag("p", said, class_="soft"), table(head, rows, "matrix"))
    if len(rows) <= BOARDS_SHOWN:
        return what
    return tag("details", tag("summary", f"Classes of each of the {len(rows)} boards"), what)
