"""What every aggregation rule is: it makes one update of many, and says how many bad ones it bears."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aggregator_core.checks import RefusedUpdateError
from aggregator_core.parameters import Parameter, ParameterError, check_all
from aggregator_core.updates import F32, I64, Counts, Updates, rows_of


class TooFewUpdatesError(RefusedUpdateError):
    """There are fewer updates than a rule needs to bear what it was told to; names rule, n, f and the remedy."""


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of an update beside its values; each rule says which of it it uses.

    Attributes:
        steps: Local steps that the update is the sum of, above 0; fractions where steps are discounted.
        staleness: Rounds between the model that the update began with and the newest one; 0: none.
        loss: Mean loss of the global model on the sender's examples before it trained, at least 0.
    """

    steps: float = 1.0
    staleness: int = 0
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Received:
    """The updates of a round, of one shape.

    Attributes:
        rows: n arrays of shape (p,), float32.
        counts: Examples of each, shape (n,), int64.
        reports: n, if there are any.
    """

    rows: list[F32]
    counts: I64
    reports: Sequence[Report] | None


@dataclass(frozen=True)
class Rule(abc.ABC):
    """An aggregation rule; equal rules give equal bytes for equal updates in equal order.

    Attributes:
        trained_size: Values at the vector's beginning that gradients train; state follows them, such as moving
            statistics, whose size says nothing of how far an update goes. None: all of them.
    """

    #: As in a configuration.
    name: ClassVar[str]
    #: Its parameters but for `trained_size`, which is the model's.
    parameters: ClassVar[tuple[Parameter, ...]] = ()

    trained_size: int | None = None

    def __post_init__(self) -> None:
        size = self.trained_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ParameterError(f"rule {self.name}: trained_size is {size!r}, not an integer from 1, or none")
        check_all(self.name, self.parameters, self)

    def aggregate(self, updates: Updates, counts: Counts, reports: Sequence[Report] | None = None) -> F32:
        """One update of n.

        Args:
            updates: Shape (n, p), or n arrays of shape (p,); float32, finite. They are not modified.
            counts: n positive integers: examples that each has seen. Rules that bear bad peers do not weight by them: a
                bad peer would claim many.
            reports: Of each update, for the rules that need them.

        Returns:
            Shape (p,), float32, finite, in memory of its own.

        Raises:
            TooFewUpdatesError: The rule bears fewer bad updates among n than it was told to.
            RefusedUpdateError: An update, a count or a report is of no use, or they do not fit together.
        """
        rows, exact = rows_of(updates, counts)
        if reports is not None and len(reports) != len(rows):
            raise RefusedUpdateError(f"{len(rows)} updates but {len(reports)} reports")
        if rows[0].size == 0:
            raise RefusedUpdateError("updates have no values")
        if self.trained_size is not None and self.trained_size > rows[0].size:
            raise RefusedUpdateError(f"updates have {rows[0].size} values, of which {self.trained_size} are trained")
        self.check(len(rows))
        return self._combine(Received(rows, exact, reports))

    @property
    def required(self) -> int:
        """How many bad updates it was told to bear."""
        return 0

    def check(self, n: int) -> None:
        """Raise TooFewUpdatesError if n updates are too few to bear what is required."""
        if self.required > self.tolerates(n):
            raise TooFewUpdatesError(
                f"rule {self.name} bears {self.tolerates(n)} bad updates among {n}, not {self.required}: wait for "
                f"{self.needs(self.required)} updates, or lower byzantine"
            )

    def needs(self, f: int) -> int:
        """The fewest updates among which f bad ones are borne; for a rule that bears none, ValueError above 0."""
        most = 4 * f + 3
        for n in range(1, most + 1):
            if self.tolerates(n) >= f:
                return n
        raise ValueError(f"rule {self.name} bears no bad update among any number")

    @abc.abstractmethod
    def tolerates(self, n: int) -> int:
        """How many of n updates may be anything at all without spoiling the result."""

    @abc.abstractmethod
    def _combine(self, received: Received) -> F32:
        """One update of rows whose values nobody has looked at."""

    def trained(self, rows: Sequence[F32]) -> list[F32]:
        """Views of what gradients train, shape (trained_size,) each."""
        return [row[: self.trained_size] for row in rows]


@dataclass(frozen=True)
class RobustRule(Rule):
    """A rule that bears bad updates.

    Attributes:
        byzantine: Bad updates that must be borne, f in the literature. With fewer updates than that needs, the rule
            refuses.
    """

    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("byzantine", int, 0, 1_000_000, "bad updates that must be borne; with too few updates: refused"),
    )

    byzantine: int = 1

    @property
    def required(self) -> int:
        """How many bad updates it was told to bear."""
        return self.byzantine


def majority(n: int) -> int:
    """The largest f below half of n: no rule whatever bears more."""
    return max(0, (n - 1) // 2)
