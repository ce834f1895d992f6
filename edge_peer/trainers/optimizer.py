"""What is known of a model's optimizer on a board: what its steps make of gradients.

The step itself is exported; whoever wants to tell the gradients from what a training changed (SCAFFOLD), or to compare
trainings of different length (FedNova), needs the weights that they had in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_peer.errors import ResourceError


@dataclass(frozen=True, slots=True)
class LocalOptimizer:
    """A model's optimizer, as its manifest names it.

    Attributes:
        name: `sgd` or `adam`.
        momentum: 0 to below 1.
        nesterov: Whether momentum is Nesterov's.
        clips: Whether gradients are clipped before they become a step.
    """

    name: str
    momentum: float = 0.0
    nesterov: bool = False
    clips: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LocalOptimizer:
        """Read a manifest's field.

        Raises:
            ValueError: A setting is missing or out of its range.
        """
        name, momentum, nesterov = value.get("name"), value.get("momentum", 0.0), value.get("nesterov", False)
        if not isinstance(name, str):
            raise ValueError(f"optimizer.name is {name!r}, not a text")
        if isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 <= momentum < 1:
            raise ValueError(f"optimizer.momentum is {momentum!r}, not a number from 0 and below 1")
        if not isinstance(nesterov, bool):
            raise ValueError(f"optimizer.nesterov is {nesterov!r}, not true or false")
        clips = any(value.get(it) for it in ("clipnorm", "global_clipnorm", "clipvalue"))
        return cls(name, float(momentum), nesterov, clips)

    def effective_steps(self, steps: int, learning_rate: float, proximal: float = 0.0) -> float:
        """How many plain steps with the learning rate would go as far, if the gradient were the same in all of them.

        It is the sum of the weights that the gradients have in what a training changes, over the learning rate: the
        |a| of Wang et al. 2020 (arXiv:2007.07481), here also of momentum and a proximal term together. Weight decay
        counts as gradient, and clipping is left out.

        Args:
            steps: Of the training, from 1.
            learning_rate: That it had, above 0.
            proximal: Strength of FedProx's term, from 0.

        Raises:
            ResourceError: The steps of this optimizer are no sums of gradients; or the learning rate is too large for
                the proximal term.
        """
        if self.name != "sgd":
            raise ResourceError(
                f"the model's optimizer is {self.name!r}, whose steps do not tell the size of gradients: compile the "
                "model with keras.optimizers.SGD and export it again, or do without control variates"
            )
        moved = velocity = 0.0
        for _ in range(steps):
            gradient = 1.0 - learning_rate * proximal * moved
            velocity = self.momentum * velocity + gradient
            moved += self.momentum * velocity + gradient if self.nesterov else velocity
        if not (math.isfinite(moved) and moved > 0):
            raise ResourceError(
                f"learning_rate {learning_rate:g} with proximal {proximal:g} drives the weights away from where they "
                "began; choose a smaller one"
            )
        return moved
