"""Read an .npy file that holds a Python object of plain data, without executing what it says.

numpy stores such an object as a pickle, a program whose instructions may call any function. This reader walks the
instructions and knows only those that build numbers, text, lists, tuples, dictionaries with keys of text, and arrays
of numbers; it calls nothing by name. Every other instruction or name ends it with an error. Nothing that holds values
may be referred to twice, so that what comes out is a tree no larger than the file.

Sources: NEP 1, "A Simple File Format for NumPy Arrays"; the instructions of pickle protocol 2 (PEP 307), as the
standard library's `pickletools` lists them; `ndarray.__reduce__` and `dtype.__reduce__` of numpy.
"""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_shards.errors import DataError

#: Format 1.0, two bytes for the length of the header that follows.
MAGIC = b"\x93NUMPY\x01\x00"
HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
NUMBERS = re.compile(r"[iu][1248]|f[248]")
OBJECT = "O8"
#: Types without a byte order; so numpy says it of objects, too.
ONE_BYTE = frozenset({"i1", "u1", OBJECT})
#: Dimensions of an array; numpy's own limit is larger.
DIMENSIONS_MAX = 8
LITERALS = frozenset({"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE"})
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True)
class _Name:
    """A function or class that the file names; never looked up."""

    text: str


ENCODE = _Name("_codecs encode")
NDARRAY = _Name("numpy ndarray")
DTYPE = _Name("numpy dtype")
#: Called by these names before and since numpy 2.
RECONSTRUCT = (_Name("numpy.core.multiarray _reconstruct"), _Name("numpy._core.multiarray _reconstruct"))
NAMES = frozenset({ENCODE, NDARRAY, DTYPE, *RECONSTRUCT})


@dataclass(slots=True)
class _Type:
    """A dtype: its code is said first, its byte order later, when others may already refer to it."""

    code: str
    order: str = ""


class _Mark:
    """Where the elements of the next list, tuple or dictionary begin."""


class _NewArray:
    """An array of which neither shape nor values have been said."""


MARK = _Mark()


class _RefusalError(Exception):
    """What an instruction asks for is not plain data."""


def read_npy_object(content: bytes, name: str) -> Any:
    """The object in an .npy file.

    Args:
        content: The file: version 1.0, one object, pickled with protocol 2.
        name: Of the file, for errors.

    Returns:
        Dictionaries, lists, tuples, text, integers, floats, booleans, None, and arrays of numbers, which are
        read-only views of the file's bytes in the file's own order (C or Fortran).

    Raises:
        DataError: It is not such a file, or asks for anything but plain data.
    """
    start = len(MAGIC) + 2
    end = start + int.from_bytes(content[len(MAGIC) : start], "little")
    if not content.startswith(MAGIC) or content[start:end].strip() != HEADER:
        raise DataError(f"{name}: not an .npy file of one object; use the file that the data set's package brings")
    machine = _Machine()
    reached = end
    try:
        for instruction, argument, position in pickletools.genops(content[end:]):
            reached = end + (position or 0)
            machine.step(instruction.name, argument)
        return machine.result()
    except (_RefusalError, ValueError, OverflowError, IndexError, KeyError) as error:
        # The last two: the stack is empty, or nothing was remembered under that number.
        why = "it takes what it never put there" if isinstance(error, LookupError) else error
        raise DataError(
            f"{name}: cannot be read as plain data ({why}; byte {reached}): it is damaged or another file; delete it "
            "and fetch it again"
        ) from None


