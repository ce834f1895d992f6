"""`edge-peer predict`: the classes of pictures and arrays, by the model that a run has made."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_peer.errors import ResourceError
from edge_peer.operator.prediction.classifiers import Classifier, open_classifier
from edge_peer.operator.prediction.examples import ExamplesError, read_examples, read_labels, read_names
from edge_peer.trainers.interface import F32, U8


@dataclass(frozen=True, slots=True)
class Request:
    """What to predict, and how to say it.

    Attributes:
        model: See `open_classifier`.
        inputs: Files of examples.
        artifacts: See `open_classifier`.
        as_float: See `open_classifier`.
        top: How many classes an example is given.
        classes: File with the names of the classes.
        labels: File with the labels of all examples, in the order of the inputs.
        form: `table`, `csv` or `json`.
    """

    model: Path
    inputs: tuple[Path, ...]
    artifacts: Path | None = None
    as_float: bool = False
    top: int = 1
    classes: Path | None = None
    labels: Path | None = None
    form: str = "table"


@dataclass(frozen=True, slots=True)
class Example:
    """One example: the file and the place in it that it came from, its values, and its label if that is known."""

    source: str
    index: int
    values: U8
    label: int | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of an example: the likeliest classes and the softmax of their logits, the best one first."""

    example: Example
    classes: tuple[int, ...]
    confidences: tuple[float, ...]


