"""The picture that `edge-peer watch` draws: of any number of boards on any size of terminal, without colours too."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edge_peer.operator.live.progress import sparkline
from edge_peer.operator.live.view import DOING, BoardView, View
from edge_peer.operator.markup import printable
from edge_peer.protocol.messages import FINISHED
from edge_peer.shell.health import NAMES

EVENTS_KEPT = 200
#: Lines of events that are shown at least, as long as there are so many.
EVENTS_MIN = 4
#: Of a curve.
BARS = 24
#: From this width on there is room for examples, int8 and the curve.
WIDE = 110
STYLES = {"offline": "bold red", "missing": "bold red", "refused": "bold red", "accepted": "green", "reported": "green",
          "training": "cyan", "electing": "yellow", "idle": "dim"}  # fmt: skip
#: Trouble first: where there is no room for all, that is what must be seen.
ORDER = ("missing", "refused", "offline", "electing", "training", "accepted", "reported", "idle")
assert set(ORDER) == set(STYLES) == set(DOING)
#: A board that says nothing for this long, in a round that it is in.
SILENT_S = 30.0


class Screen:
    """Takes in views and events, and makes pictures of them."""

    def __init__(self) -> None:
        self._events: deque[tuple[datetime, str]] = deque(maxlen=EVENTS_KEPT)
        self._curves: dict[str, dict[int, float]] = {}
        self._run_id: str | None = None
        self._view: View | None = None

    def take(self, now: View, news: list[str], at: datetime) -> None:
        """The federation as it is now, and what is new."""
        self._view = now
        self._events.extend((at, text) for text in news)
        run_id = now.run.run_id if now.run is not None else None
        if run_id != self._run_id:
            self._run_id = run_id
            self._curves.clear()
        for board in now.boards:
            self._curves.setdefault(board.name, {}).update(board.curve)

    def picture(self, width: int, height: int, connected: bool) -> Group:
        """Not more lines than the terminal has, of its width."""
        now = self._view
        assert now is not None, "take comes first"
        head = [_line(it) for it in _head(now)]
        if not connected:
            head.insert(1, _line("no connection to the broker: trying again; this is as of then", "bold red"))
        # One line each for the columns' names and below the picture, where the cursor is.
        room = height - len(head) - 2
        events_min = min(EVENTS_MIN, len(self._events))
        boards = sorted(now.boards, key=lambda it: (ORDER.index(it.doing), it.role != "controller", it.name))
        fit = max(1, room - events_min)
        more = ""
        if len(boards) > fit:
            boards, rest = boards[: fit - 1], boards[fit - 1 :]
            more = f"and {len(rest)} more: " + ", ".join(
                f"{count} {word}" for word in ORDER if (count := sum(it.doing == word for it in rest))
            )
        boards.sort(key=lambda it: it.name)
        parts: list[Text | Table] = [*head, self._table(boards, width)]
        if more:
            parts.append(_line(more, "dim"))
        left = max(0, room - len(boards) - bool(more))
        shown = list(self._events)[-left:] if left else []
        parts += [_line(f"{at:%H:%M:%S} {printable(text)}", "dim") for at, text in shown]
        return Group(*parts)

    def _table(self, boards: list[BoardView], width: int) -> Table:
        wide = width >= WIDE
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=wide)
        table.add_column("board", max_width=24 if wide else 16, no_wrap=True, overflow="ellipsis")
        table.add_column("role", no_wrap=True)
        table.add_column("does", no_wrap=True)
        if wide:
            table.add_column("examples", justify="right", no_wrap=True)
        table.add_column("acc.", justify="right", no_wrap=True)
        if wide:
            table.add_column("int8", justify="right", no_wrap=True)
            table.add_column("by round", no_wrap=True, width=BARS)
        table.add_column("heard", justify="right", no_wrap=True)
        table.add_column("health and remarks", no_wrap=True, overflow="ellipsis", ratio=1 if wide else None)
        for it in boards:
            curve = self._curves.get(it.name, {})
            silent = it.silent_s is not None and it.silent_s > SILENT_S and it.doing == "training"
            cells = [
                Text(it.name),
                Text(it.role, style="bold" if it.role == "controller" else ""),
                Text(it.doing, style=STYLES[it.doing]),
                *([Text(f"{it.examples:,}")] if wide else []),
                Text(_four(it.accuracy)),
                *([Text(_four(it.int8_accuracy)), Text(_bars(curve))] if wide else []),
                Text(_ago(it.silent_s), style="bold red" if silent else ""),
                Text(printable("; ".join(remarks(it)))),
            ]
            table.add_row(*cells)
        return table


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _head(now: View) -> list[str]:
    up = sum(it.online for it in now.boards)
    who = f"{now.federation}: {up} of {len(now.boards)} boards up"
    if now.controller is None:
        votes = ", ".join(f"{peer} for {candidate}" for peer, candidate in now.votes.items())
        return [who, "no controller: an election is on" + (f" ({votes})" if votes else "")]
    lines = [f"{who}; {now.controller} leads, term {now.term}"]
    run = now.run
    if run is None:
        lines.append(f"no run: {printable(now.waits_for) or 'nobody wants one'}")
        return lines
    done = f"round {run.round} of {run.rounds_max}" + (f", attempt {run.attempt}" if run.attempt > 1 else "")
    if run.state == FINISHED:
        said = f"finished after {run.round} rounds: {printable(run.reason)}"
    elif run.state == "waiting":
        said = f"{done}, waits: {printable(run.reason)}"
    else:
        said = f"{done}: {len(run.accepted)} of {len(run.participants)} updates in"
    lines.append(f"run {run.run_id}: {said}")
    if run.accuracy is not None:
        int8 = f", int8 {run.int8_accuracy:.4f}" if run.int8_accuracy is not None else ""
        target = f" of {run.target_accuracy:g}" if run.target_accuracy is not None else ""
        lines.append(f"accuracy {run.accuracy:.4f}{target}{int8} after round {run.accuracy_round}")
    return lines


def remarks(board: BoardView) -> list[str]:
    """How a board is, and what it or the controller says of it."""
    said = []
    temperature = board.health.get("temperature_c")
    if temperature is not None:
        said.append(f"{temperature:.0f} °C")
    flags = int(board.health.get("throttled", 0))
    said += [name for flag, name in NAMES.items() if flags & flag]
    if board.strained and not flags:
        said.append("hot")
    free = board.health.get("disk_free_bytes")
    if free is not None and free < 1e9:
        said.append(f"{free / 1e6:.0f} MB disk free")
    said += [it for it in dict.fromkeys((board.why, board.note)) if it]
    if not board.train:
        said.append("does not train")
    return said


def _bars(curve: dict[int, float]) -> str:
    """From the first round that is known to the last, evenly."""
    values = [curve[it] for it in sorted(curve)]
    count = min(len(values), BARS)
    return sparkline([values[round(it * (len(values) - 1) / max(count - 1, 1))] for it in range(count)])


def _four(value: float | None) -> str:
    return f"{value:.4f}" if value is not None else ""


def _ago(silent_s: float | None) -> str:
    if silent_s is None:
        return ""
    return f"{silent_s:.0f} s" if silent_s < 99.5 else f"{silent_s / 60:.0f} min"
