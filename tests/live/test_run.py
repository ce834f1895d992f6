"""Whole runs on real processes: how they begin, how they end, and what they leave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from aggregator_core.reference import weighted_mean
from edge_peer.__main__ import main
from edge_peer.shell.history import COLUMNS
from edge_peer.shell.kept_updates import SUFFIX, UPDATES
from edge_peer.shell.payload import decode_offer, decode_update
from edge_peer.trainers.artifacts import load_artifacts
from tests.live.harness import ARTIFACTS, Live

pytestmark = pytest.mark.live
Make = Callable[..., Live]


def test_a_whole_run_reaches_the_accuracy_of_plain_fedavg(live: Make, large: Path) -> None:
    it = live(large, 4, {"run": {"rounds_max": 10}})
    it.configure()
    it.start()
    end = it.wait_finished()
    assert end.reason == "reached 10 rounds"
    assert set(end.reports) == set(it.peers)
    assert sum(report.examples for report in end.reports.values()) == 10_000
    it.stop()
    run_id = str(end.run_id)
    digests = set()
    for peer in it.peers:
        rows = it.rows(peer, run_id)
        assert list(rows[0]) == list(COLUMNS)
        assert [int(row["round"]) for row in rows] == list(range(11))
        assert {row["run_id"] for row in rows} == {run_id}
        assert all(int(row["examples"]) == 3000 for row in rows[1:])
        assert all(0 < float(row["training_s"]) < 60 for row in rows[1:])
        assert float(rows[-1]["global_accuracy"]) == pytest.approx(end.reports[peer].accuracy, abs=1e-5)
        digests.add(hashlib.sha256((it.run_folder(peer, run_id) / "model.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1, "every peer ends with the same model"
    roles = [it.rows(peer, run_id)[5]["role"] for peer in it.peers]
    assert sorted(roles) == ["controller", "trainer", "trainer", "trainer"]
    # What a plain Keras FedAvg loop gives on the same data: bench/accuracy_keras.py.
    assert end.accuracy == pytest.approx(0.835, abs=0.015)


def test_the_committed_model_is_the_mean_of_the_updates(live: Make, small: Path) -> None:
    """From the files alone: the digests chain, and each model is what slow arithmetic makes of the updates kept."""
    it = live(small, 3, {"run": {"rounds_max": 3}, "peer": {"keep_updates": True}})
    it.configure()
    it.start()
    end = it.wait_finished()
    it.stop()
    artifacts = load_artifacts(ARTIFACTS)
    lines = it.committed(str(end.run_id))
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert [line["base"] for line in lines] == [artifacts.initial_sha256, *(line["sha256"] for line in lines[:-1])]
    assert all(set(line["accepted"]) == set(it.peers) for line in lines)
    model = artifacts.initial().astype(np.float64)
    for line in lines:
        folder = it.run_folder(line["peer"], str(end.run_id)) / UPDATES / str(line["round"])
        changes = []
        for peer, counted in line["accepted"].items():
            payload = (folder / f"{peer}{SUFFIX}").read_bytes()
            offer = decode_offer(payload)
            assert (offer.round, offer.base, offer.digest) == (line["round"], line["base"], counted["digest"])
            changes.append(decode_update(payload, offer, artifacts.layout).vector.tolist())
        model += weighted_mean(changes, [counted["examples"] for counted in line["accepted"].values()])
    final = artifacts.layout.join(load_file(it.run_folder("peer1", str(end.run_id)) / "model.safetensors"))
    assert hashlib.sha256(np.ascontiguousarray(final, "<f4").tobytes()).hexdigest() == lines[-1]["sha256"]
    assert np.allclose(final, model, rtol=0, atol=1e-6)
    assert not np.allclose(final, artifacts.initial(), rtol=0, atol=1e-2), "it has learned something"


def test_the_same_seed_gives_the_same_bytes_and_runs_never_mix(
    live: Make, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    it = live(small, 3, {"run": {"rounds_max": 2, "seed": 7}})
    it.configure()
    it.start()
    first = it.wait_finished()
    config = str(it.fleet.configuration("peer2"))
    assert main(["start", "--config", config, "--as", "operator"]) == 0
    assert "is on" in capsys.readouterr().out
    second = it.wait(lambda doc: doc is not None and doc.run_id != first.run_id and doc.complete, "a second run")
    it.stop()
    assert first.base is not None
    assert second.base is not None
    assert first.base.sha256 == second.base.sha256
    assert (first.run_number, second.run_number) == (1, 2)
    for peer in it.peers:
        for run in (first, second):
            rows = it.rows(peer, str(run.run_id))
            assert {row["run_id"] for row in rows} == {run.run_id}
            assert [row["round"] for row in rows] == ["0", "1", "2"]


def test_stops_at_the_target_accuracy(live: Make, small: Path) -> None:
    it = live(small, 3, {"run": {"rounds_max": 50, "target_accuracy": 0.5}})
    it.configure()
    it.start()
    end = it.wait_finished()
    assert end.reason == "reached target accuracy 0.5"
    assert end.round < 50
    assert end.accuracy is not None
    assert end.accuracy >= 0.5


@pytest.mark.parametrize("sender", ["operator", "peer2"])
def test_stops_when_somebody_says_so(live: Make, small: Path, sender: str, capsys: pytest.CaptureFixture[str]) -> None:
    it = live(small, 3, {"run": {"rounds_max": 100_000}})
    it.configure()
    it.start()
    running = it.wait_round(2)
    config = str(it.fleet.configuration("peer2"))
    assert main(["stop", "--config", config, "--as", sender, "--reason", "enough"]) == 0
    said = capsys.readouterr().out
    assert f"finished after round {it.wait_finished().round}: stopped by {sender}: enough" in said
    end = it.wait_finished(running.run_id)
    assert end.reason == f"stopped by {sender}: enough"
    assert set(end.reports) == set(it.peers), "everyone reports the final model"
    assert main(["stop", "--config", config, "--as", sender]) == 0
    assert "Nothing to stop" in capsys.readouterr().out


def test_status_tells_who_does_what(live: Make, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = live(small, 3, {"run": {"rounds_max": 2}})
    it.configure(peer3={"peer": {"control": False}})
    config = str(it.fleet.configuration("peer1"))
    assert main(["status", "--config", config]) == 1
    assert "no controller" in capsys.readouterr().out
    it.start()
    end = it.wait_finished()
    assert main(["status", "--config", config]) == 0
    said = capsys.readouterr().out
    assert f"run {end.run_id}: round 2 of 2, finished" in said
    assert "does not control" in said
    assert main(["status", "--config", config, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["controller"] == it.federation.controller
    assert document["run"]["run_id"] == end.run_id
    assert {board["name"]: board["online"] for board in document["boards"]} == dict.fromkeys(it.peers, True)
