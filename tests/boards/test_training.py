"""A board makes of its data what the workstation makes of it: the same run on both, and the models compared.

With ARCH=arm64 the boards have another processor, and a model may differ in the last bits; the test says by how much.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edge_peer.operator.local.broker import LocalBroker, require_mosquitto
from edge_peer.protocol.messages import FINISHED
from tests.boards.boards import Boards
from tests.boards.host import native
from tests.boards.workstation import FEDERATION, Onlooker, Workstation
from tests.live.harness import Live

#: The live tests' names, so that both federations draw the same numbers.
BOARDS = ("peer1", "peer2")
ROUNDS = 2
RUN = {"rounds_max": ROUNDS, "updates_min": len(BOARDS), "epochs": 2, "round_deadline_s": 900.0}
EXAMPLES = 320
TEST_EXAMPLES = 200
#: What single precision is good for, of the largest weight, after so many steps.
RELATIVE = 1e-4
#: Nothing waits long where nothing is emulated; an emulated processor takes its time for all of this.
INVENTORY = f"""
all:
  vars:
    edge_peer_federation: {FEDERATION}
    edge_peer_min_peers: {len(BOARDS)}
    edge_peer_run: {RUN}
    edge_peer_settings: {{timing: {{lease_s: 120}}, broker: {{keepalive_s: 60}}}}
    edge_peer_service: {{TimeoutStartSec: 900, WatchdogSec: 900}}
broker:
  hosts:
    peer1:
peers:
  hosts:
    peer1: {{ansible_host: 10.77.0.11}}
    peer2: {{ansible_host: 10.77.0.12}}
"""


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, boards: Boards) -> Workstation:
    it = Workstation.prepare(tmp_path_factory.mktemp("checkout"), boards, INVENTORY, EXAMPLES)
    it.here(
        ".venv/bin/python", "-m", "data_shards", "--peers", ",".join(BOARDS), "--examples", str(EXAMPLES),
        "--test-examples", str(TEST_EXAMPLES), "--out", "fleet/shards", "--no-picture",
    )  # fmt: skip
    return it


@pytest.fixture
def live(tmp_path: Path, station: Workstation) -> Iterator[Live]:
    """The same federation as processes of this machine."""
    broker = LocalBroker(tmp_path, require_mosquitto(print))
    broker.start()
    it = Live(tmp_path, broker, station.fleet / "shards", list(BOARDS), {"run": RUN})
    yield it
    it.close()
    it.stop()
    broker.stop()


def accuracies(rows: list[dict[str, str]]) -> list[str]:
    return [row["global_accuracy"] for row in rows]


def test_boards_train_as_the_workstation_does(
    station: Workstation, boards: Boards, live: Live, record_property: pytest.RecordProperty
) -> None:
    station.make("deploy")
    onlooker = Onlooker(station, "peer1")
    there = onlooker.wait(lambda it: it.round is not None and it.round.state == FINISHED and it.round.complete, "a run")
    onlooker.close()
    assert there.round is not None
    run_id = str(there.round.run_id)
    assert there.round.reason == f"reached {ROUNDS} rounds"
    for name in BOARDS:
        boards[name].until(f"test -e /var/lib/edge-peer/runs/{run_id}/model.safetensors")
    station.make("collect")

    live.configure()
    live.start()
    here = live.wait_finished()
    live.stop()

    collected = station.root / "runs" / run_id
    model = load_file(collected / "model.safetensors")
    ours = load_file(live.run_folder("peer1", str(here.run_id)) / "model.safetensors")
    assert model.keys() == ours.keys()
    apart = max(float(np.abs(model[key].astype(np.float64) - ours[key]).max()) for key in ours)
    largest = max(float(np.abs(it).max()) for it in ours.values())
    differ = sum(int((model[key] != ours[key]).sum()) for key in ours)
    said = (
        f"{boards.arch} boards and {native()} workstation after {ROUNDS} rounds: {differ} of "
        f"{sum(it.size for it in ours.values())} weights differ, by at most {apart:.2e}; the largest is {largest:.2f}"
    )
    record_property("models", said)
    print(said)
    assert apart <= (0.0 if boards.arch == native() else RELATIVE * largest), said
    for name in BOARDS:
        rows = list(csv.DictReader((collected / f"{name}.csv").read_text().splitlines()))
        found, expected = accuracies(rows), accuracies(live.rows(name, str(here.run_id)))
        assert len(found) == len(expected) == ROUNDS + 1
        # One of the examples may lie on the edge between two classes.
        slack = 0.0 if boards.arch == native() else 1.5 / TEST_EXAMPLES
        assert all(abs(float(a) - float(b)) <= slack for a, b in zip(found, expected, strict=True)), (found, expected)
        assert float(found[-1]) > float(found[0]), "it has learned"
