"""Divide examples among peers: pure functions of labels, number of peers and a seeded generator.

A division is a list of index arrays, one a peer: sorted, never empty, never overlapping.

    iid            everyone gets a random part of the same size
    dirichlet:A    each class is shared in proportions drawn from Dirichlet(A): the smaller A, the more uneven
                   (Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
                   Classification", 2019, arXiv:1909.06335)
    labels:K       everyone gets examples of at most K classes (McMahan et al. 2017, arXiv:1602.05629, section 3)
    quantity:A     random parts whose sizes are drawn from Dirichlet(A)
    subjects       everyone gets all that some subjects (persons, devices) have given, and no other gets any of it: the
                   natural division of LEAF (Caldas et al. 2018, arXiv:1812.01097), for data that say whose they are
    module:name    your own function of (labels, peers, rng)
"""

from __future__ import annotations

import heapq
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError

Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]
Subjects = npt.NDArray[np.int32]
Division = list[Indices]
SplitFunction = Callable[[Labels, int, np.random.Generator], Division]

#: Nobody gets fewer: a peer without data of its own could not take part.
EXAMPLES_MIN = 2
CHOICES = "iid, dirichlet:0.3, labels:2, quantity:1.5, subjects or module:function"
BY_SUBJECT = "subjects"


def iid(labels: Labels, peers: int, rng: np.random.Generator) -> Division:
    """Random parts of the same size."""
    return [part.astype(np.int64) for part in np.array_split(rng.permutation(len(labels)), peers)]


def dirichlet(labels: Labels, peers: int, rng: np.random.Generator, alpha: float) -> Division:
    """Each class in proportions drawn from Dirichlet(alpha)."""
    parts: list[list[Indices]] = [[] for _ in range(peers)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(rng.dirichlet(np.full(peers, alpha)))[:-1] * len(members)).astype(int)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return [np.concatenate(part).astype(np.int64) for part in parts]


