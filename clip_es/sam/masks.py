"""Masks from points and boxes: a grid of points over the picture, or prompts from maps; filters and suppression.

Source: `SamAutomaticMaskGenerator` of SAM (2023), as transformers' mask-generation pipeline has it: masks of all pieces
of the picture are suppressed together, by the quality that the network predicts for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from clip_es import rle
from clip_es.regions import Regions
from clip_es.sam.networks import Network, Shown
from clip_es.sam.settings import SamConfig
from clip_es.types import ClassMaps

OVERLAP = 512 / 1500
"""How far pieces of the first layer overlap, as a share of the shorter side. Source: SAM."""

_EDGE = 20.0
"""Masks whose box comes this near to the border of a piece, pixels, were cut off there and are dropped. Source: SAM."""

_AT_FULL_SIZE = 2**25
"""Values of masks brought to the picture's size at a time: 128 MiB."""


@dataclass(frozen=True)
class Prompt:
    """A box, and the point in it where the map is highest; pixels of the picture, x before y."""

    box: tuple[int, int, int, int]
    """x0 y0 x1 y1, end excluded."""
    point: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """Masks that have passed the filters."""

    runs: list[Int64[np.ndarray, " _"]]
    boxes: Float32[Tensor, "mask 4"]
    quality: Float32[Tensor, " mask"]
    stability: Float32[Tensor, " mask"]
    levels: Int64[Tensor, " mask"]


@torch.no_grad()
def grid_masks(network: Network, rgb: UInt8[np.ndarray, "h w 3"], config: SamConfig) -> Regions:
    """The masks of a grid of points in the picture and in its pieces, the surest first."""
    size_hw = (rgb.shape[0], rgb.shape[1])
    parts = []
    for box, layer in pieces(size_hw, config.crop_layers):
        x0, y0, x1, y1 = box
        piece = np.ascontiguousarray(rgb[y0:y1, x0:x1])
        shown = network.show(piece)
        seen = network.model.get_image_embeddings(shown.pixels)
        points = point_grid(max(1, int(config.points_per_side / config.crop_downscale**layer)))
        points = points * torch.tensor([x1 - x0, y1 - y0])
        for some in points.split(config.points_at_once):
            where = scaled(some, (y1 - y0, x1 - x0), shown.content_hw)[None, :, None].to(network.device)
            labels = torch.ones(where.shape[:3], dtype=torch.int64, device=network.device)
            logits, quality = _ask(network, seen, input_points=where.to(network.model.dtype), input_labels=labels)
            levels = torch.arange(logits.shape[1]).repeat(len(logits))
            args = logits.flatten(0, 1), quality.flatten(0, 1), levels
            parts.append(filtered(*args, network, shown, box, size_hw, config))
    return suppressed(parts, size_hw, config.box_nms)


@torch.no_grad()
def prompted_masks(
    network: Network, rgb: UInt8[np.ndarray, "h w 3"], prompts: Sequence[Prompt], config: SamConfig
) -> Regions:
    """One mask for each prompt that the network is sure of, the surest first."""
    size_hw = (rgb.shape[0], rgb.shape[1])
    if not prompts:
        return Regions.of(size_hw, [])
    shown = network.show(rgb)
    seen = network.model.get_image_embeddings(shown.pixels)
    whole = (0, 0, size_hw[1], size_hw[0])
    parts = []
    for first in range(0, len(prompts), config.points_at_once):
        some = prompts[first : first + config.points_at_once]
        boxes = torch.tensor([one.box for one in some], dtype=torch.float64).view(-1, 2, 2)
        points = torch.tensor([one.point for one in some], dtype=torch.float64) + 0.5
        told = {
            "input_boxes": scaled(boxes, size_hw, shown.content_hw).view(1, -1, 4),
            "input_points": scaled(points, size_hw, shown.content_hw)[None, :, None],
        }
        told = {name: values.to(network.device, network.model.dtype) for name, values in told.items()}
        labels = torch.ones(told["input_points"].shape[:3], dtype=torch.int64, device=network.device)
        logits, quality = _ask(network, seen, **told, input_labels=labels, multimask_output=False)
        levels = torch.full((len(logits),), 2)
        parts.append(filtered(logits[:, 0], quality[:, 0], levels, network, shown, whole, size_hw, config))
    return suppressed(parts, size_hw, config.box_nms)


