"""Objects in .npy files: plain data comes out as numpy itself would read it, nothing else comes out at all."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from data_shards.errors import DataError
from data_shards.npy_objects import read_npy_object

HEAD = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"

NUMBERS = np_st.arrays(
    st.sampled_from(["<i1", "<u1", "<i2", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]),
    np_st.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4),
).flatmap(lambda array: st.sampled_from([array, np.asfortranarray(array)]))
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.floats(allow_nan=False) | st.text(max_size=5)
)
TREES = st.recursive(
    SCALARS | NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=12,
)


def npy(value: Any, protocol: int = 2) -> bytes:
    """An .npy file with one object."""
    array = np.empty((), object)
    array[()] = value
    return HEAD + pickle.dumps(array, protocol)


def program(instructions: bytes) -> bytes:
    """An .npy file with a pickle of one's own."""
    return HEAD + b"\x80\x02" + instructions + b"."


def read(content: bytes) -> Any:
    return read_npy_object(content, "it.npy")


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@given(TREES)
@settings(deadline=None)
def test_plain_data_comes_out_as_it_went_in(value: Any) -> None:
    assert same(read(npy(value)), value)


def test_the_order_in_memory_is_the_files() -> None:
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    assert read(npy(array)).flags.f_contiguous
    assert read(npy(np.ascontiguousarray(array))).flags.c_contiguous


def test_values_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        read(npy(np.arange(3)))[0] = 1


