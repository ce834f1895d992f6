"""Read fields from hostile JSON: every value is checked for presence, type and range before it is used."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from edge_peer.errors import RemoteProtocolError
from edge_peer.protocol.topics import is_name

#: Integers that every JSON reader holds exactly (RFC 8259, section 6).
INTEGER_MAX = 2**53 - 1
#: Terms, runs, rounds and beats that others may claim; what this peer counts on from there still fits an integer.
COUNT_MAX = 2**52
#: Longest duration that anybody may speak of, in seconds.
SECONDS_MAX = 1e7
TEXT_MAX = 500
ENTRIES_MAX = 4096
DOCUMENT_BYTES_MAX = 1 << 20


def parse_object(payload: bytes) -> Fields:
    """Decode a JSON object.

    Raises:
        RemoteProtocolError: Too long, not UTF-8, not JSON, nested too deeply, or not an object.
    """
    if len(payload) > DOCUMENT_BYTES_MAX:
        raise RemoteProtocolError(f"document of {len(payload)} bytes, more than {DOCUMENT_BYTES_MAX}")
    try:
        value = json.loads(payload.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"not a JSON document: {str(error)[:120]}") from None
    return Fields(value, "document")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class Fields:
    """A JSON object whose fields are read one by one; each reader raises RemoteProtocolError with the field's path."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise RemoteProtocolError(f"{path}: {type(value).__name__} instead of an object")
        self._value: dict[str, Any] = value
        self._path = path

    def _get(self, key: str) -> Any:
        if key not in self._value:
            raise RemoteProtocolError(f"{self._path}.{key} is missing")
        return self._value[key]

    def _wrong(self, key: str, value: Any, expected: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self._path}.{key} is {str(value)[:80]!r}, not {expected}")

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self._value.get(key) is not None

    def text(self, key: str, maximum: int = TEXT_MAX) -> str:
        """A string of at most `maximum` characters without control characters (they would forge log lines)."""
        value = self._get(key)
        if not isinstance(value, str) or len(value) > maximum or not (value.isprintable()):
            raise self._wrong(key, value, f"printable text of at most {maximum} characters")
        return value

    def name(self, key: str) -> str:
        """A peer's, run's or federation's name."""
        value = self._get(key)
        if not isinstance(value, str) or not is_name(value):
            raise self._wrong(key, value, "a name")
        return value

    def digest(self, key: str) -> str:
        """A SHA-256 in lower-case hexadecimal."""
        value = self._get(key)
        if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise self._wrong(key, value, "a SHA-256")
        return value

    def integer(self, key: str, minimum: int = 0, maximum: int = INTEGER_MAX) -> int:
        """An integer in [minimum, maximum]; true and false are not integers."""
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise self._wrong(key, value, f"an integer from {minimum} to {maximum}")
        return value

    def count(self, key: str, minimum: int = 0) -> int:
        """A term, run, round or beat, with room to count on."""
        return self.integer(key, minimum, COUNT_MAX)

    def number(self, key: str, minimum: float, maximum: float) -> float:
        """A finite number in [minimum, maximum]."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        # Compared before it becomes a float: an integer of a thousand digits would overflow there.
        if not minimum <= value <= maximum or not math.isfinite(value):
            raise self._wrong(key, value, f"a number from {minimum} to {maximum}")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def one_of(self, key: str, choices: frozenset[str]) -> str:
        """One of the texts in `choices`."""
        value = self._get(key)
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(key, value, " or ".join(sorted(choices)))
        return value

    def object(self, key: str) -> Fields:
        """A nested object."""
        return Fields(self._get(key), f"{self._path}.{key}")

    def names(self, key: str) -> tuple[str, ...]:
        """A list of distinct peers' names."""
        value = self._get(key)
        if not isinstance(value, list) or len(value) > ENTRIES_MAX:
            raise self._wrong(key, value, f"a list of at most {ENTRIES_MAX} names")
        if not all(isinstance(item, str) and is_name(item) for item in value) or len(set(value)) != len(value):
            raise self._wrong(key, value, "a list of distinct names")
        return tuple(value)

    def mapping(self, key: str) -> tuple[tuple[str, Fields], ...]:
        """An object whose keys are peers' names and whose values are objects, sorted by name."""
        return tuple((name, Fields(value, f"{self._path}.{key}.{name}")) for name, value in self._items(key))

    def texts(self, key: str) -> dict[str, str]:
        """An object from peers' names to texts."""
        fields = Fields(dict(self._items(key)), f"{self._path}.{key}")
        return {name: fields.text(name) for name in fields._value}

    def numbers(self, key: str) -> dict[str, float]:
        """An object from names to finite numbers."""
        fields = Fields(dict(self._items(key)), f"{self._path}.{key}")
        return {name: fields.number(name, -1e15, 1e15) for name in fields._value}

    def column(self, key: str, length: int | None = None) -> tuple[float | None, ...]:
        """A list of finite numbers and nulls; of this length, if one is given."""
        value = self._get(key)
        if not isinstance(value, list) or len(value) > ENTRIES_MAX or length not in (None, len(value)):
            raise self._wrong(key, value, f"a list of {f'at most {ENTRIES_MAX}' if length is None else length} numbers")
        fields = Fields({str(place): item for place, item in enumerate(value)}, f"{self._path}.{key}")
        return tuple(fields.number(place, -1e15, 1e30) if fields.has(place) else None for place in fields._value)

    def _items(self, key: str) -> list[tuple[str, Any]]:
        value = self._get(key)
        if not isinstance(value, dict) or len(value) > ENTRIES_MAX or not all(is_name(name) for name in value):
            raise self._wrong(key, value, f"an object of at most {ENTRIES_MAX} names")
        return sorted(value.items())
