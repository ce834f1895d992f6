"""The committed inputs of every fuzz target, run again on every Python; and what they, and the mutators, reach."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tests.fuzz.mutators import json_mutator
from tests.fuzz.target import Target, check, corpus, load, names

#: Bytes of a target's inputs: they are code to be read, in a way.
CORPUS_BYTES_MAX = 40_000


@pytest.mark.parametrize("name", names())
def test_every_input_keeps_to_its_bounds_and_together_they_reach_all_that_is_decoded(name: str) -> None:
    target = load(name)
    outcomes = set()
    for path in corpus(name):
        try:
            outcomes.add(check(target, path.read_bytes()))
        except Exception as error:
            raise AssertionError(f"replay: python -m tests.fuzz {name} --replay {path}") from error
    assert target.outcomes <= {part for it in outcomes for part in (it, *it.split(", "))}
    assert sum(path.stat().st_size for path in corpus(name)) <= CORPUS_BYTES_MAX


@pytest.mark.parametrize("name", [name for name in names() if load(name).mutate is not None])
def test_mutations_get_behind_the_first_check(name: str) -> None:
    """Of what is made of accepted inputs, a good part is accepted again, and a good part refused."""
    target = load(name)
    assert target.mutate is not None
    rng = random.Random(1)

    def some_bytes(data: bytes, size: int) -> bytes:
        changed = bytearray(data[:size] or b"\0")
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)

    inputs = [path.read_bytes() for path in corpus(name)]
    good = [it for it in inputs if _accepted(target.run(it))]
    seen: Counter[bool] = Counter()
    for seed in range(150):
        mutated = target.mutate(good[seed % len(good)], target.length_max, seed, some_bytes)
        seen[_accepted(target.run(mutated[: target.length_max]))] += 1
    assert min(seen[True], seen[False]) >= (10 if name != "history" else 0), seen


def _accepted(outcome: str) -> bool:
    return not outcome.startswith(("refused", "no ", "nothing", "not ", "state set", "checkpoint set", "memory left"))


def test_an_input_that_takes_too_much_memory_or_work_is_found() -> None:
    def target(run: Any) -> Target:
        return Target(run, frozenset(), ())

    def work(data: bytes) -> str:
        return str(sum(len(str(number)) for number in range(len(data) ** 2)))

    assert check(target(lambda data: str(len(data))), b"x" * 400) == "400"
    with pytest.raises(AssertionError, match="calls for 400 bytes"):
        check(target(work), b"x" * 400)
    with pytest.raises(AssertionError, match="bytes of memory for 1 bytes"):
        check(target(lambda data: str(len(bytes(len(data) * 2_000_000)))), b"x")
    with pytest.raises(ZeroDivisionError):
        check(target(lambda data: str(1 // (len(data) - 1))), b"x")


def test_json_stays_json_when_it_is_mutated() -> None:
    data = b'{"a":[1,2.5,{"b":null}],"c":"text","d":{"e":true}}'
    different = {json_mutator(data, 1000, seed, lambda it, _: it[::-1]) for seed in range(300)}
    assert len(different) > 150