def prompts_of(maps: ClassMaps, config: SamConfig) -> list[Prompt]:
    """For each label a box around each connected region above a share of its maximum, with its highest point.

    Regions smaller than `least_component` count only where a label has no larger one. A map of zeros has none.
    """
    from scipy import ndimage

    found = []
    for x in maps.scores.cpu().numpy():
        if not x.max() > 0:
            continue
        found_parts: Any = ndimage.label(x >= config.peak * x.max(), structure=np.ones((3, 3)))
        parts, count = found_parts
        areas = np.bincount(parts.reshape(-1), minlength=count + 1)[1:]
        large = np.flatnonzero(areas >= config.least_component)
        wanted = large if len(large) else [int(areas.argmax())]
        boxes = ndimage.find_objects(parts)
        for number in wanted:
            rows, columns = boxes[number]
            inside = np.where(parts[rows, columns] == number + 1, x[rows, columns], -1.0)
            y, x_of = np.unravel_index(int(inside.argmax()), inside.shape)
            point = (columns.start + int(x_of), rows.start + int(y))
            found.append(Prompt((columns.start, rows.start, columns.stop, rows.stop), point))
    return found


def pieces(size_hw: tuple[int, int], layers: int) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    """The picture as a whole, then its overlapping pieces: boxes x0 y0 x1 y1, end excluded, and their layers."""
    height, width = size_hw
    yield (0, 0, width, height), 0
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(OVERLAP * min(size_hw) * (2 / count))
        wide, high = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        for column, row in product(range(count), repeat=2):
            left, top = (wide - overlap) * column, (high - overlap) * row
            yield (left, top, min(left + wide, width), min(top + high, height)), layer


