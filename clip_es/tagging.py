"""Labels from CLIP itself: patch scores, carried along the attention, then a second look at each likely region.

One score for a whole picture lets the largest thing silence the others. So every patch is asked first, alone; what
patches say is carried to those that attend to them; and the region of each likely class is shown to CLIP once more as a
picture of its own. Nothing is trained. Source: TagCLIP (AAAI 2024), in its manner; each function says what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image
from torch import Tensor

from clip_es.config.stages import TaggingConfig
from clip_es.encoder.encode import Encoder
from clip_es.encoder.vit import VisionTower
from clip_es.errors import ConfigError, ShapeError
from clip_es.scaling import min_max
from clip_es.types import EncodedImage, Picture, TextBank

_DEFAULT = TaggingConfig()
_PARTS_TOGETHER = 16
"""Regions of a picture that go through the encoder at once."""

_REGION = 0.5
"""Share of a map's range above which a patch belongs to the region of its class."""


@dataclass(frozen=True)
class Tags:
    """The classes found in a picture, and how sure that is. Tensors lie on the CPU."""

    class_ids: tuple[int, ...]
    """Ascending; empty where nothing was found."""
    confidence: tuple[float, ...]
    """0..1, one for each of `class_ids`."""
    scores: Float32[Tensor, " class"]
    """Of every class of the vocabulary, 0..1; what classes are ranked by. Not a probability."""
    confidences: Float32[Tensor, " class"]
    """The same scores as confidence."""
    sure: float
    """0..1: how likely all classes are judged correctly, were they independent: the product of max(p, 1 - p)."""

    def __post_init__(self) -> None:
        if len(self.class_ids) != len(self.confidence) or self.scores.shape != self.confidences.shape:
            raise ShapeError(
                "each class found has one confidence, and each class one score",
                expected=f"{len(self.class_ids)} and {list(self.scores.shape)}",
                found=f"{len(self.confidence)} and {list(self.confidences.shape)}",
            )


@torch.no_grad()
def tag(
    encoder: Encoder, picture: Picture, seen: EncodedImage, bank: TextBank, config: TaggingConfig = _DEFAULT
) -> Tags:
    """The classes of `bank` that CLIP sees in one picture, which `seen` is, at whatever size.

    One picture at a time, so a batch changes nothing.
    Raises ConfigError: there is one class and no background word, so nothing competes. ShapeError: the bank is not of
    this encoder. Source: TagCLIP. Differs: the mean of some best patches in place of the best one; a fixed
    threshold on a confidence in place of the middle between a picture's best and worst class, so that a picture may
    have no class at all.
    """
    if len(bank.vectors) < 2:
        raise ConfigError(
            "a single class without background words competes with nothing, so it would be found everywhere",
            where=", ".join(bank.names),
            next_step="Add background words to the vocabulary, or name the labels yourself.",
        )
    if bank.vectors.shape[1] != encoder.sizes.embed:
        raise ShapeError(
            "the text bank is of another encoder", expected=encoder.sizes.embed, found=bank.vectors.shape[1]
        )
    shares = patch_shares(encoder, seen, bank, mixed=config.mix == "attention")
    if config.refine:
        shares = carry(shares, seen.attention)
    scores = peaks(shares, config.peak)
    if config.reidentify:
        scores = scores / 2
        likely = (scores >= config.candidate * scores.max()).nonzero()[:, 0]
        maps = min_max(shares.T[likely].unflatten(1, seen.grid_hw))
        boxes = region_boxes(maps > _REGION, config.context, encoder.sizes.grid / config.zoom)
        scores[likely] += second_look(encoder, picture.rgb, boxes, seen.grid_hw, bank)[range(len(likely)), likely] / 2
    return decide_tags(scores.cpu(), config)


