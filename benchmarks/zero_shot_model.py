"""What `zero_shot_head.py` trains, on maps of the frozen CLIP that are computed once for all rows and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zero_shot_data import SIDE, Cache

from clip_es.segmentor.losses.edges import JointWeights, edge_targets, joint_edge_loss, shrink_edges
from clip_es.segmentor.losses.shape import MomentDistance
from clip_es.segmentor.models.pixel_embedding import ClipPixelEmbedding, PixelEmbedding
from clip_es.segmentor.models.pixel_text import PixelText, poly_lr, resize_scores
from clip_es.segmentor.models.text_table import TextTable
from clip_es.training import ModelTask

STEM, CHANNELS, BATCH = 32, 48, 6
RATE = 4e-3
"""Learning rate; ten times that for the few scalars."""
STEPS = 90
CLOSED_STEPS = 180
"""A head of fixed classes begins with nothing and needs more."""


@dataclass(frozen=True)
class Row:
    """One training."""

    embedding: str
    """closed, text or clip."""
    edge: float = 0.0
    shape: float = 0.0
    fused: bool = False
    """Evaluated with what follows the prediction as well."""
    steps: int = STEPS
    """Of the optimiser."""


class Model(nn.Module):
    """A convolutional stem beside the frozen maps, a head, and an edge head."""

    def __init__(self, row: Row, table: TextTable, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, 16, 2), *_convolution(16, STEM, 2), *_convolution(STEM, STEM, 1))
        inside, embed = (STEM, *widths[:2]), table.rows.shape[1]
        self.edge = nn.Conv2d(CHANNELS, 1, 1)
        if row.embedding == "closed":
            self.head: PixelText | PixelEmbedding = PixelEmbedding(inside, len(table.names), CHANNELS)
            return
        own = row.embedding == "clip"
        embedding = (
            ClipPixelEmbedding((*inside, widths[2]), embed, CHANNELS)
            if own
            else PixelEmbedding(inside, embed, CHANNELS)
        )
        self.head = PixelText(embedding, table, objectness=own, channels=CHANNELS)

    def forward(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits and edge logits [batch . 48 48]."""
        maps = [self.stem(batch[0]), *batch[1:]]
        if isinstance(self.head, PixelText):
            joined = self.head.joined(maps)
            return self.head.logits(maps, joined), self.edge(joined)
        joined = self.head.joined(maps[:3])
        return self.head.embed(joined, maps), self.edge(joined)


def _convolution(inside: int, outside: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]


@dataclass(frozen=True)
class Lesson:
    """What is learnt from: pictures, targets on a quarter of their grid, which of them count, and the words."""

    cache: Cache
    labels: Tensor
    """Ranks of the seen classes, 0 background."""
    sure: Tensor
    index: Tensor
    table: TextTable


class HeadTask(ModelTask):
    """The training of one head, for `clip_es.training.train`."""

    model: Model

    def __init__(self, row: Row, lesson: Lesson, seed: int) -> None:
        torch.manual_seed(seed)
        self.row, self.lesson = row, lesson
        self.model = Model(row, lesson.table, [part.shape[1] for part in lesson.cache.maps])
        self.target = torch.where(lesson.sure < 0.95, 255, lesson.labels)
        self.edges = shrink_edges(edge_targets(lesson.labels, len(lesson.table.names), radius=1.0), (48, 48))
        named = list(self.model.named_parameters())
        few = [p for name, p in named if name.endswith(("mix", "log_scale", "nearness"))]
        rest = [p for name, p in named if not name.endswith(("mix", "log_scale", "nearness"))]
        groups = [{"params": rest, "factor": 1.0}, {"params": few, "factor": 10.0, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.01)
        self.shape = MomentDistance() if row.shape else None

    def advance(self, step: int, batch: Any, /) -> dict[str, float]:
        """One step."""
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = group["factor"] * poly_lr(RATE, step, self.row.steps) * min(1.0, (step + 1) / 20)
        chosen = self.lesson.index[torch.randint(len(self.lesson.index), (BATCH,))]
        flip = bool(torch.rand(()) < 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            logits, edge = self.model(self.lesson.cache.batch(chosen, flip))
        logits, edge = logits.float(), edge.float()
        target, edges = self.target[chosen], self.edges[chosen]
        if flip:
            target, edges = target.flip(-1), edges.flip(-1)
        logp = logits.log_softmax(1)
        if self.row.edge or self.row.shape:
            weights = JointWeights(1.0, self.row.edge, self.row.edge / 3, self.row.shape)
            loss = joint_edge_loss(logp, target, edge, edges, self.shape, weights)["total"]
        else:
            loss = F.nll_loss(logp, target, ignore_index=255)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {"loss": float(loss.detach())}


@torch.no_grad()
def shares_of(model: Model, values: Sequence[int], labels: int, cache: Cache, index: Tensor) -> Tensor:
    """Probabilities [picture label 192 192] of all labels; `values` are the mask values of the model's."""
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = model(cache.batch(index, False))
    shares = resize_scores(logits.float(), (SIDE, SIDE)).softmax(1)
    found = shares.new_zeros(len(shares), labels, SIDE, SIDE)
    found[:, list(values)] = shares
    return found
