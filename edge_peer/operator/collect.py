"""Bring together what the peers of a run have written: one folder with all CSVs, one round log, one model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_peer.errors import ResourceError

ROUND_LOG = "rounds.jsonl"
MODEL = "model.safetensors"
INT8_MODEL = "model.int8.tflite"
CONFIG = "config.toml"


def runs_of(state_dirs: Mapping[str, Path]) -> list[str]:
    """The ids of the runs that any of these peers has a folder of, oldest first."""
    found = {path.name for folder in state_dirs.values() for path in (folder / "runs").glob("*/") if path.is_dir()}
    return sorted(found)


def gather(state_dirs: Mapping[str, Path], run_id: str, out: Path) -> None:
    """Copy one run's files out of the peers' state folders.

    Args:
        state_dirs: State folder of each peer.
        run_id: Which run.
        out: Gets `<peer>.csv`, `rounds.jsonl` (of all the run's controllers, by term), `model.safetensors`,
            `model.int8.tflite` if there is one, `config.toml` (of the last controller) and `config/<peer>.toml`.

    Raises:
        ResourceError: No peer has anything of that run.
    """
    folders = {peer: folder / "runs" / run_id for peer, folder in sorted(state_dirs.items())}
    folders = {peer: folder for peer, folder in folders.items() if folder.is_dir()}
    if not folders:
        raise ResourceError(
            f"no peer has files of run {run_id!r}; there are {', '.join(runs_of(state_dirs)) or 'none'}"
        )
    (out / "config").mkdir(parents=True, exist_ok=True)
    lines = _round_log(state_dirs, folders)
    (out / ROUND_LOG).write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines), encoding="utf-8")
    for peer, folder in folders.items():
        for source, target in (
            (folder / f"{peer}.csv", out / f"{peer}.csv"),
            (folder / CONFIG, out / "config" / f"{peer}.toml"),
        ):
            if source.is_file():
                shutil.copyfile(source, target)
    last = next((line["peer"] for line in reversed(lines) if line["peer"] in folders), next(iter(folders)))
    for name in (MODEL, INT8_MODEL, CONFIG):
        # Every peer that saw the end has the same model; the last controller certainly has.
        holders = [folder / name for folder in (folders[last], *folders.values()) if (folder / name).is_file()]
        if holders:
            shutil.copyfile(holders[0], out / name)


def _round_log(state_dirs: Mapping[str, Path], folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The controllers' logs in the order of their terms: their clocks may differ, terms do not."""
    lines = [line for folder in folders.values() for line in read_lines(folder / ROUND_LOG)]
    terms = {line["term"] for line in lines}
    # The election before a run's first round belongs to no run yet.
    before = [line for folder in state_dirs.values() for line in read_lines(folder / "runs" / ROUND_LOG)]
    lines = [line for line in before if line["term"] in terms] + lines
    return sorted(lines, key=lambda line: int(line["term"]))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a round log; a torn last one, of a board that lost power, is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("term"), int) and isinstance(line.get("peer"), str):
            lines.append(line)
    return lines
