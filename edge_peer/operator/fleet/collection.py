"""What a collection of a fleet's files has brought: which boards answered, and which rows are not there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edge_peer.operator.runs.files import COLLECTION, replace_file
from edge_peer.operator.runs.results import Results
from edge_peer.operator.words import ranges
from edge_peer.protocol.topics import is_name

#: What fetching leaves beside the peers' folders, and in the folder of each that answered.
ASKED, REACHED = "asked.json", "reached.json"


@dataclass(frozen=True, slots=True)
class Collection:
    """Whom the boards' files were fetched from.

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
    def fetched(cls, collected: Path) -> Collection:
        """Of the folder of fetched files; without the list of those who were asked, nobody was."""
        hosts = _names(_json(collected / ASKED))
        return cls(hosts, tuple(host for host in hosts if is_name(host) and (collected / host / REACHED).is_file()))

    @classmethod
    def read(cls, run: Path) -> Collection:
        """Of a run's folder."""
        document = _json(run / COLLECTION)
        if not isinstance(document, dict):
            return cls()
        return cls(_names(document.get("hosts")), _names(document.get("reached")))

    def write(self, run: Path) -> None:
        """Into a run's folder."""
        document = {"hosts": self.hosts, "reached": self.reached}
        replace_file(run / COLLECTION, json.dumps(document, sort_keys=True).encode() + b"\n")


def _json(path: Path) -> object:
    try:
        document: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return document


def _names(value: object) -> tuple[str, ...]:
    return tuple(it for it in value if isinstance(it, str)) if isinstance(value, list) else ()


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
