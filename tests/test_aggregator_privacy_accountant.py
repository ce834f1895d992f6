"""The accountant beside Google's dp-accounting and beside the exact privacy of Gaussian noise.

dp-accounting brings scipy and 200 MB, too much for an environment that 32-bit boards share: LIBRARY is what it gave.
With it installed, `python -m tests.test_aggregator_privacy_accountant` prints that table again.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator_core.parameters import ParameterError
from aggregator_core.privacy_accountant import (
    Spent,
    best_order_above_one,
    epsilon,
    epsilon_of_order,
    noise_multiplier_for,
)

#: By dp-accounting 0.6.0: rounds with each noise multiplier, delta, and of `RdpAccountant` epsilon and order, among
#: 20,000 orders and among its own; last the exact epsilon, by its `get_epsilon_gaussian`.
LIBRARY: list[tuple[dict[float, int], float, float, float, float, float]] = [
    ({0.3: 1}, 1e-08, 24.77256702340744, 2.7705671634179225, 24.775423540371634, 23.677669725280005),
    ({0.3: 1}, 1e-05, 20.391499733108763, 2.384544967335721, 20.392520209469453, 19.130767834361926),
    ({0.3: 1}, 0.01, 14.194133206569983, 1.8474155028130506, 14.210799185141136, 12.558040975793338),
    ({0.7: 20}, 1e-08, 57.757650934005305, 1.9326066006857738, 57.78254786645138, 55.54565960638868),
    ({0.7: 20}, 1e-05, 49.46332688445081, 1.7326444172975544, 49.495570375888164, 46.89152261144753),
    ({0.7: 20}, 0.01, 37.82847654619866, 1.45507492286257, 37.91304276505093, 34.421320943499744),
    ({1.0: 1}, 1e-08, 6.086158696096027, 6.745634121121731, 6.0863539497691015, 5.776098382890259),
    ({1.0: 1}, 1e-05, 4.728387018920323, 5.43131197637102, 4.728507067217623, 4.377178095681137),
    ({1.0: 1}, 0.01, 2.7530495486234283, 3.580599364744701, 2.7531300382292283, 2.3177890403040493),
    ({1.0: 100}, 1e-08, 108.9369127312203, 1.59936155776312, 108.936965938166, 105.32724708875074),
    ({1.0: 100}, 1e-05, 96.03527068872614, 1.4717193421219112, 96.11630842505602, 91.81728962466373),
    ({1.0: 100}, 0.01, 78.00514478174814, 1.2948991248117112, 78.00968266960857, 72.36628944103342),
    ({2.0: 10}, 1e-08, 10.195850194809303, 4.675600199389856, 10.19607253667372, 9.697845191656523),
    ({2.0: 10}, 1e-05, 8.078360074803001, 3.8505111632359807, 8.079406222420491, 7.511275900744785),
    ({2.0: 10}, 0.01, 5.037034465355493, 2.7002450752017984, 5.0370343680388325, 4.322232584982162),
    ({5.0: 1000}, 1e-08, 56.966809254562946, 1.9421036902338173, 57.007037662369754, 54.7790322654519),
    ({5.0: 1000}, 1e-05, 48.75452273525928, 1.7401052154870937, 48.80169282486775, 46.21121019121809),
    ({5.0: 1000}, 0.01, 37.23358297999822, 1.4597091247761278, 37.300797867091745, 33.865037449693574),
    ({40.0: 1}, 1e-08, 0.12337600984851145, 205.6517915056269, 0.1265782704807178, 0.11557495241349094),
    ({40.0: 1}, 1e-05, 0.08378149744406024, 145.61322467812693, 0.08460481624803404, 0.07494168719786432),
    ({40.0: 1}, 0.01, 0.009554480577314313, 48.88329293488885, 0.009554668794711504, 0.0),
    ({100.0: 20}, 1e-08, 0.22615573623735719, 117.78938464272389, 0.2269965900982871, 0.21230540062681988),
    ({100.0: 20}, 1e-05, 0.15733539730682794, 85.06132473043033, 0.16586725121127976, 0.14168536707790494),
    ({100.0: 20}, 0.01, 0.03683774193293171, 33.883334387604116, 0.03683823871007429, 0.01906348426882236),
    ({1.0: 3, 4.0: 30}, 1e-05, 12.10889080352448, 3.064979505773621, 12.110367782514054, 11.300286050172739),
    ({0.5: 1, 2.0: 7, 10.0: 200}, 1e-06, 17.510871355370963, 2.816824449410043, 17.51144010371158, 16.527094351595924),
]

DELTAS = st.floats(-30, -1).map(lambda it: 10.0**it)
NOISE = st.floats(-3, 3).map(lambda it: 10.0**it)
ROUNDS = st.integers(1, 100_000)


def spent_on(releases: dict[float, int]) -> Spent:
    spent = Spent()
    for noise_multiplier, rounds in releases.items():
        spent = spent.after(noise_multiplier, rounds)
    return spent


def exact_delta(epsilon: float, mu: float) -> float:
    """Delta of Gaussian noise of deviation 1 / mu, sensitivity 1: Balle and Wang 2018, theorem 8."""
    near, far = (epsilon / mu - mu / 2) / math.sqrt(2), (epsilon / mu + mu / 2) / math.sqrt(2)
    return (math.erfc(near) - math.exp(epsilon) * math.erfc(far)) / 2


@pytest.mark.parametrize(("releases", "delta", "best", "order", "own_orders", "exact"), LIBRARY)
def test_epsilon_is_the_librarys(
    releases: dict[float, int], delta: float, best: float, order: float, own_orders: float, exact: float
) -> None:
    spent = spent_on(releases)
    assert epsilon_of_order(spent.rho, delta, order - 1) == pytest.approx(best, rel=1e-9)
    # Among all orders there is a slightly better one.
    assert best * (1 - 1e-6) <= spent.epsilon(delta) <= best * (1 + 1e-12)
    assert spent.epsilon(delta) <= own_orders * (1 + 1e-12)
    assert exact <= spent.epsilon(delta)


@given(NOISE, ROUNDS, DELTAS)
def test_the_order_is_the_best(noise_multiplier: float, rounds: int, delta: float) -> None:
    """Beside orders all over the place and close by."""
    rho = rounds / (2 * noise_multiplier**2)
    best = best_order_above_one(rho, delta)
    least = epsilon_of_order(rho, delta, best)
    for power in range(-120, 400):
        factor = 10.0 ** (power / 20 - 7)
        assert least <= epsilon_of_order(rho, delta, best * factor) + 1e-12 * (abs(least) + rho)


@given(st.floats(0.05, 30), st.floats(-8, -2))
def test_epsilon_is_above_the_exact_one_and_not_by_much(mu: float, log10_delta: float) -> None:
    """Rounds with multipliers z are Gaussian noise of one release with mu**2 = sum of 1 / z**2 (Dong et al. 2022)."""
    delta = 10.0**log10_delta
    # With what is told, the noise has a smaller delta, but not below a twentieth.
    assert 0.05 * delta < exact_delta(Spent(mu**2 / 2).epsilon(delta), mu) < delta


@given(NOISE, ROUNDS, DELTAS, st.floats(1.001, 10), st.integers(1, 1000))
def test_more_rounds_cost_more_and_more_noise_or_delta_less(
    noise_multiplier: float, rounds: int, delta: float, factor: float, more: int
) -> None:
    base = epsilon(noise_multiplier, rounds, delta)
    slack = 1e-12 * (1 + base)
    assert epsilon(noise_multiplier, rounds + more, delta) >= base - slack
    if noise_multiplier * factor <= 1000:
        assert epsilon(noise_multiplier * factor, rounds, delta) <= base + slack
    assert epsilon(noise_multiplier, rounds, min(0.5, delta * factor)) <= base + slack


@given(st.lists(st.tuples(NOISE, st.integers(0, 1000)), max_size=6), DELTAS)
def test_releases_add_up_in_any_order(releases: list[tuple[float, int]], delta: float) -> None:
    forth, back = Spent(), Spent()
    for noise_multiplier, rounds in releases:
        forth = forth.after(noise_multiplier, rounds)
    for noise_multiplier, rounds in reversed(releases):
        for part in (rounds // 2, rounds - rounds // 2):
            back = back.after(noise_multiplier, part)
    assert forth.epsilon(delta) == pytest.approx(back.epsilon(delta), rel=1e-9, abs=1e-12)


def test_nothing_released_costs_nothing() -> None:
    assert Spent().epsilon(1e-5) == epsilon(1.0, 0, 1e-5) == 0.0
    # So little cannot be seen with a probability above delta.
    assert Spent(9.9e-5).epsilon(0.01) == 0.0 < Spent(1.5e-4).epsilon(0.01)


@given(st.floats(0.5, 100), st.integers(1, 1000), st.floats(-12, -2))
def test_the_noise_for_an_epsilon_is_the_least_that_gives_it(target: float, rounds: int, log10_delta: float) -> None:
    delta = 10.0**log10_delta
    noise_multiplier = noise_multiplier_for(target, rounds, delta)
    assert epsilon(noise_multiplier, rounds, delta) <= target
    assert epsilon(noise_multiplier * (1 - 1e-9), rounds, delta) > target


def test_the_smallest_noise_is_enough_for_a_huge_epsilon_and_none_for_a_tiny_one() -> None:
    assert noise_multiplier_for(1e6, 1, 1e-5) == 1e-3
    with pytest.raises(ParameterError, match="epsilon is 1e-05, which 100 rounds with delta 1e-05 cannot have"):
        noise_multiplier_for(1e-5, 100, 1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epsilon(0.0, 1, 1e-5), "rule privacy: noise_multiplier is 0.0, not a number from 0.001 to 1000"),
        (lambda: epsilon(math.nan, 1, 1e-5), "noise_multiplier is nan"),
        (lambda: epsilon(1.0, -1, 1e-5), "rounds is -1, not an integer from 0"),
        (lambda: epsilon(1.0, 1.0, 1e-5), "rounds is 1.0, not an integer"),  # type: ignore[arg-type]
        (lambda: epsilon(1.0, 1, 0.0), "delta is 0.0, not a number from 1e-100 and below 1"),
        (lambda: epsilon(1.0, 1, 1.0), "delta is 1.0"),
        (lambda: noise_multiplier_for(0.0, 1, 1e-5), "epsilon is 0.0, not a number above 0 to 1e"),
        (lambda: noise_multiplier_for(1.0, 0, 1e-5), "rounds is 0, not an integer from 1"),
        (lambda: Spent(-1.0), "rho is -1.0, not a number from 0"),
        (lambda: Spent(math.inf), "rho is inf"),
    ],
)
def test_values_out_of_range_are_named(call, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        call()


def main() -> None:
    """Print LIBRARY as the installed dp-accounting gives it."""
    import dp_accounting
    import numpy as np
    from dp_accounting.rdp import RdpAccountant

    orders = (1 + np.geomspace(1e-2, 1e6, 20_000)).tolist()
    cases: list[tuple[dict[float, int], float]] = [
        ({z: rounds}, delta)
        for z, rounds in ((0.3, 1), (0.7, 20), (1.0, 1), (1.0, 100), (2.0, 10), (5.0, 1000), (40.0, 1), (100.0, 20))
        for delta in (1e-8, 1e-5, 1e-2)
    ]
    cases += [({1.0: 3, 4.0: 30}, 1e-5), ({0.5: 1, 2.0: 7, 10.0: 200}, 1e-6)]
    for releases, delta in cases:
        row: list[float] = []
        for own in (orders, None):
            accountant = RdpAccountant(own, dp_accounting.NeighboringRelation.REPLACE_ONE)
            for z, rounds in releases.items():
                accountant.compose(dp_accounting.GaussianDpEvent(z), rounds)
            found, order = accountant.get_epsilon_and_optimal_order(delta)
            row += [float(found), float(order)] if own else [float(found)]
        sigma = 1 / math.sqrt(sum(rounds / z**2 for z, rounds in releases.items()))
        row.append(float(dp_accounting.get_epsilon_gaussian(sigma, delta)))
        print(f"    ({releases}, {delta:g}, {', '.join(map(repr, row))}),")


if __name__ == "__main__":
    main()
