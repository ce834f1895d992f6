"""Division by subject: nobody's examples go to two peers, and every peer is tested on its own subjects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.build import build
from data_shards.datasets import Dataset, load_dataset
from data_shards.errors import DataError
from data_shards.shard import read_shard
from data_shards.split import EXAMPLES_MIN, divide, own_test

SUBJECTS = st.lists(st.integers(0, 12), min_size=2, max_size=120).map(lambda it: np.array(it, np.int32))


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def by_subject(subjects: np.ndarray, peers: int, seed: int = 1) -> list[np.ndarray]:
    return divide("subjects", np.zeros(len(subjects), np.int32), peers, rng(seed), subjects)


@given(SUBJECTS, st.integers(1, 8), st.integers(0, 2**32))
@settings(deadline=None)
def test_subjects_stay_whole_or_it_says_why_not(subjects: np.ndarray, peers: int, seed: int) -> None:
    try:
        parts = by_subject(subjects, peers, seed)
    except DataError as error:
        # Only where there are too few subjects or examples, or a peer's only subject has a single one.
        assert "choose" in str(error)  # noqa: PT017
        known, counts = np.unique(subjects, return_counts=True)
        assert len(subjects) < EXAMPLES_MIN * peers or len(known) < peers or 1 in counts
        return
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(subjects)))
    owners = [set(subjects[part].tolist()) for part in parts]
    assert sum(len(it) for it in owners) == len(set(subjects.tolist()))
    sizes = [len(it) for it in owners]
    assert max(sizes) - min(sizes) <= 1
    for part in parts:
        assert part.dtype == np.int64
        assert len(part) >= EXAMPLES_MIN
        assert (np.diff(part) > 0).all()
    again = by_subject(subjects, peers, seed)
    assert [part.tobytes() for part in parts] == [part.tobytes() for part in again]


def test_other_seeds_draw_other_subjects() -> None:
    subjects = np.repeat(np.arange(10), 3).astype(np.int32)
    drawn = {tuple(by_subject(subjects, 2, seed)[0].tolist()) for seed in range(5)}
    assert len(drawn) > 1


def test_every_machine_and_numpy_divides_alike() -> None:
    subjects = (np.arange(100) % 7 + 1).astype(np.int32)
    together = b"|".join(part.astype("<i8").tobytes() for part in by_subject(subjects, 3))
    assert hashlib.sha256(together).hexdigest()[:16] == "150cce6907ffdc8a"


def test_more_peers_than_subjects() -> None:
    with pytest.raises(DataError, match="the data has 3 subjects, too few for 4 peers; choose at most 3 peers"):
        by_subject((np.arange(40) % 3).astype(np.int32), 4)


def test_a_subject_with_too_little_to_be_a_peers() -> None:
    with pytest.raises(DataError, match="subject 7 has 1 example, a peer needs 2; choose fewer peers"):
        by_subject(np.array([0, 0, 0, 7], np.int32), 2)


def test_data_that_do_not_say_whose_they_are() -> None:
    with pytest.raises(DataError, match="does not say whose its examples are; choose iid"):
        divide("subjects", np.zeros(9, np.int32), 2, rng())


@given(SUBJECTS, st.integers(1, 6), st.integers(0, 99))
@settings(deadline=None)
def test_every_test_example_goes_to_the_peer_that_trains_on_its_subject(
    subjects: np.ndarray, peers: int, seed: int
) -> None:
    twice = np.concatenate([subjects, subjects])
    peers = min(peers, len(set(subjects.tolist())))
    train = [twice[part] for part in by_subject(twice, peers, seed)]
    tests = own_test(train, subjects)
    assert sorted(np.concatenate(tests).tolist()) == list(range(len(subjects)))
    for mine, part in zip(train, tests, strict=True):
        assert set(subjects[part].tolist()) == set(mine.tolist())


def test_a_peer_whose_subjects_have_no_tests() -> None:
    train = [np.array([1, 1, 2]), np.array([3, 3])]
    with pytest.raises(DataError, match="peer 2 trains on subjects 3, who have no test examples"):
        own_test(train, np.array([1, 2], np.int32))


def test_tests_of_somebody_whom_nobody_trains_on() -> None:
    train = [np.array([1, 1, 2]), np.array([3, 3])]
    with pytest.raises(DataError, match="subject 4 of the test set is in no peer's training examples"):
        own_test(train, np.array([1, 2, 3, 4], np.int32))


# ---------------------------------------------------------------------- data sets of one's own, and shards

X = np.arange(60 * 6, dtype=np.uint32).astype(np.uint8).reshape(60, 3, 2)
X[:, 0, 0] = np.arange(60)
Y = (np.arange(60) % 3).astype(np.int64)
WHOSE = np.arange(60) // 12


def npz(path: Path, **arrays: Any) -> Dataset:
    np.savez(path, **arrays)
    return load_dataset(str(path))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return npz(tmp_path / "mine.npz", x=X, y=Y, subjects=WHOSE, x_test=X[::4], y_test=Y[::4], subjects_test=WHOSE[::4])


def test_npz_with_subjects(dataset: Dataset) -> None:
    assert dataset.subjects_train is not None
    assert dataset.subjects_test is not None
    assert dataset.subjects_train.tolist() == WHOSE.tolist()
    assert dataset.subjects_test.tolist() == WHOSE[::4].tolist()
    assert dataset.subjects_train.dtype == np.int32


def test_subjects_are_part_of_the_digest(dataset: Dataset, tmp_path: Path) -> None:
    arrays = {"x": X, "y": Y, "x_test": X[::4], "y_test": Y[::4]}
    without = npz(tmp_path / "other.npz", **arrays)
    others = npz(tmp_path / "others.npz", **arrays, subjects=WHOSE + 1, subjects_test=WHOSE[::4] + 1)
    assert without.subjects_train is None
    assert len({dataset.sha256, without.sha256, others.sha256}) == 3


def test_npz_without_a_test_set_keeps_subjects_by_their_examples(tmp_path: Path) -> None:
    dataset = npz(tmp_path / "mine.npz", x=X, y=Y, subjects=WHOSE)
    assert (len(dataset.y_train), len(dataset.y_test)) == (48, 12)
    for x, subjects in ((dataset.x_train, dataset.subjects_train), (dataset.x_test, dataset.subjects_test)):
        assert subjects is not None
        assert subjects.tolist() == (x[:, 0, 0, 0] // 12).tolist()


BAD = {
    "no subjects of the tests": ({"subjects": WHOSE, "x_test": X, "y_test": Y}, "add subjects_test"),
    "only subjects of the tests": ({"subjects_test": WHOSE, "x_test": X, "y_test": Y}, "needs subjects and x_test"),
    "subjects of no tests": ({"subjects": WHOSE, "subjects_test": WHOSE}, "needs subjects and x_test"),
    "too few": ({"subjects": WHOSE[:-1]}, r"subjects has shape \[59\], x has 60 examples"),
    "too few of the tests": (
        {"subjects": WHOSE, "x_test": X, "y_test": Y, "subjects_test": WHOSE[1:]},
        r"test has 60 examples and subjects of shape \[59\]",
    ),
    "fractions": ({"subjects": WHOSE / 2}, "train subjects are float64, they must be integers from 0"),
    "negative": ({"subjects": WHOSE - 1}, "train subjects go from -1 to 3"),
    "absurd": ({"subjects": WHOSE + 2_000_000}, "subjects go from 2000000"),
}


@pytest.mark.parametrize("name", BAD)
def test_npz_with_wrong_subjects(tmp_path: Path, name: str) -> None:
    arrays, message = BAD[name]
    with pytest.raises(DataError, match=message):
        npz(tmp_path / "mine.npz", x=X, y=Y, **arrays)


def test_shards_hold_whole_subjects_and_their_tests(dataset: Dataset, tmp_path: Path) -> None:
    for out, seed in (("one", 1), ("two", 1), ("other", 2)):
        build(dataset, ["a", "b"], "subjects", seed, tmp_path / out)
    files = {out: {it.name: it.read_bytes() for it in (tmp_path / out).iterdir()} for out in ("one", "two", "other")}
    assert files["one"] == files["two"]
    assert files["one"]["a.safetensors"] != files["other"]["a.safetensors"]
    manifest = json.loads(files["one"]["manifest.json"])
    seen = []
    for peer in "ab":
        shard = read_shard(tmp_path / "one" / f"{peer}.safetensors")
        owners = sorted(set((shard.x_train[:][:, 0, 0, 0] // 12).tolist()))
        assert manifest["peers"][peer]["subjects"] == owners
        assert sorted(set((shard.x_test[:][:, 0, 0, 0] // 12).tolist())) == owners
        assert len(shard.y_train) == 12 * len(owners)
        assert len(shard.y_test) == 3 * len(owners)
        seen += owners
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_limits_hold_and_other_schemes_mix_subjects(dataset: Dataset, tmp_path: Path) -> None:
    limited = build(dataset, ["a", "b"], "subjects", 1, tmp_path / "limited", examples=5, test_examples=2)
    assert [(it["train"], it["test"]) for it in limited["peers"].values()] == [(5, 2), (5, 2)]
    mixed = build(dataset, ["a", "b"], "iid", 1, tmp_path / "mixed")
    assert all(len(entry["subjects"]) == 5 for entry in mixed["peers"].values())


def test_a_manifest_names_no_subjects_that_the_data_do_not_name(tmp_path: Path) -> None:
    dataset = npz(tmp_path / "mine.npz", x=X, y=Y)
    manifest = build(dataset, ["a", "b"], "iid", 1, tmp_path / "out")
    assert all("subjects" not in entry for entry in manifest["peers"].values())
