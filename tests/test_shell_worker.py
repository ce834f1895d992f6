"""The worker: results in order, cancelling between batches, and failures that the protocol hears of."""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.shard import Shard
from edge_peer.errors import ResourceError
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import Evaluation, encode
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.state import Memory
from edge_peer.protocol.tensors import ModelRef
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.noise import Noise
from edge_peer.shell.remembered import Remembrance
from edge_peer.shell.updates import UpdateMaker
from edge_peer.shell.worker import LOSS_MAX, EvaluateJob, Trained, TrainJob, Worker, training_seed
from edge_peer.trainers.artifacts import load_artifacts
from edge_peer.trainers.interface import Cancelled, EvaluationResult, TrainingResult
from edge_peer.trainers.litert import LiteRTTrainer

ARTIFACTS = load_artifacts(Path(__file__).parent.parent / "models/artifacts/image_cnn")
LAYOUT = ARTIFACTS.layout
INITIAL = ARTIFACTS.initial()
BASE = GlobalModel(INITIAL)
RNG = np.random.default_rng(0)
SHARD = Shard(
    x_train=RNG.integers(0, 256, (70, 28, 28, 1)).astype(np.uint8),
    y_train=RNG.integers(0, 10, 70).astype(np.int32),
    x_test=RNG.integers(0, 256, (20, 28, 28, 1)).astype(np.uint8),
    y_test=RNG.integers(0, 10, 20).astype(np.int32),
    classes=10,
    metadata={},
)
WAIT_S = 30


def key(round_: int = 1) -> ev.TrainingKey:
    return ev.TrainingKey("run-1", round_, BASE.digest)


def train_job(round_: int = 1, after: str | None = None, **settings: Any) -> TrainJob:
    return TrainJob(key(round_), RunSettings(**{"learning_rate": 0.1, "codec": "float32", **settings}), BASE, after)


def evaluate_job(vector: Any = INITIAL) -> EvaluateJob:
    return EvaluateJob(ModelRef("run-1", 1, 0, 1, GlobalModel(vector).digest), vector)


class Fixture:
    """A worker and what it posted."""

    def __init__(self, make_trainer: Callable[[], Any], folder: Path, evaluate_local: bool = True) -> None:
        self.results: queue.Queue[Any] = queue.Queue()
        maker = UpdateMaker(
            LAYOUT, Remembrance(folder, LAYOUT), Noise(folder, LAYOUT.trained_size), ARTIFACTS.optimizer
        )
        self.worker = Worker(make_trainer, SHARD, "kitchen", self.results.put, maker, evaluate_local)

    def next(self) -> Any:
        return self.results.get(timeout=WAIT_S)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Fixture]]:
    made: list[Fixture] = []

    def build(make_trainer: Callable[[], Any], evaluate_local: bool = True) -> Fixture:
        made.append(Fixture(make_trainer, tmp_path, evaluate_local))
        return made[-1]

    yield build
    for it in made:
        it.worker.stop()


def real() -> LiteRTTrainer:
    return LiteRTTrainer(ARTIFACTS)


class Scripted:
    """A backend that stops at every batch until the test lets it go on, and does what it is told."""

    runtime = "scripted 1"

    def __init__(self, *failures: Exception | None, loss: float = 0.5) -> None:
        self.failures = list(failures)
        self.loss = loss
        self.int8: float | None = None
        self.at_batch: queue.Queue[int] = queue.Queue()
        self.go_on: queue.Queue[None] = queue.Queue()
        self.stepped = False
        #: What each training was given beside weights and examples.
        self.given: list[dict[str, Any]] = []
        self.scored: list[int] = []

    def train(self, weights: Any, x: Any, y: Any, *, cancelled: Callable[[], bool], **given: Any) -> TrainingResult:
        self._fail()
        self.given.append(given)
        for batch in range(3):
            if self.stepped:
                self.at_batch.put(batch)
                self.go_on.get(timeout=WAIT_S)
            if cancelled():
                raise Cancelled
        return TrainingResult(weights + np.float32(1), self.loss, len(y), 3, 0.125)

    def evaluate(self, weights: Any, x: Any, y: Any, *, cancelled: Callable[[], bool]) -> EvaluationResult:
        self._fail()
        self.scored.append(len(y))
        return EvaluationResult(0.5, self.loss, len(y), 0.25)

    def _fail(self) -> None:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    def evaluate_int8(
        self, weights: Any, x: Any, y: Any, *, cancelled: Callable[[], bool], predicted: Any = None
    ) -> float | None:
        return self.int8


