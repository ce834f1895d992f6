"""The configuration in effect that a run's folder holds, as far as it can be read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_config(path: Path) -> dict[str, Any]:
    """Its tables; empty where the file is missing or torn."""
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tables


def model_name(config: dict[str, Any]) -> str:
    """Of the model that was trained."""
    section = config.get("model")
    artifacts = section.get("artifacts") if isinstance(section, dict) else None
    return Path(artifacts).name if isinstance(artifacts, str) else "a model"
