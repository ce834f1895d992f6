"""`edge-peer watch`: a federation as it happens, on a terminal; plain lines where the output is none.

It only listens. A connection that is lost is made again; Ctrl-C ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from rich.console import Console
from rich.live import Live

from edge_peer.config import BrokerSection
from edge_peer.errors import BrokerError
from edge_peer.operator.live.federation import LOOK_S, QUIET_S, WATCHED, Federation
from edge_peer.operator.live.screen import Screen
from edge_peer.operator.live.session import Session
from edge_peer.operator.live.status import summary
from edge_peer.operator.live.story import Story
from edge_peer.operator.live.view import View, view
from edge_peer.operator.markup import printable

#: How often a picture is drawn at most, and at least: silence has to be seen growing.
DRAW_S, REDRAW_S = 0.1, 1.0
#: Waits before another try to connect; the last one again and again.
RETRY_S = (0.5, 1.0, 2.0, 5.0)


class Onlooker:
    """Keeps a federation's documents, through lost connections, and tells what is new.

    Args:
        open_session: Makes a session that is not yet entered.
        name: Of the federation.
        monotonic: A clock in seconds.
    """

    def __init__(
        self, open_session: Callable[[], Session], name: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_session = open_session
        self._name = name
        self._monotonic = monotonic
        self._federation = Federation()
        self._story = Story(self._federation)
        self._heard_s: dict[str, float] = {}
        self._session: Session | None = None
        self._known = False
        self._failures = 0
        self._retry_at_s = 0.0

    @property
    def connected(self) -> bool:
        """There is a connection."""
        return self._session is not None

    def view(self) -> View:
        """The federation as it is known now."""
        now_s = self._monotonic()
        return view(self._federation, self._name, {peer: now_s - at_s for peer, at_s in self._heard_s.items()})

    def connect(self) -> list[str]:
        """Connect, and take in what the broker keeps; returns what is new since the connection before.

        Raises:
            BrokerError: There is no broker, or it refuses this client.
        """
        session = self._open_session().__enter__()
        try:
            session.subscribe(WATCHED)
            # What was cleared meanwhile is not sent again: nothing of before counts.
            self._federation.forget()
            self._heard_s.clear()
            end_s = self._monotonic() + LOOK_S
            while (left_s := end_s - self._monotonic()) > 0 and (documents_ := session.take(min(left_s, QUIET_S))):
                for document in documents_:
                    self._federation.take(*document)
        except BaseException:
            session.close()
            raise
        self._session = session
        self._failures = 0
        news = self._story.tell()
        if self._known:
            return ["connected again", *news]
        # Who was there before is no news, and of many boards it would be a long list.
        self._known = True
        return ["; ".join(it.strip() for it in summary(self._federation))]

    def listen(self, timeout_s: float) -> list[str]:
        """Take in what comes within that time, or connect again; returns what is new."""
        if self._session is None:
            return self._try_again(timeout_s)
        try:
            news = []
            for peer, kind, document in self._session.take(timeout_s):
                self._heard_s[peer] = self._monotonic()
                # One after the other: what lasted for one document only has happened, too.
                self._federation.take(peer, kind, document)
                news += self._story.tell()
        except BrokerError as error:
            self.close()
            return [f"{error}; trying again"]
        return news

    def _try_again(self, timeout_s: float) -> list[str]:
        left_s = self._retry_at_s - self._monotonic()
        if left_s > 0:
            time.sleep(min(left_s, timeout_s))
            return []
        try:
            return self.connect()
        except (BrokerError, OSError):
            wait_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
            self._failures += 1
            self._retry_at_s = self._monotonic() + wait_s
            return []

    def close(self) -> None:
        """Disconnect."""
        if self._session is not None:
            self._session.close()
            self._session = None


def watch(broker: BrokerSection, federation: str, name: str, console: Console | None = None) -> int:
    """Show it until Ctrl-C; returns the exit code.

    Args:
        broker: Where it is.
        federation: Its name.
        name: As whom to listen.
        console: Where to; its kind decides between picture and lines.

    Raises:
        BrokerError: There is no broker when it begins.
    """
    console = console or Console(highlight=False)
    onlooker = Onlooker(lambda: Session(broker, federation, name), federation)
    try:
        news = onlooker.connect()
        if console.is_terminal:
            _draw(onlooker, news, console)
        else:
            _print(onlooker, news, console)
    except KeyboardInterrupt:
        # The way to end it.
        pass
    finally:
        onlooker.close()
    return 0


def _print(onlooker: Onlooker, news: list[str], console: Console) -> None:
    """A line for each event, with the time."""
    while True:
        for text in news:
            stamp = datetime.now().astimezone().isoformat(timespec="seconds")
            console.print(f"{stamp} {printable(text)}", markup=False, soft_wrap=True)
        # A pipe's reader wants what has happened now.
        console.file.flush()
        news = onlooker.listen(REDRAW_S)


def _draw(onlooker: Onlooker, news: list[str], console: Console) -> None:
    """One picture of the terminal's size, drawn in place."""
    screen, drawn_s = Screen(), 0.0
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            screen.take(onlooker.view(), news, datetime.now().astimezone())
            if news or time.monotonic() >= drawn_s + DRAW_S:
                drawn_s = time.monotonic()
                live.update(screen.picture(*console.size, onlooker.connected), refresh=True)
            news = onlooker.listen(REDRAW_S)
