"""Train the inverse-transform network of the shape loss: two edge tiles in, the transformation between them out."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clip_es.errors import ConfigError
from clip_es.segmentor.losses.shape import InverseNet
from clip_es.store.disk import write_atomic
from clip_es.training import ModelTask, Plan, Report, train


@dataclass(frozen=True)
class ShapeNetConfig:
    """How the network is trained."""

    side: int = 56
    """Side of a tile in pixels; the public network has 224."""
    hidden: tuple[int, int] = (256, 32)
    """Widths of the two hidden layers; the public network has 1000 32."""
    steps: int = 600
    """Optimiser steps in all."""
    batch: int = 64
    """Pairs of outlines in a step; a quarter of them are the same twice."""
    lr: float = 1e-3
    """Learning rate, falling to zero by the poly rule."""
    shift: float = 0.4
    """Largest shift, in half sides of a tile."""
    scale: float = 0.4
    """Largest change of size: 1 - scale to 1 + scale."""
    seed: int = 0
    """Of weights and outlines."""
    save_every: int = 200
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        if self.side < 8 or min(self.hidden) < 1 or self.steps < 1 or self.batch < 4 or self.save_every < 1:
            raise ConfigError("a side of at least 8, a batch of at least 4, and positive counts", found=asdict(self))
        if not 0 < self.shift < 1 or not 0 < self.scale < 1:
            raise ConfigError("--shift and --scale are shares", expected="0..1", found=(self.shift, self.scale))


def train_shape_net(
    config: ShapeNetConfig, out: Path, *, report: Report | None = None, stop_after: int | None = None
) -> tuple[Path, dict[str, float]]:
    """Train, or go on training, in `out`. Returns OUT/shape_net.pth and the mean lengths that `lengths` measures.

    Source: InverseForm (Borse et al. 2021); its training was never published, so what is sampled is our reading: shifts
    and scales, uniform, divided by their largest values, so that the same outline twice is the zero vector.
    """
    task = _Task(config)
    plan = Plan(config.steps, config.save_every, config.seed, asdict(config), free=("save_every",))
    train(task, out, plan, report=report, stop_after=stop_after)
    return out / "shape_net.pth", lengths(task.model)


class _Task(ModelTask):
    model: InverseNet

    def __init__(self, config: ShapeNetConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.model = InverseNet(config.side, config.hidden)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.lr)

    def advance(self, step: int, batch: Any, /) -> dict[str, float]:
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * (1 - step / config.steps) ** 0.9
        rng = np.random.default_rng((0x5AFE, config.seed, step))
        theta = torch.from_numpy(rng.uniform(-1, 1, (config.batch, 4))).float()
        theta[: config.batch // 4] = 0
        one = outlines(config.batch, config.side, rng)
        other = moved(one, theta, config.shift, config.scale)
        loss = (self.model(other.flatten(1), one.flatten(1)) - theta).square().sum(1).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {"loss": float(loss.detach())}

    def save(self, out: Path, step: int) -> None:
        file = io.BytesIO()
        torch.save({f"inversenet.{key}": value for key, value in self.model.state_dict().items()}, file)
        write_atomic(out / "shape_net.pth", file.getvalue(), durable=True)


def outlines(count: int, side: int, rng: np.random.Generator) -> Float[Tensor, "tile side side"]:
    """Soft outlines of star-shaped blobs: a radius that waves, somewhere in the middle of the tile."""
    y, x = np.meshgrid(*(2 * [(2 * np.arange(side) + 1) / side - 1]), indexing="ij")
    found = np.zeros((count, side, side), dtype=np.float32)
    for i in range(count):
        cy, cx = rng.uniform(-0.3, 0.3, 2)
        angle = np.arctan2(y - cy, x - cx)
        waves = sum(rng.uniform(0, 0.3 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3, 4))
        distance = np.hypot(y - cy, x - cx) - rng.uniform(0.25, 0.55) * (1 + waves)
        found[i] = np.exp(-((distance * side / 3) ** 2))
    return torch.from_numpy(found)


def moved(
    tiles: Float[Tensor, "tile side side"], theta: Float[Tensor, "tile 4"], shift: float, scale: float
) -> Float[Tensor, "tile side side"]:
    """Each tile moved down and right by theta x shift (in half sides) and grown by 1 + theta x scale, beside it 0."""
    sizes = 1 + theta[:, 2:] * scale
    places = theta[:, :2] * shift
    matrix = torch.zeros(len(tiles), 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = 1 / sizes[:, 1], 1 / sizes[:, 0]
    matrix[:, 0, 2], matrix[:, 1, 2] = -places[:, 1] / sizes[:, 1], -places[:, 0] / sizes[:, 0]
    grid = F.affine_grid(matrix, [len(tiles), 1, *tiles.shape[1:]], align_corners=False)
    return F.grid_sample(tiles[:, None], grid, align_corners=False)[:, 0]


@torch.no_grad()
def lengths(net: InverseNet, count: int = 64) -> dict[str, float]:
    """Mean length of the answer for new outlines: the `same` twice, moved a little (`near`), and more (`far`)."""
    rng = np.random.default_rng(0xFACE)
    one = outlines(count, net.side, rng)
    direction = F.normalize(torch.from_numpy(rng.standard_normal((count, 2))).float(), dim=1)
    found = {}
    for name, amount in (("same", 0.0), ("near", 0.25), ("far", 0.75)):
        theta = torch.cat([amount * direction, torch.zeros(count, 2)], dim=1)
        other = moved(one, theta, 0.4, 0.4)
        found[name] = float(net(other.flatten(1), one.flatten(1)).norm(dim=1).mean())
    return found
