"""Error feedback: nothing is lost, it only comes later."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_aggregator_codecs import NAMES, WHOLE, changes, noise

from aggregator_core import RefusedUpdateError
from aggregator_core.codecs import decode, encode, encode_with_feedback
from aggregator_core.codecs.plan import plan_of

ROUNDS = 30
LOSSY = [name for name in NAMES if name != "float32"]


@pytest.mark.parametrize("name", NAMES)
@given(it=changes(largest=30_000.0), seed=st.none() | st.integers(0, 9))
def test_the_residual_is_what_the_receiver_lacks(name: str, it, seed: int | None) -> None:
    layout, change = it
    residual = (change[::-1] / 2).astype(np.float32)
    before = change.copy(), residual.copy()
    payload, left = encode_with_feedback(name, change, residual, layout, None if seed is None else random.Random(seed))
    wanted = change + residual
    assert payload == encode(name, wanted, layout, None if seed is None else random.Random(seed))
    assert left.dtype == np.float32
    assert left.tobytes() == (wanted - decode(name, payload, layout)).tobytes()
    assert (change.tobytes(), residual.tobytes()) == (before[0].tobytes(), before[1].tobytes())


@pytest.mark.parametrize("name", NAMES)
@given(it=changes(largest=30_000.0))
def test_what_is_exact_leaves_nothing(name: str, it) -> None:
    layout, change = it
    _, left = encode_with_feedback(name, change, np.zeros_like(change), layout)
    for tensor in plan_of(layout).exact:
        assert not left[tensor.offset : tensor.offset + tensor.size].any()
    if name == "float32":
        assert not left.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stochastic", [False, True])
def test_over_rounds_everything_is_sent_but_the_last_residual(name: str, stochastic: bool) -> None:
    rng = random.Random(1) if stochastic else None
    residual = np.zeros(WHOLE.size, np.float32)
    sent, said = np.zeros(WHOLE.size), np.zeros(WHOLE.size)
    for round_ in range(ROUNDS):
        change = noise(WHOLE, round_)
        payload, residual = encode_with_feedback(name, change, residual, WHOLE, rng)
        said += change
        sent += decode(name, payload, WHOLE)
    # Each round rounds two sums to float32.
    np.testing.assert_allclose(sent + residual, said, rtol=0, atol=2 * ROUNDS * 2.0**-24 * np.abs(said).max())


@pytest.mark.parametrize("name", LOSSY)
def test_a_steady_change_arrives_whole_where_it_never_would_without(name: str) -> None:
    change = noise(WHOLE, 1)
    residual = np.zeros_like(change)
    rounds = 200
    with_feedback, without = np.zeros(WHOLE.size), np.zeros(WHOLE.size)
    for _ in range(rounds):
        payload, residual = encode_with_feedback(name, change, residual, WHOLE)
        with_feedback += decode(name, payload, WHOLE)
        without += decode(name, encode(name, change, WHOLE), WHOLE)
    errors = [float(np.abs(it / rounds - change).mean()) for it in (with_feedback, without)]
    assert errors[0] < errors[1] / 2


def test_a_value_too_small_for_top_k_is_sent_in_time() -> None:
    change = np.zeros(WHOLE.size, np.float32)
    offset = plan_of(WHOLE).parts[-1].offset
    count = 6
    # The fraction keeps six values, and six are always larger than the seventh alone.
    change[offset : offset + count] = 1.0
    change[offset + count] = 0.3
    residual = np.zeros_like(change)
    sent = np.zeros(WHOLE.size)
    rounds = 40
    for _ in range(rounds):
        payload, residual = encode_with_feedback("topk-0.008", change, residual, WHOLE)
        sent += decode("topk-0.008", payload, WHOLE)
        assert decode("topk-0.008", encode("topk-0.008", change, WHOLE), WHOLE)[offset + count] == 0
    assert sent[offset + count] == pytest.approx(0.3 * rounds, abs=1.5)


@pytest.mark.parametrize("which", ["change", "residual"])
def test_vectors_of_no_use_are_refused(which: str) -> None:
    for bad, message in (
        (np.full(WHOLE.size, np.nan, np.float32), "not finite"),
        (np.zeros(WHOLE.size - 1, np.float32), "shape is"),
        (np.zeros(WHOLE.size), "float64, not float32"),
    ):
        good = np.zeros(WHOLE.size, np.float32)
        change, residual = (bad, good) if which == "change" else (good, bad)
        with pytest.raises(RefusedUpdateError, match=message):
            encode_with_feedback("int8", change, residual, WHOLE)  # type: ignore[arg-type]


def test_a_sum_beyond_float32_is_refused() -> None:
    huge = np.full(WHOLE.size, 3e38, np.float32)
    with pytest.raises(RefusedUpdateError, match="values are not finite"):
        encode_with_feedback("int8", huge, huge, WHOLE)
