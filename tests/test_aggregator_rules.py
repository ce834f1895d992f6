"""Rules: equality with the slow reference, what all of them have in common, and attacks on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator_core import RefusedUpdateError, reference, weighted_mean
from aggregator_core.geometric_median import within_reach
from aggregator_core.parameters import ParameterError
from aggregator_core.rule import Report, RobustRule, Rule, TooFewUpdatesError
from aggregator_core.rules import RULES, make_rule

MEANS = ("fedavg", "staleness", "fednova", "qfedavg")
ROBUST = tuple(name for name in RULES if name not in MEANS)
#: Of the round that is always there: what rules of means read.
REPORTS = [Report(steps=1.0 + i % 7, staleness=i % 4, loss=0.5 + 0.1 * i) for i in range(65)]
#: Coarse values make ties, within a column and between whole updates.
VALUES = st.one_of(st.floats(-1e3, 1e3, width=32), st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]))


@st.composite
def updates(draw: st.DrawFn, n_max: int = 12) -> np.ndarray:
    n = draw(st.integers(1, n_max))
    return draw(hnp.arrays(np.float32, (n, draw(st.integers(1, 9))), elements=VALUES))


def drawn(n: int, p: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, p)).astype(np.float32)


def counts_of(n: int) -> list[int]:
    return [100 + 13 * i for i in range(n)]


def aggregate(rule: Rule, it: np.ndarray, order: list[int] | None = None) -> np.ndarray:
    order = list(range(len(it))) if order is None else order
    counts = counts_of(len(it))
    return rule.aggregate(it[order], [counts[i] for i in order], [REPORTS[i] for i in order])


def close(actual: np.ndarray, expected: object, it: np.ndarray, slack: float = 1e-5) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, np.array(expected), rtol=slack, atol=slack * float(np.abs(it).max()) + 1e-37)


# Equality with the reference.


@given(updates(65), st.integers(0, 3))
def test_means_equal_the_reference(it: np.ndarray, exponent: int) -> None:
    n = len(it)
    counts, reports, rows = counts_of(n), REPORTS[:n], it.tolist()
    assert aggregate(make_rule("fedavg"), it).tobytes() == weighted_mean(it, counts).tobytes()
    expected = reference.staleness(rows, counts, [report.staleness for report in reports], exponent)
    close(aggregate(make_rule("staleness", exponent=exponent), it), expected, it)
    close(
        aggregate(make_rule("fednova"), it), reference.fednova(rows, counts, [report.steps for report in reports]), it
    )


@given(updates(), st.sampled_from([0, 0.5, 1, 2, 5]), st.sampled_from([0.01, 0.1, 1.0]))
def test_qfedavg_equals_the_reference(it: np.ndarray, q: float, learning_rate: float) -> None:
    n = len(it)
    losses = [report.loss for report in REPORTS[:n]]
    expected = reference.qfedavg(it.tolist(), counts_of(n), losses, q, learning_rate)
    close(aggregate(make_rule("qfedavg", q=q, learning_rate=learning_rate), it), expected, it)


@pytest.mark.parametrize("n", range(1, 66))
def test_order_statistics_equal_the_reference_for_every_number(n: int) -> None:
    it = drawn(n, 37, n)
    it[:, ::5] = np.round(it[:, ::5])
    close(aggregate(make_rule("median", byzantine=0), it), np.median(it.astype(np.float64), axis=0), it, 1e-7)
    for f in {0, 1, n // 4, (n - 1) // 2}:
        if f <= (n - 1) // 2:
            expected = reference.trimmed_mean(it.tolist(), f)
            close(aggregate(make_rule("trimmed_mean", byzantine=f), it), expected, it, 1e-6)


@given(updates(), st.data())
def test_order_statistics_equal_the_reference_with_ties(it: np.ndarray, data: st.DataObject) -> None:
    close(aggregate(make_rule("median", byzantine=0), it), reference.median(it.tolist()), it, 1e-6)
    f = data.draw(st.integers(0, (len(it) - 1) // 2))
    close(aggregate(make_rule("trimmed_mean", byzantine=f), it), reference.trimmed_mean(it.tolist(), f), it)


@given(updates(), st.sampled_from([0.1, 1.0, 50.0, 1e6]))
def test_clipping_equals_the_reference(it: np.ndarray, bound: float) -> None:
    rule = make_rule("norm_clipping", byzantine=0, norm_max=bound)
    close(aggregate(rule, it), reference.clipped_mean(it.tolist(), bound), it)
    norms = sorted(reference.distance(row, [0.0] * len(row)) for row in it.tolist())
    adaptive = aggregate(make_rule("adaptive_clipping", byzantine=0, quantile=0.5), it)
    close(adaptive, reference.clipped_mean(it.tolist(), norms[len(norms) // 2]), it)


def test_adaptive_clipping_never_takes_the_norm_of_what_it_must_bear() -> None:
    it = np.ones((5, 4), np.float32)
    it[4] = 1e6
    for quantile in (0.5, 0.99):
        np.testing.assert_allclose(aggregate(make_rule("adaptive_clipping", quantile=quantile), it), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("n", "f"), [(3, 0), (5, 1), (9, 1), (9, 3), (23, 5), (23, 10), (65, 15), (65, 31)])
def test_krum_equals_the_reference(n: int, f: int) -> None:
    it = drawn(n, 33, n + f)
    rows = it.tolist()
    close(aggregate(make_rule("krum", byzantine=f), it), reference.krum(rows, f), it, 0)
    close(aggregate(make_rule("multi_krum", byzantine=f), it), reference.multi_krum(rows, f), it, 1e-6)
    if n >= 4 * f + 3:
        close(aggregate(make_rule("bulyan", byzantine=f), it), reference.bulyan(rows, f), it, 1e-6)


@given(updates(11))
def test_krum_chooses_an_update_of_the_smallest_score_among_ties(it: np.ndarray) -> None:
    rows, f = it.tolist(), max(0, (len(it) - 3) // 2)
    chosen = aggregate(make_rule("krum", byzantine=f), it)

    def score(row: list[float]) -> float:
        squares = sorted(reference.distance(row, other) ** 2 for other in rows)
        return sum(squares[1 : 1 + max(1, len(rows) - f - 2)])

    assert chosen.tolist() in rows
    # What a distance loses by being taken from integers, n times over.
    assert score(chosen.tolist()) <= min(map(score, rows)) + 1e-4 * float(np.abs(it).max()) ** 2


@given(updates(9))
def test_the_geometric_median_has_the_smallest_sum_of_distances(it: np.ndarray) -> None:
    rows = it.tolist()
    median = aggregate(make_rule("geometric_median", byzantine=0, iterations=2_000, smoothing=1e-6), it)
    least = reference.sum_of_distances(median.tolist(), rows)
    slack = 1e-3 * max(float(np.abs(it).max()), 1e-30)
    candidates = [*rows, reference.plain_mean(rows), reference.median(rows)]
    steps = np.eye(it.shape[1]) * 0.1 * float(np.abs(it).max())
    candidates += [(median + step).tolist() for step in [*steps, *-steps]]
    assert all(least <= reference.sum_of_distances(point, rows) + slack * len(rows) for point in candidates)


def test_the_geometric_median_of_an_equilateral_triangle_is_its_center() -> None:
    it = np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]], np.float32)
    median = aggregate(make_rule("geometric_median"), it)
    np.testing.assert_allclose(median, [0.5, np.sqrt(0.75) / 3], atol=1e-3)


def test_the_geometric_median_is_the_update_of_a_majority() -> None:
    it = np.array([[1, 2], [1, 2], [1, 2], [9, 9], [-5, 4]], np.float32)
    np.testing.assert_allclose(aggregate(make_rule("geometric_median", byzantine=2), it), [1, 2], rtol=1e-6)
    assert within_reach(np.zeros((3, 3))).tolist() == [0, 1, 2]


@given(updates(9), st.sampled_from([None, 0.5, 100.0]), st.integers(1, 4))
def test_centered_clipping_equals_the_reference(it: np.ndarray, radius: float | None, iterations: int) -> None:
    rule = make_rule("centered_clipping", byzantine=0, radius=radius, iterations=iterations)
    close(aggregate(rule, it), reference.centered_clipping(it.tolist(), radius, iterations), it, 1e-4)


# What all rules have in common.


def loosest(name: str, **parameters: float) -> Rule:
    """A rule that takes any number of updates."""
    return make_rule(name, **({"byzantine": 0} if name in ROBUST else {}), **parameters)


@pytest.mark.parametrize("name", [name for name in RULES if name not in {"norm_clipping", "qfedavg"}])
@given(row=hnp.arrays(np.float32, st.integers(1, 20), elements=VALUES))
@settings(max_examples=25)
def test_one_client_is_identity(name: str, row: np.ndarray) -> None:
    np.testing.assert_array_equal(loosest(name).aggregate([row], [7], [Report(steps=4, staleness=2)]), row)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("n", [7, 16, 41])
def test_the_order_of_clients_does_not_matter(name: str, n: int) -> None:
    it = drawn(n, 501, 3)
    order = np.random.default_rng(5).permutation(n).tolist()
    rule = make_rule(name)
    np.testing.assert_allclose(aggregate(rule, it, order), aggregate(rule, it), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in RULES if name not in {"norm_clipping", "qfedavg"}])
@pytest.mark.parametrize("factor", [2.0**-60, 0.5, 2.0**40, -1.0])
def test_scaled_updates_give_the_scaled_result(name: str, factor: float) -> None:
    it = drawn(11, 65, 8)
    rule = make_rule(name)
    scaled = aggregate(rule, it * np.float32(factor))
    np.testing.assert_allclose(scaled / np.float32(factor), aggregate(rule, it), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_equal_updates_give_that_update(name: str) -> None:
    it = np.tile(drawn(1, 65) / 100, (11, 1))
    rule = make_rule(name, **({"q": 0} if name == "qfedavg" else {}))
    steps = aggregate(rule, it)
    # FedNova multiplies by the mean number of steps and divides by each: equal only for equal steps.
    if name == "fednova":
        steps = rule.aggregate(it, [1] * 11, [Report(steps=3)] * 11)
    np.testing.assert_allclose(steps, it[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [1, 8_193, 100_003])
def test_blocks_are_as_the_whole_and_inputs_stay(name: str, size: int) -> None:
    it = drawn(7, size, 1)
    it.flags.writeable = False
    rule = make_rule(name)
    rows = [row.copy() for row in it]
    first = aggregate(rule, it)
    assert first.shape == (size,)
    assert first.dtype == np.float32
    assert not any(np.shares_memory(first, row) for row in it)
    again = rule.aggregate(rows, counts_of(7), REPORTS[:7])
    assert again.tobytes() == first.tobytes(), "an array and a list of its rows, and a second call"
    for row, before in zip(rows, it, strict=True):
        np.testing.assert_array_equal(row, before)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "fedavg", "norm_clipping"])
def test_parts_of_a_vector_are_aggregated_alike(name: str) -> None:
    it = drawn(9, 70_001, 2) / 1000
    rule = make_rule(name)
    whole = aggregate(rule, it)
    part = aggregate(rule, np.ascontiguousarray(it[:, 60_000:]))
    np.testing.assert_allclose(whole[60_000:], part, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    it = drawn(9, 33)
    it[4, 20] = bad
    for trained_size in (None, 10):
        with pytest.raises(RefusedUpdateError, match=r"1 of .* values are not finite"):
            make_rule(name, trained_size=trained_size).aggregate(it, counts_of(9), REPORTS[:9])


@pytest.mark.parametrize("name", RULES)
def test_what_does_not_fit_together_is_refused(name: str) -> None:
    rule, it = make_rule(name, trained_size=4), drawn(9, 5)
    cases = [
        (it, counts_of(8), REPORTS[:9], "9 updates but 8 example counts"),
        (it, counts_of(9), REPORTS[:8], "9 updates but 8 reports"),
        ([], [], [], "no update"),
        (it.astype(np.float64), counts_of(9), REPORTS[:9], "float64, not float32"),
        ([*it[:8], it[8][:4]], counts_of(9), REPORTS[:9], r"shape is \[4\], the first update's is \[5\]"),
        (it[:, None], counts_of(9), REPORTS[:9], "shape is"),
        (np.ascontiguousarray(it[:, :3]), counts_of(9), REPORTS[:9], "3 values, of which 4 are trained"),
        (it[:, :0], counts_of(9), REPORTS[:9], "updates have no values"),
        (it, [0] * 9, REPORTS[:9], "not a positive integer"),
    ]
    for values, counts, reports, message in cases:
        with pytest.raises(RefusedUpdateError, match=message):
            rule.aggregate(values, counts, reports)


@pytest.mark.parametrize("name", ROBUST)
def test_the_state_behind_the_weights_is_its_median_and_moves_no_choice(name: str) -> None:
    it = drawn(9, 40, 4)
    state = np.tile(np.array([300.0, -7.0], np.float32), (9, 1))
    state[2] = 1e6
    whole = np.concatenate([it, state], axis=1)
    result = aggregate(make_rule(name, trained_size=40), whole)
    np.testing.assert_array_equal(result[:40], aggregate(make_rule(name), it))
    if name != "trimmed_mean":
        np.testing.assert_array_equal(result[40:], [300, -7])
    np.testing.assert_allclose(result[40:], [300, -7], rtol=1e-6)


@pytest.mark.parametrize("name", MEANS)
def test_the_state_behind_the_weights_is_averaged_by_examples(name: str) -> None:
    it = drawn(5, 12, 4)
    result = make_rule(name, trained_size=10).aggregate(it, counts_of(5), [Report(steps=3, loss=2)] * 5)
    np.testing.assert_allclose(result[10:], weighted_mean(it, counts_of(5))[10:], rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_values_at_the_end_of_float32(name: str) -> None:
    it = np.full((9, 5), 3e38, np.float32)
    it[:, 1] = -3e38
    rule = make_rule(name)
    result = rule.aggregate(it, [1] * 9, [Report()] * 9)
    assert np.isfinite(result).all()
    if name not in {"norm_clipping", "qfedavg"}:
        np.testing.assert_allclose(result, it[0], rtol=1e-5)


@pytest.mark.parametrize("name", ROBUST)
def test_counts_do_not_weigh(name: str) -> None:
    it, rule = drawn(9, 20), make_rule(name)
    np.testing.assert_array_equal(rule.aggregate(it, [1] * 9), rule.aggregate(it, [2**40, *[1] * 8]))


# Means that read reports.


def test_old_updates_weigh_less() -> None:
    it = np.array([[1.0], [0.0]], np.float32)
    rule = make_rule("staleness", exponent=1.0)
    assert rule.aggregate(it, [10, 10], [Report(staleness=1), Report()])[0] == pytest.approx(1 / 3)


def test_fednova_is_fedavg_for_equal_steps_and_corrects_unequal_ones() -> None:
    it = drawn(4, 9)
    equal = make_rule("fednova").aggregate(it, counts_of(4), [Report(steps=5)] * 4)
    np.testing.assert_allclose(equal, weighted_mean(it, counts_of(4)), rtol=1e-6)
    # Both go one unit a step; the one with nine steps must not draw the result to its own direction.
    pull = np.array([[1, 0], [0, 9]], np.float32)
    result = make_rule("fednova").aggregate(pull, [1, 1], [Report(steps=1), Report(steps=9)])
    np.testing.assert_allclose(result, [2.5, 2.5], rtol=1e-6)


def test_qfedavg_gives_more_weight_to_larger_losses() -> None:
    it = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    result = make_rule("qfedavg", q=2.0).aggregate(it, [1, 1], [Report(loss=1), Report(loss=3)])
    assert result[1] / result[0] == pytest.approx(9)


@pytest.mark.parametrize(
    ("name", "report", "message"),
    [
        ("staleness", Report(staleness=-1), "staleness is -1.0, not a number from 0"),
        ("fednova", Report(steps=0), "steps is 0.0, not a number above 0"),
        ("qfedavg", Report(loss=float("nan")), "loss is nan"),
    ],
)
def test_reports_of_no_use_are_refused(name: str, report: Report, message: str) -> None:
    with pytest.raises(RefusedUpdateError, match=message):
        make_rule(name).aggregate(drawn(2, 3), [1, 1], [Report(), report])
    with pytest.raises(RefusedUpdateError, match=f"rule {name} needs a report of each update"):
        make_rule(name).aggregate(drawn(2, 3), [1, 1])


def test_a_mean_that_leaves_float32_is_refused() -> None:
    it = np.full((2, 3), 1e38, np.float32)
    with pytest.raises(RefusedUpdateError, match="rule fednova: the result leaves float32"):
        make_rule("fednova").aggregate(it, [1, 1], [Report(steps=1e-3), Report(steps=1e6)])


# What they bear.


@pytest.mark.parametrize("name", RULES)
def test_tolerance_grows_with_the_number_and_stays_below_half(name: str) -> None:
    rule = make_rule(name)
    borne = [rule.tolerates(n) for n in range(1, 66)]
    assert borne == sorted(borne)
    assert all(2 * f < n for n, f in enumerate(borne, 1))
    assert (max(borne) == 0) == (name in MEANS)


def test_tolerance_is_that_of_the_papers() -> None:
    for name, least in {"krum": 3, "multi_krum": 3, "bulyan": 3, "median": 1, "trimmed_mean": 1}.items():
        factor = 4 if name == "bulyan" else 2
        for f in range(8):
            rule = make_rule(name, byzantine=f)
            assert rule.needs(f) == factor * f + least if f else rule.needs(f) == 1


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("f", [1, 2, 5])
def test_too_few_updates_are_refused(name: str, f: int) -> None:
    rule = make_rule(name, byzantine=f)
    n = rule.needs(f)
    assert aggregate(rule, drawn(n, 9)).shape == (9,)
    with pytest.raises(TooFewUpdatesError, match=rf"rule {name} bears .* among {n - 1}, not {f}: wait for {n} updates"):
        aggregate(rule, drawn(n - 1, 9))
    with pytest.raises(ValueError, match="rule fedavg bears no bad update"):
        make_rule("fedavg").needs(1)


def honest(n: int, p: int, seed: int) -> np.ndarray:
    """Updates of peers with different data: a common direction, and noise of the same size."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=p) + 0.5 * rng.normal(size=(n, p))).astype(np.float32)


