"""What the present global model scores on the peers' own test splits."""

from __future__ import annotations

from edge_peer.protocol.context import Context
from edge_peer.protocol.messages import Report
from edge_peer.protocol.tensors import ModelRef


class Scores:
    """The reports on one model after another, and the accuracy that they make.

    Attributes:
        reports: Of the present model, by peer.
        accuracy: Of the newest model that was judged: the mean over its reports, weighted by their examples.
        int8_accuracy: The same of its int8 model, over the reports that have one; None: there are none.
        round: Which round's model that was.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._judged = ""
        self.reports: dict[str, Report] = {}
        self.accuracy: float | None = None
        self.int8_accuracy: float | None = None
        self.round = 0

    def expected(self) -> set[str]:
        """Who has a test split, and the model."""
        digest = self._context.settings.model_digest
        everyone = self._context.everyone().items()
        return {peer for peer, it in everyone if it.test_examples > 0 and it.model_digest == digest}

    @property
    def all_in(self) -> bool:
        """Whether nobody's report is missing."""
        return not self.expected() - set(self.reports)

    def judge(self, base: ModelRef, closing: bool) -> bool:
        """Compute the accuracy when all reports are in, or half of them at the close of a round; once a model."""
        if self._judged == base.sha256 or not self.reports:
            return False
        if not self.all_in and not (closing and 2 * len(self.reports) >= len(self.expected())):
            return False
        self._judged = base.sha256
        self.sum_up(base)
        return True

    def sum_up(self, base: ModelRef) -> None:
        """Compute the accuracy from the reports that are in, if any."""
        if self.reports:
            ordered = [report for _, report in sorted(self.reports.items())]
            self.accuracy = _mean([(it.accuracy, it.examples) for it in ordered])
            self.int8_accuracy = _mean(
                [(it.int8_accuracy, it.examples) for it in ordered if it.int8_accuracy is not None]
            )
            self.round = base.round

    def forget(self) -> None:
        """A new run has no accuracy yet."""
        self.accuracy, self.int8_accuracy, self.round = None, None, 0

    def fields(self) -> dict[str, object]:
        """For the round log."""
        return {"accuracy": self.accuracy, "int8_accuracy": self.int8_accuracy, "peers": len(self.reports)}


def _mean(values: list[tuple[float, int]]) -> float | None:
    """Weighted; None of nothing."""
    total = sum(weight for _, weight in values)
    return sum(value * weight for value, weight in values) / total if total else None
