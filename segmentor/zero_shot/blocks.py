"""Blocks of labels: cut from maps, filled, drawn anew by a PixelCNN or from those seen, laid out again.

A PixelCNN gives each cell of a block a distribution that follows from the cells before it (in raster order) and from a
condition. The published training conditions every cell on the embedding of its own label, the very thing it is to
predict; here a block has one condition, the embedding of the class most of it belongs to.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clip_es.errors import ConfigError, ShapeError
from clip_es.types import UNDECIDED

Condition = Literal["majority", "own-label", "none"]
"""What a block is told about itself while training. `own-label` is published and gives the answer away."""


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees, of each cell's surroundings, what comes before it in raster order.

    Kind "A" stops before the cell itself, "B" includes it. Source: PixelCNN (van den Oord et al. 2016).
    """

    seen: Tensor

    def __init__(self, kind: Literal["A", "B"], inside: int, outside: int, size: int) -> None:
        super().__init__(inside, outside, size, padding=size // 2, bias=False)
        seen = torch.zeros(size, size)
        seen[: size // 2] = 1
        seen[size // 2, : size // 2 + (kind == "B")] = 1
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, input: Float[Tensor, "n a h w"]) -> Float[Tensor, "n b h w"]:
        """The convolution with the unseen part of its weights at zero."""
        return F.conv2d(input, self.weight * self.seen, None, self.stride, self.padding, self.dilation, self.groups)


class PixelCNN(nn.Module):
    """Logits [n class h w] of every cell of label blocks, each from the cells before it and the block's condition.

    `embedding` [class d] is the table of class vectors, fixed. Published depths: 8 layers of 7x7, 3 of 3x3, 5 of 3x3.
    """

    embedding: Tensor

    def __init__(
        self, embedding: Float[Tensor, "class d"], layers: int = 3, size: int = 3, maps: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        classes, width = embedding.shape
        self.register_buffer("embedding", embedding.clone(), persistent=False)
        self.convolutions = nn.ModuleList(
            MaskedConv2d("B" if i else "A", maps if i else width, maps, size) for i in range(layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(maps) for _ in range(layers))
        # The released code leaves these matrices as uninitialised memory.
        self.conditions = nn.ParameterList(nn.Parameter(torch.randn(width, maps) * 0.01) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(maps, classes, 1)

    def forward(
        self, labels: Int[Tensor, "n h w"], condition: Float[Tensor, "n d h w"] | None = None
    ) -> Float[Tensor, "n class h w"]:
        """`labels` are 0..class-1 everywhere; `condition` is a vector for each cell, or nothing."""
        hidden = F.embedding(labels, self.embedding).permute(0, 3, 1, 2)
        for number, (convolution, norm, matrix) in enumerate(
            zip(self.convolutions, self.norms, self.conditions, strict=True)
        ):
            hidden = torch.relu(norm(convolution(hidden)))
            if condition is not None:
                hidden = hidden + torch.einsum("ndhw,dm->nmhw", condition, matrix)
            if number >= len(self.norms) - 2:
                hidden = self.dropout(hidden)
        return self.last(hidden)

    def condition(self, labels: Int[Tensor, "n h w"], kind: Condition) -> Float[Tensor, "n d h w"] | None:
        """The condition of blocks in training."""
        if kind == "none":
            return None
        told = labels if kind == "own-label" else majority(labels)[:, None, None].expand_as(labels)
        return F.embedding(told, self.embedding).permute(0, 3, 1, 2)

    def loss(self, blocks: Int[Tensor, "n h w"], condition: Condition = "majority") -> Float[Tensor, ""]:
        """Negative log-likelihood of a cell, averaged over the visible ones; holes are filled for the input alone."""
        filled = fill_holes(blocks)
        return F.cross_entropy(self(filled, self.condition(filled, condition)), blocks, ignore_index=UNDECIDED)

    @torch.no_grad()
    def sample(
        self,
        classes: Int[Tensor, " n"],
        side: int = 3,
        preset: int = 0,
        *,
        flat: bool = False,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "n side side"]:
        """Blocks drawn cell by cell, conditioned on one class each; the first `preset` cells are that class.

        `flat` draws from the softmax of the softmax, nearly uniform, as the released code does.
        """
        was = self.training
        self.eval()
        blocks = classes[:, None, None].expand(-1, side, side).clone()
        told = F.embedding(blocks, self.embedding).permute(0, 3, 1, 2)
        for place in range(preset, side * side):
            row, column = divmod(place, side)
            chances = self(blocks, told)[:, :, row, column].softmax(dim=1)
            chances = chances.softmax(dim=1) if flat else chances
            blocks[:, row, column] = torch.multinomial(chances, 1, generator=generator)[:, 0]
        self.train(was)
        return blocks


def majority(labels: Int[Tensor, "n h w"]) -> Int[Tensor, " n"]:
    """The commonest label of each block, the smallest of equals."""
    flat = labels.flatten(1)
    counts = torch.zeros(len(flat), int(flat.max()) + 1, dtype=torch.long, device=flat.device)
    return counts.scatter_add(1, flat, torch.ones_like(flat)).argmax(dim=1)


def cut_blocks(labels: Int[Tensor, "n h w"], side: int = 3) -> Int[Tensor, "m side side"]:
    """The label maps' non-overlapping blocks that have at least one visible cell; a rest at the edges is left."""
    n, h, w = labels.shape
    if min(h, w) < side:
        raise ShapeError("a label map is smaller than a block", expected=f"at least {side} x {side}", found=(h, w))
    rows, columns = h // side, w // side
    cut = labels[:, : rows * side, : columns * side].reshape(n, rows, side, columns, side)
    cut = cut.permute(0, 1, 3, 2, 4).reshape(-1, side, side)
    return cut[(cut != UNDECIDED).flatten(1).any(dim=1)]


def fill_holes(blocks: Int[Tensor, "n h w"]) -> Int[Tensor, "n h w"]:
    """Ignored cells take a neighbour's label by cyclic shifts: by -1 down the rows, then across, then by +1 alike.

    One round for 3x3, two for 5x5, and so on; what a block then still lacks takes its first visible label.
    """
    filled = blocks.clone()
    for _ in range(blocks.shape[-1] // 2):
        for shift in (-1, 1):
            for axis in (1, 2):
                filled = torch.where(filled == UNDECIDED, filled.roll(shift, dims=axis), filled)
    flat, empty = filled.flatten(1), filled.flatten(1) == UNDECIDED
    first = flat.gather(1, (~empty).int().argmax(dim=1, keepdim=True))
    return torch.where(empty, first, flat).reshape(blocks.shape)


def accepted(
    blocks: Int[Tensor, "n h w"], unseen: range, least_unseen: int = 7, most_classes: int = 3
) -> Bool[Tensor, " n"]:
    """Blocks with enough unseen cells and few enough classes: the published filter of 3x3 blocks."""
    flat = blocks.flatten(1)
    count = ((flat >= unseen.start) & (flat < unseen.stop)).sum(dim=1)
    ordered = flat.sort(dim=1).values
    kinds = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
    return (count >= least_unseen) & (kinds <= most_classes)


def lay_out(blocks: Int[Tensor, "n m side side"]) -> Int[Tensor, "n h w"]:
    """m = k * k blocks for each sample, row by row on a k x k grid. Raises ShapeError: m is no square."""
    n, m, side, _ = blocks.shape
    k = round(m**0.5)
    if k * k != m:
        raise ShapeError("the blocks of a sample fill a square", expected="a square number", found=m)
    return blocks.reshape(n, k, k, side, side).permute(0, 1, 3, 2, 4).reshape(n, k * side, k * side)


def centres(length: int, side: int = 3) -> Int[Tensor, " k"]:
    """Rows (or columns) of the block centres: 1, 4, 7, ... for blocks of 3."""
    return torch.arange(side // 2, length, side)


def only_centres(labels: Int[Tensor, "n h w"], side: int = 3) -> Int[Tensor, "n h w"]:
    """All but the centres of the blocks ignored."""
    kept = torch.full_like(labels, UNDECIDED)
    rows, columns = centres(labels.shape[1], side), centres(labels.shape[2], side)
    kept[:, rows[:, None], columns] = labels[:, rows[:, None], columns]
    return kept


class EmpiricalSampler:
    """Blocks as they were seen, with one of their classes renamed to an unseen one: exact, and nothing to train.

    `blocks` are seen label blocks. `sample` draws some, renames the class most of each belongs to.
    Raises ConfigError: there is no block.
    """

    def __init__(self, blocks: Int[Tensor, "m side side"]) -> None:
        if not len(blocks):
            raise ConfigError("there is no block of labels to draw from", found="masks without any seen class")
        self.blocks = fill_holes(blocks)
        self.most = majority(self.blocks)

    def sample(
        self, classes: Int[Tensor, " n"], generator: torch.Generator | None = None
    ) -> Int[Tensor, "n side side"]:
        """For each of `classes` a block in which that class takes the place of the commonest one."""
        chosen = torch.randint(len(self.blocks), (len(classes),), generator=generator)
        blocks = self.blocks[chosen]
        return torch.where(blocks == self.most[chosen][:, None, None], classes[:, None, None], blocks)
