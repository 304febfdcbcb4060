"""Products of tokens with weights in float32: torch's own, or oneDNN's, which are quicker on some processors.

torch multiplies float32 by MKL, which leaves AVX512 alone on processors that are not Intel's: 90 GFLOP/s on a core of
an AMD EPYC, where oneDNN, which torch carries too, does 160 to 190. Sums run in another order.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor


@runtime_checkable
class Linear(Protocol):
    """`torch.nn.functional.linear`, or what computes the same."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, /) -> Tensor:
        """x [... in] times weight [out in], transposed, and the bias [out]: [... out]."""
        ...


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, /) -> Tensor:
    """torch's own."""
    return F.linear(x, weight, bias)


def quick_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, /) -> Tensor:
    """By oneDNN where torch has it and the numbers are float32 on the CPU; no gradient goes through it."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or not x.numel() or _one_dnn is None:
        return F.linear(x, weight, bias)
    return _one_dnn(x, weight, bias, "none", [], "")


_one_dnn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""What torch's compiler calls for a linear layer; there since torch 2.0, in no documentation."""
