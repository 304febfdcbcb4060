"""Dense prediction transformer: a ViT's tokens put together again as maps at four scales, and fused.

SAZS uses level 2 alone as its pixel embedding, so that blocks behind its tokens teach nothing; `DptBackbone` leaves
them out. The fused paths are the full decoder, as in LSeg. Parameter names are those of the public files.
Source: Ranftl et al. 2021; SAZS's and LSeg's released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clip_es.errors import ConfigError, ShapeError, WeightsError

HOOKS = (5, 11, 17, 23)
"""Blocks of a ViT-L, from 0, whose output is put together again."""


class ProjectReadout(nn.Module):
    """Each patch token joined with the class token: GELU(W [token ; class token] + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch patch width"]:
        """Patch tokens; the class token, the first, is spent."""
        readout = tokens[:, :1].expand(-1, tokens.shape[1] - 1, -1)
        return self.project(torch.cat([tokens[:, 1:], readout], dim=2))


class Reassemble(nn.Module):
    """Tokens of one block to a map at 1/4, 1/8, 1/16 or 1/32 of the picture (levels 1 to 4, patches of 16).

    Public names: `act_postprocessL.0.project.0` (readout), `.3` (1x1), `.4` (resizing).
    """

    def __init__(self, width: int, features: int, level: int) -> None:
        super().__init__()
        resize: dict[int, nn.Module] = {
            1: nn.ConvTranspose2d(features, features, 4, 4),
            2: nn.ConvTranspose2d(features, features, 2, 2),
            4: nn.Conv2d(features, features, 3, 2, 1),
        }
        self.add_module("0", ProjectReadout(width))
        self.add_module("3", nn.Conv2d(width, features, 1))
        if level in resize:
            self.add_module("4", resize[level])
        self.resizes = level in resize

    def forward(
        self, tokens: Float[Tensor, "batch token width"], grid_hw: tuple[int, int]
    ) -> Float[Tensor, "batch feature h w"]:
        """Raises ShapeError: tokens of another grid."""
        if tokens.shape[1] != grid_hw[0] * grid_hw[1] + 1:
            raise ShapeError("tokens must be those of the grid", expected=f"1 + {grid_hw}", found=tokens.shape[1])
        patches = self.get_submodule("0")(tokens).transpose(1, 2).unflatten(2, grid_hw)
        seen = self.get_submodule("3")(patches)
        return self.get_submodule("4")(seen) if self.resizes else seen


class ResidualUnit(nn.Module):
    """x + BN(conv(relu(BN(conv(relu x)))))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.bn1(self.conv1(torch.relu(x)))
        return x + self.bn2(self.conv2(torch.relu(seen)))


class FusionBlock(nn.Module):
    """The coarser path plus a level, both through residual units, at twice the size."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, path: Tensor, level: Tensor | None = None) -> Tensor:
        if level is not None:
            path = path + self.resConfUnit1(level)
        path = self.resConfUnit2(path)
        return self.out_conv(F.interpolate(path, scale_factor=2, mode="bilinear", align_corners=True))


class Dpt(nn.Module):
    """Levels 1 to 4 from the tokens of four blocks, and the fused paths 1 to 4."""

    def __init__(self, width: int, level_features: Sequence[int], features: int = 256) -> None:
        super().__init__()
        if len(level_features) != 4:
            raise ConfigError("a DPT has four levels", found=list(level_features))
        self.pretrained = nn.Module()
        self.scratch = nn.Module()
        for level, channels in enumerate(level_features, start=1):
            self.pretrained.add_module(f"act_postprocess{level}", Reassemble(width, channels, level))
            self.scratch.add_module(f"layer{level}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False))
            self.scratch.add_module(f"refinenet{level}", FusionBlock(features))

    def level(self, number: int, tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """One level alone."""
        return self.pretrained.get_submodule(f"act_postprocess{number}")(tokens, grid_hw)

    def levels(self, tokens: Sequence[Tensor], grid_hw: tuple[int, int]) -> list[Tensor]:
        """Maps at 1/4, 1/8, 1/16, 1/32."""
        return [self.level(number, seen, grid_hw) for number, seen in enumerate(tokens, start=1)]

    def fuse(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Paths 1 to 4 [batch feature ...]; path 1, at 1/2, is what a head sees. Even grids only: sizes double."""
        paths: list[Tensor] = []
        path = None
        for number in (4, 3, 2, 1):
            level = self.scratch.get_submodule(f"layer{number}_rn")(levels[number - 1])
            block = self.scratch.get_submodule(f"refinenet{number}")
            path = block(level) if path is None else block(path, level)
            paths.insert(0, path)
        return paths


def resize_positions(
    positions: Float[Tensor, "1 token width"], grid_hw: tuple[int, int]
) -> Float[Tensor, "1 other width"]:
    """A square table of position embeddings for another grid: the class token's row kept, the rest bilinear."""
    side = round((positions.shape[1] - 1) ** 0.5)
    rest = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    spread = F.interpolate(rest, size=grid_hw, mode="bilinear", align_corners=False)
    return torch.cat([positions[:, :1], spread.flatten(2).transpose(1, 2)], dim=1)


def read_dpt(model: Dpt, state: Mapping[str, Tensor], where: object = None) -> None:
    """Give a DPT the weights of a public file (LSeg's, SAZS's); the ViT's own are not its matter.

    Raises WeightsError: weights are missing or of another shape.
    """
    own = model.state_dict()
    given = {str(key).removeprefix("module.").removeprefix("net."): value for key, value in state.items()}
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    wrong = [key for key in own if key in given and own[key].shape != given[key].shape]
    if missing or wrong:
        key = (missing or wrong)[0]
        raise WeightsError(
            "these are no weights of this DPT",
            where=where,
            expected=f"{key} {list(own[key].shape)}",
            found=f"{len(missing)} of {len(own)} missing" if missing else f"{list(given[key].shape)}",
        )
    model.load_state_dict({**own, **{key: value for key, value in given.items() if key in own}})