def point_grid(side: int) -> Float[Tensor, "point 2"]:
    """The middle of each cell of a grid over 0..1, x before y, row by row."""
    places = torch.linspace(1 / (2 * side), 1 - 1 / (2 * side), side, dtype=torch.float64)
    y, x = torch.meshgrid(places, places, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def scaled(
    places: Float[Tensor, "*n 2"], size_hw: tuple[int, int], content_hw: tuple[int, int]
) -> Float32[Tensor, "*n 2"]:
    """Places in a picture, x before y, as places in the square that a network sees."""
    factors = torch.tensor([content_hw[1] / size_hw[1], content_hw[0] / size_hw[0]], dtype=torch.float64)
    return (places * factors).float()


def full_size(
    logits: Float32[Tensor, "mask lh lw"], network: Network, shown: Shown, size_hw: tuple[int, int]
) -> Float32[Tensor, "mask h w"]:
    """Logits of masks at the picture's size, bilinearly. Source: `post_process_masks` of transformers."""
    values = logits[:, None]
    if network.family.padded:
        values = F.interpolate(values, (network.side, network.side), mode="bilinear", align_corners=False)
        values = values[..., : shown.content_hw[0], : shown.content_hw[1]]
    return F.interpolate(values, size_hw, mode="bilinear", align_corners=False)[:, 0]


def filtered(
    logits: Float32[Tensor, "mask lh lw"],
    quality: Float32[Tensor, " mask"],
    levels: Int64[Tensor, " mask"],
    network: Network,
    shown: Shown,
    piece: tuple[int, int, int, int],
    size_hw: tuple[int, int],
    config: SamConfig,
) -> Found:
    """The masks of one piece that are sure, stable, large enough and not cut off at a border of the piece."""
    x0, y0, x1, y1 = piece
    kept = (quality > config.predicted_iou) if config.predicted_iou > 0 else torch.ones_like(quality, dtype=torch.bool)
    places = kept.nonzero()[:, 0]
    runs: list[Int64[np.ndarray, " _"]] = []
    boxes, numbers, stabilities = [], [], []
    for some in places.split(max(1, _AT_FULL_SIZE // ((y1 - y0) * (x1 - x0)))):
        masks = full_size(logits[some], network, shown, (y1 - y0, x1 - x0))
        stable = stability(masks, config.stability_offset)
        masks = masks > 0
        corners = boxes_around(masks)
        fine = ~cut_off(corners, piece, size_hw) & (masks.flatten(1).sum(1) >= max(1, config.least_area))
        if config.stability > 0:
            fine &= stable > config.stability
        for number in fine.nonzero()[:, 0].tolist():
            whole = np.zeros(size_hw, dtype=bool)
            whole[y0:y1, x0:x1] = masks[number].cpu().numpy()
            runs.append(rle.runs(whole))
        boxes.append((corners[fine] + torch.tensor([x0, y0, x0, y0], device=corners.device)).cpu())
        numbers.append(some[fine].cpu())
        stabilities.append(stable[fine].cpu())
    which = torch.cat(numbers) if numbers else torch.zeros(0, dtype=torch.int64)
    return Found(
        runs,
        torch.cat(boxes).float() if boxes else torch.zeros(0, 4),
        quality.cpu()[which],
        torch.cat(stabilities) if stabilities else torch.zeros(0),
        levels[which],
    )


def stability(logits: Float32[Tensor, "mask h w"], offset: float) -> Float32[Tensor, " mask"]:
    """Area where a logit is above the offset through area where it is above minus the offset; 0 where that is empty."""
    inner, outer = ((logits > bound).flatten(1).sum(1).float() for bound in (offset, -offset))
    return inner / outer.clamp(min=1)


def boxes_around(masks: Bool[Tensor, "mask h w"]) -> Int64[Tensor, "mask 4"]:
    """First and last column and row of each mask, x0 y0 x1 y1 with both ends inside; zeros for an empty one."""
    bounds = []
    for dim in (1, 2):
        there = masks.any(dim)
        first = there.int().argmax(1)
        last = there.shape[1] - 1 - there.flip(1).int().argmax(1)
        bounds += [(first, last)]
    (left, right), (top, bottom) = bounds
    return torch.stack([left, top, right, bottom], 1) * masks.flatten(1).any(1)[:, None]


def cut_off(
    boxes: Int64[Tensor, "mask 4"], piece: tuple[int, int, int, int], size_hw: tuple[int, int]
) -> Bool[Tensor, " mask"]:
    """Which boxes, in a piece, come near to a border of it that is no border of the picture."""
    x0, y0, _, _ = piece
    moved = (boxes + torch.tensor([x0, y0, x0, y0], device=boxes.device)).float()
    here, whole = (torch.tensor(box, device=boxes.device).float() for box in (piece, (0, 0, size_hw[1], size_hw[0])))
    near, outer = (moved - here).abs() <= _EDGE, (moved - whole).abs() <= _EDGE
    return (near & ~outer).any(1)


def suppressed(parts: Sequence[Found], size_hw: tuple[int, int], most: float) -> Regions:
    """All masks, the surest first, without those whose box overlaps with a surer one's by more than `most`."""
    runs = [run for part in parts for run in part.runs]
    quality = torch.cat([part.quality for part in parts]).float()
    kept = surest(torch.cat([part.boxes for part in parts]), quality, most)
    stable = torch.cat([part.stability for part in parts])[kept].tolist()
    levels = torch.cat([part.levels for part in parts])[kept].tolist()
    return Regions.of(size_hw, [runs[number] for number in kept.tolist()], quality[kept].tolist(), stable, levels)


def surest(boxes: Float32[Tensor, "box 4"], scores: Float32[Tensor, " box"], most: float) -> Int64[Tensor, " kept"]:
    """Which boxes stay, by falling score, where each drops the less sure ones that it overlaps by more than `most`.

    Overlap is intersection over union. Source: non-maximum suppression as torchvision has it.
    """
    order = scores.argsort(descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low, high = torch.maximum(boxes[best, :2], boxes[rest, :2]), torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        both = (high - low).clamp(min=0).prod(1)
        union = area[best] + area[rest] - both
        order = rest[~(both > most * union)]
    return torch.tensor(kept, dtype=torch.int64)


def _ask(network: Network, seen: object, **prompts: object) -> tuple[Tensor, Tensor]:
    """Logits [prompt answer lh lw] and predicted qualities [prompt answer] in float32."""
    answer = network.model(image_embeddings=seen, **prompts)
    return answer.pred_masks[0].float(), answer.iou_scores[0].float()
