"""Charts as SVG inside a page: they follow the page's colours, light or dark, and stay sharp at every size.

Colours are classes of the page's style sheet: `c0` to `c7` of the palette, `ink` and others. Values that are not finite
are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from edge_peer.operator.markup import Markup, join, tag

Point = tuple[float, float]
Item = TypeVar("Item")
#: More points than this cannot be told apart, and make a page of a hundred boards too long to load.
POINTS_MAX = 240
#: With more, a marker at each point hides the line.
MARKERS_MAX = 24
#: The arithmetic of a picture has no digits left for larger values; not finite ones are beyond it, too.
VALUE_MAX = 1e30
LANE = 20.0
SHAPES: dict[str, tuple[Point, ...]] = {
    "s": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "^": ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
    "v": ((0, 1.2), (1.1, -0.9), (-1.1, -0.9)),
    "D": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "p": ((0, -1.2), (1.15, -0.35), (0.7, 1), (-0.7, 1), (-1.15, -0.35)),
    "h": ((-0.6, -1.1), (0.6, -1.1), (1.2, 0), (0.6, 1.1), (-0.6, 1.1), (-1.2, 0)),
    "x": ((-1.2, -0.6), (-0.6, -1.2), (0, -0.6), (0.6, -1.2), (1.2, -0.6), (0.6, 0), (1.2, 0.6), (0.6, 1.2), (0, 0.6),
          (-0.6, 1.2), (-1.2, 0.6), (-0.6, 0)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined by a line.

    Attributes:
        label: In the legend; empty: not there.
        colour: Class of its colour.
        marker: A letter of the palette's markers; empty: none.
        kind: Further classes: `dashed`, `thick`, `faint`; `dots` are hollow marks without a line, `lone` filled ones,
            and `all` has a mark at every point.
    """

    label: str
    points: Sequence[Point]
    colour: str
    marker: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """The area between two lines over the same places."""

    label: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: str


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars side by side (or one on the other, where `base` is given), each from `base` to `base + height`.

    Attributes:
        place: Where between the ticks it stands: -0.5 to 0.5 of the distance.
        width: Of that distance.
    """

    label: str
    x: Sequence[float]
    height: Sequence[float]
    colour: str
    base: Sequence[float] = ()
    place: float = 0.0
    width: float = 0.8


@dataclass(frozen=True, slots=True)
class Lane:
    """Events of one kind below the time axis, each with its text."""

    label: str
    events: Sequence[tuple[float, str]]
    colour: str
    marker: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows, and how large.

    Attributes:
        title: Said to those who cannot see it, and above it.
        rule: A level that is drawn across, with its name, such as a target.
        whole: Ticks of x are whole numbers.
        zero: y begins at 0.
        x_from: Where x begins at the latest.
        upright: Places on x where a line stands, with their names, such as elections.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    bars: Sequence[Bars] = ()
    lanes: Sequence[Lane] = ()
    rule: tuple[float, str] | None = None
    upright: Sequence[tuple[float, str]] = ()
    whole: bool = True
    zero: bool = False
    x_from: float | None = None
    size: tuple[float, float] = (440, 260)
    x_text: Callable[[float], str] = field(default=lambda value: f"{value:g}")

    def draw(self) -> Markup:
        """The figure, with title and legend."""
        marked = [tag("span", _swatch(colour, marker, kind), label, class_="key") for label, colour, marker, kind in
                  self._legend()]  # fmt: skip
        legend = tag("div", *marked, class_="legend") if marked else Markup("")
        return tag("figure", tag("figcaption", self.title), self.svg(), legend)

    def svg(self) -> Markup:
        """The picture alone."""
        return _Frame(self).draw()

    def _legend(self) -> list[tuple[str, str, str, str]]:
        lines = [(it.label, it.colour, it.marker, it.kind) for it in self.lines if it.label]
        bands = [(it.label, it.colour, "", "area") for it in self.bands if it.label]
        return [*lines, *bands, *((it.label, it.colour, "", "bar") for it in self.bars if it.label)]


class _Frame:
    """Where things are: the axes' ranges and the place in the picture that each value has."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        xs = [x for it in chart.lines for x, _ in it.points] + [x for it in chart.bands for x in it.x]
        ys = [y for it in chart.lines for _, y in it.points]
        for band in chart.bands:
            ys += [*band.low, *band.high]
        for bars in chart.bars:
            xs += [x + side for x in bars.x for side in (-0.5, 0.5)]
            ys += [low + height for low, height in zip(bars.base or [0.0] * len(bars.x), bars.height, strict=True)]
        xs += [x for lane in chart.lanes for x, _ in lane.events] + [x for x, _ in chart.upright]
        if chart.rule is not None:
            ys.append(chart.rule[0])
        if chart.zero:
            ys.append(0.0)
        if chart.x_from is not None:
            xs.append(chart.x_from)
        # Marks without a line stand apart from the edges.
        low, high = _range(xs, 0.0 if all(_joined(it.kind) or "all" not in it.kind for it in chart.lines) else 0.04)
        self._x = (max(low, chart.x_from) if chart.x_from is not None else low, high)
        self._y = _range(ys, 0.06)
        if chart.zero:
            self._y = (0.0, self._y[1])
        self.y_ticks = ticks(*self._y, 5)
        labels = [f"{it:g}" for it in self.y_ticks]
        width, height = chart.size
        self.left = 26.0 + 7 * max(map(len, labels), default=1)
        # The names of the lanes stand there, too.
        self.left = max(self.left, 12 + 7.0 * max((len(it.label) for it in chart.lanes), default=0))
        self.right = width - 14
        self.top = 10.0
        self.below = LANE * len(chart.lanes)
        self.bottom = height - 40 - self.below

    def x(self, value: float) -> float:
        low, high = self._x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self._y
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def draw(self) -> Markup:
        chart = self._chart
        width, height = chart.size
        parts = [tag("title", chart.title), *self._axes()]
        parts += [self._band(it) for it in chart.bands] + [self._bars(it) for it in chart.bars]
        notes: list[Markup] = []
        free: list[float] = []
        for place, name in sorted(chart.upright, key=lambda it: it[0]):
            line, note = self._upright(place, name, free)
            parts.append(line)
            notes.append(note)
        if chart.rule is not None:
            level, name = chart.rule
            parts.append(_path([(self.left, self.y(level)), (self.right, self.y(level))], "line rule"))
            # On the left: a curve that comes close to its target does so on the right.
            notes.append(tag("text", name, x=self.left + 5, y=self.y(level) - 5, class_="note"))
        parts += [self._line(it) for it in chart.lines] + notes + self._names()
        for number, lane in enumerate(chart.lanes):
            parts.append(self._lane(lane, self.bottom + 30 + LANE * (number + 0.5)))
        return tag("svg", *parts, viewBox=f"0 0 {width:g} {height:g}", role="img")

    def _axes(self) -> list[Markup]:
        chart = self._chart
        drawn = []
        for value in self.y_ticks:
            drawn.append(_path([(self.left, self.y(value)), (self.right, self.y(value))], "grid"))
            drawn.append(tag("text", f"{value:g}", x=self.left - 6, y=self.y(value) + 4, class_="end tick"))
        for value in ticks(*self._x, 6, whole=chart.whole):
            place = self.x(value)
            drawn.append(_path([(place, self.bottom), (place, self.bottom + 4)], "axis"))
            drawn.append(tag("text", chart.x_text(value), x=place, y=self.bottom + 17, class_="middle tick"))
        drawn.append(_path([(self.left, self.bottom), (self.right, self.bottom)], "axis"))
        return drawn

    def _names(self) -> list[Markup]:
        """Of the axes; above the lines that cross them."""
        chart = self._chart
        height = chart.size[1]
        middle = (self.top + self.bottom) / 2
        # Behind the last tick's line when lanes follow, so that it names the axis and not the last lane.
        x_name = tag("text", chart.x_label, x=(self.left + self.right) / 2,
                         y=height - 6 if not chart.lanes else self.bottom + 31, class_="middle label")  # fmt: skip
        turned = f"translate(12 {middle:g}) rotate(-90)"
        return [x_name, tag("text", chart.y_label, transform=turned, class_="middle label")]

    def _line(self, line: Line) -> Markup:
        known = finite(line.points)
        points = [(self.x(x), self.y(y)) for x, y in (known if "all" in line.kind else thinned(known))]
        parts = [tag("title", line.label)] if line.label else []
        if _joined(line.kind):
            parts.append(_path(points, f"line {line.colour} {line.kind}".strip()))
        if line.marker:
            step = 1 if "all" in line.kind else max(1, math.ceil(len(points) / MARKERS_MAX))
            shapes = [_shape(line.marker, x, y, 3) for x, y in points[::step]]
            hollow = " hollow" if "dots" in line.kind else ""
            parts.append(tag("path", d="".join(shapes), class_=f"mark {line.colour}{hollow}"))
        return tag("g", *parts)

    def _band(self, band: Band) -> Markup:
        upper = [(self.x(x), self.y(y)) for x, y in thinned(finite(list(zip(band.x, band.high, strict=True))))]
        lower = [(self.x(x), self.y(y)) for x, y in thinned(finite(list(zip(band.x, band.low, strict=True))))]
        return tag("path", d=_steps([*upper, *reversed(lower)]) + "Z", class_=f"area {band.colour}")

    def _bars(self, bars: Bars) -> Markup:
        unit = self.x(self._x[0] + 1) - self.left
        drawn = []
        base = bars.base or [0.0] * len(bars.x)
        for x, low, height in zip(bars.x, base, bars.height, strict=True):
            if not (abs(low) <= VALUE_MAX and abs(height) <= VALUE_MAX):
                continue
            left = self.x(x) + (bars.place - bars.width / 2) * unit
            drawn.append(
                f"M{left:.1f} {self.y(low):.1f}V{self.y(low + height):.1f}h{bars.width * unit:.2f}V{self.y(low):.1f}Z"
            )
        return tag("path", tag("title", bars.label), d="".join(drawn), class_=f"bar {bars.colour}")

    def _upright(self, place: float, name: str, free: list[float]) -> tuple[Markup, Markup]:
        """A line and its name; `free` is where each row of names is free from, and is kept up to date."""
        x = self.x(place)
        # A name at the right edge stands before its line.
        late = x > self.right - 60
        width = 6.5 * len(name) + 6
        left, right = (x - width, x) if late else (x, x + width)
        row = next((it for it, end in enumerate(free) if end <= left), len(free))
        free[row : row + 1] = [right]
        line = _path([(x, self.top), (x, self.bottom + self.below + (30 if self.below else 0))], "line upright")
        y = self.top + 9 + 13 * row
        return line, tag("text", name, x=x + (-4 if late else 4), y=y, class_="note end" if late else "note")

    def _lane(self, lane: Lane, y: float) -> Markup:
        parts = [tag("text", lane.label, x=4, y=y + 4, class_="label")]
        for place, said in spread(lane.events, POINTS_MAX):
            shape = tag("path", d=_shape(lane.marker, self.x(place), y, 4), class_=f"mark {lane.colour}")
            parts.append(tag("g", tag("title", said), shape))
        return tag("g", *parts)


