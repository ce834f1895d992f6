"""What a collection of a fleet's files has brought: which boards answered, and which rows are not there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edge_peer.operator.results import Results
from edge_peer.operator.run_files import COLLECTION
from edge_peer.operator.words import ranges


@dataclass(frozen=True, slots=True)
class Collection:
    """What the fetching of files says of itself, in `collection.json`.

    Attributes:
        hosts: Boards of the inventory that were asked.
        reached: Those that answered.
    """

    hosts: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()

    @property
    def missed(self) -> list[str]:
        """Who did not answer."""
        return sorted(set(self.hosts) - set(self.reached))

    @classmethod
    def read(cls, folder: Path) -> Collection:
        """Of a folder; without the file, or with another one, nobody was asked."""
        try:
            document = json.loads((folder / COLLECTION).read_text(encoding="utf-8"))
            hosts, reached = (tuple(map(str, document[name])) for name in ("hosts", "reached"))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls()
        return cls(hosts, reached)


def missing_rows(results: Results) -> list[str]:
    """Which peers have no row of which rounds, one sentence each."""
    last = max(row.round for rows in results.peers.values() for row in rows)
    if not results.end():
        # A row of the newest round may be on its way to the board's disk.
        last -= 1
    said = []
    for peer in results.invited():
        gone = sorted(set(range(last + 1)) - {row.round for row in results.peers.get(peer, [])})
        if peer not in results.peers:
            said.append(f"{peer}: nothing of this run was collected from it")
        elif gone:
            said.append(f"{peer}: no row of {'rounds' if len(gone) > 1 else 'round'} {ranges(gone)}")
    return said
