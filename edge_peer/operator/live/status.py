"""`edge-peer status`: who is there, who is controller, and how the run goes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from edge_peer.config import Config
from edge_peer.operator.live.federation import Federation, look
from edge_peer.operator.live.session import Session
from edge_peer.operator.live.view import SCHEMA, view


def status(config: Config, name: str | None, as_json: bool) -> int:
    """Print what the broker keeps; returns the exit code: 0, or 1 when no controller is there."""
    with Session(config.broker, config.federation.name, name or config.peer.name) as session:
        federation = look(session)
    if as_json:
        print(json.dumps(to_json(federation, config.federation.name), indent=2, sort_keys=True))
    else:
        print("\n".join(lines(federation)))
    return 0 if federation.controller is not None else 1


def to_json(federation: Federation, name: str) -> dict[str, Any]:
    """The same for scripts: `schema`, and what `view.View` has; docs/monitoring.md lists the fields."""
    return {"schema": SCHEMA, **asdict(view(federation, name))}


def summary(federation: Federation) -> list[str]:
    """Who is controller, and how the run goes."""
    document, out = federation.round, []
    if document is None:
        out.append("no controller")
    else:
        out.append(f"controller {federation.controller}, term {document.term}")
        if document.run_id is None:
            out.append(f"no run: {document.reason or document.state}")
        else:
            out.append(
                f"run {document.run_id}: round {document.round} of {document.settings.rounds_max}, {document.state}"
            )
            if document.reason:
                out.append(f"  {document.reason}")
            if document.accuracy is not None:
                int8 = f" (int8 {document.int8_accuracy:.4f})" if document.int8_accuracy is not None else ""
                out.append(f"  accuracy {document.accuracy:.4f}{int8} after round {document.accuracy_round}")
    return out


def lines(federation: Federation) -> list[str]:
    """The same for people."""
    document, out = federation.round, summary(federation)
    if not federation.presences:
        out.append("nobody has announced itself to this broker")
        return out
    out.append(f"{'peer':20} {'role':10} {'examples':>8} {'score':>7}  remarks")
    missing = document.missing if document is not None else {}
    refused = document.refused if document is not None else {}
    for peer, presence in sorted(federation.presences.items()):
        remarks = [presence.note, missing.get(peer, ""), refused.get(peer, "")]
        if not presence.control:
            remarks.append("does not control")
        remark = "; ".join(dict.fromkeys(text for text in remarks if text))
        out.append(
            f"{peer:20} {federation.role(peer):10} {presence.examples:>8} {presence.score:>7g}  {remark}".rstrip()
        )
    return out
