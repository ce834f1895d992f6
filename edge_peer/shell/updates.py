"""From what training gave to the update that is sent: shortened, corrected, encoded, and what is remembered of it."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator_core import l2_norm
from aggregator_core.codecs import encode_with_feedback
from aggregator_core.layout import Layout
from aggregator_core.parameters import ParameterError
from aggregator_core.scaffold import correction_of, new_control
from edge_peer.errors import ResourceError
from edge_peer.protocol.events import TrainingKey
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.state import Memory
from edge_peer.shell.changes import Change, Encoded, encoded
from edge_peer.shell.global_model import CONTROL, GlobalModel
from edge_peer.shell.noise import Noise, privacy_of
from edge_peer.shell.remembered import Remembered, Remembrance
from edge_peer.shell.vectors import Own
from edge_peer.trainers.interface import TrainingResult
from edge_peer.trainers.optimizer import LocalOptimizer

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Made:
    """An update.

    Attributes:
        own: What is kept and sent.
        norm: L2 norm of its trained weights' part, where the run bounds it; else 0.
        remembers: A memory was written with it.
    """

    own: Own
    norm: float
    remembers: bool


class UpdateMaker:
    """Makes the updates of one peer; used by one thread at a time.

    Args:
        layout: Of the model.
        remembrance: Where memories are kept.
        noise: This peer's.
        optimizer: The model's: it decides what a control variate is.
    """

    def __init__(self, layout: Layout, remembrance: Remembrance, noise: Noise, optimizer: LocalOptimizer) -> None:
        self._layout = layout
        self._remembrance = remembrance
        self._noise = noise
        self._optimizer = optimizer

    def before(self, after: str | None) -> Remembered:
        """The memory that a training begins with."""
        return self._remembrance.after(after)

    def correction(self, settings: RunSettings, base: GlobalModel, before: Remembered) -> F32 | None:
        """What SCAFFOLD adds to every gradient, shape (t,); None: nothing."""
        return correction_of(*self._controls(base, before)) if settings.scaffold else None

    def _controls(self, base: GlobalModel, before: Remembered) -> tuple[F32, F32]:
        """The own control variate and the server's; both begin with zeros."""
        zeros = np.zeros(self._layout.trained_size, np.float32)
        return before.control if before.control is not None else zeros, base.server.get(CONTROL, zeros)

    def make(
        self,
        key: TrainingKey,
        settings: RunSettings,
        base: GlobalModel,
        result: TrainingResult,
        before: Remembered,
        seed: int,
        after: str | None,
    ) -> Made:
        """The update; its memory is on disk when this returns.

        Args:
            key: Which training it was.
            settings: The run's.
            base: The model that it began with.
            result: What it gave.
            before: What `before(after)` gave.
            seed: Of stochastic rounding.
            after: Digest of the own update that was counted last.

        Raises:
            RefusedUpdateError: A value does not fit the codec, or is not finite.
            ParameterError: SCAFFOLD with a learning rate that is none, or an optimizer that it cannot be used with.
            ResourceError: The disk does not take the memory.
        """
        layout, rng = self._layout, random.Random(f"{seed}/codec")
        vector = result.weights - base.vector
        privacy = privacy_of(settings)
        if privacy is not None:
            vector = self._noise.shortened(vector, privacy)
            if privacy.mode == "local":
                vector = self._noise.of_own(vector, privacy, f"{key.base}/{key.round}")
        change = Change(vector, self._control_change(settings, base, result, before) if settings.scaffold else None)
        residual = None
        if settings.error_feedback:
            left = before.residual if before.residual is not None else np.zeros(layout.size, np.float32)
            # To the nearest: what that leaves out comes later.
            payload, residual = encode_with_feedback(settings.codec, change.vector, left, layout)
            control = None
            if change.control is not None:
                control = encoded(settings.codec, Change(change.control), layout, rng).vector
            sent = Encoded(payload, control)
        else:
            sent = encoded(settings.codec, change, layout, rng)
        seen = sent.decode(settings.codec, layout)
        own = Own(seen.digest, seen, sent)
        remembered = Remembered(residual, self._next_control(base, before, seen))
        if not remembered.empty:
            self._remembrance.put(Memory(key.run_id, key.round, own.digest), remembered, after)
        norm = l2_norm(seen.vector[: layout.trained_size]) if settings.update_norm_max else 0.0
        return Made(own, norm, not remembered.empty)

    def _control_change(
        self, settings: RunSettings, base: GlobalModel, result: TrainingResult, before: Remembered
    ) -> F32:
        """What the own control variate changes by, shape (p,): zero behind the trained values."""
        own, server = self._controls(base, before)
        trained = self._layout.trained_size
        try:
            steps = self._optimizer.effective_steps(result.steps, settings.learning_rate, settings.proximal)
        except ResourceError as error:
            # The run's settings do not fit the model; this peer is not to end because of them.
            raise ParameterError(str(error)) from None
        new = new_control(own, server, (result.weights - base.vector)[:trained], steps, settings.learning_rate)
        change = np.zeros(self._layout.size, np.float32)
        np.subtract(new, own, out=change[:trained])
        return change

    def _next_control(self, base: GlobalModel, before: Remembered, seen: Change) -> F32 | None:
        """The own control variate once the update is counted: what was sent is added, so that the mean stays true."""
        if seen.control is None:
            return None
        own, _ = self._controls(base, before)
        return own + seen.control[: self._layout.trained_size]
