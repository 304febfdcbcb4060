"""Boundaries as a second thing to learn: targets from label maps, a balanced cross-entropy, attention to edges, shape.

Plain torch, for any segmenter; `EdgeHead` in `clip_es.segmentor.models.pixel_text` is the auxiliary head for
mmsegmentation. Source: SAZS (CVPR 2023), its released joint loss; section numbers of no paper are claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from clip_es.errors import ShapeError
from clip_es.segmentor.losses.shape import ShapeDistance
from clip_es.types import UNDECIDED

EdgeKind = Literal["edt", "sobel"]
"""edt: a band of `radius` pixels on both sides of an outline, and along the picture's border, as the released code;
sobel: where the gradient of a class's indicator is not zero, as the paper says."""

ATTENTION_LOGIT = 0.8
"""Pixels whose edge logit (not probability) is above are attended to."""


def edge_targets(
    labels: Int[Tensor, "batch h w"], class_count: int, radius: float = 2.0, kind: EdgeKind = "edt"
) -> Float32[Tensor, "batch 1 h w"]:
    """Where regions end, 1 or 0, from label maps. Values from `class_count` on, such as 255, belong to no region.

    A pixel is an edge where a pixel at most `radius` away belongs to another region; beside the picture there is no
    region, so a ring along its border counts too. Background (0) is a region. The released code passes one label less
    than there are, so that outlines of the last class towards 255 are not seen.
    Source: SAZS, released code (distance transforms of each class; the same set of pixels).
    """
    known = torch.where((labels >= 0) & (labels < class_count), labels, -1)
    if kind == "sobel":
        return _sobel(known)
    reach = int(radius)
    height, width = known.shape[-2:]
    padded = F.pad(known, (reach,) * 4, value=-1)
    edge = torch.zeros_like(known, dtype=torch.bool)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if 0 < dy * dy + dx * dx <= radius * radius:
                moved = padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
                edge |= moved != known
    return edge[:, None].float()


def _sobel(known: Int[Tensor, "batch h w"]) -> Float32[Tensor, "batch 1 h w"]:
    """The border is continued, so it is no edge."""
    across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], device=known.device)
    kernels = torch.stack([across, across.T])[:, None]
    edge = torch.zeros_like(known, dtype=torch.bool)
    for value in known.unique().tolist():
        if value >= 0:
            indicator = F.pad((known == value).float()[:, None], (1, 1, 1, 1), mode="replicate")
            edge |= F.conv2d(indicator, kernels).abs().amax(1) > 0
    return edge[:, None].float()


def shrink_edges(
    edges: Float32[Tensor, "batch 1 h w"], size_hw: tuple[int, int], rule: Literal["max", "nearest"] = "max"
) -> Float32[Tensor, "batch 1 gh gw"]:
    """Edges on a coarser grid. `nearest`, the released way (OpenCV's, floor), loses most of a thin band; `max` none."""
    if rule == "nearest":
        return F.interpolate(edges, size=size_hw, mode="nearest")
    return F.adaptive_max_pool2d(edges, size_hw)


def balanced_edge_loss(
    logits: Float[Tensor, "batch 1 h w"],
    edges: Float32[Tensor, "batch 1 h w"],
    valid: Bool[Tensor, "batch 1 h w"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy in which edges weigh the share of the others and the others that of edges, over the batch.

    Zero where the target is all edge or has none. Pixels outside `valid` are left out.
    """
    _check(logits, edges)
    keep = torch.ones_like(edges, dtype=torch.bool) if valid is None else valid
    total = keep.sum().clamp(min=1)
    share = (edges * keep).sum() / total
    weights = torch.where(edges > 0.5, 1 - share, share) * keep
    return (weights * F.binary_cross_entropy_with_logits(logits, edges, reduction="none")).sum() / total


def edge_attention_loss(
    log_probabilities: Float[Tensor, "batch class h w"],
    target: Int[Tensor, "batch h w"],
    edge_logits: Float[Tensor, "batch 1 h w"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " class"]]:
    """Cross-entropy on the pixels that the edge head is sure of, a weighted mean per picture, summed over pictures.

    Returns the loss and the weights of the classes: 1 + 1 - share of a class among the chosen pixels of the batch, 1
    for a class that is not among them. A picture without a sure edge adds 0, where the released code gives NaN.
    """
    chosen = (edge_logits[:, 0] > ATTENTION_LOGIT) & (target != UNDECIDED)
    classes = log_probabilities.shape[1]
    counts = torch.bincount(target[chosen], minlength=classes)[:classes].to(log_probabilities.dtype)
    weights = 1 + (counts > 0) * (1 - counts / counts.sum().clamp(min=1))
    safe = torch.where(target == UNDECIDED, 0, target).long()
    surprise = -log_probabilities.gather(1, safe[:, None])[:, 0]
    each = weights[safe] * chosen
    sums, weight = (each * surprise).flatten(1).sum(1), each.flatten(1).sum(1)
    return torch.where(weight > 0, sums / weight.clamp(min=1e-12), torch.zeros_like(sums)).sum(), weights


@dataclass(frozen=True)
class JointWeights:
    """How much each term counts; the released defaults."""

    segment: float = 1.0
    edge: float = 0.3
    attention: float = 0.1
    shape: float = 0.3


def joint_edge_loss(
    log_probabilities: Float[Tensor, "batch class h w"],
    target: Int[Tensor, "batch h w"],
    edge_logits: Float[Tensor, "batch 1 h w"],
    edges: Float32[Tensor, "batch 1 h w"],
    shape: ShapeDistance | None,
    weights: JointWeights | None = None,
    valid: Bool[Tensor, "batch 1 h w"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The terms `segment`, `edge`, `attention`, `shape` and their weighted sum `total`.

    255 is left out of `segment` and `attention`; of `edge` what is not `valid` (None: nothing, as released). `shape`
    None: that term is 0.
    """
    weights = weights or JointWeights()
    known = (target != UNDECIDED).sum().clamp(min=1)
    terms = {
        "segment": F.nll_loss(log_probabilities, target, ignore_index=UNDECIDED, reduction="sum") / known,
        "edge": balanced_edge_loss(edge_logits, edges, valid),
        "attention": edge_attention_loss(log_probabilities, target, edge_logits)[0],
        "shape": edge_logits.sum() * 0 if shape is None else shape(edge_logits, edges),
    }
    return {**terms, "total": torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()}


def _check(logits: Tensor, edges: Tensor) -> None:
    if logits.shape != edges.shape:
        raise ShapeError(
            "edge logits and edge targets must lie on one grid", expected=list(edges.shape), found=list(logits.shape)
        )
