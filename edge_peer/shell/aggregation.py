"""What a run's settings ask of the core: its rule, optimizer and codecs, and the round's model made with them.

Whatever is random in a model that comes of a round is drawn from the run's seed, so that two controllers that are given
the same updates make the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aggregator_core import RefusedUpdateError, check_update, weighted_mean
from aggregator_core.codecs import CodecNameError, check_name
from aggregator_core.layout import Layout
from aggregator_core.parameters import Parameter, ParameterError
from aggregator_core.privacy_state import possible
from aggregator_core.rule import Report, Rule
from aggregator_core.rules import RULES, make_rule
from aggregator_core.scaffold import step_server
from aggregator_core.server_optimizers import OPTIMIZERS, ServerOptimizer, make_optimizer
from edge_peer.errors import ResourceError
from edge_peer.protocol.commands import Contribution
from edge_peer.protocol.run_settings import NONE, WHOLE, RunSettings
from edge_peer.protocol.tensors import UpdateOffer
from edge_peer.shell.changes import Change, Encoded, encoded
from edge_peer.shell.global_model import CONTROL, GlobalModel
from edge_peer.shell.noise import Noise, cost, privacy_of
from edge_peer.trainers.optimizer import LocalOptimizer

F32 = npt.NDArray[np.float32]
#: No federation has more peers (`limits.peers_max`), so none bears more bad ones.
PEERS_MAX = 4096
#: A training of more steps counts as long as one of so many.
STEPS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Merged:
    """What a round has made.

    Attributes:
        model: The new global model.
        change: What makes it of the base, as it is sent; None: the run sends whole models.
    """

    model: GlobalModel
    change: Encoded | None


def rule_of(settings: RunSettings, trained_size: int | None = None) -> Rule:
    """The run's rule; raises ParameterError."""
    kind = RULES.get(settings.rule)
    if kind is None:
        return make_rule(settings.rule)  # which refuses it
    parameters = _typed(f"rule {settings.rule}", kind.parameters, settings.rule_parameters)
    if settings.rule == "qfedavg":
        # The rule's own default knows nothing of this training.
        parameters.setdefault("learning_rate", settings.learning_rate or 0.1)
    rule = make_rule(settings.rule, trained_size=trained_size, **parameters)
    if rule.required > PEERS_MAX:
        # The rule counts how many updates it needs for that, which would take seconds.
        raise ParameterError(f"rule {settings.rule}: byzantine is {rule.required}, not an integer to {PEERS_MAX}")
    return rule


def optimizer_of(name: str, parameters: Mapping[str, float]) -> ServerOptimizer | None:
    """A server optimizer, or none; raises ParameterError."""
    if name == NONE:
        if parameters:
            raise ParameterError(f"optimizer none: {next(iter(parameters))!r} is not one of none")
        return None
    kind = OPTIMIZERS.get(name)
    if kind is None:
        return make_optimizer(name)  # which refuses it
    return make_optimizer(name, **_typed(f"optimizer {name}", kind.parameters, parameters))


def _typed(what: str, table: Sequence[Parameter], parameters: Mapping[str, float]) -> dict[str, Any]:
    """Numbers of a document as what the rule takes: JSON and TOML do not tell 2 from 2.0 alike.

    Raises:
        ParameterError: A name that it has not; anybody may choose it, also one that a Python function takes.
    """
    known = [it.name for it in table]
    for unknown in sorted(set(parameters) - set(known)):
        raise ParameterError(f"{what}: {unknown[:80]!r} is not one of {', '.join(known) or 'none'}")
    whole = {it.name for it in table if it.kind is int}
    return {
        name: int(value) if name in whole and float(value).is_integer() else value for name, value in parameters.items()
    }


class CoreAggregation:
    """`protocol.aggregation.Aggregation` by aggregator_core.

    Args:
        own: The settings that this peer would start a run with: with less privacy than they promise it takes no part.
    """

    def __init__(self, own: RunSettings | None = None) -> None:
        self._own = own

    def lacking(self, settings: RunSettings) -> str:
        """See `Aggregation`."""
        try:
            rule_of(settings)
            optimizer_of(settings.server_optimizer, settings.server_parameters)
            check_name(settings.codec)
            if settings.downlink != WHOLE:
                check_name(settings.downlink)
            privacy = privacy_of(settings)
        except (ParameterError, CodecNameError) as error:
            return f"this peer cannot do what the run asks for: {error}; give all peers the same release"
        promised = privacy_of(self._own) if self._own is not None else None
        if promised is not None and (privacy is None or not privacy.covers(promised)):
            return (
                f"the run has privacy {settings.privacy}, noise {settings.privacy_noise:g}, this peer's [run] promises "
                f"{promised.mode}, noise {promised.noise_multiplier:g}: give all peers the same [run]"
            )
        if promised is not None and (settings.scaffold or settings.rule != "fedavg"):
            # Both have peers send what they know of their data beside the update, and no noise hides that.
            what = "scaffold" if settings.scaffold else f"rule {settings.rule}"
            return f"the run has {what}, which tells of the data beside the noise: give all peers the same [run]"
        return ""

    def updates_needed(self, settings: RunSettings) -> int:
        """See `Aggregation`; a rule that is not known here needs no more."""
        try:
            rule = rule_of(settings)
            return max(settings.updates_min, rule.needs(rule.required))
        except (ParameterError, ValueError):
            return settings.updates_min

    def epsilon(self, settings: RunSettings, rounds: int) -> float | None:
        """See `Aggregation`."""
        return cost(settings, rounds)


