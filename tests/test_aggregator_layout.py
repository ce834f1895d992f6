"""Layouts: split and join are opposites, and nothing that contradicts itself gets in."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator_core import Layout, LayoutError, Tensor, layout
from aggregator_core.layout import SIZE_MAX


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    tensors, offset = [], 0
    for index in range(draw(st.integers(1, 6))):
        shape = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
        axis = draw(st.sampled_from([None, *range(len(shape))]))
        kinds = ["state"] if tensors and tensors[-1].kind == "state" else sorted(layout.KINDS)
        tensors.append(Tensor(f"t{index}", shape, offset, axis, draw(st.sampled_from(kinds))))
        offset += tensors[-1].size
    return Layout(tuple(tensors))


@given(layouts())
def test_split_and_join_are_opposites(it: Layout) -> None:
    vector = np.arange(it.size, dtype=np.float32)
    parts = it.split(vector)
    assert [parts[tensor.name].shape for tensor in it.tensors] == [tensor.shape for tensor in it.tensors]
    np.testing.assert_array_equal(it.join(parts), vector)
    parts[it.tensors[0].name][...] = -1
    assert vector[0] == -1, "split gives views"


@given(layouts())
def test_what_is_trained_comes_first(it: Layout) -> None:
    for tensor in it.tensors:
        assert (tensor.offset >= it.trained_size) == (tensor.kind == "state")


@given(layouts())
def test_json_gives_the_same_layout(it: Layout) -> None:
    assert Layout.from_json(json.loads(json.dumps(it.to_json()))) == it


GOOD = Tensor("a", (2, 3), 0)
BAD = {
    "empty": ((), "0 tensors"),
    "no name": ((Tensor("", (1,), 0),), "empty or stands twice"),
    "same name": ((GOOD, Tensor("a", (1,), 6)), "stands twice"),
    "zero dimension": ((Tensor("a", (2, 0), 0),), "below 1"),
    "gap": ((GOOD, Tensor("b", (1,), 7)), "offset is 7.*ends at 6"),
    "axis": ((Tensor("a", (2, 3), 0, axis=2),), "axis 2"),
    "kind": ((Tensor("a", (2, 3), 0, kind="odd"),), "kind 'odd'"),
    "state before weights": ((Tensor("s", (2,), 0, kind="state"), Tensor("a", (2,), 2)), "'weight' follows .* last"),
    "too large": ((Tensor("a", (2**20, 2**20), 0),), "beyond"),
}


@pytest.mark.parametrize("name", BAD)
def test_contradictions_are_refused(name: str) -> None:
    tensors, message = BAD[name]
    with pytest.raises(LayoutError, match=message):
        Layout(tensors)


ITEM = GOOD.__class__("a", (2,), 0)
JSON = {
    "not a list": ("x", "not a list"),
    "number": (3, "not a list"),
    "not an object": ([1], r"layout\[0\] is not an object"),
    "unknown field": ([{"name": "a"}], "is not an object of"),
    "shape": ([{"name": "a", "shape": "2", "offset": 0, "axis": None, "kind": "bias"}], "shape is"),
    "negative": ([{"name": "a", "shape": [-2], "offset": 0, "axis": None, "kind": "bias"}], "shape is"),
    "name": ([{"name": 1, "shape": [2], "offset": 0, "axis": None, "kind": "bias"}], "not a text"),
    "axis": ([{"name": "a", "shape": [2], "offset": 0, "axis": True, "kind": "bias"}], "not an integer"),
}


@pytest.mark.parametrize("name", JSON)
def test_damaged_json_is_refused(name: str) -> None:
    value, message = JSON[name]
    with pytest.raises(LayoutError, match=message):
        Layout.from_json(value)


def test_arrays_that_do_not_fit_are_refused() -> None:
    it = Layout((GOOD,))
    with pytest.raises(LayoutError, match=r"float64\[6\]"):
        it.split(np.zeros(6))  # type: ignore[arg-type]
    with pytest.raises(LayoutError, match=r"needs float32\[6\]"):
        it.split(np.zeros(5, np.float32))
    with pytest.raises(LayoutError, match=r"missing \['a'\], unknown \['b'\]"):
        it.join({"b": np.zeros((2, 3), np.float32)})
    with pytest.raises(LayoutError, match="a is float32"):
        it.join({"a": np.zeros((3, 2), np.float32)})


def test_an_array_of_another_shape_is_refused_before_there_is_memory_for_the_whole() -> None:
    """A damaged manifest may speak of gigabytes."""
    huge = Layout((Tensor("kernel", (SIZE_MAX,), 0),))
    tracemalloc.start()
    try:
        with pytest.raises(LayoutError, match="kernel is float32"):
            huge.join({"kernel": np.zeros(3, np.float32)})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
