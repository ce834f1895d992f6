"""Divisions: never empty, never overlapping, the same again, and as skewed as they say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.errors import DataError
from data_shards.split import EXAMPLES_MIN, divide, limit, matching_test

SCHEMES = (
    st.just("iid")
    | st.floats(1e-300, 100).map(lambda alpha: f"dirichlet:{alpha!r}")
    | st.floats(1e-300, 100).map(lambda alpha: f"quantity:{alpha!r}")
)
LABELS = st.lists(st.integers(0, 9), min_size=2, max_size=120).map(lambda it: np.array(it, np.int32))


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def check_division(parts: list[np.ndarray], examples: int, peers: int, everything: bool = True) -> None:
    together = np.concatenate(parts)
    assert len(parts) == peers
    assert min(len(part) for part in parts) >= EXAMPLES_MIN
    assert len(set(together.tolist())) == len(together)
    assert 0 <= together.min() <= together.max() < examples
    assert not everything or len(together) == examples
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


@given(SCHEMES, LABELS, st.integers(1, 12), st.integers(0, 2**32))
@settings(deadline=None)
def test_nobody_is_left_empty_and_no_example_is_held_twice(scheme: str, labels, peers: int, seed: int) -> None:
    if len(labels) < EXAMPLES_MIN * peers:
        with pytest.raises(DataError, match=f"{len(labels)} examples are too few for {peers} peers"):
            divide(scheme, labels, peers, rng(seed))
        return
    parts = divide(scheme, labels, peers, rng(seed))
    check_division(parts, len(labels), peers)
    again = divide(scheme, labels, peers, rng(seed))
    assert [part.tobytes() for part in parts] == [part.tobytes() for part in again]


@given(LABELS, st.integers(1, 12), st.integers(1, 10), st.integers(0, 2**32))
@settings(deadline=None)
def test_labels_k_gives_at_most_k_classes_or_says_why_not(labels, peers: int, count: int, seed: int) -> None:
    scheme = f"labels:{count}"
    try:
        parts = divide(scheme, labels, peers, rng(seed))
    except DataError as error:
        assert "choose" in str(error)  # noqa: PT017 - it may also work
        return
    check_division(parts, len(labels), peers)
    assert max(len(np.unique(labels[part])) for part in parts) <= count


def test_labels_k_works_where_there_is_enough() -> None:
    labels = (np.arange(1000) % 10).astype(np.int32)
    parts = divide("labels:2", labels, 7, rng())
    check_division(parts, 1000, 7)
    assert [len(np.unique(labels[part])) for part in parts] == [2] * 7


@given(st.integers(1, 9), st.integers(20, 200), st.integers(0, 99))
@settings(deadline=None)
def test_iid_parts_differ_by_one_at_most(peers: int, examples: int, seed: int) -> None:
    sizes = [len(part) for part in divide("iid", np.zeros(examples, np.int32), peers, rng(seed))]
    assert max(sizes) - min(sizes) <= 1


def skew(scheme: str) -> float:
    """Largest share that one peer has of one class, averaged over classes."""
    labels = (np.arange(4000) % 10).astype(np.int32)
    parts = divide(scheme, labels, 4, rng())
    counts = np.array([np.bincount(labels[part], minlength=10) for part in parts])
    return float((counts.max(0) / counts.sum(0)).mean())


def test_a_smaller_alpha_is_more_uneven() -> None:
    assert skew("iid") < 0.32
    assert skew("dirichlet:100") < 0.35
    assert skew("dirichlet:1") > 0.4
    assert skew("dirichlet:0.05") > 0.8


def test_quantity_skews_sizes_and_not_classes() -> None:
    labels = (np.arange(8000) % 4).astype(np.int32)
    parts = divide("quantity:0.5", labels, 4, rng())
    sizes = sorted(len(part) for part in parts)
    assert sizes[-1] > 3 * sizes[0]
    shares = np.bincount(labels[max(parts, key=len)], minlength=4) / sizes[-1]
    assert np.abs(shares - 0.25).max() < 0.05


def test_other_seeds_divide_otherwise() -> None:
    labels = np.zeros(50, np.int32)
    for scheme in ("iid", "dirichlet:1", "quantity:1", "labels:1"):
        one, other = (divide(scheme, labels, 2, rng(seed)) for seed in (1, 2))
        assert one[0].tobytes() != other[0].tobytes()


@pytest.mark.parametrize(
    ("scheme", "digest"),
    [
        ("iid", "23d399daf72b79c8"),
        ("dirichlet:0.3", "39e4ab29ed550492"),
        ("labels:2", "e2dca969cec9e8cf"),
        ("quantity:1.5", "23f2fb3dfa51eeb0"),
    ],
)
def test_every_machine_and_numpy_divides_alike(scheme: str, digest: str) -> None:
    labels = (np.arange(500) % 10).astype(np.int32)
    parts = divide(scheme, labels, 5, rng(7))
    assert hashlib.sha256(b"|".join(part.astype("<i8").tobytes() for part in parts)).hexdigest()[:16] == digest


def test_ten_thousand_peers_are_divided_in_reasonable_time() -> None:
    labels = (np.arange(40_000) % 10).astype(np.int32)
    check_division(divide("dirichlet:0.01", labels, 10_000, rng()), 40_000, 10_000)


IMPOSSIBLE = {
    "": "choose iid, dirichlet:0.3",
    "idd": "choose iid, dirichlet:0.3",
    "iid:3": "No module named 'iid'.*choose iid",
    "iid:": "choose iid",
    "dirichlet": "'' is not a number above 0",
    "dirichlet:0": "'0' is not a number above 0",
    "dirichlet:-1": "'-1' is not a number",
    "dirichlet:nan": "'nan' is not a number",
    "dirichlet:inf": "'inf' is not a number",
    "quantity:few": "'few' is not a number",
    "labels:2.5": "'2.5' is not a whole number",
    "labels:0": "'0' is not a whole number",
    "labels:11": "the data has 10 classes; choose at most that many",
    "labels:1": "cannot hold all 10 classes; choose labels:3 or more",
    ":function": "choose iid",
    "..up:function": "choose iid",
    "no_such_module:function": "No module named 'no_such_module'",
    "math:no_such_function": "no attribute 'no_such_function'",
    "math:pi": "pi is no function of",
}


@pytest.mark.parametrize("scheme", IMPOSSIBLE)
def test_an_impossible_scheme_is_named_with_what_to_choose(scheme: str) -> None:
    labels = (np.arange(100) % 10).astype(np.int32)
    with pytest.raises(DataError, match=IMPOSSIBLE[scheme]) as raised:
        divide(scheme, labels, 4, rng())
    assert f"split {scheme}" in str(raised.value) or f"split {scheme!r}" in str(raised.value)


def test_a_rare_class_does_not_break_the_promise_of_labels_k() -> None:
    labels = np.array([0] * 50 + [1], np.int32)
    with pytest.raises(DataError, match=r"labels:1: peer \d of 2 would hold 1 examples.*choose"):
        divide("labels:1", labels, 2, rng())


# ---------------------------------------------------------------------- a function of the user's own

OWN = """
import numpy as np
def halves(labels, peers, rng):
    return np.array_split(np.arange(len(labels)), peers)