def labels_per_peer(labels: Labels, peers: int, rng: np.random.Generator, count: int) -> Division:
    """Every class has about as many holders as every other, and its examples are shared among them evenly."""
    classes = np.unique(labels)
    if count > len(classes):
        raise DataError(f"split labels:{count}: the data has {len(classes)} classes; choose at most that many")
    if peers * count < len(classes):
        raise DataError(
            f"split labels:{count}: {peers} peers with {count} classes each cannot hold all {len(classes)} classes; "
            f"choose labels:{-(-len(classes) // peers)} or more"
        )
    # Round robin over a shuffled list of classes: consecutive classes are distinct, so a peer holds `count` of them.
    order = rng.permutation(classes)
    holders: dict[int, list[int]] = {int(label): [] for label in classes}
    for place in range(peers * count):
        holders[int(order[place % len(order)])].append(place // count)
    parts: list[list[Indices]] = [[] for _ in range(peers)]
    for label, owners in holders.items():
        members = rng.permutation(np.flatnonzero(labels == label))
        for owner, piece in zip(owners, np.array_split(members, len(owners)), strict=True):
            parts[owner].append(piece)
    for peer, part in enumerate(parts):
        held = sum(len(piece) for piece in part)
        if held < EXAMPLES_MIN:
            # Filling it up from others' classes would break the promise of at most `count`.
            raise DataError(
                f"split labels:{count}: peer {peer + 1} of {peers} would hold {held} examples, its classes are too "
                "rare; choose fewer peers or more labels"
            )
    return [np.concatenate(part).astype(np.int64) for part in parts]


def quantity(labels: Labels, peers: int, rng: np.random.Generator, alpha: float) -> Division:
    """Random parts of sizes drawn from Dirichlet(alpha)."""
    cuts = (np.cumsum(rng.dirichlet(np.full(peers, alpha)))[:-1] * len(labels)).astype(int)
    return [part.astype(np.int64) for part in np.split(rng.permutation(len(labels)), cuts)]


def by_subject(subjects: Subjects, peers: int, rng: np.random.Generator) -> Division:
    """Whole subjects, drawn at random, as many for each peer as for every other, or one more.

    Args:
        subjects: Whose each example is; shape (n,), int32.
        peers: How many there are.
        rng: Of the drawing.

    Raises:
        DataError: There are fewer subjects than peers, or one of them has too few examples to be a peer's.
    """
    known = np.unique(subjects)
    if len(known) < peers:
        raise DataError(
            f"split {BY_SUBJECT}: the data has {len(known)} subjects, too few for {peers} peers; choose at most "
            f"{len(known)} peers"
        )
    parts = [np.flatnonzero(np.isin(subjects, mine)) for mine in np.array_split(rng.permutation(known), peers)]
    for part in parts:
        if len(part) < EXAMPLES_MIN:
            # Filling it up from others' subjects would break the promise that nobody else gets any of theirs.
            raise DataError(
                f"split {BY_SUBJECT}: subject {subjects[part[0]]} has {len(part)} example, a peer needs "
                f"{EXAMPLES_MIN}; choose fewer peers"
            )
    return [part.astype(np.int64) for part in parts]


def parse(scheme: str, subjects: Subjects | None = None) -> SplitFunction:
    """The function that a scheme's text names.

    Args:
        scheme: One of those that this module lists.
        subjects: Whose each example is, where the data set says it.

    Raises:
        DataError: No such scheme, a parameter out of range, or a data set without subjects for one that needs them.
    """
    name, _, parameter = scheme.partition(":")
    if scheme == "iid":
        return iid
    if scheme == BY_SUBJECT:
        if subjects is None:
            raise DataError(
                f"split {BY_SUBJECT}: the data set does not say whose its examples are; choose {CHOICES}, or add "
                "`subjects` to your .npz file"
            )
        return lambda _, peers, rng: by_subject(subjects, peers, rng)
    if name in ("dirichlet", "quantity"):
        alpha = _number(scheme, parameter)
        skewed = dirichlet if name == "dirichlet" else quantity
        return lambda labels, peers, rng: skewed(labels, peers, rng, alpha)
    if name == "labels":
        count = int(_number(scheme, parameter, whole=True))
        return lambda labels, peers, rng: labels_per_peer(labels, peers, rng, count)
    if parameter:
        try:
            function: SplitFunction = getattr(importlib.import_module(name), parameter)
        except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
            raise DataError(f"split {scheme!r}: {error}; choose {CHOICES}") from None
        if not callable(function):
            raise DataError(f"split {scheme!r}: {parameter} is no function of (labels, peers, rng)")
        return function
    raise DataError(f"split {scheme!r}: choose {CHOICES}")


def _number(scheme: str, text: str, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 1e6:
        kind = "whole number" if whole else "number"
        raise DataError(f"split {scheme!r}: {text!r} is not a {kind} above 0, as in dirichlet:0.3 or labels:2")
    return value


def divide(
    scheme: str, labels: Labels, peers: int, rng: np.random.Generator, subjects: Subjects | None = None
) -> Division:
    """Divide by a scheme, and see to it that nobody's part is too small and none overlap.

    A part below `EXAMPLES_MIN` is filled up with examples of the largest part, one by one from its end: the rule is
    the same on every machine. (`labels:K` and `subjects` raise instead.)

    Args:
        scheme: One of those that this module lists.
        labels: Shape (n,), int32.
        peers: How many parts.
        rng: Of everything that is drawn.
        subjects: Whose each example is, shape (n,), int32, where the data set says it.

    Raises:
        DataError: The scheme is unknown, its result is not a division, or there are too few examples.
    """
    if len(labels) < peers * EXAMPLES_MIN:
        raise DataError(
            f"{len(labels)} examples are too few for {peers} peers with {EXAMPLES_MIN} or more each: choose fewer peers"
        )
    parts = _checked(scheme, parse(scheme, subjects)(labels, peers, rng), len(labels), peers)
    # Largest first; of equal ones the first peer.
    heap = [(-len(part), peer) for peer, part in enumerate(parts)]
    heapq.heapify(heap)
    for index, part in enumerate(parts):
        while len(parts[index]) < EXAMPLES_MIN:
            size, richest = heap[0]
            if -size != len(parts[richest]):
                heapq.heapreplace(heap, (-len(parts[richest]), richest))
                continue
            if -size <= EXAMPLES_MIN:
                raise DataError(
                    f"split {scheme!r} left peer {index + 1} with {len(part)} examples, and none can spare any"
                )
            parts[index] = np.append(parts[index], parts[richest][-1])
            parts[richest] = parts[richest][:-1]
    return [np.sort(part) for part in parts]


def _checked(scheme: str, result: Any, examples: int, peers: int) -> Division:
    """What a split function gave, as a division; raises DataError when it is none."""
    expected = f"{peers} one-dimensional arrays of indices"
    try:
        given = [np.asarray(part) for part in result]
    except (TypeError, ValueError) as error:
        raise DataError(f"split {scheme!r} gave {type(result).__name__}, not {expected}: {error}") from None
    if len(given) != peers:
        raise DataError(f"split {scheme!r} gave {len(given)} parts, not {expected}")
    parts = []
    for part in given:
        # An empty list has no type of its own; it is filled up.
        if part.ndim != 1 or not (np.issubdtype(part.dtype, np.integer) or part.size == 0):
            raise DataError(f"split {scheme!r} gave {part.dtype}{list(part.shape)}, not {expected}")
        if part.size and (int(part.min()) < 0 or int(part.max()) >= examples):
            raise DataError(f"split {scheme!r} gave indices outside 0..{examples - 1}: {part.min()} to {part.max()}")
        parts.append(part.astype(np.int64))
    together = np.concatenate(parts)
    if len(np.unique(together)) != len(together):
        raise DataError(f"split {scheme!r} gave an example to two peers, or twice to one")
    return parts


def limit(part: Indices, count: int | None, rng: np.random.Generator) -> Indices:
    """At most `count` of a peer's examples, drawn at random."""
    if count is None or count >= len(part):
        return part
    return np.sort(rng.permutation(part)[:count])


def matching_test(train: list[Labels], labels: Labels, rng: np.random.Generator) -> Division:
    """Divide the test set so that each peer is tested on the classes that it trains on.

    Each class's test examples are shared in proportion to how many of its training examples each peer holds; so with
    iid shards everyone gets about as many of each class, and the mean over peers weighted by test examples is the
    accuracy on the whole test set. Whoever gets none that way gets one of the peer that has most.

    Raises:
        DataError: There are fewer test examples than peers.
    """
    if len(labels) < len(train):
        raise DataError(f"{len(labels)} test examples are too few for {len(train)} peers: choose fewer peers")
    parts: list[list[Indices]] = [[] for _ in train]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held = np.array([np.count_nonzero(part == label) for part in train], np.float64)
        if held.sum() == 0:
            held[:] = 1
        cuts = np.rint(np.cumsum(held)[:-1] / held.sum() * len(members)).astype(int)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    division = [np.concatenate(part).astype(np.int64) for part in parts]
    for index in range(len(division)):
        if len(division[index]) == 0:
            richest = max(range(len(division)), key=lambda peer: len(division[peer]))
            division[index], division[richest] = division[richest][-1:], division[richest][:-1]
    return [np.sort(part) for part in division]


def own_test(train: list[Subjects], subjects: Subjects) -> Division:
    """Divide the test set so that each peer is tested on the subjects that it trains on.

    Args:
        train: Whose each peer's training examples are.
        subjects: Whose each test example is; shape (m,), int32.

    Raises:
        DataError: A peer's subjects have no test examples, or a test example is of a subject that no peer trains on.
    """
    parts = [np.flatnonzero(np.isin(subjects, mine)).astype(np.int64) for mine in train]
    for peer, part in enumerate(parts):
        if len(part) == 0:
            mine = ", ".join(str(subject) for subject in np.unique(train[peer])[:5])
            raise DataError(
                f"split {BY_SUBJECT}: peer {peer + 1} trains on subjects {mine}, who have no test examples; choose "
                "another split, or a test set of the same subjects"
            )
    left = np.setdiff1d(subjects, np.concatenate(train))
    if len(left):
        raise DataError(
            f"split {BY_SUBJECT}: subject {left[0]} of the test set is in no peer's training examples; choose another "
            "split, or a test set of the same subjects"
        )
    return parts
