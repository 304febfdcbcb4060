"""Features of a trained segmenter, computed once for each picture and kept on disk: the segmenter itself stays frozen.

FOLDER/<id>.npy   float16 [c h w], the map before the classifier; appears whole or not at all
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float16, Float32, UInt8
from torch import Tensor

from clip_es.errors import ConfigError, DataError
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.zero_shot.labels import resize_labels
from clip_es.store.disk import make_folder, write_atomic
from clip_es.types import UNDECIDED


@dataclass(frozen=True)
class Geometry:
    """How a picture's pixels came onto the feature grid, which its labels have to follow."""

    size_hw: tuple[int, int]
    """Of the picture after the model's own resizing."""
    padded_hw: tuple[int, int]
    """After its padding at the right and below."""
    grid_hw: tuple[int, int]

    def labels(self, labels: UInt8[np.ndarray, "_ _"]) -> UInt8[np.ndarray, "gh gw"]:
        """A picture's labels on the grid, by the nearest pixel; 255 where it was padded."""
        (h, w), (ph, pw) = self.size_hw, self.padded_hw
        warped = resize_labels(labels, (h, w))
        return resize_labels(np.pad(warped, ((0, ph - h), (0, pw - w)), constant_values=UNDECIDED), self.grid_hw)

    def inside(self) -> Bool[np.ndarray, "gh gw"]:
        """Which cells show the picture and not its padding."""
        return self.labels(np.zeros(self.size_hw, np.uint8)) != UNDECIDED

    def maps(self, maps: Float32[np.ndarray, "k _ _"]) -> Float32[Tensor, "k gh gw"]:
        """Maps of a picture on the grid, bilinear; 0 where it was padded."""
        (h, w), (ph, pw) = self.size_hw, self.padded_hw
        there = F.interpolate(torch.from_numpy(maps)[None].float(), (h, w), mode="bilinear", align_corners=False)
        there = F.pad(there, (0, pw - w, 0, ph - h))
        return F.interpolate(there, self.grid_hw, mode="area")[0]

    def back(self, scores: Float[Tensor, "k gh gw"], size_hw: tuple[int, int]) -> Float[Tensor, "k h w"]:
        """Scores of the grid at a picture's size, as mmsegmentation resizes its logits."""
        whole = F.interpolate(scores[None], self.padded_hw, mode="bilinear", align_corners=False)
        cut = whole[..., : self.size_hw[0], : self.size_hw[1]]
        return F.interpolate(cut, size_hw, mode="bilinear", align_corners=False)[0]


