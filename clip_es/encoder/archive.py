"""Tensors of a TorchScript archive, read without running anything it contains.

OpenAI publishes CLIP as `torch.jit.save` archives. `torch.jit.load` compiles the archive's code and may run it
(`__setstate__`), so it is not used. Such an archive is a zip of

    <name>/data.pkl     the module tree: a pickle whose classes are named `__torch__....`
    <name>/data/<key>   the bytes of each storage
    <name>/code/...     the program: never opened here

The pickle goes through an unpickler that knows five kinds of names and builds nothing but tensors and empty
shells; every other name ends the reading.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"}
_LARGEST_TREE = 64 * 2**20
"""Bytes; the module tree of ViT-L/14 has a quarter of a million."""


class _Module:
    """Shell of a module: its attributes, and no behaviour."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
    # as_strided refuses a view that leaves its storage, so a forged header cannot read foreign memory.
    return storage.as_strided(size, stride, offset)


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle" and name in _LISTS:
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, _type: value
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"the archive names {module}.{name}, which no CLIP needs")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("the archive refers to something that is no storage")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            if len(content) != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} has {len(content)} bytes instead of {count} {dtype}")
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._storages[key]


def archive_root(path: Path) -> str | None:
    """Folder inside the zip that holds a TorchScript module; None where the file is no such archive."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    roots = [name.removesuffix("/constants.pkl") for name in names if name.endswith("/constants.pkl")]
    return next((root for root in sorted(roots, key=len) if f"{root}/data.pkl" in names), None)


def read_archive(path: Path, root: str) -> dict[str, Tensor]:
    """Every tensor of the module tree, under its dotted name.

    Raises pickle.UnpicklingError, zipfile.BadZipFile, KeyError, ...: the archive is damaged or holds something else.
    `weights.py` turns these into WeightsError.
    """
    with zipfile.ZipFile(path) as archive:
        # torch compresses the code alone. What is read here is stored, so more than the file has could only be a bomb.
        read = [info for info in archive.infolist() if info.filename.startswith((f"{root}/data.pkl", f"{root}/data/"))]
        if sum(info.file_size for info in read) > path.stat().st_size:
            raise zipfile.BadZipFile("its members claim more bytes than the file has")
        if archive.getinfo(f"{root}/data.pkl").file_size > _LARGEST_TREE:
            raise zipfile.BadZipFile("its module tree is implausibly large")
        top = _TensorUnpickler(archive, root).load()
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    todo: list[tuple[str, object]] = [("", top)]
    while todo:
        prefix, module = todo.pop()
        if not isinstance(module, _Module) or id(module) in seen or not isinstance(module.state, dict):
            continue
        seen.add(id(module))
        for name, value in module.state.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            else:
                todo.append((f"{prefix}{name}.", value))
    return found
