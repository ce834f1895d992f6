"""A broker with several addresses: the next one is tried where one does not answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_peer.config import BrokerSection
from edge_peer.errors import BrokerError
from edge_peer.operator.live.session import Session
from edge_peer.operator.local.broker import HOST, LocalBroker, free_port, require_mosquitto
from tests.live.harness import FEDERATION, Live

pytestmark = pytest.mark.live


def test_a_node_that_is_not_there_is_passed_over_and_all_are_named_where_none_is(broker: LocalBroker) -> None:
    nobody = free_port()
    section = BrokerSection(host=HOST, port=nobody, alternatives=(f"{HOST}:{broker.port}",))
    with Session(section, FEDERATION, "operator"):
        pass
    section = BrokerSection(host=HOST, port=nobody, alternatives=(f"localhost:{nobody}",))
    with (
        pytest.raises(
            BrokerError, match=rf"{HOST}:{nobody}: Connection refused; localhost:{nobody}: Connection refused"
        ),
        Session(section, FEDERATION, "operator"),
    ):
        pass


def test_a_peer_goes_on_to_the_next_node_from_one_that_hangs_and_from_one_that_dies(
    live: Callable[..., Live], small: Path, broker: LocalBroker, tmp_path: Path
) -> None:
    hung = LocalBroker(tmp_path / "hung", require_mosquitto(print))
    hung.start()
    os.kill(hung.pid, signal.SIGSTOP)
    common = {"broker": {"port": hung.port, "alternatives": (f"{HOST}:{broker.port}",), "keepalive_s": 1}}
    it = live(
        small,
        1,
        {**common, "federation": {"roster": None, "min_peers": 1}, "run": {"rounds_max": 100_000, "updates_min": 1}},
    )
    it.configure()
    it.start()
    before = it.wait_round(2)
    os.kill(hung.pid, signal.SIGCONT)
    broker.kill()
    # From here on the onlooker looks at the other one.
    it.broker = hung
    it.watch()
    assert it.wait_round(before.round + 1).run_id == before.run_id
    hung.stop()
