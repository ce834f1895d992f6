"""Train and evaluate on a thread of their own, so that the loop always answers; cancellable between batches."""

from __future__ import annotations

import hashlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from aggregator_core import RefusedUpdateError
from aggregator_core.parameters import ParameterError
from data_shards.shard import Shard
from edge_peer.errors import ResourceError
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import Report
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.updates import UpdateMaker
from edge_peer.shell.vectors import Own
from edge_peer.trainers.interface import F32, I32, Cancelled, EvaluationResult, Trainer, TrainingDivergedError

LOG = logging.getLogger(__name__)
LOSS_MAX = 1e30


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Train from the base and say what changed."""

    key: ev.TrainingKey
    settings: RunSettings
    base: GlobalModel
    after: str | None = None


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """Score a global model."""

    ref: ModelRef
    vector: F32


@dataclass(frozen=True, slots=True)
class Trained:
    """The update that a training gave: its event, and what the shell keeps."""

    event: ev.TrainingDone
    own: Own


#: An error instead of a result: without an interpreter or its model this peer cannot go on.
Result = Trained | ev.LocalEvaluated | ev.TrainingFailed | ev.ModelEvaluated | ResourceError


def training_seed(seed: int, round_: int, peer: str) -> int:
    """Seed of a training: the same after a restart, under another controller, and in a run of the same seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{round_}/{peer}".encode()).digest()[:8], "big")


def _loss(value: float) -> float:
    """As it can be sent: a model with huge weights has a loss that is no number."""
    return min(max(value, 0.0), LOSS_MAX) if math.isfinite(value) else LOSS_MAX


def _report(result: EvaluationResult) -> Report:
    return Report(result.accuracy, _loss(result.loss), result.examples)