@pytest.mark.parametrize(
    "name", ["posix system", "builtins eval", "numpy.core.multiarray scalar", "copyreg _reconstructor"]
)
def test_no_function_is_called_or_even_looked_up(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "called"
    module, function = name.split()
    command = f"touch {marker}".encode()
    content = program(
        f"c{module}\n{function}\n".encode() + b"(X" + len(command).to_bytes(4, "little") + command + b"tR"
    )
    with pytest.raises(DataError, match=rf"it\.npy: cannot be read as plain data \(it names '{name}'; byte 130\)"):
        read(content)
    assert not marker.exists()


class Instance:
    pass


class Calls:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


SHARED = [1]
CYCLE: list[Any] = []
CYCLE.append(CYCLE)
ENCODE = b"c_codecs\nencode\n"
DTYPE = b"cnumpy\ndtype\n"
NEW = (
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85"
    + ENCODE
    + b"(X\x01\0\0\0bX\x06\0\0\0latin1tRtR"
)
F8 = DTYPE + b"(X\x02\0\0\0f8K\x00K\x01tR(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
EIGHT = ENCODE + b"(X\x08\0\0\0" + b"\0" * 8 + b"X\x06\0\0\0latin1tR"
ONE_NUMBER = NEW + b"(K\x01K\x01\x85" + F8 + b"\x89" + EIGHT + b"tb"

REFUSED = {
    "an instance": (npy(Instance()), "it has the instruction NEWOBJ|it names"),
    "a call of open": (npy(Calls(os.getenv, ("HOME",))), r"it names 'os getenv'"),
    "a set": (npy({1, 2}), "it names"),
    "a complex number": (npy(1j), "it names"),
    "a large integer": (npy(2**40), "instruction LONG1"),
    "one list twice": (npy([SHARED, SHARED]), "refers to a value twice"),
    "one array twice": (npy([np.arange(3)] * 2), "refers to a value twice"),
    "a list in itself": (npy(CYCLE), "refers to a value twice"),
    "a number as key": (npy({1: 2}), "a key that is no text"),
    "a key twice": (program(b"}(X\x01\0\0\0aK\x01X\x01\0\0\0aK\x02u"), "stands twice"),
    "an odd dictionary": (program(b"}(X\x01\0\0\0au"), "SETITEMS has nothing to add to"),
    "an array of objects": (npy(np.array([{}, {}], object)), "an array of objects"),
    "an array of text": (npy(np.array(["a"])), "no array of numbers has"),
    "an array of records": (npy(np.zeros(2, "i4,f4")), "no array of numbers has"),
    "an array of dates": (npy(np.zeros(2, "M8[s]")), "no array of numbers has"),
    "a masked array": (npy(np.ma.array([1, 2])), "it names"),
    "big-endian numbers": (npy(np.arange(3, dtype=">i4")), "byte order '>'"),
    "protocol 4": (npy([1], 4), "instruction FRAME"),
    "text protocol": (npy([1], 0), "it has the instruction"),
    "an array of no shape": (program(NEW), "ends before its object is whole"),
    "another array's base": (program(NEW.replace(b"K\x00\x85", b"K\x07\x85")), "calls numpy.core.multiarray"),
    "too few bytes": (program(ONE_NUMBER.replace(b"K\x01\x85", b"K\x02\x85")), r"shape \[2\] has other bytes"),
    "a negative size": (program(ONE_NUMBER.replace(b"K\x01\x85", b"J\xff\xff\xff\xff\x85")), "impossible shape"),
    "a shape of text": (program(ONE_NUMBER.replace(b"K\x01\x85", b"X\x01\0\0\0a\x85")), "impossible shape"),
    "no order": (program(ONE_NUMBER.replace(b"\x89", b"N")), "no shape or type"),
    "a half float of 1 byte": (program(ONE_NUMBER.replace(b"f8", b"f1")), "no array of numbers has"),
    "another encoding": (program(ENCODE + b"(X\x01\0\0\0aX\x05\0\0\0rot13tR"), "calls _codecs encode"),
    "characters that are no bytes": (program(ENCODE + "(X\x03\0\0\0€X\x06\0\0\0latin1tR".encode()), "latin-1"),
    "a call of text": (program(b"X\x01\0\0\0a)R"), "calls str"),
    "a call without a tuple": (program(ENCODE + b"]R"), "no tuple"),
    "a call of nothing": (program(b"R"), "takes what it never put there"),
    "the state of a list": (program(b"]Nb"), "state of what is no array"),
    "names as data": (program(ENCODE), "ends before its object is whole"),
    "names in a list": (program(b"]" + ENCODE + b"a"), "keeps what is no plain data"),
    "names in a tuple": (program(b"]" + ENCODE + b"\x85a"), "keeps what is no plain data"),
    "a mark as data": (program(b"(]\x85"), "ends before its object is whole"),
    "no mark": (program(b"K\x01t"), "takes what it never put there"),
    "nothing remembered": (program(b"h\x05"), "takes what it never put there"),
    "nothing": (program(b""), "ends before its object is whole"),
    "two objects": (program(b"NN"), "ends before its object is whole"),
    "no end": (HEAD + b"\x80\x02N", "cannot be read"),
    "no instructions": (HEAD, "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused(name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        read(content)


def test_the_program_that_the_refused_ones_are_made_from_is_read() -> None:
    assert same(read(program(ONE_NUMBER)), np.zeros(1))


def test_tuples_deeper_than_pythons_stack() -> None:
    value = read(program(b"N" + b"\x85" * 100_000))
    for _ in range(100_000):
        (value,) = value
    assert value is None
    with pytest.raises(DataError, match="no plain data"):
        read(program(b"]" + ENCODE + b"\x85" * 100_000 + b"a"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        b"\x93NUMPY\x02\x00v\x00" + HEAD[10:] + b"\x80\x02N.",
        HEAD.replace(b"|O", b"<f8") + bytes(8),
        HEAD.replace(b"()", b"(1,)") + b"\x80\x02N.",
    ],
)
def test_files_that_are_no_npy_of_an_object(content: bytes) -> None:
    with pytest.raises(DataError, match=r"it\.npy: not an \.npy file of one object"):
        read(content)


VALID = npy({"X": [np.arange(6.0).reshape(2, 3), np.arange(3, dtype=np.int32)], "name": "a", "t": (1, None, True)})


@given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
@settings(max_examples=1000, deadline=None)
def test_no_damage_gets_out_as_another_error(place: int, value: int) -> None:
    damaged = VALID[:place] + bytes([value]) + VALID[place + 1 :]
    try:
        read(damaged)
    except DataError as error:
        assert str(error).startswith("it.npy: ")  # noqa: PT017 - some damage is in the values, and shows nowhere


def test_a_file_that_breaks_off_anywhere_is_refused() -> None:
    assert read(VALID)["name"] == "a"
    for end in range(len(VALID)):
        with pytest.raises(DataError):
            read(VALID[:end])
