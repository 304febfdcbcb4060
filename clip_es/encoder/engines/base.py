"""The joint between the encoder and whatever computes its early blocks: what is asked for, and what comes back.

The last block is explained, so it stays in torch and in float32; the blocks before it only have to be passed. What a
localizer wants to see on the way is a `Wanted`, and every engine answers it alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float32
from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """What is asked of the first blocks of a vision tower."""

    blocks: int
    """How many of them are passed, counted from the first."""
    averaged: int = 0
    """Over how many of these, the last ones, the attention is averaged over heads and summed."""
    last: bool = False
    """Whether the attention of the block after them is wanted too."""
    inputs: bool = False
    """Whether the input of each block, after its first norm, is wanted."""
    total: bool = False
    """Whether the attentions of all of them are wanted summed, heads apart."""
    outputs: tuple[int, ...] = ()
    """The blocks, counted from 0, whose outputs are wanted."""
    explicit: bool = False
    """Whether torch forms the attention of every block, also where nobody looks at it, which rounds differently."""


@dataclass(frozen=True)
class Passed:
    """What came out of them, all in float32 on the encoder's device."""

    tokens: Float32[Tensor, "b token dim"]
    """Tokens leaving the last of them; row 0 is the class token."""
    attention: Float32[Tensor, "b patch patch"]
    """Attention summed over the last layers, mean over heads, class token left out; zeros where none is averaged."""
    last_attention: Float32[Tensor, "b head token token"] | None = None
    """Attention of the block after them; rows sum to one."""
    inputs: tuple[Float32[Tensor, "b token dim"], ...] = ()
    total: Float32[Tensor, "b head token token"] | None = None
    outputs: tuple[Float32[Tensor, "b token dim"], ...] = ()


@runtime_checkable
class Engine(Protocol):
    """Computes early blocks of one tower."""

    def passed(self, tokens: Float32[Tensor, "b token dim"], wanted: Wanted) -> Passed:
        """Tokens entering the first block through some blocks. Raises ConfigError, WeightsError: it cannot."""
        ...