def unsigned(labels, peers, rng):
    return [part.astype(np.uint64) for part in np.array_split(np.arange(len(labels)), peers)]
def one_has_all(labels, peers, rng):
    return [list(range(len(labels)))] + [[] for _ in range(peers - 1)]
def few(labels, peers, rng):
    return [[peer, peer + peers] for peer in range(peers)]
def too_few(labels, peers, rng):
    return [[peer] for peer in range(peers)]
def nothing(labels, peers, rng):
    return None
def short(labels, peers, rng):
    return [[0, 1]]
def twice(labels, peers, rng):
    return [[0, 1], [1, 2]]
def outside(labels, peers, rng):
    return [[0, 1], [2, len(labels)]]
def negative(labels, peers, rng):
    return [[0, 1], [-1, 2]]
def masks(labels, peers, rng):
    return [labels == 0, labels == 1]
def floats(labels, peers, rng):
    return [[0.0, 1.0], [2.0, 3.0]]
def ragged(labels, peers, rng):
    return [[[1], [2, 3]], [4, 5]]
def huge(labels, peers, rng):
    return [np.array([2**64 - 1], np.uint64), [1, 2]]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("function", ["halves", "unsigned", "one_has_all"])
def test_own_function(own: str, function: str) -> None:
    check_division(divide(f"{own}:{function}", np.zeros(20, np.int32), 2, rng()), 20, 2)


