"""The union of the boxes of connected patches, without leaving the device of the maps.

Finding components usually walks from patch to patch, a number of steps that only the values know. Here it is a fixed
number of matrix products, for all maps at once. In a block of 2 x 2 patches every two touch, so the patches of a block
that are on always belong together, and a block is a node; squaring the matrix of blocks that touch doubles the length
of the paths it knows. The rows that a component reaches are without gaps, as are its columns, so that the union of the
boxes is one more product: over blocks, of the rows and the columns that their component reaches.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor


class _Grid(NamedTuple):
    """What only depends on the size of the grid."""

    blocks: Float[Tensor, "block patch"]
    """1 where a patch belongs to a block."""
    touches: Float[Tensor, "patch patch"]
    """1 where two patches touch, also at a corner, or are the same."""
    sides: Float[Tensor, "patch rows+columns"]
    """1 in the row and in the column of each patch."""
    squarings: int
    """Enough for a path through all blocks."""


def box_mask_on_device(
    levels: UInt8[Tensor, "class gh gw"], limits: tuple[int, ...], drop_border: bool
) -> Bool[Tensor, "class gh gw"]:
    """True inside the union of the upright boxes of each map's connected patches.

    `levels` are maps in 8 bit; a patch is on where its level exceeds that entry of `limits` (one for each level 0..255)
    which stands at the map's largest level. Patches that touch, also at a corner, are connected. `drop_border` leaves
    the last row and column out. The same as `affinity.box_mask` finds with SciPy on the CPU.
    """
    rows, columns = levels.shape[1:]
    # Sums of products of 0 and 1 stay above 0 in half precision, and beyond that only "above 0" is asked.
    kind = torch.float32 if levels.device.type == "cpu" else torch.float16
    grid = _grid(rows, columns, levels.device, kind)
    top = levels.flatten(1).amax(1).long()
    on = levels.flatten(1) > _limits(limits, levels.device).index_select(0, top)[:, None]
    members = grid.blocks * on[:, None]  # [class block patch]
    reached = (members @ grid.touches @ members.mT).clamp_(max=1)
    for _ in range(grid.squarings):
        reached = (reached @ reached).clamp_(max=1)
    spans = (reached @ (members @ grid.sides)).clamp_(max=1)
    mask = spans[..., :rows].mT @ spans[..., rows:] > 0
    if drop_border:
        mask[:, -1:] = False
        mask[:, :, -1:] = False
    return mask


@lru_cache(maxsize=16)
def _grid(rows: int, columns: int, device: torch.device, kind: torch.dtype) -> _Grid:
    wide = -(-columns // 2)
    y, x = (place.flatten() for place in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    count = -(-rows // 2) * wide
    blocks = torch.arange(count)[:, None] == (y // 2) * wide + x // 2
    touches = ((y[:, None] - y).abs() <= 1) & ((x[:, None] - x).abs() <= 1)
    sides = torch.cat([y[:, None] == torch.arange(rows), x[:, None] == torch.arange(columns)], dim=1)
    constant = (part.to(kind).to(device) for part in (blocks, touches, sides))
    return _Grid(*constant, squarings=math.ceil(math.log2(max(count - 1, 1))))


@lru_cache(maxsize=16)
def _limits(limits: tuple[int, ...], device: torch.device) -> UInt8[Tensor, " level"]:
    return torch.tensor(limits, dtype=torch.uint8).to(device)