class _Machine:
    """The stack and the memory of a pickle, for plain data alone."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def result(self) -> Any:
        """What the file holds, after its last instruction."""
        if len(self._stack) != 1 or _unfinished(self._stack[0]):
            raise _RefusalError("it ends before its object is whole")
        return self._stack[0]

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction; raises _RefusalError, IndexError or KeyError where that cannot be done."""
        stack = self._stack
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "GLOBAL":
            if _Name(argument) not in NAMES:
                raise _RefusalError(f"it names {argument[:80]!r}")
            stack.append(_Name(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memory[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(_shareable(self._memory[argument]))
        elif name == "MARK":
            stack.append(MARK)
        elif name in TUPLES:
            stack.append(tuple(self._pop(TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._add(name)
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(_reduce(function, arguments))
        elif name == "BUILD":
            target, state = self._pop(2)
            stack.append(_build(target, state))
        elif name not in ("PROTO", "STOP"):
            raise _RefusalError(f"it has the instruction {name}")

    def _pop(self, count: int) -> list[Any]:
        """The topmost values, lowest first."""
        if count > len(self._stack):
            raise IndexError
        cut = len(self._stack) - count
        taken = self._stack[cut:]
        del self._stack[cut:]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        taken = []
        while self._stack[-1] is not MARK:
            taken.append(self._stack.pop())
        self._stack.pop()
        return taken[::-1]

    def _add(self, name: str) -> None:
        """Put values into the list or dictionary beneath them."""
        one = {"APPEND": 1, "SETITEM": 2}.get(name)
        values = self._pop(one) if one else self._pop_to_mark()
        if any(_unfinished(value) for value in values):
            raise _RefusalError("it keeps what is no plain data")
        target = self._stack[-1]
        if name in ("APPEND", "APPENDS") and type(target) is list:
            target.extend(values)
        elif name in ("SETITEM", "SETITEMS") and type(target) is dict and len(values) % 2 == 0:
            for key, value in zip(values[::2], values[1::2], strict=True):
                if type(key) is not str or key in target:
                    raise _RefusalError("it has a key that is no text, or stands twice")
                target[key] = value
        else:
            raise _RefusalError(f"{name} has nothing to add to")


def _unfinished(value: Any) -> bool:
    """Whether it stands for something else than data."""
    # A loop: tuples within tuples may be deeper than Python's own stack.
    waiting = [value]
    while waiting:
        it = waiting.pop()
        if isinstance(it, _Name | _Type | _Mark | _NewArray):
            return True
        if type(it) is tuple:
            waiting.extend(it)
    return False


def _shareable(value: Any) -> Any:
    """A value that may be referred to twice: it holds no others, so no tree grows from it."""
    if isinstance(value, _Name | _Type | str | bytes):
        return value
    raise _RefusalError("it refers to a value twice")


def _reduce(function: Any, arguments: Any) -> Any:
    """What a call gives, for the three calls by which arrays begin."""
    if type(arguments) is not tuple:
        raise _RefusalError("it calls with what is no tuple")
    if function == ENCODE and len(arguments) == 2 and type(arguments[0]) is str and arguments[1] == "latin1":
        # How protocol 2, which is older than `bytes`, writes bytes.
        return arguments[0].encode("latin1")
    if function in RECONSTRUCT and arguments == (NDARRAY, (0,), b"b"):
        return _NewArray()
    if function == DTYPE and len(arguments) == 3 and type(arguments[0]) is str and arguments[1:] == (0, 1):
        code = arguments[0]
        if code == OBJECT or NUMBERS.fullmatch(code):
            return _Type(code)
    called = function.text if isinstance(function, _Name) else type(function).__name__
    raise _RefusalError(f"it calls {called} with arguments that no array of numbers has")


def _build(target: Any, state: Any) -> Any:
    """A dtype with its byte order, an array with its values."""
    if type(target) is _Type and type(state) is tuple and len(state) == 8:
        # Big-endian values, which no package's file has so far, would need a test of their own.
        if state[1] != ("|" if target.code in ONE_BYTE else "<"):
            raise _RefusalError(f"numbers of type {target.code} have the byte order {str(state[1])[:20]!r}")
        target.order = state[1]
        return target
    if type(target) is not _NewArray or type(state) is not tuple or len(state) != 5 or state[0] != 1:
        raise _RefusalError("it sets the state of what is no array")
    _, shape, kind, fortran, values = state
    if type(kind) is not _Type or not kind.order or type(fortran) is not bool or type(shape) is not tuple:
        raise _RefusalError("an array has no shape or type")
    if kind.code == OBJECT:
        # The file's own outermost array, which holds one object.
        if shape != () or type(values) is not list or len(values) != 1:
            raise _RefusalError("it has an array of objects")
        return values[0]
    if len(shape) > DIMENSIONS_MAX or any(type(size) is not int or size < 0 for size in shape):
        raise _RefusalError("an array has an impossible shape")
    dtype = np.dtype(kind.order + kind.code)
    if type(values) is not bytes or len(values) != math.prod(shape) * dtype.itemsize:
        raise _RefusalError(f"an array of shape {list(shape)} has other bytes than that")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C")