def patch_shares(
    encoder: Encoder, seen: EncodedImage, bank: TextBank, *, mixed: bool = False
) -> Float32[Tensor, "patch class"]:
    """Softmax over classes and background words for every patch; the background's columns are left out.

    Patches pass the last block without its attention, each with its own value; with `mixed`, as they do anyway.
    Source: TagCLIP, which leaves the attention out because it carries the strongest class everywhere. Differs: nothing.
    """
    visual = encoder.model.visual
    block = visual.transformer.blocks[-1]
    values = block.attn.project(block.ln_1(seen.tokens))[2]
    heads = (seen.last_attention @ values if mixed else values)[:, 1:]
    return _shares(encoder, _leave(visual, seen.tokens[1:], heads), bank)


def carry(
    shares: Float32[Tensor, "patch class"], attention: Float32[Tensor, "patch patch"]
) -> Float32[Tensor, "patch class"]:
    """Each patch takes over what the patches it attends to say, counting only the sure: two masks.

    Attention below its mean is dropped and the rows made sum one again; then only those patches speak for a class
    whose score, so refined, is above that class's mean. Source: TagCLIP, dual-masking attention refinement. Differs:
    the attention is the mean over layers before it is masked, where TagCLIP counts in how many layers an entry is above
    the mean; rows are normalised, so that a score stays a share; patches speak one by one, not boxes of them.
    """
    kept = torch.where(attention >= attention.mean(), attention, 0)
    kept = kept / kept.sum(1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
    once = kept @ shares
    return kept @ torch.where(once >= once.mean(0), shares, 0)


def peaks(shares: Float32[Tensor, "patch class"], count: int) -> Float32[Tensor, " class"]:
    """Mean over the `count` best patches of each class; over all where there are fewer."""
    return shares.topk(min(count, len(shares)), dim=0).values.mean(0)


def region_boxes(
    regions: Bool[Tensor, "class gh gw"], context: int, least: int | float
) -> Int64[np.ndarray, "class 4"]:
    """Boxes x0 y0 x1 y1 in patches, end excluded, around each region and `context` patches more.

    Sides below `least` grow on both ends; at the border the box moves inwards, and it never leaves the grid. A region
    without any patch has the whole grid.
    """
    boxes = np.zeros((len(regions), 4), dtype=np.int64)
    for box, region in zip(boxes, regions.cpu().numpy(), strict=True):
        for axis in (0, 1):  # x, then y
            length = region.shape[1 - axis]
            on = np.flatnonzero(region.any(axis=axis))
            first, last = (int(on[0]) - context, int(on[-1]) + 1 + context) if on.size else (0, length)
            first, last = max(first, 0), min(last, length)
            side = min(max(int(np.ceil(least)), last - first), length)
            first = min(max(first - (side - last + first) // 2, 0), length - side)
            box[axis], box[axis + 2] = first, first + side
    return boxes


def second_look(
    encoder: Encoder,
    rgb: UInt8[np.ndarray, "h w 3"],
    boxes: Int64[np.ndarray, "box 4"],
    grid_hw: tuple[int, int],
    bank: TextBank,
) -> Float32[Tensor, "box class"]:
    """Softmax over classes and background words for the part of the picture in each box, read at the class token.

    Each part is resized to the square CLIP was trained on. Source: TagCLIP, class-wise re-identification. Differs: the
    class token sees the whole part with its surroundings, where TagCLIP lets it see the region's patches only.
    """
    if not len(boxes):
        return bank.vectors.new_zeros(0, bank.class_count, device=encoder.device)
    visual, side = encoder.model.visual, encoder.sizes.grid * encoder.patch
    # In a large vocabulary many classes share a region; it is looked at once for all of them.
    different, place = np.unique(boxes, axis=0, return_inverse=True)
    parts = [_resized(rgb[rows, columns], side) for rows, columns in _slices(different, grid_hw, rgb.shape[:2])]
    block = visual.transformer.blocks[-1]
    left = []
    for seen in encoder.encode(parts, attention_layers=1, together=_PARTS_TOGETHER):
        values = block.attn.project(block.ln_1(seen.tokens))[2]
        left.append(_leave(visual, seen.tokens[:1], seen.last_attention[:, :1] @ values))
    return _shares(encoder, torch.cat(left), bank)[torch.from_numpy(place.reshape(-1)).to(encoder.device)]


def decide_tags(scores: Float32[Tensor, " class"], config: TaggingConfig = _DEFAULT) -> Tags:
    """Scores to confidences, and those from the threshold on to labels.

    The confidence is 1 / (1 + exp(-steepness (logit(score) - logit(centre)))), Platt's curve on the logit, whose two
    numbers were fitted on drawn scenes: with other weights it ranks as well, but 0.5 need not be an even chance.
    """
    logit = torch.logit(scores.cpu().double().clamp(1e-6, 1 - 1e-6))
    p = torch.sigmoid(config.steepness * (logit - np.log(config.centre / (1 - config.centre))))
    found = tuple(int(k) for k in (p >= config.threshold).nonzero()[:, 0])
    sure = float(torch.maximum(p, 1 - p).prod())
    return Tags(found, tuple(float(p[k]) for k in found), scores, p.float(), sure)


def fit_confidence(scores: Float32[Tensor, "*any"], present: Bool[Tensor, "*present"]) -> tuple[float, float]:
    """`centre` and `steepness` under which the confidences of scores are likeliest, given which classes are present.

    For a vocabulary or weights of your own, from some pictures with known labels.
    Raises ShapeError: shapes that differ. ConfigError: all present or none, or present ones do not score higher.
    Source: Platt (1999), by scikit-learn's logistic regression. Differs: targets are 0 and 1, not smoothed.
    """
    from sklearn.linear_model import LogisticRegression

    if scores.shape != present.shape:
        raise ShapeError("each score is present or not", expected=list(scores.shape), found=list(present.shape))
    logit = torch.logit(scores.cpu().double().flatten().clamp(1e-6, 1 - 1e-6))
    truth = present.cpu().flatten().double()
    if not 0 < float(truth.mean()) < 1:
        raise ConfigError("a confidence needs classes that are present and classes that are not", found=truth.mean())
    # The trace of shrinking keeps the answer finite where one score parts present from absent.
    fitted = LogisticRegression(C=1e3).fit(logit[:, None].numpy(), truth.numpy())
    steepness, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if steepness <= 0:
        raise ConfigError("present classes do not score higher than absent ones", found=f"steepness {steepness:.3g}")
    return float(torch.sigmoid(torch.tensor(-offset / steepness, dtype=torch.float64))), steepness


def _leave(
    visual: VisionTower, tokens: Float32[Tensor, "token dim"], heads: Float32[Tensor, "head token channel"]
) -> Float32[Tensor, "token embed"]:
    """Tokens through the rest of the last block, given what its attention hands them, to unit vectors."""
    block = visual.transformer.blocks[-1]
    z = tokens + block.attn.merge(heads)
    z = z + block.mlp(block.ln_2(z))
    return F.normalize(visual.ln_post(z) @ visual.proj, dim=-1)


def _shares(encoder: Encoder, vectors: Float32[Tensor, "row embed"], bank: TextBank) -> Float32[Tensor, "row class"]:
    logits = encoder.logit_scale * vectors @ bank.vectors.to(encoder.device).T
    return logits.softmax(1)[:, : bank.class_count]


def _slices(
    boxes: Int64[np.ndarray, "box 4"], grid_hw: tuple[int, int], size_hw: Sequence[int]
) -> list[tuple[slice, slice]]:
    """Rows and columns of pixels that a box of patches covers, wholly or in part."""
    (gh, gw), (h, w) = grid_hw, size_hw
    return [
        (slice(y0 * h // gh, -(-y1 * h // gh)), slice(x0 * w // gw, -(-x1 * w // gw)))
        for x0, y0, x1, y1 in boxes.tolist()
    ]


def _resized(rgb: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    return np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.BICUBIC))
