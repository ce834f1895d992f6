"""What the loop looks at: a board's files, a worker that hangs; said once, and once that it is over."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.shard import Shard
from edge_peer.config import Config, ModelSection, PeerSection, TrainerSection
from edge_peer.protocol.tensors import ModelRef
from edge_peer.shell.noise import Noise
from edge_peer.shell.remembered import Remembrance
from edge_peer.shell.updates import UpdateMaker
from edge_peer.shell.watch import Watch
from edge_peer.shell.worker import EvaluateJob, Worker
from edge_peer.trainers.artifacts import load_artifacts
from edge_peer.trainers.interface import EvaluationResult

ARTIFACTS = load_artifacts(Path(__file__).parent.parent / "models/artifacts/sensor_cnn")
TEMPERATURE = "sys/class/thermal/thermal_zone0/temp"
WAIT_S = 30


def config_of(folder: Path, **peer: Any) -> Config:
    section = PeerSection("kitchen", folder, **{"disk_free_bytes_min": 0, **peer})
    return Config(section, ModelSection(folder), trainer=TrainerSection(stall_s=600))


def heat(root: Path, celsius: float) -> None:
    (root / TEMPERATURE).parent.mkdir(parents=True, exist_ok=True)
    (root / TEMPERATURE).write_text(str(round(celsius * 1000)))


def test_a_hot_board_is_told_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watch = Watch(config_of(tmp_path), tmp_path)
    heat(tmp_path, 60)
    event = watch.look(0, None)
    assert (event.train, event.note, event.strained, event.health["temperature_c"]) == (True, "", False, 60.0)
    heat(tmp_path, 85.5)
    assert all(watch.look(now_s, None).strained for now_s in (30, 60))
    assert watch.health.temperature_c == 85.5
    heat(tmp_path, 50)
    assert watch.look(90, None).strained
    assert not watch.look(1000, None).strained
    assert [it.getMessage() for it in caplog.records] == [
        "the board is strained: 86 degrees Celsius",
        "the board is well again, after 86 degrees Celsius",
    ]


def test_another_limit_counts_from_then_on(tmp_path: Path) -> None:
    watch = Watch(config_of(tmp_path), tmp_path)
    heat(tmp_path, 70)
    assert not watch.look(0, None).strained
    watch.config = config_of(tmp_path, temperature_c_max=65.0)
    assert watch.look(30, None).strained


def test_a_full_disk_and_one_that_does_not_answer_refuse_to_train(tmp_path: Path) -> None:
    watch = Watch(config_of(tmp_path, disk_free_bytes_min=2**50), tmp_path)
    event = watch.look(0, None)
    assert event.train is False
    assert event.note.startswith("disk low: ")
    assert event.note.endswith(" MB free, 1125899906 MB needed")
    gone = config_of(tmp_path / "gone", disk_free_bytes_min=1)
    assert Watch(gone, tmp_path).look(0, None).note == "disk low: 0 MB free, 0 MB needed"


class Gated:
    """A backend whose evaluation takes as long as the test wants."""

    runtime = "gated 1"

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def evaluate(self, weights: Any, x: Any, y: Any, *, cancelled: Callable[[], bool]) -> EvaluationResult:
        self.begun.set()
        assert self.go_on.wait(WAIT_S)
        return EvaluationResult(0.5, 0.5, len(y), 0.1)

    def evaluate_int8(self, weights: Any, x: Any, y: Any, **given: Any) -> None:
        return None


@pytest.fixture
def working(tmp_path: Path) -> Iterator[tuple[Worker, Gated, queue.Queue[Any]]]:
    """A worker that is at an evaluation."""
    gated, results = Gated(), queue.Queue[Any]()
    layout = ARTIFACTS.layout
    maker = UpdateMaker(
        layout, Remembrance(tmp_path, layout), Noise(tmp_path, layout.trained_size), ARTIFACTS.optimizer
    )
    x, y = np.zeros((4, *ARTIFACTS.input_shape), np.uint8), np.zeros(4, np.int32)
    worker = Worker(lambda: gated, Shard(x, y, x, y, 4, {}), "kitchen", results.put, maker)  # type: ignore[arg-type]
    worker.submit(EvaluateJob(ModelRef("run-1", 1, 0, 1, "0" * 64), ARTIFACTS.initial()))
    assert gated.begun.wait(WAIT_S)
    yield worker, gated, results
    gated.go_on.set()
    worker.stop()


def test_a_worker_that_hangs_is_told_and_logged_once(
    tmp_path: Path, working: tuple[Worker, Gated, queue.Queue[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    worker, gated, results = working
    watch = Watch(config_of(tmp_path), tmp_path)
    now_s = time.monotonic()
    # A long batch is no hang.
    assert not watch.hangs(now_s + 300, worker)
    assert watch.look(now_s + 300, worker).train
    assert watch.hangs(now_s + 600, worker)
    assert watch.hangs(now_s + 630, worker)
    event = watch.look(now_s + 660, worker)
    assert (event.train, event.note) == (False, "training hangs")
    gated.go_on.set()
    results.get(timeout=WAIT_S)
    worker.stop()
    assert not watch.hangs(now_s + 690, worker)
    assert watch.look(now_s + 690, worker).train
    assert [it.getMessage().partition(" for ")[0] for it in caplog.records] == [
        "no batch was finished",
        "training goes on",
    ]


def test_a_bound_of_zero_is_none(tmp_path: Path, working: tuple[Worker, Gated, queue.Queue[Any]]) -> None:
    config = replace(config_of(tmp_path), trainer=TrainerSection(stall_s=0))
    assert not Watch(config, tmp_path).hangs(time.monotonic() + 1e9, working[0])


def test_a_peer_without_data_has_no_worker(tmp_path: Path) -> None:
    assert not Watch(config_of(tmp_path), tmp_path).hangs(1e9, None)
