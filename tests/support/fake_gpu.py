"""A GPU that computes nothing: which operations it would be asked for, and whether every tensor would be there.

Tensors have shapes and devices and no values (torch's fake tensors, which refuse to mix devices), so no GPU is needed.
Wherever the program reads a value, it gets one that means nothing, and the read is counted: on a GPU each read waits
for all that was asked before.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FAKES = FakeTensorMode(allow_non_fake_inputs=True)
"""One for the process: what is kept from call to call on a device must be of one kind."""
ALLOCATIONS = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "lift_fresh"}
"""Besides views: what asks a device for nothing."""


_SCALARS = {
    Tensor.item: lambda value: value,
    Tensor.__float__: float,
    Tensor.__int__: int,
    Tensor.__bool__: bool,
    Tensor.__index__: int,
}


@dataclass
class FakeGpu:
    """`with FakeGpu() as gpu:` everything asked of tensors on `cuda` is counted in `gpu.operations`."""

    integer: int = 1000
    """The answer where an integer is read, such as how many vertices a lattice has."""
    operations: Counter[str] = field(default_factory=Counter)
    """By their names; copies to and from the GPU are among them."""
    reads: Counter[str] = field(default_factory=Counter)
    """Where the CPU waits for the GPU: copies to the CPU, and single values."""

    def __enter__(self) -> FakeGpu:
        self._entered = ExitStack()
        # Torch's own Python calls these unseen by a mode; written in C++ they ask the build of torch for its GPU.
        for name, function in (("contiguous", _contiguous), ("__getitem__", _got)):
            setattr(FakeTensor, name, function)
            self._entered.callback(delattr, FakeTensor, name)
        for mode in (FAKES, _Count(self), _Read(self)):
            self._entered.enter_context(mode)
        return self

    def __exit__(self, *error: object) -> None:
        self._entered.__exit__(*error)


class _Count(TorchDispatchMode):
    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        made = func(*args, **(kwargs or {}))
        if func.is_view or name in ALLOCATIONS or func.namespace == "prim":
            return made
        before, after = (_devices(tree) for tree in ((args, kwargs), made))
        if "cuda" in before | after:
            self.gpu.operations[name] += 1
            if name in ("_to_copy", "copy_") and before == {"cuda"} and after == {"cpu"}:
                self.gpu.reads["copy to the CPU"] += 1
        return made


class _Read(TorchFunctionMode):
    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.tolist) and isinstance(args[0], FakeTensor):
            if args[0].device.type != "cpu":
                assert func is Tensor.tolist, "a tensor of a GPU has no numpy()"
                self.gpu.reads["tolist"] += 1
            values = np.random.default_rng(0).random(tuple(args[0].shape)).astype(_numpy_kind(args[0].dtype))
            return values if func is Tensor.numpy else values.tolist()
        if func in _SCALARS and isinstance(args[0], FakeTensor):
            if args[0].device.type != "cpu":
                self.gpu.reads["one value"] += 1
            kind = args[0].dtype
            value = True if kind == torch.bool else 0.5 if kind.is_floating_point else self.gpu.integer
            return _SCALARS[func](value)
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, Tensor.new_tensor):  # Made on the CPU and copied, which fake tensors cannot see.
            place = kwargs.pop("device", None) or (args[0].device if func is Tensor.new_tensor else "cpu")
            if func is Tensor.new_tensor:
                args, kwargs = args[1:], {"dtype": args[0].dtype, **kwargs}
            return _put(torch.tensor(*args, **kwargs), torch.device(place), None)
        if func in (Tensor.to, Tensor.cpu):
            return _moved(args[0], *(("cpu",) if func is Tensor.cpu else args[1:]), **kwargs)
        if func is Tensor.copy_:
            return torch.ops.aten.copy_.default(*args[:2])
        if func is Tensor.__setitem__ and "cuda" in _devices(args):
            view, rows = _picked(args[0], args[1])
            if not isinstance(args[2], Tensor) and not rows:
                return torch.ops.aten.fill_.Scalar(view, args[2])
            value = args[2] if isinstance(args[2], Tensor) else torch.tensor(args[2], dtype=view.dtype).to(view.device)
            return torch.ops.aten.index_put_(view, rows, value) if rows else torch.ops.aten.copy_.default(view, value)
        return func(*args, **kwargs)


def _got(x: Tensor, index: Any) -> Tensor:
    view, rows = _picked(x, index)
    return torch.ops.aten.index.Tensor(view, rows) if rows else view


def _contiguous(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    return x if x.is_contiguous(memory_format=memory_format) else x.clone(memory_format=memory_format)


def _moved(x: Tensor, *where: Any, **more: Any) -> Tensor:
    """`Tensor.to`, which written in C++ asks the build of torch for its GPU."""
    if where and isinstance(where[0], Tensor):
        return _put(x, where[0].device, where[0].dtype)
    device, kind, *_ = torch._C._nn._parse_to(*where, **more)
    return _put(x, device, kind)


def _put(x: Tensor, device: torch.device | None, kind: torch.dtype | None) -> Tensor:
    device, kind = device or x.device, kind or x.dtype
    if (device.type, kind) == (x.device.type, x.dtype):
        return x
    return torch.ops.aten._to_copy.default(x, dtype=kind, device=device)


def _picked(x: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None]]:
    """The view that an index means without its tensors and lists, and these, by dimension of the view."""
    parts = list(index) if isinstance(index, tuple) else [index]
    taken = sum(1 for one in parts if one is not None and one is not Ellipsis)
    if any(one is Ellipsis for one in parts):
        at = next(number for number, one in enumerate(parts) if one is Ellipsis)
        parts[at : at + 1] = [slice(None)] * (x.ndim - taken)
    dim, rows = 0, {}
    for one in parts:
        if isinstance(one, (int, np.integer)):
            x = torch.ops.aten.select.int(x, dim, int(one))
            continue
        if one is None:
            x = x.unsqueeze(dim)
        elif isinstance(one, slice):
            if one != slice(None):
                x = torch.ops.aten.slice.Tensor(x, dim, one.start, one.stop, one.step or 1)
        else:
            rows[dim] = torch.as_tensor(one).to(x.device)
        dim += 1
    return x, [rows.get(number) for number in range(max(rows) + 1)] if rows else []


def _numpy_kind(kind: torch.dtype) -> np.dtype:
    return np.dtype("bool" if kind == torch.bool else str(kind).removeprefix("torch."))


def _devices(tree: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


def to_fake_gpu(module: nn.Module, *device: Any, **more: Any) -> nn.Module:
    """Put a module on the fake GPU: its parameters and buffers keep their shapes and lose their values. To be put in
    the place of `nn.Module.to`, which cannot."""
    with FAKES:
        for part in module.modules():
            for table in (part._parameters, part._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        made = on_fake_gpu(tensor)
                        table[name] = nn.Parameter(made, requires_grad=False) if table is part._parameters else made
    return module


def on_fake_gpu(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and kind on the fake GPU."""
    with FAKES:
        return torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="cuda")
