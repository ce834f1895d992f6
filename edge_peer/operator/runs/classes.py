"""What a run's folder says of classes: examples of each by board, and what the final int8 model takes them for."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from edge_peer.errors import ResourceError
from edge_peer.operator.runs.files import whole_lines
from edge_peer.shell.class_counts import CLASSES, COLUMNS

#: More digits than any count has; Python refuses to read far longer ones.
DIGITS_MAX = 9


@dataclass(slots=True)
class ClassCounts:
    """One board's examples, by label.

    Attributes:
        trained: Of the training split.
        tested: Of the test split.
        confusion: Of the test split, by (label, what the final int8 model takes it for); empty: there is no such model.
    """

    trained: Counter[int] = field(default_factory=Counter)
    tested: Counter[int] = field(default_factory=Counter)
    confusion: Counter[tuple[int, int]] = field(default_factory=Counter)


def read_class_counts(folder: Path) -> tuple[dict[str, ClassCounts], list[str]]:
    """Of every board of a run that has told them, by name; and which files are of another kind, one sentence each."""
    found, problems = {}, []
    for path in sorted((folder / CLASSES).glob("*.csv")):
        try:
            found[path.stem] = _read(path)
        except ResourceError as error:
            problems.append(str(error))
    return found, problems


def _read(path: Path) -> ClassCounts:
    counts = ClassCounts()
    reader = csv.DictReader(whole_lines(path))
    try:
        missing = sorted(set(COLUMNS) - set(reader.fieldnames or ()))
        if missing:
            raise ValueError(f"columns {missing} are missing")
        for line in reader:
            label, examples = _count(line, "class"), _count(line, "examples")
            if line["split"] == "train":
                counts.trained[label] += examples
            else:
                counts.tested[label] += examples
                if line["predicted"]:
                    counts.confusion[label, _count(line, "predicted")] += examples
    except (ValueError, csv.Error) as error:
        raise ResourceError(f"{path}, line {reader.line_num}: {error}; delete the file, or collect it again") from None
    return counts


def _count(line: dict[str, str], name: str) -> int:
    text = line[name] or ""
    if not (text.isdecimal() and len(text) <= DIGITS_MAX):
        raise ValueError(f"{name} is {text[:40]!r}, which is no count")
    return int(text)
