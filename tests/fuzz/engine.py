"""One target under atheris, in a process of its own: `python -m tests.fuzz.engine TARGET [libFuzzer's options]`."""

from __future__ import annotations

import logging
import random
import sys
import tracemalloc

import atheris

from tests.fuzz.target import check, load

#: One in so many inputs is mutated by bytes alone, also where there is a structure.
PLAIN = 3


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name = sys.argv[1]
    with atheris.instrument_imports(include=["edge_peer", "aggregator_core", "data_shards"]):
        target = load(name)
    # What goes into the log is tested elsewhere, and writing it would cost half of the time.
    logging.disable(logging.CRITICAL)
    tracemalloc.start()

    def test_one_input(data: bytes) -> None:
        check(target, data, count=False)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        if target.mutate is None or random.Random(seed).randrange(PLAIN) == 0:
            return atheris.Mutate(data, size)
        return target.mutate(data, size, seed, atheris.Mutate)[:size]

    options = {"custom_mutator": mutate} if target.mutate is not None else {}
    atheris.Setup([sys.argv[0], *sys.argv[2:]], test_one_input, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
