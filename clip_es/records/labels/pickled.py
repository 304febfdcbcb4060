"""Dictionaries of arrays inside .npy files (`cls_labels.npy`, maps of CLIP-ES), read without unpickling.

numpy saves a dictionary as a pickle, and a pickle is a program. It is not run here: its operations are looked at one by
one (`pickletools`), those that only build containers, text and numbers are followed, and calls are noted, not made. Of
the notes, those that describe a plain numeric numpy array, or a tensor of torch, are read from their bytes; everything
else is refused. The storage of a tensor is a pickle once more, which torch reads as it reads untrusted weights.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from clip_es.errors import DataError
from clip_es.records.text_files import printable, read_whole

LARGEST = 2**29
"""Bytes. The list of COCO's 82 000 training pictures has 40 MB."""

_ARRAY = {f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")}
_SCALAR = {f"numpy.{core}.multiarray scalar" for core in ("core", "_core")}
_BUFFER = {f"numpy.{core}.numeric _frombuffer" for core in ("core", "_core")}
_TENSOR, _STORAGE = "torch._utils _rebuild_tensor_v2", "torch.storage _load_from_bytes"
_OF_TENSORS = {_TENSOR, _STORAGE, "collections OrderedDict"}
_NAMED = _ARRAY | _SCALAR | _BUFFER | _OF_TENSORS | {"numpy dtype", "numpy ndarray", "_codecs encode"}
_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


@dataclass
class _Call:
    """A call that the program asks for and does not get."""

    name: str
    arguments: tuple
    state: Any = None


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass(frozen=True)
class Form:
    """What a dictionary is expected to hold, for messages."""

    what: str
    expected: str
    instead: str
    """What to do where it is something else."""
    row: str
    """What to do where one of its values is no array."""


LABELS = Form(
    "a dictionary of labels",
    "a dictionary from picture to a numpy row of 0 and 1, as numpy.save writes it",
    "Write the labels as CSV or JSON lines instead.",
    "Save 0 and 1 for each class.",
)
MAPS = Form(
    "a dictionary of maps",
    "a dictionary of numpy arrays, as numpy.save writes it",
    "Save the arrays with numpy.savez: keys [class], maps [class h w].",
    "Save arrays of numpy: value.cpu().numpy().",
)


def pickled_rows(path: Path, start: int, form: Form = LABELS) -> Iterator[tuple[object, np.ndarray | DataError]]:
    """Keys (text or whole numbers) and rows of the dictionary whose pickle begins at byte `start`.

    A value that is no array of numbers comes as an error. Raises DataError: the file is too large, damaged, asks for
    anything but numpy's arrays, or holds no dictionary.
    """
    data = read_whole(path, LARGEST, form.what, start)
    try:
        top = _follow(data, path, form)
        held = top.state[4] if isinstance(top, _Call) and top.name in _ARRAY else None
        table = held[0] if isinstance(held, list) and len(held) == 1 else None
    except DataError:
        raise
    except Exception as error:  # Bytes that are no pickle fail in many ways; none of them has run anything.
        raise _refused(path, "is damaged", f"{type(error).__name__}: {printable(str(error), 100)}", form) from error
    if not isinstance(table, dict):
        what = f"holds not {form.what}" if form is not LABELS else "holds no dictionary of labels"
        raise _refused(path, what, f"{type(table).__name__} in place of a dictionary", form)
    return _rows(table, path, form)


def _rows(table: dict, path: Path, form: Form) -> Iterator[tuple[object, np.ndarray | DataError]]:
    for key, value in table.items():
        try:
            row = _array(value)
        except Exception as error:
            row = DataError(
                "is not an array of numbers",
                where=f"{path.name}, {printable(str(key), 60)!r}",
                found=f"{type(error).__name__}: {printable(str(error), 80)}",
                next_step=form.row,
            )
        yield key, row


def _array(call: Any) -> np.ndarray:
    """The array that a call describes, if its bytes are all there; also numbers and arrays in a list, or a number.

    Raises ValueError and its like.
    """
    if isinstance(call, list | tuple):
        return _joined(call)
    if type(call) in {bool, int, float}:
        return np.array(call)
    if not isinstance(call, _Call):
        raise ValueError(f"a {type(call).__name__}")
    if call.name in _SCALAR:
        kind, data = call.arguments
        return np.frombuffer(_bytes(data), _dtype(kind), count=1).reshape(())
    if call.name == _TENSOR:
        return _tensor(*call.arguments[:4])
    if call.name in _BUFFER:
        data, dtype, shape, order = call.arguments
        fortran = order == "F"
    elif call.name in _ARRAY:
        _, shape, dtype, fortran, data = call.state
    else:
        raise ValueError(f"a call of {printable(call.name, 40)}")
    kind, data = _dtype(dtype), _bytes(data)
    if not all(type(n) is int and n >= 0 for n in shape) or len(data) != prod(shape) * kind.itemsize:
        raise ValueError(f"{len(data)} bytes, which is not what its shape needs")
    return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


def _joined(parts: list | tuple) -> np.ndarray:
    """Numbers, or arrays of one size. One level alone, and no more bytes than a file has: a pickle can name the same
    part a million times."""
    arrays, size = [], 0
    for one in parts:
        if isinstance(one, list | tuple):
            raise ValueError("lists inside a list")
        arrays.append(_array(one))
        size += arrays[-1].nbytes
        if size > LARGEST:
            raise ValueError("more than a file holds")
    return np.stack(arrays) if arrays else np.zeros(0)


def _bytes(data: Any) -> bytes:
    """Bytes, which Python 2 wrote as text."""
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """The values of a tensor, on whatever device it was. Raises ValueError and its like."""
    import torch

    if not isinstance(storage, _Call) or storage.name != _STORAGE or prod(size) > LARGEST:
        raise ValueError("a tensor without its storage")
    held = torch.load(io.BytesIO(_bytes(storage.arguments[0])), map_location="cpu", weights_only=True)
    if not isinstance(held, torch.storage.TypedStorage):
        raise ValueError(f"a {type(held).__name__} in place of a storage")
    flat = torch.empty(0, dtype=held.dtype).set_(held)
    values = torch.as_strided(flat, size, stride, offset)
    return (values.float() if values.dtype == torch.bfloat16 else values).contiguous().numpy()


def _dtype(call: Any) -> np.dtype:
    if not isinstance(call, _Call) or call.name != "numpy dtype" or call.arguments[0] not in _NUMBERS:
        raise ValueError("numbers of an unknown kind")
    order = call.state[1] if call.state else "|"
    return np.dtype(call.arguments[0]).newbyteorder(order if order in "<>=|" else "=")


def _key(value: Any) -> str | int:
    """Text or a whole number; nothing that holds others, for those can be made to take for ever to look at."""
    if isinstance(value, _Call) and value.name in _SCALAR:
        kind, data = value.arguments
        value = np.frombuffer(_bytes(data), _dtype(kind), count=1)[0].item()
    if not isinstance(value, str | int) or (isinstance(value, int) and value.bit_length() > 64):
        raise ValueError(f"a key that is no text and no number but {type(value).__name__}")
    return value


def _follow(data: bytes, path: Path, form: Form = LABELS) -> Any:
    """What the program would leave, with its calls as notes."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def to_mark() -> list[Any]:
        at = marks.pop()
        items = stack[at:]
        del stack[at:]
        return items

    def pair_up(target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("pairs for something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    for operation, argument, _ in pickletools.genops(io.BytesIO(data)):
        name = operation.name
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            stack.append(argument)
        elif name in {"PROTO", "FRAME"}:
            continue
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(to_mark()))
        elif name == "LIST":
            stack.append(to_mark())
        elif name == "DICT":
            items = to_mark()
            stack.append({})
            pair_up(stack[-1], items)
        elif name in {"TUPLE1", "TUPLE2", "TUPLE3"}:
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in {"APPEND", "APPENDS"}:
            items = [stack.pop()] if name == "APPEND" else to_mark()
            _list(stack[-1]).extend(items)
        elif name == "SETITEM":
            items = stack[-2:]
            del stack[-2:]
            pair_up(stack[-1], items)
        elif name == "SETITEMS":
            items = to_mark()
            pair_up(stack[-1], items)
        elif name in {"BINPUT", "LONG_BINPUT", "PUT"}:
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in {"BINGET", "LONG_BINGET", "GET"}:
            stack.append(memo[argument])
        elif name in {"GLOBAL", "STACK_GLOBAL"}:
            if name == "STACK_GLOBAL":
                argument = " ".join(stack[-2:])
                del stack[-2:]
            if argument not in _NAMED:
                raise _refused(path, "asks for more than arrays", f"the name {printable(str(argument), 80)!r}", form)
            stack.append(_Name(argument))
        elif name == "REDUCE":
            arguments = stack.pop()
            called = stack.pop()
            if not isinstance(called, _Name) or not isinstance(arguments, tuple):
                raise ValueError("a call of something that has no name")
            # How protocol 2 writes bytes.
            encoded = called.name == "_codecs encode"
            stack.append(arguments[0].encode("latin1") if encoded else _Call(called.name, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Call) or not isinstance(state, tuple):
                raise ValueError("a state for something that was not made")
            stack[-1].state = state
        elif name == "STOP":
            return stack.pop()
        else:
            raise _refused(path, "does more than arrays need", f"the operation {name}", form)
    raise ValueError("the end is missing")


def _list(value: Any) -> list:
    if not isinstance(value, list):
        raise ValueError("items for something that is no list")
    return value


def _refused(path: Path, what: str, found: str, form: Form = LABELS) -> DataError:
    return DataError(
        what,
        where=path,
        expected=form.expected,
        found=found,
        next_step=f"Such a file is a program and is not run. {form.instead}",
    )


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}

_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BINSTRING", "SHORT_BINSTRING", "BYTEARRAY8"),
    *("INT", "LONG", "FLOAT", "STRING", "UNICODE"),  # of protocol 0
}


def plain_pickle(path: Path) -> object:
    """What a pickle of plain containers, text and numbers holds, such as the lists of COCO-20i; nothing is executed.

    Raises DataError: the file is too large, damaged, or asks for anything to be called.
    """
    data = read_whole(path, LARGEST, "a list of pictures", 0)
    try:
        found = _follow(data, path)
        whole = _is_plain(found)
    except DataError:
        raise
    except Exception as error:  # Bytes that are no pickle fail in many ways; none of them has run anything.
        raise _refused(path, "is damaged", f"{type(error).__name__}: {printable(str(error), 100)}") from error
    if not whole:
        raise _refused(path, "holds more than containers, text and numbers", "a call or an object")
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, str | int | float | bool)
