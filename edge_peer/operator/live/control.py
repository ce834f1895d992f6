"""`edge-peer stop` and `edge-peer start`: say it, and wait until the federation has done it."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge_peer.config import Config
from edge_peer.operator.live.federation import Federation, look
from edge_peer.operator.live.session import Session
from edge_peer.protocol.messages import FINISHED, TRAINING, Start, Stop
from edge_peer.protocol.topics import START, STOP


def stop(config: Config, name: str | None, reason: str, timeout_s: float) -> int:
    """End the run that is on; returns the exit code: 0 when it has finished, 1 when nobody did it in time."""
    with Session(config.broker, config.federation.name, name or config.peer.name) as session:
        federation = look(session)
        document = federation.round
        if document is None:
            print(f"no controller is there; online: {', '.join(federation.online) or 'nobody'}. Nothing to stop.")
            return 1
        if document.run_id is None or document.state == FINISHED:
            print(f"no run is on ({document.reason or document.state}). Nothing to stop.")
            return 0
        run_id = document.run_id
        session.publish(STOP, Stop(run_id, reason))
        print(f"asked {federation.controller} to stop run {run_id}")

        def finished() -> bool:
            it = federation.round
            return it is not None and it.run_id == run_id and it.state == FINISHED

        if not _wait(session, federation, finished, timeout_s):
            print(
                f"run {run_id} has not finished within {timeout_s:g} s: controller is "
                f"{federation.controller or 'nobody'}. The stop stays with the broker; the next controller obeys it."
            )
            return 1
        session.publish(STOP, None)
        it = federation.round
        assert it is not None
        print(f"run {run_id} finished after round {it.round}: {it.reason}")
        return 0


def start(config: Config, name: str | None, timeout_s: float) -> int:
    """Make every peer want another run; returns the exit code: 0 when one is on, 1 when none began in time."""
    with Session(config.broker, config.federation.name, name or config.peer.name) as session:
        federation = look(session)
        document = federation.round
        if document is not None and document.run_id is not None and document.state == TRAINING:
            print(f"run {document.run_id} is on already: round {document.round}")
            return 0
        after = max(
            document.run_number if document is not None else 0,
            *(presence.finished for presence in federation.presences.values()),
            0,
        )
        session.publish(START, Start(after))
        print(f"asked for a run; online: {', '.join(federation.online) or 'nobody'}")

        def begun() -> bool:
            it = federation.round
            return it is not None and it.run_id is not None and it.run_number > after

        done = _wait(session, federation, begun, timeout_s)
        it = federation.round
        if not done:
            why = f"{federation.controller} says: {it.reason or it.state}" if it else "no controller is there"
            print(f"no run began within {timeout_s:g} s: {why}")
            return 1
        # A start that stayed would be obeyed again by whoever joins after that run.
        session.publish(START, None)
        assert it is not None
        print(f"run {it.run_id} is on")
        return 0


def _wait(session: Session, federation: Federation, condition: Callable[[], bool], timeout_s: float) -> bool:
    end_s = time.monotonic() + timeout_s
    while not condition():
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            return False
        for document in session.take(left_s):
            federation.take(*document)
    return True