def test_a_training_gives_its_update_then_its_score(make: Callable[..., Fixture]) -> None:
    it = make(real)
    it.worker.submit(train_job(epochs=2, learning_rate=0.05, seed=9))
    trained, scored = it.next(), it.next()
    seed = training_seed(9, 1, "kitchen")
    expected = real().train(
        INITIAL, SHARD.x_train, SHARD.y_train, epochs=2, learning_rate=0.05, seed=seed, cancelled=lambda: False
    )
    assert isinstance(trained, Trained)
    np.testing.assert_array_equal(trained.own.change.vector, expected.weights - INITIAL)
    assert trained.event.key == key()
    assert trained.event.digest == trained.own.digest == trained.own.change.digest
    assert (trained.event.examples, trained.event.loss) == (70, expected.loss)
    assert (trained.event.steps, trained.event.base_loss, trained.event.remembers) == (expected.steps, None, False)
    assert trained.event.seconds > 0
    score = real().evaluate(expected.weights, SHARD.x_test, SHARD.y_test, cancelled=lambda: False)
    assert isinstance(scored, ev.LocalEvaluated)
    assert (scored.key, scored.report.accuracy, scored.report.examples) == (key(), score.accuracy, 20)
    assert scored.report.loss == score.loss


def test_the_same_training_gives_the_same_update_whoever_asks(make: Callable[..., Fixture]) -> None:
    one, other = make(real, False), make(real, False)
    digests = []
    for it, round_ in ((one, 1), (one, 2), (other, 1)):
        it.worker.submit(train_job(round_))
        digests.append(it.next().event.digest)
    assert digests[0] == digests[2] != digests[1]


def test_the_settings_reach_the_training(make: Callable[..., Fixture]) -> None:
    trainer = Scripted()
    it = make(lambda: trainer, False)
    it.worker.submit(train_job(2, epochs=3, learning_rate=0.25, seed=9, proximal=0.5))
    assert isinstance(it.next(), Trained)
    assert trainer.given == [
        {
            "epochs": 3,
            "learning_rate": 0.25,
            "seed": training_seed(9, 2, "kitchen"),
            "proximal": 0.5,
            "correction": None,
        }
    ]
    assert trainer.scored == []


def test_the_base_is_scored_on_the_training_examples_where_the_rule_asks_for_it(make: Callable[..., Fixture]) -> None:
    trainer = Scripted(loss=0.75)
    it = make(lambda: trainer, False)
    it.worker.submit(train_job(rule="qfedavg"))
    trained = it.next()
    assert trained.event.base_loss == 0.75
    assert trainer.scored == [70]


def test_scaffold_trains_with_a_correction_and_sends_a_control_variate(
    make: Callable[..., Fixture], tmp_path: Path
) -> None:
    trainer = Scripted()
    it = make(lambda: trainer, False)
    it.worker.submit(train_job(1, scaffold=True))
    first = it.next()
    np.testing.assert_array_equal(trainer.given[0]["correction"], np.zeros(LAYOUT.trained_size, np.float32))
    # Three steps of plain SGD with a learning rate of 0.1 have moved each weight by 1 (but for its rounding).
    control = first.own.change.control
    np.testing.assert_allclose(control[: LAYOUT.trained_size], -1 / (3 * np.float32(0.1)), rtol=1e-5)
    assert first.event.remembers
    # Its memory was on the disk before anybody heard of it.
    assert Remembrance(tmp_path, LAYOUT).memories == (Memory("run-1", 1, first.own.digest),)
    it.worker.submit(train_job(2, first.own.digest, scaffold=True))
    assert isinstance(it.next(), Trained)
    np.testing.assert_array_equal(trainer.given[1]["correction"], -control[: LAYOUT.trained_size])


