"""Maps of a backbone to one embedding for each pixel, in the space of the text: learnt, or the frozen CLIP's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clip_es.errors import ShapeError


class PixelEmbedding(nn.Module):
    """Maps of a backbone to pixel embeddings on the finest of their grids: each to `channels`, joined, projected.

    Starts from random weights, so it learns the text's space from the masks of the seen classes alone.
    """

    def __init__(self, in_channels: Sequence[int], embed: int, channels: int = 64) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(_unit(width, channels) for width in in_channels)
        self.fuse = _unit(channels * len(in_channels), channels)
        self.out: nn.Module = nn.Conv2d(channels, embed, 1)

    def joined(self, maps: Sequence[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch channel h w"]:
        """What all maps say of each pixel."""
        size = maps[0].shape[2:]
        parts = [layer(seen) for layer, seen in zip(self.inputs, maps, strict=True)]
        even = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in parts]
        return self.fuse(torch.cat(even, dim=1))

    def embed(
        self, joined: Float[Tensor, "batch channel h w"], maps: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> Float[Tensor, "batch dim h w"]:
        """Embeddings on the grid of the first map."""
        return self.out(joined)


class ClipPixelEmbedding(PixelEmbedding):
    """The frozen CLIP's own embeddings of its patches, brought to pixels by attention that is learnt.

    The last map holds the patches in CLIP's common space, once or in several ways (`clip_members`), which are added
    with learnt weights, one number for each. Every pixel takes a weighted mean of them; its weights follow
    from what the pixel looks like and how far a patch is, so what is learnt (which patch a pixel belongs to) speaks of
    no class and holds for those never trained on. `adapt` adds a correction of the embedding, from zero: it learns the
    seen classes better, and is no help to others.
    """

    def __init__(
        self, in_channels: Sequence[int], embed: int, channels: int = 64, keys: int = 32, adapt: float = 0.0
    ) -> None:
        super().__init__(in_channels[:-1], embed, channels)
        if in_channels[-1] % embed:
            raise ShapeError("the last map must lie in the text's space", expected=embed, found=in_channels[-1])
        self.adapt, self.embed_dim = adapt, embed
        self.mix = nn.Parameter(torch.zeros(in_channels[-1] // embed))
        """Logarithms of the weights of the members."""
        self.query = nn.Conv2d(channels, keys, 1)
        self.key = nn.Conv2d(channels, keys, 1)
        self.nearness = nn.Parameter(torch.tensor(1.5))
        """How fast a patch's weight falls with its distance, in patches: exp(-nearness d^2) at first alone."""
        zero_(self.query)
        if adapt:
            zero_(self.out)
        else:
            self.out = nn.Identity()

    def embed(
        self, joined: Float[Tensor, "batch channel h w"], maps: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> Float[Tensor, "batch dim h w"]:
        """Embeddings on the grid of the first map: means of unit vectors, and the correction."""
        mixed = self.carry(joined, self.own(maps[-1]))
        return mixed + self.adapt * self.out(joined) if self.adapt else mixed

    def own(self, members: Float[Tensor, "batch member_dim gh gw"]) -> Float[Tensor, "batch dim gh gw"]:
        """CLIP's embedding of each patch: the weighted sum of its members, each of unit length."""
        units = F.normalize(members.unflatten(1, (-1, self.embed_dim)), dim=2)
        return torch.einsum("m,bmdhw->bdhw", self.mix.softmax(0), units)

    def carry(
        self, joined: Float[Tensor, "batch channel h w"], patches: Float[Tensor, "batch any gh gw"]
    ) -> Float[Tensor, "batch any h w"]:
        """What patches hold, brought to pixels: for each a weighted mean."""
        return self.carrier(joined, patches)(patches)

    def carrier(
        self, joined: Float[Tensor, "batch channel h w"], like: Float[Tensor, "batch _ gh gw"]
    ) -> Callable[[Float[Tensor, "batch any gh gw"]], Float[Tensor, "batch any h w"]]:
        """The same for anything on the grid of `like`; the weights are made once."""
        grid, size = (like.shape[2], like.shape[3]), (joined.shape[2], joined.shape[3])
        coarse = _pooled(joined, grid)
        queries, keys = self.query(joined).flatten(2), self.key(coarse).flatten(2)
        alike = torch.einsum("bkp,bkg->bpg", queries, keys) * queries.shape[1] ** -0.5
        weights = (alike - F.softplus(self.nearness) * _squared_distances(size, grid, joined)).softmax(-1)
        return lambda patches: torch.einsum("bpg,bdg->bdp", weights, patches.flatten(2)).unflatten(2, size)


def _pooled(maps: Float[Tensor, "batch channel h w"], grid: tuple[Any, Any]) -> Float[Tensor, "batch channel gh gw"]:
    """Means over the cells of a grid. Whole cells, which patches are, by the pooling that ONNX has for any size."""
    height, width = int(maps.shape[2]), int(maps.shape[3])
    if height % int(grid[0]) or width % int(grid[1]):
        return F.adaptive_avg_pool2d(maps, grid)
    return F.avg_pool2d(maps, (height // int(grid[0]), width // int(grid[1])))


def _squared_distances(size: Sequence[Any], grid: Sequence[Any], like: Tensor) -> Float[Tensor, "pixel patch"]:
    """Between pixels and centres of patches, in patches."""
    rows, columns = (
        (torch.arange(fine, device=like.device) + 0.5)[:, None] * coarse / fine
        - (torch.arange(coarse, device=like.device) + 0.5)
        for fine, coarse in zip(size, grid, strict=True)
    )
    squares = rows.square()[:, None, :, None] + columns.square()[None, :, None, :]
    return squares.reshape(size[0] * size[1], grid[0] * grid[1]).to(like.dtype)


def zero_(layer: nn.Module) -> None:
    """Begin with a layer that adds nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _unit(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True))
