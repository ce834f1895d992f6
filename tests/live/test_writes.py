"""What a peer writes to its disk: nothing while nothing happens, and in a run each thing once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.soak.samples import kind_of
from edge_peer.config import BrokerSection
from edge_peer.operator.live.session import Session
from edge_peer.operator.local.broker import HOST, LocalBroker
from edge_peer.protocol.messages import Start
from edge_peer.protocol.topics import START
from tests.live.harness import FEDERATION, TIMEOUT_S, Live

pytestmark = pytest.mark.live

ROUNDS = 4
#: Round documents of a controller that has nothing new to say.
BEATS = 6


class Notes:
    """What the processes note that they have written, see noting/sitecustomize.py."""

    def __init__(self, folder: Path, live: Live) -> None:
        self._folder = folder
        self._live = live
        self._seen: Counter[str] = Counter()

    def take(self) -> dict[str, dict[str, int]]:
        """How often each kind of file was written since the last time, by peer."""
        lines: Counter[str] = Counter()
        for path in self._folder.iterdir():
            lines.update(path.read_text().splitlines())
        new, self._seen = lines - self._seen, lines
        found: dict[str, dict[str, int]] = {peer: {} for peer in self._live.peers}
        for line, times in new.items():
            for peer in self._live.peers:
                state_dir = self._live.fleet.state_dir(peer)
                if Path(line).is_relative_to(state_dir):
                    kind = kind_of(Path(line).relative_to(state_dir))
                    found[peer][kind] = found[peer].get(kind, 0) + times
        return found


def wait_for_records(live: Live, run_id: str) -> None:
    """A peer's final model and its configuration are the last that it writes."""
    end_s = time.monotonic() + TIMEOUT_S
    for peer in live.peers:
        while not (live.run_folder(peer, run_id) / "config.toml").exists():
            assert time.monotonic() < end_s, f"{peer} has no configuration in run {run_id}"
            time.sleep(0.02)


def test_nothing_is_written_while_nothing_happens_and_in_a_run_each_thing_once(
    live: Callable[..., Live], small: Path, broker: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "noting"))
    monkeypatch.setenv("NOTES", str(folder / "of"))
    it = live(
        small,
        3,
        {
            "run": {"rounds_max": ROUNDS},
            # Every model is written, however fast rounds follow each other.
            "timing": {"checkpoint_s": 0.0, "lease_s": 2.0},
            "broker": {"keepalive_s": 2},
        },
    )
    it.configure()
    notes = Notes(folder, it)
    it.start()
    first = it.wait_finished()
    assert first.run_id is not None
    wait_for_records(it, first.run_id)
    controller = it.federation.controller
    assert controller is not None
    started = notes.take()
    for peer in it.peers:
        assert started[peer]["checkpoint"] == ROUNDS + 1
        # A vote and an elected term, some more where peers start one after another; the run, and its end.
        assert started[peer]["state"] >= 4

    # No run is on: the controller says that it is there, and that is all.
    idle = it.wait(lambda _: True, "a document")
    it.wait(lambda document: document is not None and document.beat >= idle.beat + BEATS, "beats")
    assert notes.take() == {peer: {} for peer in it.peers}

    with Session(BrokerSection(host=HOST, port=broker.port), FEDERATION, "operator") as session:
        session.publish(START, Start(first.run_number))
        second = it.wait(lambda document: document is not None and document.run_number > first.run_number, "a run")
        session.publish(START, None)
    second = it.wait_finished(second.run_id)
    assert second.run_id is not None
    wait_for_records(it, second.run_id)
    log = it.run_folder(controller, second.run_id) / "rounds.jsonl"
    found = notes.take()
    assert found[controller].pop("round log") == len(log.read_text().splitlines())
    for peer in it.peers:
        assert found[peer] == {
            # That it takes part, and that it is over.
            "state": 2,
            # The initial model, and that of each round.
            "checkpoint": ROUNDS + 1,
            "CSV": ROUNDS + 1,
            "classes": 1,
            # In float32 and in int8.
            "final model": 2,
            "configuration": 1,
        }, peer
