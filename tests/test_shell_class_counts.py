"""A shard's classes in a CSV: what is written is what is read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.operator.runs.classes import read_class_counts
from edge_peer.shell.class_counts import CLASSES, COLUMNS, class_counts

labels = st.lists(st.integers(0, 6), max_size=30)


def written(folder: Path, content: bytes) -> Path:
    (folder / CLASSES).mkdir(exist_ok=True)
    (folder / CLASSES / "kitchen.csv").write_bytes(content)
    return folder


@given(labels, st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30), st.booleans())
def test_whatever_is_counted_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, trained: list[int], pairs: list[tuple[int, int]], int8: bool
) -> None:
    tested, predicted = (np.array([pair[it] for pair in pairs], np.int32) for it in (0, 1))
    content = class_counts("run-1", "kitchen", 7, np.array(trained, np.int32), tested, predicted if int8 else None)
    counts = read_class_counts(written(tmp_path_factory.mktemp("run"), content))[0]["kitchen"]
    assert counts.trained == Counter(trained)
    assert counts.tested == Counter(int(it) for it in tested)
    assert counts.confusion == (Counter(pairs) if int8 else Counter())
    assert content.splitlines()[0].decode().split(",") == list(COLUMNS)


def test_a_run_without_such_files_has_no_counts(tmp_path: Path) -> None:
    assert read_class_counts(tmp_path) == ({}, [])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("x,y\n1,2\n", "line 1: columns ['class', 'examples'"),
        (",".join(COLUMNS) + "\nr,p,1,test,-1,,3\n", "line 2: class is '-1', which is no count"),
        (",".join(COLUMNS) + "\nr,p,1,test,1,,99999999999\n", "line 2: examples is '99999999999'"),
        (",".join(COLUMNS) + "\nr,p,1,test,1\n", "line 2: examples is ''"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: str, named: str) -> None:
    counts, (problem,) = read_class_counts(written(tmp_path, content.encode()))
    assert counts == {}
    assert f"kitchen.csv, {named}" in problem