def test_seeds_differ_by_run_round_and_peer() -> None:
    seeds = {training_seed(seed, round_, peer) for seed in (1, 2) for round_ in (1, 2) for peer in ("a", "b")}
    assert len(seeds) == 8
    assert training_seed(1, 11, "a") != training_seed(11, 1, "a")


def test_a_model_is_scored(make: Callable[..., Fixture]) -> None:
    it = make(real)
    job = evaluate_job()
    it.worker.submit(job)
    event = it.next()
    expected = real().evaluate(INITIAL, SHARD.x_test, SHARD.y_test, cancelled=lambda: False)
    assert (event.ref, event.report.accuracy, event.report.loss) == (job.ref, expected.accuracy, expected.loss)


def test_jobs_are_done_in_order(make: Callable[..., Fixture]) -> None:
    it = make(Scripted, False)
    for round_ in (1, 2):
        it.worker.submit(train_job(round_))
        it.worker.submit(evaluate_job())
    kinds = [type(it.next()).__name__ for _ in range(4)]
    assert kinds == ["Trained", "ModelEvaluated", "Trained", "ModelEvaluated"]


def test_without_a_local_score_there_is_none(make: Callable[..., Fixture]) -> None:
    it = make(Scripted, False)
    it.worker.submit(train_job())
    it.worker.submit(evaluate_job())
    assert isinstance(it.next(), Trained)
    assert isinstance(it.next(), ev.ModelEvaluated)


# ---------------------------------------------------------------------- going on

LATER_S = 1000.0


def stepped(make: Callable[..., Fixture]) -> tuple[Fixture, Scripted]:
    trainer = Scripted()
    trainer.stepped = True
    return make(lambda: trainer, False), trainer


def test_each_batch_and_each_part_is_a_sign_of_life(make: Callable[..., Fixture]) -> None:
    it, trainer = stepped(make)
    assert it.worker.stalled_s(time.monotonic() + LATER_S) == 0
    before_s = time.monotonic()
    it.worker.submit(train_job(1))
    for _ in range(3):
        trainer.at_batch.get(timeout=WAIT_S)
        # Since it was last seen, which was after the batch before was let go.
        assert it.worker.stalled_s(time.monotonic() + LATER_S) >= LATER_S
        assert it.worker.stalled_s(before_s + LATER_S) <= LATER_S
        before_s = time.monotonic()
        trainer.go_on.put(None)
    assert isinstance(it.next(), Trained)


def test_a_worker_without_a_job_does_not_hang(make: Callable[..., Fixture]) -> None:
    it = make(lambda: Scripted(ValueError("broken"), None, ValueError("broken")), False)
    for job in (train_job(1), train_job(2), evaluate_job(), train_job(3), evaluate_job()):
        it.worker.submit(job)
    # Those that failed are over as well; a scoring that fails gives nothing.
    assert [type(it.next()) for _ in range(4)] == [ev.TrainingFailed, Trained, Trained, ev.ModelEvaluated]
    it.worker.stop()
    assert it.worker.stalled_s(time.monotonic() + LATER_S) == 0


def test_a_trainer_that_is_never_made_is_a_hang(make: Callable[..., Fixture]) -> None:
    called, go_on = threading.Event(), threading.Event()

    def make_trainer() -> Scripted:
        called.set()
        go_on.wait(WAIT_S)
        return Scripted()

    it = make(make_trainer, False)
    it.worker.submit(train_job(1))
    assert called.wait(WAIT_S)
    assert it.worker.stalled_s(time.monotonic() + LATER_S) >= LATER_S
    go_on.set()
    assert isinstance(it.next(), Trained)


# ---------------------------------------------------------------------- cancelling


def test_a_training_is_cancelled_between_two_batches(make: Callable[..., Fixture]) -> None:
    it, trainer = stepped(make)
    it.worker.submit(train_job(1))
    it.worker.submit(evaluate_job())
    assert trainer.at_batch.get(timeout=WAIT_S) == 0
    trainer.go_on.put(None)
    assert trainer.at_batch.get(timeout=WAIT_S) == 1
    it.worker.cancel(key(1))
    trainer.go_on.put(None)
    # Nothing comes of it, and the next job has its turn.
    assert isinstance(it.next(), ev.ModelEvaluated)
    assert trainer.at_batch.empty()


