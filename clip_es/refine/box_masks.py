"""The boxes of connected patches on the CPU; and their union without leaving the device of the maps.

Finding components walks from patch to patch, a number of steps that only the values know; on a grid this small that is
quick. For a device it is a fixed number of matrix products, for all maps at once. In a block of 2 x 2 patches every two
touch, so the patches of a block that are on always belong together, and a block is a node; squaring the matrix of
blocks that touch doubles the length of the paths it knows. The rows that a component reaches are without gaps, as are
its columns, so that the union of the boxes is one more product: over blocks, of the rows and the columns that their
component reaches.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


def component_boxes(on: Bool[np.ndarray, "gh gw"]) -> Int[np.ndarray, "k 4"]:
    """Boxes x0 y0 x1 y1 of the components of patches that are on, in the order of their first patches, row by row.

    Patches that touch, also at a corner, are connected. The same as SciPy's `label` and `find_objects`, whose import
    takes as long as two thousand grids.
    """
    edges = np.diff(on.astype(np.int8), axis=1, prepend=0, append=0)
    rows, starts = np.nonzero(edges > 0)
    ends = np.nonzero(edges < 0)[1]
    boxes: list[list[int]] = []
    part_of: list[int] = []  # the component that each has become a part of; itself at first
    above: list[tuple[int, int, int]] = []  # runs of the row before: start, end, component
    here: list[tuple[int, int, int]] = []
    row = -1
    for y, x0, x1 in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        if y != row:
            above, here, row = here if y == row + 1 else [], [], y
        touched = {_whole(part_of, one) for start, end, one in above if start <= x1 and x0 <= end}
        first = min(touched, default=len(boxes))
        if not touched:
            part_of.append(first)
            boxes.append([x0, y, x1, y + 1])
        box = boxes[first]
        for a, b, c, d in ([x0, y, x1, y + 1], *(boxes[one] for one in touched if one != first)):
            box[:] = min(a, box[0]), min(b, box[1]), max(c, box[2]), max(d, box[3])
        for one in touched:
            part_of[one] = first
        here.append((x0, x1, first))
    return np.array([box for k, box in enumerate(boxes) if part_of[k] == k], dtype=np.int64).reshape(-1, 4)


def _whole(part_of: list[int], one: int) -> int:
    while part_of[one] != one:
        one = part_of[one]
    return one


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
    the last row and column out. The same as `affinity.box_mask` finds on the CPU.
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
