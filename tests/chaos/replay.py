"""Every run once more, as `edge-peer audit` does it: of what its controllers have kept, through all their deaths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_peer.operator.audit.command import examine
from edge_peer.operator.audit.log import Verdict
from edge_peer.operator.audit.replay import RECOMPUTED
from edge_peer.operator.fleet.collect import gather
from edge_peer.trainers.artifacts import ModelArtifacts
from tests.chaos.records import Records

AUDITED = "audited"


@dataclass(frozen=True)
class Replayed:
    """What an audit of all the runs of a fleet has found.

    Attributes:
        rounds: Of the final models.
        recomputed: Those whose model was made again, byte for byte, of its updates.
        findings: What does not fit.
    """

    rounds: int
    recomputed: int
    findings: list[str]


def replay(folder: Path, records: Records, artifacts: ModelArtifacts) -> Replayed:
    """Collect and audit each run that has ended.

    Args:
        folder: What `playing` has left; gets the collected runs in a folder of its own.
        records: The same, read.
        artifacts: What the runs were made with.
    """
    states: list[str] = []
    found: list[str] = []
    for end in records.played.ends:
        run = folder / AUDITED / end.run_id
        refused = gather({peer: folder / peer for peer in records.played.peers}, end.run_id, run)
        verdict = Verdict()
        states += [outcome.state for _, outcome, _ in examine(run, artifacts, verdict)]
        found += [f"audit of run {end.run_id}: {it}" for it in (*refused, *verdict.faults)]
    return Replayed(len(states), states.count(RECOMPUTED), found)
