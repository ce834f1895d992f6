"""One line that says what a peer is at, for systemd and for whoever looks at the board."""

from __future__ import annotations

from edge_peer.protocol.messages import Round


def status_line(role: str, term: int, following: str | None, document: Round | None) -> str:
    """The line.

    Args:
        role: Of the peer.
        term: The highest term in which it knows an elected controller.
        following: Its controller; None: itself, or none.
        document: The controller's newest round document.
    """
    text = f"{role}, term {term}"
    if following is not None:
        text += f", controller {following}"
    if document is not None and document.run_id is not None:
        text += f", run {document.run_id}, round {document.round}/{document.settings.rounds_max} {document.state}"
        if document.accuracy is not None:
            text += f", accuracy {document.accuracy:.4f}"
        if document.int8_accuracy is not None:
            text += f", int8 {document.int8_accuracy:.4f}"
    elif document is not None and document.reason:
        text += f", {document.reason}"
    return text
