"""Mutations that keep a structure, so that they reach what stands behind its check: JSON, safetensors, and others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Bytes = Callable[[bytes, int], bytes]
#: What decoders forget: limits, wrong types, text that is none.
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    255,
    2**31 - 1,
    2**31,
    2**53 - 1,
    2**53,
    2**64,
    10**400,
    -0.0,
    0.5,
    1e-320,
    1e15,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "a" * 64,
    "0" * 64,
    "x" * 501,
    "\0",
    "\ud800",
    "\x1b[31m",
    "é",
    "..",
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within a JSON value, itself included."""
    found = [at]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*at, key))
    return found


def mutate_json(value: Any, rng: random.Random, mutate: Bytes) -> Any:
    """The value with one of its values changed, left out, doubled or exchanged; it may be changed itself."""
    paths = places(value)
    path = rng.choice(paths)
    if not path:
        return rng.choice(VALUES) if rng.randrange(20) == 0 else value
    parent = _at(value, path[:-1])
    key, old = path[-1], parent[path[-1]]
    choice = rng.randrange(6)
    if choice == 0:
        parent[key] = rng.choice(VALUES)
    elif choice == 1:
        del parent[key]
    elif choice == 2:
        parent[key] = json.loads(json.dumps(_at(value, rng.choice(paths))))
    elif choice == 3 and isinstance(parent, list):
        parent.append(json.loads(json.dumps(old)))
    elif choice == 3:
        parent[mutate(str(key).encode("utf-8", "replace"), 80).decode("utf-8", "replace")] = old
    elif isinstance(old, str):
        parent[key] = mutate(old.encode("utf-8", "replace"), len(old) + 16).decode("utf-8", "replace")
    elif isinstance(old, int) and not isinstance(old, bool):
        parent[key] = old + rng.choice((-1, 1, -old, 2 ** rng.randrange(60)))
    elif isinstance(old, float):
        parent[key] = old * rng.choice((-1.0, 0.0, 0.5, 1e30))
    else:
        parent[key] = rng.choice(VALUES)
    return value


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def json_bytes(data: bytes, size: int, rng: random.Random, mutate: Bytes) -> bytes:
    """Another JSON text; of what is none, other bytes."""
    try:
        value = json.loads(data)
        for _ in range(rng.randint(1, 3)):
            value = mutate_json(value, rng, mutate)
        return json.dumps(value, separators=(",", ":")).encode()
    except (ValueError, RecursionError, IndexError, KeyError, TypeError):
        return mutate(data, size)


def json_mutator(data: bytes, size: int, seed: int, mutate: Bytes) -> bytes:
    """A whole input of JSON."""
    return json_bytes(data, size, random.Random(seed), mutate)


def line_and(inner: Callable[[bytes, bytes, int, random.Random, Bytes], bytes]) -> Callable[..., bytes]:
    """Inputs whose first line says what the rest is: mostly the rest is mutated, by `inner`."""

    def mutator(data: bytes, size: int, seed: int, mutate: Bytes) -> bytes:
        rng = random.Random(seed)
        line, separator, rest = data.partition(b"\n")
        if not separator or rng.randrange(30) == 0:
            return mutate(data, size)
        return line + b"\n" + inner(line, rest, size - len(line) - 1, rng, mutate)

    return mutator


def split_tensors(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and values of a safetensors file; raises ValueError."""
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length]) if length <= len(payload) else None
    if not isinstance(header, dict):
        raise ValueError("no header")
    return header, payload[8 + length :]


def join_tensors(header: Any, values: bytes) -> bytes:
    """The file of a header and values."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + values


def tensors_bytes(payload: bytes, size: int, rng: random.Random, mutate: Bytes, document: str = "") -> bytes:
    """Another safetensors file: other values, another header, or another document in its metadata."""
    try:
        header, values = split_tensors(payload)
        choice = rng.randrange(4)
        if choice == 0 and document:
            metadata = header["__metadata__"]
            metadata[document] = json_bytes(metadata[document].encode(), size, rng, mutate).decode("utf-8", "replace")
        elif choice == 1:
            header = mutate_json(header, rng, mutate)
        else:
            # Of the same length, or the offsets would not fit.
            changed = mutate(values, len(values)) if values else b""
            values = changed + values[len(changed) :] if choice == 2 else changed
        return join_tensors(header, values)
    except (ValueError, RecursionError, IndexError, KeyError, TypeError, AttributeError):
        return mutate(payload, size)