def merge(
    layout: Layout,
    base: GlobalModel,
    changes: Sequence[Change],
    updates: Sequence[Contribution],
    settings: RunSettings,
    population: int,
    noise: Noise,
    optimizer: LocalOptimizer,
) -> Merged:
    """The base and what its updates make of it.

    Args:
        layout: Of the model.
        base: The round's.
        changes: Of the updates, in their order, which decides the last bits.
        updates: What is known of each.
        settings: The run's.
        population: Examples of all peers that could have trained.
        noise: This peer's.
        optimizer: The model's, with which the peers have trained.

    Raises:
        RefusedUpdateError: No model can be made of these.
        ParameterError: The settings ask for what is not known here.
        CodecNameError: Likewise.
    """
    round_ = updates[0].offer.round if updates else 0
    vectors = [change.vector for change in changes]
    counts = [it.offer.examples for it in updates]
    privacy = privacy_of(settings)
    if privacy is not None:
        # Equal weights, whatever a peer says of itself: the noise is meant for that.
        counts = [1] * len(counts)
    if privacy is not None and privacy.mode == "central":
        # And nothing longer than was promised. What has its noise already is longer, and need not be touched.
        vectors = [noise.shortened(vector, privacy) for vector in vectors]
    rule = rule_of(settings, layout.trained_size)
    update = rule.aggregate(vectors, counts, [_report(it.offer, settings, optimizer) for it in updates])
    if privacy is not None and privacy.mode == "central":
        update = noise.of_mean(update, len(vectors), privacy, f"{base.digest}/{round_}")
    change = Change(update, _control(changes, counts, population) if settings.scaffold else None)
    sent = None
    if settings.downlink != WHOLE:
        sent = encoded(settings.downlink, change, layout, random.Random(f"{settings.seed}/{round_}/downlink"))
        change = sent.decode(settings.downlink, layout)
    return Merged(advance(layout, base, change, settings.server_optimizer, settings.server_parameters), sent)


def effective_steps(steps: int, settings: RunSettings, optimizer: LocalOptimizer) -> float:
    """What so many local steps of a peer count for: momentum makes more of them, FedProx's term holds them back."""
    try:
        # They are counted one by one, and may be anybody's.
        return optimizer.effective_steps(min(steps, STEPS_MAX), settings.learning_rate, settings.proximal)
    except ResourceError:
        # No sums of gradients, but of like length, as Adam's are.
        return float(steps)


def _report(offer: UpdateOffer, settings: RunSettings, optimizer: LocalOptimizer) -> Report:
    return Report(
        steps=effective_steps(offer.steps, settings, optimizer) if settings.rule == "fednova" else offer.steps,
        loss=offer.loss if offer.base_loss is None else offer.base_loss,
    )


def _control(changes: Sequence[Change], counts: Sequence[int], population: int) -> F32:
    """What the server's control changes by, shape (p,): the mean over the peers that were counted, of all that are."""
    controls = [change.control for change in changes if change.control is not None]
    if len(controls) < len(changes):
        raise RefusedUpdateError("an update comes without the change of its control variate")
    share = min(1.0, sum(counts) / population)
    mean: F32 = weighted_mean(controls, counts) * np.float32(share)
    return mean


def advance(
    layout: Layout, base: GlobalModel, change: Change, optimizer: str, parameters: Mapping[str, float]
) -> GlobalModel:
    """The model after a round: everybody who has the base makes the same one of the same change.

    Raises:
        RefusedUpdateError: The change does not fit, or the model would not be finite.
        ParameterError: The optimizer is not known here.
    """
    trained = layout.trained_size
    server = {name: values for name, values in base.server.items() if name != CONTROL}
    step = change.vector
    server_optimizer = optimizer_of(optimizer, parameters)
    if server_optimizer is not None:
        step, server = server_optimizer.step(step, server or server_optimizer.initial(trained))
    with np.errstate(over="ignore"):
        vector = (base.vector + step).astype(np.float32, copy=False)
    check_update(vector, layout.size)
    # Noise may have made a state of it that no training makes, and that has no int8 form; any other stays as it is.
    vector = possible(vector, layout)
    control = base.server.get(CONTROL)
    if change.control is not None:
        before = control if control is not None else np.zeros(trained, np.float32)
        control = step_server(before, change.control[:trained], 1, 1)
    return GlobalModel(vector, server | ({CONTROL: control} if control is not None else {}))
