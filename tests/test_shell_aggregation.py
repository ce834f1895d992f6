"""What a run's settings make of updates: every rule, optimizer and codec by name, and what does not go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CODECS, LARGE, change, contributions, model, vector

from aggregator_core import Layout, RefusedUpdateError, l2_norm
from aggregator_core.codecs import CodecNameError
from aggregator_core.means import momentum_steps, proximal_steps
from aggregator_core.parameters import ParameterError
from aggregator_core.privacy import Privacy, clipped
from aggregator_core.privacy_accountant import epsilon
from aggregator_core.rule import Report, TooFewUpdatesError
from aggregator_core.rules import RULES, make_rule
from aggregator_core.server_optimizers import OPTIMIZERS, make_optimizer
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.shell.aggregation import (
    PEERS_MAX,
    STEPS_MAX,
    CoreAggregation,
    Merged,
    advance,
    effective_steps,
    merge,
    optimizer_of,
    rule_of,
)
from edge_peer.shell.changes import Change
from edge_peer.shell.global_model import CONTROL, SLOTS, GlobalModel
from edge_peer.shell.noise import Noise
from edge_peer.trainers.optimizer import LocalOptimizer

F32 = npt.NDArray[np.float32]
SIX = tuple(change(seed, LARGE) for seed in range(1, 7))
EXAMPLES = (10, 20, 30, 40, 50, 60)
BASE = model(0, LARGE)
SGD = LocalOptimizer("sgd")


@pytest.fixture
def noise(tmp_path: Path) -> Noise:
    return Noise(tmp_path, LARGE.trained_size)


def merged(
    noise: Noise,
    run: RunSettings,
    changes: tuple[Change, ...] = SIX,
    base: GlobalModel = BASE,
    population: int = 210,
    layout: Layout = LARGE,
    **fields: Any,
) -> Merged:
    updates = contributions(*changes, examples=EXAMPLES[: len(changes)], **fields)
    return merge(layout, base, changes, updates, run, population, noise, SGD)


# ---------------------------------------------------------------------- rules


@pytest.mark.parametrize("name", RULES)
def test_every_rule_makes_the_model_that_the_core_makes(noise: Noise, name: str) -> None:
    byzantine = any(it.name == "byzantine" for it in RULES[name].parameters)
    parameters = {"byzantine": 0.0} if byzantine else {}
    found = merged(noise, RunSettings(rule=name, rule_parameters=parameters, learning_rate=0.25))
    known = {"byzantine": 0} if byzantine else {"learning_rate": 0.25} if name == "qfedavg" else {}
    update = make_rule(name, trained_size=LARGE.trained_size, **known).aggregate(
        [it.vector for it in SIX], EXAMPLES, [Report(steps=3.0, loss=0.5)] * 6
    )
    assert found.change is None
    assert found.model.vector.tobytes() == (BASE.vector + update).tobytes()
    assert found.model.server == {}


def test_the_mean_is_weighted_by_examples(noise: Noise) -> None:
    before = BASE.vector.copy()
    found = merged(noise, RunSettings())
    expected = sum(n / 210 * it.vector.astype(np.float64) for n, it in zip(EXAMPLES, SIX, strict=True))
    np.testing.assert_allclose(found.model.vector, BASE.vector + expected, rtol=1e-5, atol=1e-6)
    assert found.model.vector.dtype == np.float32
    np.testing.assert_array_equal(BASE.vector, before)


def test_a_parameter_counts_and_one_bad_update_does_not(noise: Noise) -> None:
    bad = (*SIX[:5], Change(np.full(LARGE.size, 1e30, np.float32)))
    for name in ("median", "trimmed_mean", "krum", "geometric_median", "multi_krum"):
        found = merged(noise, RunSettings(rule=name, rule_parameters={"byzantine": 1.0}), bad)
        assert abs(found.model.vector).max() < 20, name
    assert abs(merged(noise, RunSettings(), bad).model.vector).max() > 1e20


def test_what_training_gave_reaches_the_rules_that_ask_for_it(noise: Noise) -> None:
    updates = [
        contributions(it, examples=(10,), steps=steps, base_loss=loss)[0]
        for it, steps, loss in zip(SIX[:2], (1, 9), (0.25, 4.0), strict=True)
    ]

    def model_of(run: RunSettings) -> F32:
        return merge(LARGE, BASE, SIX[:2], updates, run, 20, noise, SGD).model.vector

    for rule, reports in (
        ("fednova", [Report(steps=1), Report(steps=9)]),
        ("qfedavg", [Report(loss=0.25), Report(loss=4.0)]),
    ):
        kind = make_rule(rule, trained_size=LARGE.trained_size, **({"learning_rate": 0.1} if rule == "qfedavg" else {}))
        update = kind.aggregate([it.vector for it in SIX[:2]], [10, 10], reports)
        found = model_of(RunSettings(rule=rule))
        assert found.tobytes() == (BASE.vector + update).tobytes()
        assert found.tobytes() != model_of(RunSettings()).tobytes()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_fednova_counts_steps_as_far_as_the_model_s_optimizer_goes_with_them(noise: Noise, momentum: float) -> None:
    """Two peers with the same gradient in every step, one and 40 of them: each step counts for what it has moved."""
    optimizer, gradient = LocalOptimizer("sgd", momentum), vector(3, LARGE)
    far = {steps: effective_steps(steps, RunSettings(learning_rate=0.1), optimizer) for steps in (1, 40)}
    changes = tuple(Change((gradient * np.float32(length)).astype(np.float32)) for length in far.values())
    updates = tuple(contributions(it, examples=(10,), steps=steps)[0] for it, steps in zip(changes, far, strict=True))
    run = RunSettings(rule="fednova", learning_rate=0.1)
    found = merge(LARGE, BASE, changes, updates, run, 20, noise, optimizer).model.vector
    # Nobody's drift is in this: it is the mean length along the one gradient.
    expected = BASE.vector + gradient * (far[1] + far[40]) / 2
    np.testing.assert_allclose(found[: LARGE.trained_size], expected[: LARGE.trained_size], rtol=1e-4, atol=1e-4)
    # Told apart by their steps alone, the longer ones of momentum would count for several.
    assert far[40] == pytest.approx(momentum_steps(40, momentum))


def test_steps_count_by_what_is_known_of_the_training() -> None:
    run = RunSettings(learning_rate=0.1)
    held_back = replace(run, proximal=1.0)
    assert effective_steps(10, run, SGD) == 10
    assert effective_steps(10, held_back, SGD) == pytest.approx(proximal_steps(10, 0.1, 1.0))
    assert effective_steps(10, run, LocalOptimizer("adam")) == 10
    # Whoever claims to have trained for years does not hold up the controller.
    assert effective_steps(2**40, run, SGD) == STEPS_MAX


def test_too_few_updates_for_what_the_rule_is_told_to_bear_are_refused(noise: Noise) -> None:
    run = RunSettings(rule="krum", rule_parameters={"byzantine": 2.0})
    with pytest.raises(TooFewUpdatesError, match="wait for 7 updates"):
        merged(noise, run)


def test_what_cannot_be_merged_is_refused(noise: Noise) -> None:
    huge = Change(np.full(LARGE.size, 3e38, np.float32))
    full = GlobalModel(huge.vector)
    with pytest.raises(RefusedUpdateError, match="no update"):
        merged(noise, RunSettings(), ())
    with pytest.raises(RefusedUpdateError, match="220 of 220 values are not finite"):
        merged(noise, RunSettings(), (huge,), full)
    with pytest.raises(ParameterError, match="rule 'mode' is not one of fedavg"):
        merged(noise, RunSettings(rule="mode"))
    with pytest.raises(ParameterError, match="optimizer 'adam' is not one of fedavgm"):
        merged(noise, RunSettings(server_optimizer="adam"))
    with pytest.raises(CodecNameError, match="codec 'zip' is not one of"):
        merged(noise, RunSettings(downlink="zip"))
    with pytest.raises(RefusedUpdateError, match="does not fit float16"):
        merged(noise, RunSettings(downlink="float16"), (Change(np.full(LARGE.size, 1e6, np.float32)),))


# ---------------------------------------------------------------------- names and parameters


#: Names that Python functions on the way take, too.
NAMES = ("name", "trained_size", "self", "kind", "parameters", "byzantin", "x" * 64, "None")


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_of_any_unknown_name_is_refused_as_one(name: str) -> None:
    for rule in RULES:
        with pytest.raises(ParameterError, match=f"rule {rule}: '{name}' is not one of"):
            rule_of(RunSettings(rule=rule, rule_parameters={name: 1.0}), 7)
    for optimizer in ("none", *OPTIMIZERS):
        with pytest.raises(ParameterError, match=f"optimizer {optimizer}: '{name}' is not one of"):
            optimizer_of(optimizer, {name: 1.0})
    for wrong in (
        RunSettings(rule="krum", rule_parameters={name: 1.0}),
        RunSettings(server_optimizer="fedadam", server_parameters={name: 1.0}),
    ):
        assert f"{name!r} is not one of" in CoreAggregation().lacking(wrong)
        assert CoreAggregation().updates_needed(wrong) == 2


NUMBERS = st.floats(-1e15, 1e15) | st.integers(-3, 100_000).map(float)


@given(
    st.sampled_from([*RULES, "mode", "x" * 64]),
    st.sampled_from(["none", *OPTIMIZERS, "adam"]),
    st.dictionaries(st.sampled_from([*NAMES, "byzantine", "keep", "q", "learning_rate", "tau", "beta1"]), NUMBERS),
    st.sampled_from([*CODECS, "topk-0", "zip", "whole"]),
    st.sampled_from(["none", "central", "local"]),
    st.floats(1e-12, 1e9),
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_stranger_s_run_asks_for_is_answered(
    rule: str, optimizer: str, parameters: dict[str, float], codec: str, privacy: str, number: float
) -> None:
    run = RunSettings(
        rule=rule,
        rule_parameters=parameters,
        server_optimizer=optimizer,
        server_parameters=parameters,
        codec=codec,
        downlink=codec,
        privacy=privacy,
        privacy_clip=number,
        privacy_noise=number,
    )
    core = CoreAggregation(RunSettings(privacy="central"))
    assert isinstance(core.lacking(run), str)
    assert 2 <= core.updates_needed(run) <= 4 * PEERS_MAX + 3
    assert core.epsilon(run, 10) is None or privacy != "none"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert rule_of(RunSettings(rule="krum", rule_parameters={"byzantine": 2.0})).required == 2
    with pytest.raises(ParameterError, match=r"byzantine is 2\.5, not an integer"):
        rule_of(RunSettings(rule="krum", rule_parameters={"byzantine": 2.5}))


def test_more_bad_peers_than_there_can_be_are_not_counted_to_the_end() -> None:
    run = RunSettings(rule="bulyan", rule_parameters={"byzantine": 1e6})
    assert f"byzantine is 1000000, not an integer to {PEERS_MAX}" in CoreAggregation().lacking(run)
    assert CoreAggregation().updates_needed(run) == 2


@pytest.mark.parametrize(
    ("rule", "byzantine", "updates_min", "needed"),
    [
        ("fedavg", None, 3, 3),
        ("median", 1, 2, 3),
        ("krum", 1, 2, 5),
        ("bulyan", 1, 2, 7),
        ("krum", 1, 9, 9),
        ("krum", 0, 1, 1),
    ],
)
def test_a_round_needs_as_many_updates_as_its_rule(
    rule: str, byzantine: int | None, updates_min: int, needed: int
) -> None:
    parameters = {} if byzantine is None else {"byzantine": float(byzantine)}
    run = RunSettings(rule=rule, rule_parameters=parameters, updates_min=updates_min)
    assert CoreAggregation().updates_needed(run) == needed
    assert CoreAggregation().updates_needed(RunSettings(rule="mode", updates_min=4)) == 4


def test_nothing_is_lacking_for_what_is_known_here() -> None:
    core = CoreAggregation(RunSettings())
    for run in (
        *(RunSettings(rule=name) for name in RULES),
        *(RunSettings(server_optimizer=name) for name in ("none", *OPTIMIZERS)),
        *(RunSettings(codec=name, downlink=name) for name in CODECS),
        *(RunSettings(privacy=mode) for mode in ("none", "central", "local")),
        RunSettings(scaffold=True),
    ):
        assert core.lacking(run) == ""


LACKING = {
    "rule 'mode' is not one of": RunSettings(rule="mode"),
    "rule krum: byzantine is -1": RunSettings(rule="krum", rule_parameters={"byzantine": -1.0}),
    "optimizer 'adam' is not one of": RunSettings(server_optimizer="adam"),
    "optimizer none: 'momentum' is not one of none": RunSettings(server_parameters={"momentum": 0.5}),
    "codec 'zip' is not one of": RunSettings(codec="zip"),
    "codec 'topk-2' is not one of": RunSettings(downlink="topk-2"),
    "codec 'whole' is not one of": RunSettings(codec="whole"),
    "noise_multiplier is 1000000.0": RunSettings(privacy="local", privacy_noise=1e6),
    "clip is 1e-12": RunSettings(privacy="central", privacy_clip=1e-12),
}


@pytest.mark.parametrize("reason", LACKING)
def test_what_is_lacking_is_told_in_words_that_can_be_published(reason: str) -> None:
    text = CoreAggregation().lacking(LACKING[reason])
    assert reason in text
    assert text.startswith("this peer cannot do what the run asks for: ")
    assert text.endswith("; give all peers the same release")
    assert text.isprintable()


# ---------------------------------------------------------------------- privacy


LOCAL = RunSettings(privacy="local", privacy_clip=0.5)
CENTRAL = RunSettings(privacy="central", privacy_clip=0.5)
OPEN = RunSettings()


@pytest.mark.parametrize(
    ("own", "run", "takes_part"),
    [
        (OPEN, OPEN, True),
        (OPEN, CENTRAL, True),
        (CENTRAL, CENTRAL, True),
        (CENTRAL, LOCAL, True),
        (LOCAL, CENTRAL, False),
        (LOCAL, OPEN, False),
        (CENTRAL, OPEN, False),
        (CENTRAL, replace(CENTRAL, privacy_noise=0.5), False),
        (CENTRAL, replace(CENTRAL, privacy_noise=2.0), True),
        (LOCAL, replace(LOCAL, privacy_clip=99.0), True),
        # Beside the update: control variates and the loss that q-FedAvg asks for get no noise.
        (LOCAL, replace(LOCAL, scaffold=True), False),
        (CENTRAL, replace(LOCAL, rule="qfedavg"), False),
        (OPEN, replace(LOCAL, scaffold=True), True),
    ],
)
def test_a_peer_takes_no_part_with_less_privacy_than_it_promises(
    own: RunSettings, run: RunSettings, takes_part: bool
) -> None:
    text = CoreAggregation(own).lacking(run)
    assert (text == "") == takes_part
    assert takes_part or "give all peers the same [run]" in text
    # Who promises nothing, such as an operator's command, takes part in anything that is known.
    assert CoreAggregation().lacking(run) == ""


def test_what_the_rounds_cost_is_told() -> None:
    core = CoreAggregation()
    assert core.epsilon(OPEN, 5) is None
    assert core.epsilon(CENTRAL, 5) == core.epsilon(LOCAL, 5) == epsilon(1.0, 5, 1e-5)
    assert core.epsilon(replace(LOCAL, privacy_noise=1e6), 5) is None


def mean_of(vectors: list[F32]) -> F32:
    return make_rule("fedavg").aggregate(vectors, [1] * len(vectors))


def test_central_privacy_shortens_every_update_and_weighs_all_alike(noise: Noise) -> None:
    privacy = Privacy("central", 0.5, 1.0)
    for factor in (1, 1000):
        changes = (Change(SIX[0].vector * np.float32(factor)), *SIX[1:])
        short = [clipped(it.vector, privacy, LARGE.trained_size) for it in changes]
        assert l2_norm(short[0][: LARGE.trained_size]) <= 0.5 < l2_norm(changes[0].vector)
        noisy = noise.of_mean(mean_of(short), 6, privacy, f"{BASE.digest}/4")
        found = merged(noise, CENTRAL, changes)
        assert found.model.vector.tobytes() == (BASE.vector + noisy).tobytes()
        # Whoever claims a million examples moves the model no farther either.
        updates = contributions(*changes, examples=(2**40, 1, 1, 1, 1, 1))
        assert merge(LARGE, BASE, changes, updates, CENTRAL, 6, noise, SGD).model.digest == found.model.digest


def test_local_privacy_has_its_noise_already_and_is_not_shortened_again(noise: Noise) -> None:
    found = merged(noise, LOCAL)
    assert found.model.vector.tobytes() == (BASE.vector + mean_of([it.vector for it in SIX])).tobytes()


def test_the_noise_of_a_round_is_drawn_once(noise: Noise, tmp_path: Path) -> None:
    first = merged(noise, CENTRAL).model.digest
    assert merged(noise, CENTRAL).model.digest == first
    assert merged(Noise(tmp_path, LARGE.trained_size), CENTRAL).model.digest == first
    (tmp_path / "other").mkdir()
    assert merged(Noise(tmp_path / "other", LARGE.trained_size), CENTRAL).model.digest != first


# ---------------------------------------------------------------------- server optimizers


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_an_optimizer_goes_on_from_round_to_round(noise: Noise, name: str) -> None:
    run = RunSettings(server_optimizer=name, server_parameters={"learning_rate": 0.5})
    optimizer = make_optimizer(name, learning_rate=0.5)
    state, weights, base = optimizer.initial(LARGE.trained_size), BASE.vector, BASE
    for changes in (SIX[:3], SIX[3:], SIX[1:4]):
        update = make_rule("fedavg").aggregate([it.vector for it in changes], EXAMPLES[:3])
        step, state = optimizer.step(update, state)
        weights = weights + step
        base = merged(noise, run, changes, base).model
        assert base.vector.tobytes() == weights.tobytes()
        assert {slot: it.tobytes() for slot, it in base.server.items()} == {
            slot: it.tobytes() for slot, it in state.items()
        }
        assert set(base.server) == set(optimizer.slots) <= set(SLOTS)


def test_the_state_is_part_of_the_digest(noise: Noise) -> None:
    found = merged(noise, RunSettings(server_optimizer="fedavgm")).model
    other = GlobalModel(found.vector, {"momentum": found.server["momentum"] * np.float32(2)})
    assert len({found.digest, other.digest, GlobalModel(found.vector).digest}) == 3


def test_another_optimizer_s_state_is_refused(noise: Noise) -> None:
    base = merged(noise, RunSettings(server_optimizer="fedavgm")).model
    with pytest.raises(RefusedUpdateError, match="optimizer fedadam remembers"):
        merged(noise, RunSettings(server_optimizer="fedadam"), SIX, base)


def test_a_model_s_own_state_is_taken_as_it_is_by_every_optimizer(noise: Noise) -> None:
    plain = merged(noise, RunSettings()).model.vector[LARGE.trained_size :]
    for name in OPTIMIZERS:
        found = merged(noise, RunSettings(server_optimizer=name)).model.vector[LARGE.trained_size :]
        assert found.tobytes() == plain.tobytes()


# ---------------------------------------------------------------------- SCAFFOLD


WITH_CONTROL = tuple(change(seed, LARGE, control=True) for seed in (1, 2, 3))
TRAINED = LARGE.trained_size


@pytest.mark.parametrize(("population", "share"), [(60, 1.0), (240, 0.25), (30, 1.0)])
def test_the_server_s_control_goes_by_the_share_that_was_counted(noise: Noise, population: int, share: float) -> None:
    run = RunSettings(scaffold=True)
    base = model(0, LARGE, CONTROL)
    found = merged(noise, run, WITH_CONTROL, base, population).model
    mean = sum(
        n / 60 * it.control[:TRAINED].astype(np.float64)
        for n, it in zip((10, 20, 30), WITH_CONTROL, strict=True)
        if it.control is not None
    )
    np.testing.assert_allclose(found.server[CONTROL], base.server[CONTROL] + share * mean, rtol=1e-4, atol=1e-5)
    assert found.server[CONTROL].shape == (TRAINED,)
    # The weights go as they would without.
    plain = merged(noise, RunSettings(), WITH_CONTROL, base).model
    assert found.vector.tobytes() == plain.vector.tobytes()
    assert plain.server[CONTROL] is base.server[CONTROL]


def test_the_first_control_begins_with_zeros_and_all_of_them_keep_their_mean(noise: Noise) -> None:
    """With everybody counted, weights alike, the server's control is the mean of the peers' own."""
    own = [np.zeros(TRAINED, np.float64) for _ in range(3)]
    base = BASE
    for round_ in range(4):
        changes = tuple(change(10 * round_ + seed, LARGE, control=True) for seed in range(3))
        own = [c + it.control[:TRAINED] for c, it in zip(own, changes, strict=True) if it.control is not None]
        updates = contributions(*changes, examples=(7, 7, 7))
        base = merge(LARGE, base, changes, updates, RunSettings(scaffold=True), 21, noise, SGD).model
        np.testing.assert_allclose(base.server[CONTROL], np.mean(own, axis=0), rtol=1e-4, atol=1e-5)


def test_control_and_optimizer_state_stand_side_by_side(noise: Noise) -> None:
    run = RunSettings(scaffold=True, server_optimizer="fedadam")
    base = merged(noise, run, WITH_CONTROL).model
    assert set(base.server) == {"mean", "square", CONTROL}
    again = merged(noise, run, WITH_CONTROL, base).model
    assert set(again.server) == {"mean", "square", CONTROL}
    assert again.server[CONTROL].tobytes() != base.server[CONTROL].tobytes()


def test_an_update_without_a_control_is_refused(noise: Noise) -> None:
    with pytest.raises(RefusedUpdateError, match="without the change of its control variate"):
        merged(noise, RunSettings(scaffold=True), (*WITH_CONTROL[:2], SIX[0]))


def test_what_stands_behind_the_trained_values_of_a_control_is_of_no_consequence(noise: Noise) -> None:
    run, good = RunSettings(scaffold=True), WITH_CONTROL[0]
    assert good.control is not None
    control = good.control.copy()
    control[TRAINED:] = 1e30
    found = merged(noise, run, (Change(good.vector, control), *WITH_CONTROL[1:])).model
    assert found.digest == merged(noise, run, WITH_CONTROL).model.digest


# ---------------------------------------------------------------------- downlink


@pytest.mark.parametrize("scaffold", [False, True])
@pytest.mark.parametrize("optimizer", ["none", "fedyogi"])
@pytest.mark.parametrize("codec", CODECS)
def test_everybody_who_has_the_base_makes_the_same_model(
    noise: Noise, codec: str, optimizer: str, scaffold: bool
) -> None:
    run = RunSettings(downlink=codec, server_optimizer=optimizer, scaffold=scaffold)
    base = BASE
    for _ in range(2):
        found = merged(noise, run, WITH_CONTROL, base)
        assert found.change is not None
        decoded = found.change.decode(codec, LARGE)
        elsewhere = advance(LARGE, base, decoded, run.server_optimizer, run.server_parameters)
        assert elsewhere.vector.tobytes() == found.model.vector.tobytes()
        assert elsewhere.digest == found.model.digest
        assert (decoded.control is not None) == scaffold
        base = found.model


def test_two_controllers_round_alike_and_two_rounds_do_not(noise: Noise, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Noise(tmp_path / "other", LARGE.trained_size)
    run = RunSettings(downlink="int4", seed=7)
    first = merged(noise, run)
    assert merged(other, run).model.digest == first.model.digest
    assert merged(noise, replace(run, seed=8)).model.digest != first.model.digest
    updates = contributions(*SIX, examples=EXAMPLES)
    later = tuple(replace(it, offer=replace(it.offer, round=5)) for it in updates)
    assert merge(LARGE, BASE, SIX, later, run, 210, noise, SGD).model.digest != first.model.digest
    exact = merged(noise, RunSettings()).model
    assert 0 < abs(first.model.vector - exact.vector).max() < 0.5


def test_an_exact_downlink_makes_the_model_of_none(noise: Noise) -> None:
    found = merged(noise, RunSettings(downlink="float32", server_optimizer="fedavgm"))
    whole = merged(noise, RunSettings(server_optimizer="fedavgm"))
    assert found.change is not None
    assert found.model.digest == whole.model.digest


@given(st.integers(0, 1000), st.sampled_from(["none", *OPTIMIZERS]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_advancing_changes_nothing_that_it_is_given(seed: int, optimizer: str, control: bool) -> None:
    slots = OPTIMIZERS[optimizer].slots if optimizer != "none" else ()
    base, it = model(seed, LARGE, *slots, CONTROL), change(seed + 1, LARGE, control)
    before = base.digest, it.digest
    made = advance(LARGE, base, it, optimizer, {})
    assert (base.digest, it.digest) == before
    assert set(made.server) == {*slots, CONTROL}
    assert made.vector.shape == (LARGE.size,)
