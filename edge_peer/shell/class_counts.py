"""What a peer's shard holds of each class, and what the final int8 model takes its test examples for: one small CSV.

It is written once, at the end of a run, from what the evaluation of the final model has found anyway.
"""

from __future__ import annotations

import csv
import io

import numpy as np
import numpy.typing as npt

from edge_peer.trainers.interface import I32

#: The folder of a run that these files are in, by peer; a CSV beside the others would be taken for a peer's rows.
CLASSES = "classes"
#: Column -> what it means. docs/csv.md is made from this table.
COLUMNS: dict[str, str] = {
    "run_id": "the run",
    "peer": "whose shard it is",
    "round": "rounds in the final model, which the predictions are of",
    "split": "`train` or `test`",
    "class": "label of the examples that this row counts, from 0",
    "predicted": "what the final int8 model takes them for; empty in the training split, and where there is no int8 "
    "model",
    "examples": "how many; what is not there is 0",
}


def class_counts(run_id: str, peer: str, round_: int, trained: I32, tested: I32, predicted: I32 | None) -> bytes:
    """The file.

    Args:
        run_id: Which run.
        peer: Whose shard.
        round_: Of the final model.
        trained: Labels of the training split, shape (n,).
        tested: Labels of the test split, shape (m,).
        predicted: Classes that the int8 model gives the test split, shape (m,); None: there is no such model.
    """
    rows: list[tuple[str, int, int | str, int]] = [
        ("train", label, "", count) for (label,), count in _counted(trained[:, None])
    ]
    if predicted is None:
        rows += [("test", label, "", count) for (label,), count in _counted(tested[:, None])]
    else:
        pairs = _counted(np.stack([tested, predicted], axis=1))
        rows += [("test", label, taken_for, count) for (label, taken_for), count in pairs]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((run_id, peer, round_, *row) for row in rows)
    return text.getvalue().encode()


def _counted(values: npt.NDArray[np.int32]) -> list[tuple[tuple[int, ...], int]]:
    """Each row that there is, ascending, and how often."""
    rows, counts = np.unique(values, axis=0, return_counts=True)
    return [(tuple(int(it) for it in row), int(count)) for row, count in zip(rows, counts, strict=True)]