def predict(request: Request) -> int:
    """Print a line for each example, then how many there were and how long it took.

    Returns:
        The exit code: 0, or 1 if a file could not be used or the labels do not fit.

    Raises:
        ResourceError: The model, the names or the labels cannot be used.
    """
    model = open_classifier(request.model, request.artifacts, request.as_float)
    if not 1 <= request.top <= model.classes:
        raise ResourceError(f"--top {request.top}: the model has {model.classes} classes; choose 1 to {model.classes}")
    try:
        names = read_names(request.classes, model.classes) if request.classes is not None else None
        labels = read_labels(request.labels, model.classes) if request.labels is not None else None
    except ExamplesError as error:
        raise ResourceError(str(error)) from None
    sources = [_shown(path) for path in request.inputs]
    written = FORMS[request.form](sources, names, request.top, labels is not None, model.classes)
    reader = _Reader(request.inputs, model.input_shape, labels)
    try:
        seen = _predict_all(model, reader, request.top, written)
        fits = reader.judge(seen, sys.stdout if request.form == "table" else sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough, as `head` does. Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    rate = f", {seen.examples / seen.seconds:.0f} a second" if seen.examples else ""
    model_time = f"{seen.model_seconds:.3f} s of it in {_shown(model.path)} with {model.runtime}"
    count = "1 example" if seen.examples == 1 else f"{seen.examples} examples"
    print(f"{count} in {seen.seconds:.3f} s{rate}; {model_time}", file=sys.stderr)
    return 0 if fits and not reader.failed else 1


@dataclass(slots=True)
class _Seen:
    """Examples so far, how many of them the model knew, and the time for all and in the model."""

    examples: int = 0
    correct: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0


def _predict_all(model: Classifier, reader: _Reader, top: int, written: Form) -> _Seen:
    seen, started = _Seen(), time.perf_counter()
    examples = iter(reader)
    while batch := list(islice(examples, model.batch)):
        x = np.stack([it.values for it in batch])
        before = time.perf_counter()
        logits = model.logits(x)
        seen.model_seconds += time.perf_counter() - before
        for example, prediction in zip(batch, predictions(batch, logits, top), strict=True):
            written.write(prediction)
            seen.examples += 1
            seen.correct += prediction.classes[0] == example.label
    seen.seconds = time.perf_counter() - started
    return seen


def predictions(examples: Sequence[Example], logits: F32, top: int) -> list[Prediction]:
    """The likeliest classes of examples; of two that are alike, the one with the smaller number.

    Args:
        examples: n of them.
        logits: Shape (n, classes), float32.
        top: How many classes of each.
    """
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    confidences = raised / raised.sum(axis=1, keepdims=True)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(confidences, order, axis=1)
    return [
        Prediction(example, tuple(classes), tuple(values))
        for example, classes, values in zip(examples, order.tolist(), best.tolist(), strict=True)
    ]


class _Reader:
    """All examples, file by file; one that cannot be used is named, and the rest goes on."""

    def __init__(self, paths: Sequence[Path], shape: tuple[int, ...], labels: npt.NDArray[np.int64] | None) -> None:
        self._paths, self._shape, self._labels = paths, shape, labels
        self._told = False
        self.failed: list[Path] = []

    def __iter__(self) -> Iterator[Example]:
        position = 0
        for path in self._paths:
            try:
                array = read_examples(path, self._shape, self._say)
            except ExamplesError as error:
                print(f"edge-peer: {error}", file=sys.stderr)
                self.failed.append(path)
                continue
            source = _shown(path)
            for index, values in enumerate(array):
                yield Example(source, index, values, self._label(position))
                position += 1

    def judge(self, seen: _Seen, file: Any) -> bool:
        """Print the accuracy, if there are labels; False if they do not fit the examples."""
        if self._labels is None:
            return True
        if self.failed:
            why = f"without {_shown(self.failed[0])} nothing says whose the labels behind it are"
        elif len(self._labels) != seen.examples:
            why = f"there are {len(self._labels)} labels, but {seen.examples} examples; give one each, in their order"
        else:
            print(f"accuracy {seen.correct / seen.examples:.4f} ({seen.correct} of {seen.examples})", file=file)
            return True
        print(f"edge-peer: no accuracy: {why}", file=sys.stderr)
        return False

    def _label(self, position: int) -> int | None:
        known = self._labels is not None and not self.failed and position < len(self._labels)
        return int(self._labels[position]) if self._labels is not None and known else None

    def _say(self, text: str) -> None:
        # Once: of a thousand photos, all are resized.
        if not self._told:
            print(f"edge-peer: {text}", file=sys.stderr)
        self._told = True


# ---------------------------------------------------------------------- how it is said


class Form(Protocol):
    """A way to write predictions to standard output."""

    def write(self, prediction: Prediction) -> None:
        """Write one."""


class _Table:
    """Aligned columns for people, written as the examples come."""

    def __init__(self, sources: list[str], names: list[str] | None, top: int, labelled: bool, classes: int) -> None:
        self._names, self._labelled = names, labelled
        self._source = max(len(it) for it in ["source", *sources])
        self._class = max(len(it) for it in ["2nd class", *(_named(it, names) for it in range(classes))])
        heads = ["class", *(f"{it}{ENDINGS.get(it, 'th')} class" for it in range(2, top + 1))]
        columns = [f"{'source':{self._source}}", " index", *(f"{it:{self._class}}  confidence" for it in heads)]
        print("  ".join([*columns, "label"] if labelled else columns))

    def write(self, prediction: Prediction) -> None:
        example = prediction.example
        columns = [f"{example.source:{self._source}}", f"{example.index:6}"]
        for number, confidence in zip(prediction.classes, prediction.confidences, strict=True):
            columns.append(f"{_named(number, self._names):{self._class}}  {confidence:10.4f}")
        if self._labelled:
            right = example.label in (None, prediction.classes[0])
            label = "unknown" if example.label is None else _named(example.label, self._names)
            columns.append(label if right else f"{label} (wrong)")
        print("  ".join(columns))


ENDINGS = {2: "nd", 3: "rd"}


class _Csv:
    """A header and a line an example, for scripts."""

    def __init__(self, _: list[str], names: list[str] | None, top: int, *__: object) -> None:
        self._names = names
        more = [f"{name}_{it}" for it in range(2, top + 1) for name in ("class", "name", "confidence")]
        self._write(["source", "index", "class", "name", "confidence", "label", *more])

    def write(self, prediction: Prediction) -> None:
        example = prediction.example
        parts = [
            [number, self._names[number] if self._names is not None else "", f"{confidence:.6f}"]
            for number, confidence in zip(prediction.classes, prediction.confidences, strict=True)
        ]
        first, *more = parts
        label = "" if example.label is None else example.label
        self._write([example.source, example.index, *first, label, *(it for part in more for it in part)])

    @staticmethod
    def _write(values: list[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        sys.stdout.write(text.getvalue())


class _Json:
    """One JSON object a line, for scripts."""

    def __init__(self, _: list[str], names: list[str] | None, *__: object) -> None:
        self._names = names

    def write(self, prediction: Prediction) -> None:
        example = prediction.example
        top = [
            {
                "class": number,
                "name": self._names[number] if self._names is not None else None,
                "confidence": round(confidence, 6),
            }
            for number, confidence in zip(prediction.classes, prediction.confidences, strict=True)
        ]
        print(
            json.dumps({"source": example.source, "index": example.index, **top[0], "label": example.label, "top": top})
        )


FORMS: dict[str, type[_Table] | type[_Csv] | type[_Json]] = {"table": _Table, "csv": _Csv, "json": _Json}


def _named(number: int, names: list[str] | None) -> str:
    return str(number) if names is None else f"{number} {names[number]}"


def _shown(path: Path) -> str:
    """A path as text that every terminal takes, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "replace")
