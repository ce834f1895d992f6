"""What holds of whatever was decoded."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def assert_finite(value: Any, where: str = "value") -> None:
    """No NaN and no infinity in any number, however deep."""
    if isinstance(value, float):
        assert math.isfinite(value), f"{where} is {value}"
    elif isinstance(value, np.ndarray):
        assert np.isfinite(value).all(), f"{where} has values that are not finite"
    elif is_dataclass(value):
        for it in fields(value):
            assert_finite(getattr(value, it.name), f"{where}.{it.name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            assert_finite(item, f"{where}[{str(key)[:40]!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            assert_finite(item, f"{where}[{index}]")


def assert_clean(message: str, length_max: int = 2000) -> None:
    """A message for a log line, or for a peer: bounded."""
    assert message, "an error says nothing"
    assert len(message) <= length_max, f"an error of {len(message)} characters"