class Worker:
    """One thread that does one job after another.

    Args:
        make_trainer: Called on the thread, so that a slow import does not hold up the loop.
        shard: This board's data.
        peer: This board's name.
        post: Called on the thread with each result; must be safe to call from it.
        maker: Makes an update of what training gave; called on the thread.
        evaluate_local: Score the local model after training; can be set later.

    Attributes:
        evaluate_local: As above.
    """

    def __init__(
        self,
        make_trainer: Callable[[], Trainer],
        shard: Shard,
        peer: str,
        post: Callable[[Result], None],
        maker: UpdateMaker,
        evaluate_local: bool = True,
    ) -> None:
        self._make_trainer = make_trainer
        self._shard = shard
        self._peer = peer
        self._post = post
        self.evaluate_local = evaluate_local
        self._maker = maker
        self._jobs: queue.SimpleQueue[tuple[TrainJob | EvaluateJob, threading.Event] | None] = queue.SimpleQueue()
        #: Of each training that waits or runs, what cancels it.
        self._cancels: dict[ev.TrainingKey, threading.Event] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        #: Of the model that was evaluated last, by its digest.
        self._predicted: tuple[str, I32] | None = None
        #: When the job that is worked on was last seen to go on, monotonic; None: there is none.
        self._progress_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)
        self._thread.start()

    def stalled_s(self, now_s: float) -> float:
        """Seconds since the job that is worked on last went on, by a batch or a part; 0: there is none."""
        progress_s = self._progress_s
        return now_s - progress_s if progress_s is not None else 0.0

    @property
    def labels(self) -> tuple[I32, I32]:
        """Of the training and the test split."""
        return self._shard.y_train, self._shard.y_test

    def predicted(self, sha256: str) -> I32 | None:
        """Classes that the int8 model of the model evaluated last gives the test split; None: it was another one."""
        known = self._predicted
        return known[1] if known is not None and known[0] == sha256 else None

    def _goes_on(self) -> None:
        self._progress_s = time.monotonic()

    def _is_stopping(self) -> bool:
        """Asked before each batch of an evaluation."""
        self._goes_on()
        return self._stopping.is_set()

    def submit(self, job: TrainJob | EvaluateJob) -> None:
        """Add a job behind those that wait."""
        cancelled = threading.Event()
        if isinstance(job, TrainJob):
            with self._lock:
                self._cancels[job.key] = cancelled
        self._jobs.put((job, cancelled))

    def cancel(self, key: ev.TrainingKey) -> None:
        """Let go of a training, whether it waits or runs."""
        with self._lock:
            cancelled = self._cancels.pop(key, None)
        if cancelled is not None:
            cancelled.set()

    def stop(self) -> None:
        """End the thread after the batch that it is at."""
        self._stopping.set()
        self._jobs.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        trainer: Trainer | None = None
        while (waiting := self._jobs.get()) is not None:
            job, cancelled = waiting
            self._goes_on()
            try:
                trainer = trainer or self._make_trainer()
                self._goes_on()
                if isinstance(job, TrainJob):
                    self._train(trainer, job, cancelled)
                else:
                    self._evaluate(trainer, job)
            except Cancelled:
                continue
            except ResourceError as error:
                self._post(error)
                return
            except (TrainingDivergedError, RefusedUpdateError, ParameterError) as error:
                self._failed(job, str(error))
            except Exception as error:
                LOG.exception("%s failed", type(job).__name__)
                self._failed(job, f"{type(error).__name__}: {error}")
            finally:
                self._progress_s = None
                self._forget(job, cancelled)

    def _forget(self, job: TrainJob | EvaluateJob, cancelled: threading.Event) -> None:
        with self._lock:
            # The same training may have been asked for again since.
            if isinstance(job, TrainJob) and self._cancels.get(job.key) is cancelled:
                del self._cancels[job.key]

    def _failed(self, job: TrainJob | EvaluateJob, reason: str) -> None:
        if isinstance(job, TrainJob):
            printable = "".join(character if character.isprintable() else " " for character in reason)
            self._post(ev.TrainingFailed(job.key, printable[:250]))

    def _train(self, trainer: Trainer, job: TrainJob, cancel: threading.Event) -> None:
        def cancelled() -> bool:
            return self._is_stopping() or cancel.is_set()

        shard, key, settings = self._shard, job.key, job.settings
        before = self._maker.before(job.after)
        base_loss = None
        if settings.rule == "qfedavg":
            base_loss = _loss(trainer.evaluate(job.base.vector, shard.x_train, shard.y_train, cancelled=cancelled).loss)
        seed = training_seed(settings.seed, key.round, self._peer)
        result = trainer.train(
            job.base.vector,
            shard.x_train,
            shard.y_train,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            seed=seed,
            cancelled=cancelled,
            proximal=settings.proximal,
            correction=self._maker.correction(settings, job.base, before),
        )
        self._goes_on()
        made = self._maker.make(key, settings, job.base, result, before, seed, job.after)
        done = ev.TrainingDone(
            key,
            made.own.digest,
            result.examples,
            _loss(result.loss),
            result.seconds,
            made.norm,
            result.steps,
            base_loss,
            made.remembers,
        )
        self._post(Trained(done, made.own))
        self._goes_on()
        if self.evaluate_local:
            self._score_local(trainer, key, result.weights)

    def _score_local(self, trainer: Trainer, key: ev.TrainingKey, weights: F32) -> None:
        """For the CSV alone: the update is there, whatever comes of this."""
        try:
            local = trainer.evaluate(weights, self._shard.x_test, self._shard.y_test, cancelled=self._is_stopping)
        except Cancelled:
            raise
        except Exception:
            LOG.exception("the local model was not scored")
        else:
            self._post(ev.LocalEvaluated(key, _report(local)))

    def _evaluate(self, trainer: Trainer, job: EvaluateJob) -> None:
        x, y, stopping = self._shard.x_test, self._shard.y_test, self._is_stopping
        result = trainer.evaluate(job.vector, x, y, cancelled=stopping)
        self._goes_on()
        predicted = np.empty(len(y), np.int32)
        int8 = trainer.evaluate_int8(job.vector, x, y, cancelled=stopping, predicted=predicted)
        self._predicted = (job.ref.sha256, predicted) if int8 is not None else None
        self._post(ev.ModelEvaluated(job.ref, replace(_report(result), int8_accuracy=int8), result.seconds))