def test_own_function_may_leave_examples_out(own: str) -> None:
    check_division(divide(f"{own}:few", np.zeros(20, np.int32), 2, rng()), 20, 2, everything=False)


@pytest.mark.parametrize(
    ("function", "message"),
    {
        "too_few": "left peer 1 with 1 examples, and none can spare any",
        "nothing": "gave NoneType, not 2 one-dimensional",
        "short": "gave 1 parts, not 2",
        "twice": "gave an example to two peers",
        "outside": r"gave indices outside 0\.\.19: 2 to 20",
        "negative": r"gave indices outside 0\.\.19: -1 to 2",
        "masks": r"gave bool\[20\]",
        "floats": r"gave float64\[2\]",
        "ragged": "gave list, not 2",
        "huge": "gave indices outside",
    }.items(),
)
def test_own_function_that_gives_no_division(own: str, function: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"split '{own}:{function}' {message}"):
        divide(f"{own}:{function}", np.zeros(20, np.int32), 2, rng())


def test_own_module_that_does_not_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match=r"split 'own_broken:f': .*invalid syntax"):
        divide("own_broken:f", np.zeros(20, np.int32), 2, rng())


# ---------------------------------------------------------------------- limits and tests


def test_limit_draws_some_and_keeps_all_of_few() -> None:
    part = np.arange(10, 30)
    np.testing.assert_array_equal(limit(part, None, rng()), part)
    np.testing.assert_array_equal(limit(part, 20, rng()), part)
    some = limit(part, 5, rng())
    assert (np.diff(some) > 0).all()
    assert set(some.tolist()) < set(part.tolist())
    assert some.tolist() != part[:5].tolist()


@given(SCHEMES, LABELS, st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 999))
@settings(deadline=None)
def test_the_test_set_is_divided_whole(scheme: str, labels, tests: list[int], peers: int, seed: int) -> None:
    peers = min(peers, len(labels) // EXAMPLES_MIN)
    train = [labels[part] for part in divide(scheme, labels, peers, rng(seed))]
    test_labels = np.array(tests, np.int32)
    if len(tests) < peers:
        with pytest.raises(DataError, match=f"{len(tests)} test examples are too few for {peers} peers"):
            matching_test(train, test_labels, rng(seed))
        return
    parts = matching_test(train, test_labels, rng(seed))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(tests)))
    assert min(len(part) for part in parts) >= 1


def test_peers_are_tested_on_the_classes_that_they_train_on() -> None:
    labels = (np.arange(2000) % 10).astype(np.int32)
    tests = (np.arange(500) % 10).astype(np.int32)
    train = [labels[part] for part in divide("labels:3", labels, 5, rng())]
    for mine, part in zip(train, matching_test(train, tests, rng()), strict=True):
        assert set(tests[part].tolist()) == set(mine.tolist())


def test_a_peers_share_of_the_tests_is_its_share_of_the_training() -> None:
    labels = (np.arange(4000) % 10).astype(np.int32)
    tests = (np.arange(1000) % 10).astype(np.int32)
    for scheme in ("iid", "dirichlet:0.5"):
        train = [labels[part] for part in divide(scheme, labels, 4, rng())]
        held = np.array([np.bincount(mine, minlength=10) for mine in train])
        tested = np.array([np.bincount(tests[part], minlength=10) for part in matching_test(train, tests, rng())])
        assert np.abs(tested - held / 4).max() <= 1
