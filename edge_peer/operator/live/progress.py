"""Live progress of a run: a table that is drawn again in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edge_peer.operator.live.federation import Federation
from edge_peer.protocol.messages import FINISHED, Round

BARS = "▁▂▃▄▅▆▇█"
EVENTS_SHOWN = 8
ROLE_STYLES = {"controller": "bold cyan", "trainer": "green", "offline": "bold red", "waiting": "dim"}


def sparkline(values: list[float]) -> str:
    """Accuracies of 0..1 as a row of bars."""
    return "".join(BARS[min(len(BARS) - 1, int(value * len(BARS)))] for value in values)


def seconds(value: float) -> str:
    """A duration for people."""
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60)} s"


class Clock:
    """How long the rounds take, and so how long the rest will."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._round = 0

    def left_s(self, document: Round, now_s: float) -> float | None:
        """Seconds until the last round is done at the pace so far; None: not known yet."""
        if self._began_s is None or document.round < self._round:
            self._began_s, self._round = now_s, document.round
        done = document.round - self._round
        if done < 1:
            return None
        return (now_s - self._began_s) / done * (document.settings.rounds_max - document.round + 1)


class Progress:
    """Shows a federation; to be used in a `with` statement.

    Args:
        federation: Kept up to date by somebody else.
        title: The first line.
        console: Where to; its kind decides between table and lines.
    """

    def __init__(self, federation: Federation, title: str, console: Console) -> None:
        self._federation = federation
        self._title = title
        self._console = console
        self._events: deque[tuple[float, str]] = deque(maxlen=EVENTS_SHOWN)
        self._accuracies: dict[str, list[float]] = {}
        self._scored: dict[str, tuple[str, int]] = {}
        self._clock = Clock()
        self._began_s = time.monotonic()
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None

    def __enter__(self) -> Progress:
        """Begin to draw."""
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(self._title)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Leave the last picture on the terminal."""
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
            self._live.stop()

    def update(self, news: list[str]) -> None:
        """Draw again, with these events added."""
        now_s = time.monotonic() - self._began_s
        for text in news:
            self._events.append((now_s, text))
            if self._live is None:
                self._console.print(f"{now_s:6.1f} s  {text}", highlight=False, soft_wrap=True)
        for peer, evaluation in self._federation.evaluations.items():
            scored = (evaluation.run_id, evaluation.round)
            if self._scored.get(peer) != scored:
                self._scored[peer] = scored
                self._accuracies.setdefault(peer, []).append(evaluation.report.accuracy)
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Group:
        document = self._federation.round
        head = Table.grid(padding=(0, 2))
        if document is None:
            head.add_row(Text("no controller: an election is on", style="yellow"))
        elif document.run_id is None:
            head.add_row(Text(document.reason or document.state))
        else:
            done = document.round if document.state == FINISHED else document.round - 1
            accuracy = f"accuracy {document.accuracy:.4f}" if document.accuracy is not None else ""
            if document.int8_accuracy is not None:
                accuracy += f", int8 {document.int8_accuracy:.4f}"
            if document.settings.target_accuracy is not None:
                accuracy += f" of {document.settings.target_accuracy:g}"
            left_s = self._clock.left_s(document, time.monotonic())
            left = "finished" if document.state == FINISHED else f"{seconds(left_s)} left" if left_s is not None else ""
            head.add_row(
                f"round {document.round} of {document.settings.rounds_max}",
                ProgressBar(total=document.settings.rounds_max, completed=max(done, 0), width=24),
                accuracy,
                left,
            )
        events = Group(*(Text(f"{at_s:6.1f} s  {text}", style="dim") for at_s, text in self._events))
        return Group(Text(self._title, style="bold"), head, self._table(), events)

    def _table(self) -> Table:
        federation, document = self._federation, self._federation.round
        table = Table(box=None, pad_edge=False)
        for name, justify in (("peer", "left"), ("role", "left"), ("examples", "right"), ("accuracy", "right")):
            table.add_column(name, justify="right" if justify == "right" else "left")
        table.add_column("per round")
        table.add_column("")
        for peer, presence in sorted(federation.presences.items()):
            role = federation.role(peer)
            accuracies = self._accuracies.get(peer, [])
            state = ""
            if document is not None and document.state != FINISHED:
                state = "update in" if peer in document.accepted else document.missing.get(peer, "")
            table.add_row(
                peer,
                Text(role, style=ROLE_STYLES.get(role, "")),
                f"{presence.examples:,}",
                f"{accuracies[-1]:.4f}" if accuracies else "",
                sparkline(accuracies[-30:]),
                Text(presence.note or state, style="dim"),
            )
        return table
