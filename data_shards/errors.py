"""What can be wrong with data; every message names the file or option, the value and the remedy."""

from __future__ import annotations


class DataError(Exception):
    """A data set, a division or a shard cannot be used."""


class ShardError(DataError):
    """One peer's shard is missing or damaged."""
