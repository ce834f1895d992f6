"""What has happened in a federation, in sentences: the difference between one look at its documents and the next."""

from __future__ import annotations

from edge_peer.operator.live.federation import Federation
from edge_peer.protocol.messages import FINISHED, Round


class Story:
    """Tells each event once.

    Args:
        federation: Kept up to date by somebody else.
    """

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._online: set[str] = set()
        self._seen: set[str] = set()
        self._led: tuple[str, int] | None = None
        self._run_id: str | None = None
        self._accuracy: tuple[str, int] | None = None
        self._finished: str | None = None
        self._refused: set[tuple[int, str]] = set()

    def tell(self) -> list[str]:
        """What is new since the last call."""
        federation, news = self._federation, []
        online = set(federation.online)
        news += [
            f"{peer} is back" if peer in self._seen else f"{peer} is there" for peer in sorted(online - self._online)
        ]
        news += [f"{peer} is gone" for peer in sorted(self._online - online)]
        self._online = online
        self._seen |= online
        document = federation.round
        controller = federation.controller
        if document is None or controller is None:
            return news
        if (controller, document.term) != self._led:
            self._led = (controller, document.term)
            news.append(f"{controller} is elected controller of term {document.term}")
        if document.run_id is not None:
            news += self._of_run(document, document.run_id)
        return news

    def _of_run(self, document: Round, run_id: str) -> list[str]:
        news = []
        if run_id != self._run_id:
            self._run_id = run_id
            self._accuracy = None
            news.append(f"run {run_id} begins with {', '.join(document.participants)}")
        for peer, reason in sorted(document.refused.items()):
            if (document.round, peer) not in self._refused:
                self._refused.add((document.round, peer))
                news.append(f"round {document.round}: update of {peer} refused: {reason}")
        scored = (run_id, document.accuracy_round)
        if document.accuracy is not None and scored != self._accuracy and document.accuracy_round > 0:
            self._accuracy = scored
            int8 = f", int8 {document.int8_accuracy:.4f}" if document.int8_accuracy is not None else ""
            news.append(f"round {document.accuracy_round}: accuracy {document.accuracy:.4f}{int8}")
        if document.state == FINISHED and document.complete and self._finished != run_id:
            self._finished = run_id
            news.append(f"run {run_id} is finished after round {document.round}: {document.reason}")
        return news
