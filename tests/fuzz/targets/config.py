"""A board's configuration file.

The mutator knows keys and what they may be: what is wrong between two of them stands behind both.
"""

from __future__ import annotations

import dataclasses
import random

from aggregator_core.codecs import FORMS
from edge_peer.config import CHOICES, RANGES, SECTIONS, Config, load_config, to_toml
from edge_peer.errors import ConfigError
from tests.fuzz.checks import assert_clean, assert_finite
from tests.fuzz.mutators import VALUES, Bytes
from tests.fuzz.scratch import scratch, write
from tests.fuzz.target import Target

FOLDER = scratch()


def run(data: bytes) -> str:
    try:
        config = load_config(write(FOLDER, "config.toml", data))
    except ConfigError as error:
        problems = error.problems
    else:
        return _again(config)
    assert problems
    for problem in problems:
        assert_clean(problem, 5000 + len(data))
    return "refused"


def _again(config: Config) -> str:
    assert_finite(config)
    again = load_config(write(FOLDER, "again.toml", to_toml(config).encode()))
    assert again == config, "the file in effect says something else"
    return "config"


def _mutate(data: bytes, size: int, seed: int, mutate: Bytes) -> bytes:
    """A key is added that may be there; or line by line: it has another value, stands twice, or in another section."""
    rng = random.Random(seed)
    if rng.randrange(2):
        return _with_key(data, rng)[:size]
    lines = data.split(b"\n")
    index = rng.randrange(len(lines))
    choice = rng.randrange(6)
    key, equals, value = lines[index].partition(b"=")
    if choice == 0:
        lines.insert(rng.randrange(len(lines)), lines[index])
    elif choice == 1:
        del lines[index]
    elif choice == 2 and equals:
        lines[index] = key + b"= " + repr(rng.choice(VALUES)).lower().encode("utf-8", "replace")
    elif choice == 3 and equals:
        lines[index] = key + b"=" + mutate(value, len(value) + 16)
    elif choice == 4:
        lines[index] = f"[{rng.choice(sorted(SECTIONS))}]".encode()
    else:
        lines[index] = mutate(lines[index], len(lines[index]) + 16)
    return b"\n".join(lines)[:size]


def _with_key(data: bytes, rng: random.Random) -> bytes:
    """With one more key, in the place of another of its name."""
    section, kind = rng.choice(sorted(SECTIONS.items()))
    key = rng.choice([it.name for it in dataclasses.fields(kind)])
    value = _value(f"{section}.{key}", rng)
    lines = [line for line in data.split(b"\n") if not line.startswith(key.encode() + b" ")]
    header = f"[{section}]".encode()
    if header not in lines:
        lines += [header]
    lines.insert(lines.index(header) + 1, f"{key} = {value}".encode())
    return b"\n".join(lines)


def _value(where: str, rng: random.Random) -> str:
    key = where.partition(".")[2]
    if where in RANGES:
        low, high = RANGES[where]
        number = rng.choice((low, high, low + 1, (low + high) / 2, rng.uniform(low, min(high, low + 10))))
        return repr(rng.choice((number, int(number))))
    if where in CHOICES:
        return f'"{rng.choice(sorted(CHOICES[where]))}"'
    if key in ("codec", "downlink"):
        return f'"{rng.choice((*FORMS, "topk-0.01", "whole"))}"'
    if key.endswith("parameters"):
        names = ("byzantine", "trim", "momentum", "learning_rate", "beta1", "selected", "steps", "bound", "q")
        return f"{{ {rng.choice(names)} = {rng.choice((0, 1, 0.5, 2))} }}"
    if key == "roster":
        return repr([f"peer{number}" for number in range(rng.randrange(6))])
    return rng.choice(("true", "false", '"peer1"', '"some/file"'))


TARGET = Target(
    run,
    frozenset({"config", "refused"}),
    ("edge_peer.config", "edge_peer.config_relations", "edge_peer.config_aggregation"),
    # A parsed table of tables, and a message for each of its keys with what may have been meant.
    memory_a_byte=400,
    length_max=4096,
    mutate=_mutate,
    words=(*(f"[{name}]\n".encode() for name in SECTIONS), b'"""', b"inf", b"nan", b"0x", b"= {", b"1979-05-27"),
)
