"""How far a predicted outline is from the drawn one as a *shape*: shift and scale, tile by tile.

Two measures with one interface. `InverseNetDistance` asks a frozen network that was trained to tell the transformation
between two edge maps (InverseForm; SAZS uses its weights). `MomentDistance` needs no network: centre and spread of both
edge maps, in closed form; it is the default.

The released loss has no gradient: the one-channel edge logit goes through a log-softmax over that single channel, which
is 0 everywhere, whatever is predicted. `prediction="published"` repeats that, for parity; `"sigmoid"` mends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clip_es.errors import WeightsError
from clip_es.segmentor.training.checkpoints import read_state

TILES = (3, 6)
"""Rows and columns of tiles."""
TILE = 224
"""Side of a tile of the public network; the map is resized to 672 x 1344, an aspect left over from Cityscapes."""

Prediction = Literal["sigmoid", "published"]


@runtime_checkable
class ShapeDistance(Protocol):
    """What the shape term of a loss is."""

    def __call__(
        self, edge_logits: Float[Tensor, "batch 1 h w"], edges: Float[Tensor, "batch 1 h w"]
    ) -> Float[Tensor, ""]:
        """0 where both outlines agree; grows with shift and scale between them."""
        ...


def cut_tiles(maps: Float[Tensor, "batch 1 h w"], side: int) -> Float[Tensor, "tile pixel"]:
    """The map resized to 3 x 6 tiles of `side`, each tile a row; tiles row by row, the batch fastest."""
    rows, columns = TILES
    wide = F.interpolate(maps, size=(rows * side, columns * side), mode="bilinear", align_corners=False)
    cut = wide[:, 0].reshape(len(maps), rows, side, columns, side)
    return cut.permute(1, 3, 0, 2, 4).reshape(rows * columns * len(maps), side * side)


def predicted_edges(edge_logits: Float[Tensor, "batch 1 h w"], how: Prediction) -> Float[Tensor, "batch 1 h w"]:
    """What is compared with the target: probabilities, or the released code's log-softmax over one channel, all 0."""
    return torch.sigmoid(edge_logits) if how == "sigmoid" else F.log_softmax(edge_logits, dim=1)


class InverseNet(nn.Module):
    """From two edge tiles, side by side in one row, to 4 numbers: normalised shifts and scales; 0 is "the same".

    Parameter names are those of the public file `distance_measures_regressor.pth` (100352-1000-32-4, 100.4 million).
    """

    def __init__(self, side: int = TILE, hidden: tuple[int, int] = (1000, 32), outputs: int = 4) -> None:
        super().__init__()
        self.side = side
        first, second = hidden
        self.fc = nn.Sequential(
            nn.Linear(2 * side * side, first),
            nn.ReLU(inplace=True),
            nn.Linear(first, second),
            nn.ReLU(inplace=True),
            nn.Linear(second, outputs),
        )

    def forward(self, one: Float[Tensor, "tile pixel"], other: Float[Tensor, "tile pixel"]) -> Float[Tensor, "tile 4"]:
        """The transformation between the two."""
        return self.fc(torch.cat([one, other], dim=1))


class InverseNetDistance(nn.Module):
    """Mean length of the transformation over the tiles, by a frozen `InverseNet`."""

    def __init__(self, net: InverseNet, prediction: Prediction = "sigmoid") -> None:
        super().__init__()
        self.net = net.requires_grad_(False).eval()
        self.prediction: Prediction = prediction

    def coefficients(
        self, edge_logits: Float[Tensor, "batch 1 h w"], edges: Float[Tensor, "batch 1 h w"]
    ) -> Float[Tensor, "tile 4"]:
        """The transformation of each tile."""
        one = cut_tiles(predicted_edges(edge_logits, self.prediction), self.net.side)
        return self.net(one, cut_tiles(edges, self.net.side))

    def forward(
        self, edge_logits: Float[Tensor, "batch 1 h w"], edges: Float[Tensor, "batch 1 h w"]
    ) -> Float[Tensor, ""]:
        """The term of the loss; its gradient is exactly zero with `prediction="published"`."""
        return self.coefficients(edge_logits, edges).norm(dim=1).mean()

    def train(self, mode: bool = True) -> InverseNetDistance:
        """The network stays as it is."""
        super().train(mode)
        self.net.eval()
        return self