def test_a_training_that_waits_is_cancelled_and_the_one_that_runs_is_not(make: Callable[..., Fixture]) -> None:
    it, trainer = stepped(make)
    it.worker.submit(train_job(1))
    it.worker.submit(train_job(2))
    trainer.at_batch.get(timeout=WAIT_S)
    it.worker.cancel(key(2))
    it.worker.submit(evaluate_job())
    for _ in range(4):
        trainer.go_on.put(None)
    assert it.next().event.key == key(1)
    assert isinstance(it.next(), ev.ModelEvaluated)


def test_cancelling_a_second_training_does_not_bring_back_the_first(make: Callable[..., Fixture]) -> None:
    it, trainer = stepped(make)
    for round_ in (1, 2):
        it.worker.submit(train_job(round_))
    trainer.at_batch.get(timeout=WAIT_S)
    it.worker.cancel(key(1))
    it.worker.cancel(key(2))
    it.worker.submit(evaluate_job())
    for _ in range(9):
        trainer.go_on.put(None)
    assert isinstance(it.next(), ev.ModelEvaluated)


def test_a_training_that_is_asked_for_again_after_its_end_by_cancelling(make: Callable[..., Fixture]) -> None:
    it, trainer = stepped(make)
    it.worker.submit(train_job(1))
    trainer.at_batch.get(timeout=WAIT_S)
    it.worker.cancel(key(1))
    it.worker.submit(train_job(1))
    it.worker.submit(evaluate_job())
    for _ in range(9):
        trainer.go_on.put(None)
    # Once, not twice: the first one stays cancelled.
    assert it.next().event.key == key(1)
    assert isinstance(it.next(), ev.ModelEvaluated)


def test_cancelling_what_is_not_there_is_of_no_consequence(make: Callable[..., Fixture]) -> None:
    it = make(Scripted, False)
    it.worker.cancel(key(1))
    it.worker.submit(train_job(1))
    assert isinstance(it.next(), Trained)
    it.worker.cancel(key(1))
    it.worker.submit(train_job(1))
    assert isinstance(it.next(), Trained)


def test_stopping_ends_the_thread_at_its_batch(make: Callable[..., Fixture]) -> None:
    it, trainer = stepped(make)
    before = threading.active_count()
    it.worker.submit(train_job(1))
    it.worker.submit(train_job(2))
    trainer.at_batch.get(timeout=WAIT_S)
    trainer.go_on.put(None)
    for _ in range(9):
        trainer.go_on.put(None)
    it.worker.stop()
    assert threading.active_count() == before - 1


# ---------------------------------------------------------------------- failing


def test_a_training_that_diverges_is_told(make: Callable[..., Fixture]) -> None:
    it = make(real)
    it.worker.submit(train_job(learning_rate=1e30))
    event = it.next()
    assert event == ev.TrainingFailed(
        key(), "loss or weights are not finite with learning_rate 1e+30; choose a smaller one"
    )
    it.worker.submit(train_job(learning_rate=0.1))
    assert isinstance(it.next(), Trained)