class Extractor:
    """The features before a segmenter's classifier. The classifier is taken out, so the segmenter predicts no more.

    `level` adds the backbone's map of that index, `clip` the patches of the CLIP of those weights, last, in the space
    of its text. Raises ConfigError: no feature map before a pointwise classifier.
    """

    def __init__(self, segmenter: Segmenter, level: int | None = None, clip: str | None = None) -> None:
        from clip_es.segmentor.zero_shot.heads import tap
        from clip_es.segmentor.zero_shot.text_space import add_clip

        head = getattr(segmenter.model, "decode_head", None)
        if not isinstance(head, torch.nn.Module) or isinstance(head, torch.nn.ModuleList):
            raise ConfigError(
                f"a {type(segmenter.model).__name__} has no feature map that could be extended",
                expected="an EncoderDecoder with one decode head",
                next_step="Train another config, such as deeplabv2_cagnet_voc, segformer_b2_voc or scenes_small.",
            )
        self.classifier = tap(head)
        """What was taken out; it reads the first channels of the features."""
        if level is not None and level < 0:
            level += self._maps(segmenter)
        if clip is not None:
            add_clip(segmenter, clip)
        self.segmenter, self.head, self.level, self.clip = segmenter, head, level, clip is not None

    def __call__(
        self, rgb: UInt8[np.ndarray, "h w 3"], scale: int | float = 1.0
    ) -> tuple[Float32[Tensor, "c gh gw"], Geometry]:
        """One picture's features on the model's device, and its geometry; read at `scale` times the size of a test."""
        pixels, size = self.pixels(rgb, scale)
        with torch.no_grad():
            features = self.features(pixels)
        grid = (features.shape[-2], features.shape[-1])
        return features[0].float(), Geometry(size, (pixels.shape[-2], pixels.shape[-1]), grid)

    def pixels(self, rgb: UInt8[np.ndarray, "h w 3"], scale: int | float = 1.0) -> tuple[Tensor, tuple[int, int]]:
        """What the model sees of a picture [1 3 h w], and its size before padding."""
        model: Any = self.segmenter.model
        size = rgb.shape[:2]
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        data = self.segmenter._transform(scale)({"img": bgr, "img_shape": size, "ori_shape": size, "img_path": None})
        seen = (int(data["inputs"].shape[-2]), int(data["inputs"].shape[-1]))
        ready = model.data_preprocessor({"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}, False)
        return ready["inputs"], seen

    def features(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c gh gw"]:
        """Features of ready pixels; gradients flow where the caller lets them."""
        from clip_es.segmentor.zero_shot.heads import raw_features

        return raw_features(self.head, self.segmenter.model.extract_feat(pixels), self.level, clip=self.clip)

    @staticmethod
    def _maps(segmenter: Segmenter) -> int:
        """How many maps the backbone gives."""
        device = next(segmenter.model.parameters()).device
        with torch.no_grad():
            return len(segmenter.model.extract_feat(torch.zeros(1, 3, 64, 64, device=device)))


class FeatureStore:
    """Features in a folder, each picture's computed where it is not there yet.

    A picture whose file is damaged is computed anew. `scale` is that of the extractor; another one has another folder.
    Raises StoreError: the disk does not take them.
    """

    def __init__(
        self,
        folder: Path,
        extract: Extractor,
        read: Callable[[Path], UInt8[np.ndarray, "h w 3"]],
        scale: int | float = 1.0,
    ) -> None:
        self.folder = folder if scale == 1 else folder.with_name(f"{folder.name}-x{scale:g}")
        self.extract, self.read, self.scale = extract, read, scale
        make_folder(self.folder)

    def __call__(self, image_id: str, picture: Path) -> tuple[Float16[np.ndarray, "c gh gw"], Geometry]:
        """One picture's features, mapped from disk."""
        path = self.folder / f"{image_id}.npy"
        known = self._load(path)
        if known is not None:
            return known
        features, geometry = self.extract(self.read(picture), self.scale)
        if not bool(features.isfinite().all()):
            raise DataError("the model's features are not finite", where=picture, next_step="Check the model.")
        values = features.cpu().clamp(-65000, 65000).numpy().astype(np.float16)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, values, allow_pickle=False)
        write_atomic(path, buffer.getvalue())
        sizes = [*geometry.size_hw, *geometry.padded_hw, *geometry.grid_hw]
        write_atomic(path.with_suffix(".size"), " ".join(map(str, sizes)).encode())
        return values, geometry

    @staticmethod
    def _load(path: Path) -> tuple[np.ndarray, Geometry] | None:
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            a, b, c, d, e, f = map(int, path.with_suffix(".size").read_text().split())
        except (OSError, ValueError, EOFError):
            return None
        return (values, Geometry((a, b), (c, d), (e, f))) if values.shape[-2:] == (e, f) else None


@dataclass(frozen=True)
class Example:
    """A picture as a training sees it."""

    image_id: str
    features: Float16[np.ndarray, "c gh gw"]
    labels: UInt8[np.ndarray, "gh gw"]
    """Indices of the model's classes, 255 ignored."""
    geometry: Geometry
    gates: Float16[np.ndarray, "u gh gw"] | None = None
    """The localizer's maps of the unseen classes, where there are any."""


def moments(examples: Sequence[Example], most: int = 64) -> tuple[Float32[Tensor, "c 1 1"], Float32[Tensor, "c 1 1"]]:
    """Mean and spread of each channel over the cells of up to `most` pictures, evenly chosen.

    A channel that never varies keeps a spread of one.
    """
    total, squares, count = 0.0, 0.0, 0
    for example in examples[:: max(1, len(examples) // most)]:
        cells = np.asarray(example.features, dtype=np.float64).reshape(len(example.features), -1)
        total, squares, count = total + cells.sum(axis=1), squares + (cells**2).sum(axis=1), count + cells.shape[1]
    mean = np.asarray(total / count)
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
    spread[spread < 1e-4] = 1.0
    return torch.from_numpy(mean).float()[:, None, None], torch.from_numpy(spread).float()[:, None, None]


class Crops:
    """Crops of cells for each step, as a function of (seed, step): picture, place and mirror.

    `side` cells; smaller maps are filled up with zeros and 255.
    """

    def __init__(self, examples: Sequence[Example], batch: int, side: int, seed: int) -> None:
        self.examples, self.batch, self.side, self.seed = examples, batch, side, seed

    def __call__(
        self, step: int
    ) -> tuple[Float32[Tensor, "n c s s"], UInt8[Tensor, "n s s"], Tensor | None, Bool[Tensor, "n s s"]]:
        """Features, labels, gates where there are any, and which cells show a picture."""
        rng = np.random.default_rng((0xCA6, self.seed, step))
        side, parts = self.side, []
        for number in rng.integers(len(self.examples), size=self.batch):
            example = self.examples[int(number)]
            h, w = example.labels.shape
            top, left = int(rng.integers(max(h - side, 0) + 1)), int(rng.integers(max(w - side, 0) + 1))
            mirrored = bool(rng.random() < 0.5)
            cut = (slice(top, top + side), slice(left, left + side))
            parts.append(
                [
                    _cut(example.features, cut, side, mirrored, 0),
                    _cut(example.labels[None], cut, side, mirrored, UNDECIDED)[0],
                    None if example.gates is None else _cut(example.gates, cut, side, mirrored, 0),
                    _cut(example.geometry.inside()[None], cut, side, mirrored, 0)[0],
                ]
            )
        features = torch.from_numpy(np.stack([part[0] for part in parts])).float()
        labels = torch.from_numpy(np.stack([part[1] for part in parts]))
        gated = all(part[2] is not None for part in parts)
        gates = torch.from_numpy(np.stack([part[2] for part in parts])).float() if gated else None
        return features, labels, gates, torch.from_numpy(np.stack([part[3] for part in parts]))


def _cut(values: np.ndarray, place: tuple[slice, slice], side: int, mirrored: bool, fill: int) -> np.ndarray:
    part = np.asarray(values[:, place[0], place[1]])
    part = np.pad(part, ((0, 0), (0, side - part.shape[1]), (0, side - part.shape[2])), constant_values=fill)
    return np.ascontiguousarray(part[..., ::-1]) if mirrored else part
