"""What a fuzz target is, and what every input must keep to: its declared errors, memory and work.

Nothing of the product is imported here: atheris instruments what is imported after it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz import targets

CORPUS = Path(__file__).parent / "corpus"
#: Bytes that any input may cost: messages of errors, regular expressions, small tables.
MEMORY = 1 << 20
#: Calls that any input may cost, and each byte of it besides.
WORK = 20_000
WORK_A_BYTE = 50
#: An input that has taken so long is looked at again, with its calls counted.
SUSPICIOUS_S = 0.25

Mutator = Callable[[bytes, int, int, Callable[[bytes, int], bytes]], bytes]


@dataclass(frozen=True)
class Target:
    """One decoder, or a few that belong together.

    Attributes:
        run: Decodes an input, checks what comes of it, and says what that was: "refused", or a word for each kind of
            what is accepted. Whatever it raises is a finding.
        outcomes: What the committed corpus must come to, so that it is known to reach behind the first check.
        modules: What is tested, for the report of coverage.
        memory_a_byte: How many bytes an input may cost for each of its own.
        memory: And how many besides.
        length_max: Of an input.
        mutate: (input, size, seed, mutate bytes) gives another input that keeps its structure; None: bytes alone.
        words: For the dictionary.
    """

    run: Callable[[bytes], str]
    outcomes: frozenset[str]
    modules: tuple[str, ...]
    memory_a_byte: int = 64
    memory: int = MEMORY
    length_max: int = 4096
    mutate: Mutator | None = None
    words: tuple[bytes, ...] = ()


def names() -> list[str]:
    """All targets."""
    return sorted(it.name for it in pkgutil.iter_modules(targets.__path__))


def load(name: str) -> Target:
    """A target by its name, or by that of a module elsewhere."""
    module = importlib.import_module(name if "." in name else f"tests.fuzz.targets.{name}")
    target: Target = module.TARGET
    return target


def check(target: Target, data: bytes, count: bool = True) -> str:
    """Run one input; returns its outcome, raises whatever is wrong.

    Args:
        target: What to run.
        data: The input.
        count: Whether to count its calls, which makes it several times slower; else they are where it took long.
    """
    before_s = time.thread_time()
    outcome = _bounded_memory(target, data)
    if count or time.thread_time() - before_s > SUSPICIOUS_S:
        calls = _calls(target, data)
        most = WORK + WORK_A_BYTE * len(data)
        assert calls <= most, f"{calls} calls for {len(data)} bytes, more than {most}"
    return outcome


def _bounded_memory(target: Target, data: bytes) -> str:
    started = tracemalloc.is_tracing()
    if not started:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        outcome = target.run(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not started:
            tracemalloc.stop()
    most = target.memory + target.memory_a_byte * len(data)
    assert peak - before <= most, f"{peak - before} bytes of memory for {len(data)} bytes, more than {most}"
    return outcome


def _calls(target: Target, data: bytes) -> int:
    """How many functions are called: a measure of work that is the same on every machine."""
    count = 0

    def called(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        target.run(data)
    finally:
        sys.setprofile(before)
    return count


def corpus(name: str) -> list[Path]:
    """The committed inputs of a target."""
    return sorted((CORPUS / name).glob("*"))