def spark(lines: Sequence[Line], label: str, y_range: tuple[float, float], x_range: tuple[float, float]) -> Markup:
    """A small picture without axes, one of many side by side, all with the same ranges."""
    width, height = 160.0, 64.0
    (low, high), (first, last) = y_range, x_range
    across, up = max(last - first, 1e-9), max(high - low, 1e-9)
    parts = [tag("title", label)]
    for line in lines:
        points = [
            (4 + (x - first) / across * (width - 8), height - 4 - (y - low) / up * (height - 8))
            for x, y in thinned(finite(line.points), POINTS_MAX // 4)
        ]
        parts.append(_path(points, f"line {line.colour} {line.kind}".strip()))
        if len(points) == 1:
            parts.append(tag("path", d=_shape("o", *points[0], 2), class_=f"mark {line.colour}"))
    return tag("svg", *parts, viewBox=f"0 0 {width:g} {height:g}", role="img", class_="spark")


def histogram(heights: Sequence[float], label: str) -> Markup:
    """Bars of 0..1 side by side, for below a small picture."""
    width, height = 160.0, 22.0
    each = (width - 8) / max(len(heights), 1)
    gap = min(1.5, each / 4)
    foot = height - 1
    tops = [foot - (foot - 2) * min(max(it, 0.0), 1.0) for it in heights]
    bars = "".join(f"M{4 + it * each:.1f} {foot:g}V{top:.1f}h{each - gap:.2f}V{foot:g}Z" for it, top in enumerate(tops))
    parts = [
        tag("title", label),
        tag("path", d=bars, class_="bar soft"),
        _path([(4, height), (width - 4, height)], "axis"),
    ]
    return tag("svg", *parts, viewBox=f"0 0 {width:g} {height:g}", role="img", class_="spark")


def bands_of(series: Sequence[Sequence[Point]], cuts: Sequence[float]) -> tuple[list[float], list[list[float]]]:
    """Percentiles of many lines at each place: the places, and a line for each cut."""
    places: dict[float, list[float]] = {}
    for points in series:
        for x, y in finite(points):
            places.setdefault(x, []).append(y)
    ordered = sorted(places)
    if not ordered:
        return [], [[] for _ in cuts]
    lines = np.array([np.percentile(places[x], cuts) for x in ordered]).T
    return ordered, [[float(it) for it in line] for line in lines]


def finite(points: Sequence[Point]) -> list[Point]:
    """The points that have a place in a picture."""
    return [(x, y) for x, y in points if abs(x) <= VALUE_MAX and abs(y) <= VALUE_MAX]


def thinned(points: Sequence[Point], most: int = POINTS_MAX) -> list[Point]:
    """At most so many of them, first and last included."""
    return spread(points, most)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly, first and last included."""
    if len(items) <= most:
        return list(items)
    return [items[round(it * (len(items) - 1) / (most - 1))] for it in range(most)]


def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """At most so many round numbers between two, ascending."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    if whole:
        step = max(1.0, step)
    for factor in (1, 2, 5, 10, 20, 50):
        if (high - low) / (step * factor) <= most:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    return [round(it * step, 12) for it in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    known = [it for it in values if abs(it) <= VALUE_MAX]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    room = margin * (high - low)
    return low - room, high + room


def _steps(points: Sequence[Point]) -> str:
    return "".join(f"{'M' if not number else 'L'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(points))


def _path(points: Sequence[Point], kind: str) -> Markup:
    return tag("path", d=_steps(points), class_=kind)


def _joined(kind: str) -> bool:
    """Whether points are joined by a line."""
    return "dots" not in kind and "lone" not in kind


def _shape(marker: str, x: float, y: float, size: float) -> str:
    if marker == "o":
        return f"M{x - size:.1f} {y:.1f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0Z"
    return _steps([(x + size * dx, y + size * dy) for dx, dy in SHAPES[marker]]) + "Z"


def _swatch(colour: str, marker: str, kind: str) -> Markup:
    if kind in ("area", "bar"):
        inside = tag("path", d="M2 2H26V10H2Z", class_=f"{kind} {colour}")
    else:
        line = _path([(1, 6), (27, 6)], f"line {colour} {kind}".strip()) if _joined(kind) else Markup("")
        hollow = " hollow" if "dots" in kind else ""
        mark = tag("path", d=_shape(marker, 14, 6, 3), class_=f"mark {colour}{hollow}") if marker else Markup("")
        inside = join(line, mark)
    return tag("svg", inside, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")


def swatch(colour: str, marker: str) -> Markup:
    """The sign of a line, for tables."""
    return _swatch(colour, marker, "")