class MomentDistance(nn.Module):
    """The same four numbers from moments: difference of the centres and log ratio of the spreads of both edge maps.

    Centres are in tile sides from the middle (-1..1). Tiles without an edge in the target count nothing, nor does a
    tile in which nothing at all is predicted pull: its centre is the tile's, its spread that of an even map.
    """

    def __init__(self, tiles: tuple[int, int] = TILES, floor: float = 1e-3) -> None:
        super().__init__()
        self.tiles, self.floor = tiles, floor

    def coefficients(
        self, edge_logits: Float[Tensor, "batch 1 h w"], edges: Float[Tensor, "batch 1 h w"]
    ) -> Float[Tensor, "tile 4"]:
        """Shift down, shift right, log scale down, log scale right, of each tile with an edge."""
        predicted, drawn = (self._moments(maps) for maps in (torch.sigmoid(edge_logits), edges))
        there = drawn[2] > 0
        shift = (predicted[0] - drawn[0])[there]
        scale = (predicted[1] / drawn[1]).log()[there] / 2
        return torch.cat([shift, scale], dim=1)

    def forward(
        self, edge_logits: Float[Tensor, "batch 1 h w"], edges: Float[Tensor, "batch 1 h w"]
    ) -> Float[Tensor, ""]:
        """Mean length of the four numbers over the tiles that have an edge."""
        found = self.coefficients(edge_logits, edges)
        if not len(found):
            return edge_logits.sum() * 0
        return (found.square().sum(1) + 1e-8).sqrt().mean()

    def _moments(self, maps: Float[Tensor, "batch 1 h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """Centre [tile 2], variance [tile 2] and mass [tile] of each tile."""
        rows, columns = self.tiles
        height = -(-maps.shape[2] // rows) * rows
        width = -(-maps.shape[3] // columns) * columns
        even = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
        cut = even.reshape(len(maps), rows, height // rows, columns, width // columns).transpose(2, 3)
        tile = cut.reshape(-1, height // rows, width // columns)
        mass = tile.sum((1, 2))
        weights = (tile + self.floor) / (tile + self.floor).sum((1, 2), keepdim=True)
        down, right = (_centres(count, maps) for count in tile.shape[1:])
        sides = ((weights.sum(2), down), (weights.sum(1), right))
        centre = torch.stack([(share * place).sum(1) for share, place in sides], dim=1)
        squares = torch.stack([(share * place.square()).sum(1) for share, place in sides], dim=1)
        return centre, (squares - centre.square()).clamp(min=1e-4), mass


def read_inverse_net(path: str | Path) -> InverseNet:
    """A network from a file: the public layout (`inversenet.fc.0.weight`, ...), or that of `clip-es train-shape-net`.

    Read with `weights_only=True`. Raises WeightsError: missing, damaged, or another layout.
    """
    return inverse_net(read_state(path), path)


def inverse_net(state: Mapping[str, Tensor], where: object = None) -> InverseNet:
    """The same from a state dict. Raises WeightsError: another layout."""
    known = {key.removeprefix("module.").removeprefix("inversenet."): value for key, value in state.items()}
    net = _net_like(known)
    wanted = {} if net is None else {name: value.shape for name, value in net.state_dict().items()}
    if net is None or any(name not in known or known[name].shape != shape for name, shape in wanted.items()):
        shapes = [tuple(value.shape) for name, value in known.items() if name.startswith("fc.")]
        raise WeightsError(
            "this is no inverse-transform network",
            where=where,
            expected="fc.0, fc.2, fc.4 from 2 x side x side inputs to 4 outputs, as in distance_measures_regressor.pth",
            found=f"shapes {shapes}" if shapes else f"keys {', '.join(list(known)[:6]) or 'none'}",
            next_step="Name that file, or one of `clip-es train-shape-net`; without --shape-net no network is needed.",
        )
    net.load_state_dict({name: known[name].float() for name in wanted}, assign=True)
    return net


def _net_like(known: Mapping[str, Tensor]) -> InverseNet | None:
    """A network of the sizes of the first two layers, without memory; None where there are no such layers."""
    first, second = known.get("fc.0.weight"), known.get("fc.2.weight")
    if first is None or second is None or first.ndim != 2 or second.ndim != 2:
        return None
    side = round((first.shape[1] / 2) ** 0.5)
    if side < 1 or first.shape[1] != 2 * side * side:
        return None
    with torch.device("meta"):
        return InverseNet(side, (first.shape[0], second.shape[0]))


def _centres(count: int, like: Tensor) -> Tensor:
    """Places of the pixels of a row of `count`, -1..1."""
    return (2 * torch.arange(count, device=like.device, dtype=like.dtype) + 1) / count - 1
