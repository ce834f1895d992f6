"""Numbers as people read them."""

from __future__ import annotations


def counted(number: int, name: str) -> str:
    """A number with its noun."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def ranges(numbers: list[int]) -> str:
    """Ascending numbers in few words: 0-3, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)


def bytes_text(count: float) -> str:
    """A number of bytes, with three digits at least where it has them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1e3 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def accuracy_text(value: float | None) -> str:
    """Four digits, or nothing."""
    return f"{value:.4f}" if value is not None else ""
