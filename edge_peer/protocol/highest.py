"""The largest of numbers of which one at a time changes."""

from __future__ import annotations


class Highest:
    """Numbers by key, and the largest of them: looked for only once the key that had it has it no more.

    Attributes:
        value: The largest number; 0 where there is none larger.
    """

    __slots__ = ("_numbers", "value")

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.value = 0

    def put(self, key: str, number: int | None) -> None:
        """A key has this number, which is not negative, from now on; None: it has none."""
        before = self._numbers.pop(key, None)
        if number is not None:
            self._numbers[key] = number
        if number is not None and number >= self.value:
            self.value = number
        elif before == self.value:
            self.value = max(self._numbers.values(), default=0)
