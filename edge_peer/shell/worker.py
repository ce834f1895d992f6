"""Train and evaluate on a thread of their own, so that the loop always answers; cancellable between batches."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from data_shards.shard import Shard
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import ModelRef, Report, RunSettings
from edge_peer.shell.payload import F32, digest_of
from edge_peer.trainers.interface import Cancelled, EvaluationResult, Trainer, TrainingDivergedError

LOG = logging.getLogger(__name__)
LOSS_MAX = 1e30


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Train from the base and say what changed."""

    key: ev.TrainingKey
    settings: RunSettings
    base: F32


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """Score a global model."""

    ref: ModelRef
    vector: F32


@dataclass(frozen=True, slots=True)
class Trained:
    """The update that a training gave: its event, and the vector that the shell keeps."""

    event: ev.TrainingDone
    change: F32


Result = Trained | ev.LocalEvaluated | ev.TrainingFailed | ev.ModelEvaluated


def training_seed(seed: int, round_: int, peer: str) -> int:
    """Seed of a training: the same after a restart, under another controller, and in a run of the same seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{round_}/{peer}".encode()).digest()[:8], "big")


def _report(result: EvaluationResult) -> Report:
    return Report(result.accuracy, min(max(result.loss, 0.0), LOSS_MAX), result.examples)


class Worker:
    """One thread that does one job after another.

    Args:
        make_trainer: Called on the thread, so that a slow import does not hold up the loop.
        shard: This board's data.
        peer: This board's name.
        post: Called on the thread with each result; must be safe to call from it.
        evaluate_local: Score the local model after training.
    """

    def __init__(
        self,
        make_trainer: Callable[[], Trainer],
        shard: Shard,
        peer: str,
        post: Callable[[Result], None],
        evaluate_local: bool = True,
    ) -> None:
        self._make_trainer = make_trainer
        self._shard = shard
        self._peer = peer
        self._post = post
        self._evaluate_local = evaluate_local
        self._jobs: queue.SimpleQueue[TrainJob | EvaluateJob | None] = queue.SimpleQueue()
        self._cancelled: set[ev.TrainingKey] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)
        self._thread.start()

    def submit(self, job: TrainJob | EvaluateJob) -> None:
        """Add a job behind those that wait."""
        if isinstance(job, TrainJob):
            self._cancelled.discard(job.key)
        self._jobs.put(job)

    def cancel(self, key: ev.TrainingKey) -> None:
        """Let go of a training, whether it waits or runs."""
        self._cancelled = {key}

    def stop(self) -> None:
        """End the thread after the batch that it is at."""
        self._stopping.set()
        self._jobs.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        trainer: Trainer | None = None
        while (job := self._jobs.get()) is not None:
            try:
                trainer = trainer or self._make_trainer()
                if isinstance(job, TrainJob):
                    self._train(trainer, job)
                else:
                    self._evaluate(trainer, job)
            except Cancelled:
                continue
            except TrainingDivergedError as error:
                self._failed(job, str(error))
            except Exception as error:
                LOG.exception("%s failed", type(job).__name__)
                self._failed(job, f"{type(error).__name__}: {error}")

    def _failed(self, job: TrainJob | EvaluateJob, reason: str) -> None:
        if isinstance(job, TrainJob):
            printable = "".join(character if character.isprintable() else " " for character in reason)
            self._post(ev.TrainingFailed(job.key, printable[:250]))

    def _train(self, trainer: Trainer, job: TrainJob) -> None:
        def cancelled() -> bool:
            return job.key in self._cancelled or self._stopping.is_set()

        shard, key = self._shard, job.key
        result = trainer.train(
            job.base,
            shard.x_train,
            shard.y_train,
            epochs=job.settings.epochs,
            learning_rate=job.settings.learning_rate,
            seed=training_seed(job.settings.seed, key.round, self._peer),
            cancelled=cancelled,
        )
        change = result.weights - job.base
        done = ev.TrainingDone(key, digest_of(change), result.examples, min(result.loss, LOSS_MAX), result.seconds)
        self._post(Trained(done, change))
        if self._evaluate_local:
            local = trainer.evaluate(result.weights, shard.x_test, shard.y_test, cancelled=self._stopping.is_set)
            self._post(ev.LocalEvaluated(key, _report(local)))

    def _evaluate(self, trainer: Trainer, job: EvaluateJob) -> None:
        result = trainer.evaluate(job.vector, self._shard.x_test, self._shard.y_test, cancelled=self._stopping.is_set)
        self._post(ev.ModelEvaluated(job.ref, _report(result), result.seconds))
