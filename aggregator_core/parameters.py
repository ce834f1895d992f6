"""Parameters of rules: what each may be, for checks, for configuration and for documents."""

from __future__ import annotations

import math
from dataclasses import dataclass


class ParameterError(ValueError):
    """A parameter or a rule's name is of no use; the message names rule, parameter, value and what it may be."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a rule.

    Attributes:
        name: As it stands in a configuration.
        kind: `int` or `float`; an integer is a float, a bool is neither.
        low: Its smallest value.
        high: Its largest value; infinity: any finite value.
        text: What it is.
        above: Whether it must be above `low` instead of at least `low`.
        below: Whether it must be below `high` instead of at most `high`.
        optional: Whether None is a value, which then is the default.
    """

    name: str
    kind: type[int] | type[float]
    low: float
    high: float
    text: str
    above: bool = False
    below: bool = False
    optional: bool = False

    @property
    def range(self) -> str:
        """What it may be, such as `a number above 0`."""
        noun = "an integer" if self.kind is int else "a number"
        low = f"{'above' if self.above else 'from'} {self.low:g}"
        high = "" if math.isinf(self.high) else f" {'and below' if self.below else 'to'} {self.high:g}"
        return f"{noun} {low}{high}{', or none' if self.optional else ''}"

    def check(self, rule: str, value: object) -> None:
        """Raise ParameterError if a rule cannot have this value."""
        if value is None and self.optional:
            return
        number = isinstance(value, int if self.kind is int else int | float) and not isinstance(value, bool)
        if number and math.isfinite(value):  # type: ignore[arg-type]
            low = value > self.low if self.above else value >= self.low  # type: ignore[operator]
            high = value < self.high if self.below else value <= self.high  # type: ignore[operator]
            if low and high:
                return
        raise ParameterError(f"rule {rule}: {self.name} is {value!r}, not {self.range}")


def check_all(rule: str, parameters: tuple[Parameter, ...], holder: object) -> None:
    """Check a rule's attributes by its table; raises ParameterError."""
    for parameter in parameters:
        parameter.check(rule, getattr(holder, parameter.name))
