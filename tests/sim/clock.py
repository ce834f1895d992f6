"""Virtual time: one schedule for the whole world, and a clock for each board that drifts."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Schedule:
    """What happens when. Equal times happen in the order in which they were scheduled, so a seed replays exactly."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        """Do `action` at a time; in the past means now."""
        heapq.heappush(self._heap, (max(time_s, self.now_s), next(self._numbers), action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do `action` after a delay."""
        self.at(self.now_s + delay_s, action)

    def step(self) -> bool:
        """Do the next action; False when there is none."""
        if not self._heap:
            return False
        self.now_s, _, action = heapq.heappop(self._heap)
        action()
        return True


class BoardClock:
    """A board's monotonic clock: starts anywhere and runs a little fast or slow.

    Args:
        offset_s: What it shows when the world begins.
        rate: Its seconds per second of the world.
    """

    def __init__(self, offset_s: float, rate: float) -> None:
        self._offset_s = offset_s
        self._rate = rate

    def read_s(self, world_s: float) -> float:
        """What the board reads."""
        return self._offset_s + self._rate * world_s

    def step(self, seconds: float) -> None:
        """The clock leaps ahead: the board was suspended, or its virtual machine was."""
        self._offset_s += seconds

    def world_s(self, board_s: float) -> float:
        """When the board reads `board_s`."""
        return (board_s - self._offset_s) / self._rate