@pytest.mark.parametrize(
    "failure",
    [ValueError("bad\nshape\x1b[31m"), MemoryError(), OSError(5, "Input/output error"), RuntimeError("x" * 5000)],
    ids=lambda it: type(it).__name__,
)
def test_an_exception_is_told_in_printable_words_and_logged(
    make: Callable[..., Fixture], caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    it = make(lambda: Scripted(failure), False)
    it.worker.submit(train_job(1))
    event = it.next()
    assert isinstance(event, ev.TrainingFailed)
    assert event.key == key(1)
    assert event.reason.startswith(f"{type(failure).__name__}: ")
    assert event.reason.isprintable()
    assert len(event.reason) <= 250
    assert "TrainJob failed" in caplog.text


def test_settings_that_fit_no_update_are_told_without_a_trace(
    make: Callable[..., Fixture], caplog: pytest.LogCaptureFixture
) -> None:
    class Far(Scripted):
        def train(self, weights: Any, *arguments: Any, **given: Any) -> TrainingResult:
            result = super().train(weights, *arguments, **given)
            return TrainingResult(weights + np.float32(1e5), *dataclasses.astuple(result)[1:])

    it = make(Far, False)
    bad = {
        "does not fit float16": train_job(1, codec="float16"),
        "codec 'zip' is not one of": train_job(2, codec="zip"),
        "learning_rate is 0.0": train_job(3, scaffold=True, learning_rate=0.0),
        "noise_multiplier is 1000000.0": train_job(4, privacy="local", privacy_noise=1e6),
    }
    for reason, job in bad.items():
        it.worker.submit(job)
        event = it.next()
        assert isinstance(event, ev.TrainingFailed)
        assert reason in event.reason
    assert caplog.records == []
    it.worker.submit(train_job(5))
    assert isinstance(it.next(), Trained)


def test_a_memory_that_the_disk_does_not_take_ends_the_peer_and_no_update_is_told(
    make: Callable[..., Fixture], tmp_path: Path
) -> None:
    it = make(Scripted, False)
    (tmp_path / ".memory-0.safetensors.new").mkdir()
    it.worker.submit(train_job(1, error_feedback=True))
    error = it.next()
    assert isinstance(error, ResourceError)
    assert "memory-0.safetensors: cannot be written" in str(error)


def test_a_trainer_that_cannot_be_made_is_told_and_made_again(make: Callable[..., Fixture]) -> None:
    tries: list[int] = []

    def make_trainer() -> Scripted:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("no such model")
        return Scripted()

    it = make(make_trainer, False)
    it.worker.submit(train_job(1))
    assert it.next() == ev.TrainingFailed(key(1), "OSError: no such model")
    it.worker.submit(train_job(2))
    assert isinstance(it.next(), Trained)
    it.worker.submit(train_job(3))
    assert isinstance(it.next(), Trained)
    assert len(tries) == 2


def test_an_evaluation_that_fails_is_logged_and_the_thread_lives(
    make: Callable[..., Fixture], caplog: pytest.LogCaptureFixture
) -> None:
    it = make(lambda: Scripted(ValueError("oops")), False)
    it.worker.submit(evaluate_job())
    it.worker.submit(evaluate_job())
    assert isinstance(it.next(), ev.ModelEvaluated)
    assert "EvaluateJob failed" in caplog.text


def test_an_update_is_not_taken_back_because_its_score_failed(
    make: Callable[..., Fixture], caplog: pytest.LogCaptureFixture
) -> None:
    it = make(lambda: Scripted(None, ValueError("oops")))
    with caplog.at_level(logging.ERROR):
        it.worker.submit(train_job(1))
        it.worker.submit(evaluate_job())
        assert isinstance(it.next(), Trained)
        assert isinstance(it.next(), ev.ModelEvaluated)
    assert "the local model was not scored" in caplog.text


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e38, -1e-9])
def test_a_loss_that_is_no_number_can_be_sent_all_the_same(make: Callable[..., Fixture], loss: float) -> None:
    it = make(lambda: Scripted(loss=loss))
    it.worker.submit(train_job(1))
    it.worker.submit(evaluate_job())
    trained, local, scored = it.next(), it.next(), it.next()
    expected = 0.0 if loss < 0 else LOSS_MAX
    assert [trained.event.loss, local.report.loss, scored.report.loss] == [expected] * 3
    document = Evaluation("session", "run-1", 1, "0" * 64, scored.report)
    assert json.loads(encode(document))["report"]["loss"] == expected


def test_a_model_of_huge_weights_is_scored_and_sent(make: Callable[..., Fixture]) -> None:
    it = make(real)
    it.worker.submit(evaluate_job(np.full_like(INITIAL, 1e30)))
    report = it.next().report
    assert 0 <= report.accuracy <= 1
    assert 0 <= report.loss <= LOSS_MAX
    encode(Evaluation("session", "run-1", 1, "0" * 64, report))