def sign_flip(good: np.ndarray, f: int, _: np.random.Generator) -> np.ndarray:
    return np.tile(-10 * good.mean(0), (f, 1))


def scaled(good: np.ndarray, f: int, _: np.random.Generator) -> np.ndarray:
    return -1e6 * good[:f]


def enormous(good: np.ndarray, f: int, rng: np.random.Generator) -> np.ndarray:
    return 1e36 * rng.choice([-1.0, 1.0], size=(f, good.shape[1]))


def gaussian(good: np.ndarray, f: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 200, size=(f, good.shape[1]))


def little_is_enough(good: np.ndarray, f: int, _: np.random.Generator) -> np.ndarray:
    """Baruch et al., NeurIPS 2019 (arXiv:1902.06156): as far from the mean as honest updates are, all the same way."""
    return np.tile(good.mean(0) - 1.5 * good.std(0), (f, 1))


def inner_product(good: np.ndarray, f: int, _: np.random.Generator) -> np.ndarray:
    """Xie et al., UAI 2019 (arXiv:1903.03936): against the mean, and large enough to turn it."""
    return np.tile(-5 * good.mean(0), (f, 1))


ATTACKS = (sign_flip, scaled, enormous, gaussian, little_is_enough, inner_product)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda it: it.__name__)
@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("n", [15, 64])
def test_rules_bear_attacks(name: str, attack, n: int) -> None:
    f = min(make_rule(name).tolerates(n), n // 4)
    assert f >= 3
    good = honest(n - f, 2000, n)
    target = good.mean(0)
    bad = attack(good, f, np.random.default_rng(1)).astype(np.float32)
    order = np.random.default_rng(2).permutation(n)
    it = np.concatenate([good, bad])[order]
    rule = make_rule(name, byzantine=f, **({"norm_max": 50.0} if name == "norm_clipping" else {}))
    result = rule.aggregate(it, [10] * n)
    size = np.linalg.norm(target)
    cosine = float(result @ target) / (np.linalg.norm(result) * size)
    # Clipping shortens, and leaves a part of a common bad direction in; the others come nearer than an honest update.
    clipping = name in {"norm_clipping", "adaptive_clipping"}
    assert cosine > (0.8 if clipping else 0.85)
    assert np.linalg.norm(result) < 1.3 * size
    if not clipping:
        assert np.linalg.norm(result - target) < 1.1 * np.linalg.norm(good - target, axis=1).max()


@pytest.mark.parametrize("attack", [it for it in ATTACKS if it is not little_is_enough], ids=lambda it: it.__name__)
def test_the_mean_does_not_bear_them(attack) -> None:
    n, f = 15, 3
    good = honest(n - f, 2000, n)
    target = good.mean(0)
    bad = attack(good, f, np.random.default_rng(1)).astype(np.float32)
    result = weighted_mean(np.concatenate([good, bad]), [10] * n)
    size = np.linalg.norm(target)
    cosine = float(result.astype(np.float64) @ target) / (np.linalg.norm(result.astype(np.float64)) * size)
    assert cosine < 0.6


# By name.


@pytest.mark.parametrize("name", RULES)
def test_rules_are_made_by_name_and_every_bound_of_a_parameter_holds(name: str) -> None:
    rule = make_rule(name)
    assert rule.name == name
    assert isinstance(rule, RobustRule) == (name in ROBUST)
    for parameter in rule.parameters:
        assert parameter.text
        default = getattr(rule, parameter.name)
        assert make_rule(name, **{parameter.name: default}) == rule
        wrong: list[object] = ["1", True, float("nan"), float("inf"), parameter.low - 1]
        wrong += [parameter.low] if parameter.above else []
        wrong += [parameter.high] if parameter.below else [parameter.high + 1] if parameter.high < np.inf else []
        wrong += [1.5] if parameter.kind is int else []
        wrong += [] if parameter.optional else [None]
        for value in wrong:
            with pytest.raises(ParameterError, match=rf"rule {name}: {parameter.name} is .*, not an? "):
                make_rule(name, **{parameter.name: value})  # type: ignore[arg-type]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ParameterError, match="rule 'mean' is not one of fedavg, staleness"):
        make_rule("mean")
    with pytest.raises(ParameterError, match="rule fedavg: 'f' is not one of none"):
        make_rule("fedavg", f=1)
    with pytest.raises(ParameterError, match="rule krum: 'f' is not one of byzantine"):
        make_rule("krum", f=1)
    for size in (0, True, 1.0):
        with pytest.raises(ParameterError, match="trained_size is"):
            make_rule("krum", trained_size=size)  # type: ignore[arg-type]


def test_the_smallest_value_is_its_own_median() -> None:
    row = np.array([1e-45, -1e-45], np.float32)
    for n in (1, 3):
        np.testing.assert_array_equal(make_rule("median", byzantine=0).aggregate([row] * n, [1] * n), row)


def test_iterations_end_where_they_are_told_to() -> None:
    it = drawn(9, 30)
    once = aggregate(make_rule("geometric_median", iterations=2), it)
    twice = aggregate(make_rule("geometric_median", iterations=3), it)
    assert not np.array_equal(once, twice)
