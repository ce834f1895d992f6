"""Server optimizers: the papers' lines by hand, and that a new controller goes on exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aggregator_core import RefusedUpdateError
from aggregator_core.means import momentum_steps, proximal_steps
from aggregator_core.parameters import ParameterError
from aggregator_core.server_optimizers import OPTIMIZERS, ServerOptimizer, make_optimizer


def updates(rounds: int, size: int = 50) -> np.ndarray:
    return np.random.default_rng(rounds).normal(0, 0.1, size=(rounds, size)).astype(np.float32)


def by_hand(name: str, values: list[float]) -> list[float]:
    """Steps for one coordinate, with the defaults of Reddi et al., algorithm 2, and of Hsu et al."""
    steps, m, v = [], 0.0, 1e-3**2
    for d in values:
        if name == "fedavgm":
            m = 0.9 * m + d
            steps.append(m)
            continue
        beta1 = 0.0 if name == "fedadagrad" else 0.9
        m = beta1 * m + (1 - beta1) * d
        if name == "fedadagrad":
            v = v + d * d
        elif name == "fedadam":
            v = 0.99 * v + 0.01 * d * d
        else:
            v = v - 0.01 * d * d * math.copysign(1, v - d * d)
        steps.append(0.01 * m / (math.sqrt(v) + 1e-3))
    return steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_paper(name: str) -> None:
    optimizer = make_optimizer(name)
    rounds = updates(20)
    state = optimizer.initial(50)
    changes = []
    for update in rounds:
        change, state = optimizer.step(update, state)
        assert change.dtype == np.float32
        assert all(value.dtype == np.float32 and value.shape == (50,) for value in state.values())
        changes.append(change)
    expected = np.array([by_hand(name, column) for column in rounds.T.tolist()]).T
    np.testing.assert_allclose(np.array(changes), expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_new_controller_goes_on_with_the_same_bytes(name: str) -> None:
    """Killed after five rounds of ten, with the state as bytes between them, beside a run that was not."""

    def run(optimizer: ServerOptimizer, model: np.ndarray, state: dict, rounds: np.ndarray) -> tuple:
        for update in rounds:
            change, state = optimizer.step(update, state)
            model = model + change
        return model, state

    rounds, start = updates(10), np.zeros(50, np.float32)
    whole, _ = run(make_optimizer(name), start, make_optimizer(name).initial(50), rounds)
    model, state = run(make_optimizer(name), start, make_optimizer(name).initial(50), rounds[:5])
    saved = {slot: value.tobytes() for slot, value in state.items()}
    read = {slot: np.frombuffer(value, np.float32) for slot, value in saved.items()}
    continued, _ = run(make_optimizer(name), model, read, rounds[5:])
    assert continued.tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_inputs_stay_and_the_state_of_the_model_is_taken_as_it_is(name: str) -> None:
    optimizer = make_optimizer(name)
    update = updates(1)[0]
    update.flags.writeable = False
    state = optimizer.initial(40)
    for value in state.values():
        value.flags.writeable = False
    change, new = optimizer.step(update, state)
    np.testing.assert_array_equal(change[40:], update[40:])
    assert not np.array_equal(change[:40], update[:40]) or name == "fedavgm"
    assert not any(np.shares_memory(new[slot], state[slot]) for slot in state)
    alone, _ = optimizer.step(update[:40], state)
    assert alone.tobytes() == change[:40].tobytes()


def test_momentum_of_zero_is_the_mean() -> None:
    optimizer = make_optimizer("fedavgm", momentum=0.0)
    update = updates(1)[0]
    np.testing.assert_array_equal(optimizer.step(update, optimizer.initial(50))[0], update)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_and_updates_of_no_use_are_refused(name: str) -> None:
    optimizer = make_optimizer(name)
    update, state = updates(1)[0], optimizer.initial(50)
    slot = optimizer.slots[-1]
    cases = [
        ({**state, "other": update}, update, "the state has .*other.*initial"),
        ({**state, slot: np.ones(51, np.float32)}, update, "has 5[01] values"),
        ({**state, slot: np.full(50, np.nan, np.float32)}, update, "50 of 50 values are not finite"),
        ({**state, slot: np.ones(50)}, update, "float64, not float32"),
        (state, update * np.float32(np.inf), "not finite"),
        (state, updates(1)[0].astype(np.float64), "float64"),
    ]
    if name != "fedavgm":
        cases.append(({**state, slot: -np.ones(50, np.float32)}, update, "square is negative"))
        cases.append((state, update * np.float32(1e30), "square leaves float32; lower learning_rate"))
    for bad, values, message in cases:
        with pytest.raises(RefusedUpdateError, match=message), np.errstate(invalid="ignore"):
            optimizer.step(values, bad)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_keep_to_their_ranges(name: str) -> None:
    optimizer = make_optimizer(name)
    assert optimizer.name == name
    for parameter in optimizer.parameters:
        assert make_optimizer(name, **{parameter.name: getattr(optimizer, parameter.name)}) == optimizer
        wrong = [parameter.low - 1, parameter.high + 1, math.nan, True]
        wrong += [parameter.low] if parameter.above else []
        wrong += [parameter.high] if parameter.below else []
        for value in wrong:
            with pytest.raises(ParameterError, match=rf"rule {name}: {parameter.name} is .*, not a number"):
                make_optimizer(name, **{parameter.name: value})
    with pytest.raises(ParameterError, match=f"optimizer {name}: 'rate' is not one of learning_rate"):
        make_optimizer(name, rate=1.0)
    with pytest.raises(ParameterError, match="optimizer 'adam' is not one of fedavgm"):
        make_optimizer("adam")


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.0), (1, 0.9), (7, 0.0), (7, 0.5), (40, 0.9)])
def test_momentum_steps_are_the_sum_of_the_coefficients(steps: int, momentum: float) -> None:
    # The k-th last gradient has gone into 1 + momentum + ... + momentum ** (k - 1) steps.
    expected = sum(sum(momentum**power for power in range(k)) for k in range(1, steps + 1))
    assert momentum_steps(steps, momentum) == pytest.approx(expected)


@pytest.mark.parametrize(("steps", "rate", "proximal"), [(1, 0.1, 1.0), (7, 0.1, 0.0), (7, 0.1, 2.0)])
def test_proximal_steps_are_the_sum_of_the_coefficients(steps: int, rate: float, proximal: float) -> None:
    expected = sum((1 - rate * proximal) ** power for power in range(steps))
    assert proximal_steps(steps, rate, proximal) == pytest.approx(expected)


def test_steps_out_of_range_are_refused() -> None:
    for steps, momentum in ((0, 0.5), (3, 1.0), (3, -0.1)):
        with pytest.raises(ParameterError, match="steps is"):
            momentum_steps(steps, momentum)
    for steps, rate in ((0, 0.1), (3, 2.0)):
        with pytest.raises(ParameterError, match="steps is"):
            proximal_steps(steps, rate, 1.0)
