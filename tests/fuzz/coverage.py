"""Which lines of its modules a target's inputs reach; and of inputs, the few and small ones that reach as much."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from inspect import CO_OPTIMIZED as OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.target import Target

Line = tuple[str, int]


class Tracer:
    """Collects lines of some modules."""

    def __init__(self, modules: Iterable[str]) -> None:
        self.files = {str(Path(str(import_module(name).__file__)).resolve()) for name in modules}
        self.lines: set[Line] = set()
        self._known: dict[str, bool] = {}

    def _trace(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in self._known:
            self._known[name] = str(Path(name).resolve()) in self.files
        if not self._known[name]:
            return None
        self.lines.add((name, frame.f_lineno))
        return self._line

    def _line(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    def run(self, target: Target, data: bytes) -> tuple[str, frozenset[Line]]:
        """An input's outcome, and the lines that it reaches."""
        self.lines = set()
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            outcome = target.run(data)
        finally:
            sys.settrace(before)
        return outcome, frozenset(self.lines)


def _lines(code: CodeType) -> Iterator[int]:
    """The lines of functions, which decoding runs; those of a module and of a class run when it is imported."""
    if code.co_flags & OPTIMIZED:
        yield from (line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines(constant)


def possible(path: str) -> set[Line]:
    """All lines of a file's functions."""
    code = compile(Path(path).read_text(encoding="utf-8"), path, "exec")
    return {(path, line) for line in _lines(code)}


def smallest(target: Target, inputs: Iterable[bytes]) -> list[bytes]:
    """The inputs to keep: those that reach a line or outcome that no smaller one reaches, the smallest first."""
    tracer = Tracer(target.modules)
    reached: set[Any] = set()
    kept = []
    for data in sorted(set(inputs), key=lambda it: (len(it), it)):
        outcome, lines = tracer.run(target, data)
        new = {*lines, outcome}
        if not new <= reached:
            reached |= new
            kept.append(data)
    return kept
