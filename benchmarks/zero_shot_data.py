"""What `zero_shot_head.py` and `zero_shot_stage.py` share: drawn pictures, what the frozen CLIP says of them, splits.

All of it is kept in a folder whose name holds the hash of the CLIP's weights, so other weights begin anew.
"""

from __future__ import annotations

import csv
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image
from torch import Tensor

from clip_es.config.run import DEFAULT, SpectralConfig
from clip_es.encoder import Encoder, load_encoder
from clip_es.encoder.capture import enter, watch
from clip_es.encoder.encode import PIXEL_MEAN, PIXEL_STD
from clip_es.masks import read_confidence, read_mask
from clip_es.pipelines.cli import main as clip_es
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.training_free import SCENES, TrainingFree
from clip_es.prompts import Vocabulary, load_vocabulary
from clip_es.refine.spectral import picture_segments
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.segmentor.models.clip_members import clip_members
from clip_es.segmentor.models.text_table import TextTable, text_table
from clip_es.types import ImageRecord

SIDE, GRID = 192, (12, 12)
BLOCK = 2
"""Whose tokens are read beside the last ones."""
VOCABULARY = load_vocabulary("scenes")

PUBLISHED_SPLITS = ((9, 10, 12), (1, 4, 6))
"""Of the world of 12 classes, mask values: plant, sheep, television; aeroplane, bottle, cat."""
DEVELOPMENT_SPLITS = ((2, 5, 8), (3, 7, 11))
DEVELOPMENT_SEED = 77


def held_out(classes: int, development: bool) -> tuple[tuple[int, ...], ...]:
    """Two choices of the unseen classes, as mask values: a quarter of all. Settings were chosen on two others."""
    if classes == 12:
        return DEVELOPMENT_SPLITS if development else PUBLISHED_SPLITS
    return tuple(tuple(range(first + development, classes + 1, 4)) for first in (1, 3))


@dataclass(frozen=True)
class Drawn:
    """Scenes, and what is computed of them once for all rows, seeds and calls."""

    folder: Path
    """JPEGImages, SegmentationClass, ImageSets."""
    work: Path
    """Of these scenes and these weights."""
    encoder: Encoder
    train: Cache
    val: Cache

    @classmethod
    def read(cls, out: Path, weights: str, train: int, val: int, seed: int) -> Drawn:
        """Draw and encode what is not there yet. Two benchmarks may ask at once; one of them waits."""
        encoder = load_encoder(weights, device="cpu")
        if encoder.patch * GRID[0] != SIDE:
            raise SystemExit(f"a CLIP of {SIDE // GRID[0]}-pixel patches is needed")
        folder = out / "zero_shot" / f"scenes-{len(VOCABULARY.names)}-{train}-{val}-{seed}"
        work = folder / f"{weights}-{encoder.source[:8]}"
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / "lock"):
            make(folder, ScenesConfig(train, val, seed, (SIDE, SIDE)))
            seen = [look(folder, split, encoder, work / f"{split}.pt") for split in ("train", "val")]
        return cls(folder, work, encoder, *seen)

    def table(self, values: Sequence[int]) -> TextTable:
        """Text rows of the classes of these mask values."""
        words = [(entry.name, *entry.synonyms) for entry in VOCABULARY.classes]
        return text_table(self.encoder, [words[v - 1] for v in values], VOCABULARY.background, VOCABULARY.templates)

    def cliper(self) -> Tensor:
        """CLIPer's probabilities [picture label 192 192] on the validation pictures, float16."""
        return kept(self.work / "cliper.pt", lambda: training_free(self.folder, self.val, self.encoder, VOCABULARY))

    def segments(self) -> list[Tensor]:
        """Segments [192 192] of the validation pictures."""
        return list(kept(self.work / "segments.pt", lambda: torch.stack(segments_of(self.val)).to(torch.int16)).long())


def kept(path: Path, compute: Callable[[], Tensor | dict[str, Tensor]]) -> Any:
    """What is in a file of tensors, computed where it is not there yet."""
    if not path.is_file():
        part = path.with_suffix(f".{os.getpid()}")
        torch.save(compute(), part)
        part.replace(path)
    return torch.load(path, weights_only=True)


def cpu_seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass
class Cache:
    """Pictures and what the frozen CLIP says of them, on 12 x 12 patches."""

    ids: list[str]
    pixels: Tensor
    """uint8 [picture 3 192 192]"""
    maps: list[Tensor]
    """[picture width 12 12], float16: two blocks, and the common space in several ways."""
    truth: np.ndarray

    def batch(self, index: Tensor, flip: bool) -> list[Tensor]:
        """Pixels and maps of some pictures; a mirrored picture has, nearly, the mirrored maps."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
        found = [(self.pixels[index].float() / 255 - mean) / std, *(maps[index].float() for maps in self.maps)]
        return [part.flip(-1) for part in found] if flip else found

    def clean(self, unseen: Sequence[int]) -> Tensor:
        """Which pictures have none of these classes."""
        return torch.tensor([not np.isin(mask, unseen).any() for mask in self.truth])


def look(folder: Path, split: str, encoder: Encoder, path: Path) -> Cache:
    """Read a split and encode it, as the backbone `FrozenClip` of `clip-es train --head pixel-text` does."""
    ids = (folder / f"ImageSets/Segmentation/{split}.txt").read_text().split()
    pictures = [np.asarray(Image.open(folder / f"JPEGImages/{name}.jpg").convert("RGB")) for name in ids]
    maps = kept(path, lambda: encoded(pictures, encoder))
    truth = np.stack([read_mask(folder / f"SegmentationClass/{name}.png") for name in ids])
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Cache(ids, pixels, [maps["block"], maps["last"], maps["members"]], truth)


@torch.no_grad()
def encoded(pictures: Sequence[np.ndarray], encoder: Encoder) -> dict[str, Tensor]:
    """Tokens of two blocks, and the common space in several ways, as maps [picture width 12 12], float16."""
    tower = encoder.model.visual
    maps: dict[str, list[Tensor]] = {"block": [], "last": [], "members": []}
    for start in range(0, len(pictures), 8):
        pixels = encoder._pixels(pictures[start : start + 8])
        sights = list(watch(tower.transformer.blocks, enter(encoder, pixels)))
        for name, tokens in (("block", sights[BLOCK - 1].left), ("last", tower.ln_post(sights[-1].left))):
            maps[name].append(tokens[:, 1:].mT.unflatten(2, GRID).half())
        maps["members"].append(clip_members(tower, sights, GRID).half())
    return {name: torch.cat(part) for name, part in maps.items()}


def pseudo_masks(drawn: Drawn, unseen: Sequence[int], out: Path, weights: str) -> tuple[Tensor, Tensor]:
    """Labels and confidence [picture 48 48] that `clip-es masks` makes from the labels that are not unseen."""
    rows, cache, folder, names = out.with_suffix(".csv"), drawn.train, drawn.folder, VOCABULARY.names
    present = [sorted(set(np.unique(mask).tolist()) - {0, 255, *unseen}) for mask in cache.truth]
    with rows.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "labels"))
        kept = [(name, values) for name, values in zip(cache.ids, present, strict=True) if values]
        writer.writerows((f"{name}.jpg", ";".join(names[value - 1] for value in values)) for name, values in kept)
    flags = ["masks", "folder", "--images", str(folder / "JPEGImages"), "--labels", str(rows), "--vocabulary", "scenes"]
    flags += ["--weights", weights, "--out", str(out), "--workers", "0", "--report-pictures", "0", "--device", "cpu"]
    if not (out / "summary.json").is_file() and clip_es(flags):
        raise SystemExit("masks failed")
    labels, sure = torch.full((len(cache.ids), 48, 48), 0), torch.ones(len(cache.ids), 48, 48)
    for i, name in enumerate(cache.ids):
        if (out / f"labels/{name}.png").exists():
            labels[i] = torch.from_numpy(read_mask(out / f"labels/{name}.png")[2::4, 2::4].astype(np.int64))
            sure[i] = torch.from_numpy(read_confidence(out / f"confidence/{name}.png")[2::4, 2::4].copy())
    return labels, sure


def training_free(folder: Path, cache: Cache, encoder: Encoder, vocabulary: Vocabulary) -> Tensor:
    """CLIPer's probabilities [picture label 192 192], float16, asked for all classes without labels."""
    settings = replace(DEFAULT, method="cliper", refine=()).using(cliper=SCENES)
    ask = TrainingFree(MaskMaker(encoder, vocabulary, config=settings, labels="none"))
    records = [ImageRecord(name, folder / f"JPEGImages/{name}.jpg", ()) for name in cache.ids]
    return torch.stack([ask(record).half() for record in records])


def segments_of(cache: Cache) -> list[Tensor]:
    """Segments [192 192] of each picture from CLIP's patches and colours, for the fusion."""
    found, settings = [], SpectralConfig(segments=12, eigenvectors=12)
    for i in range(len(cache.ids)):
        picture = cache.pixels[i].permute(1, 2, 0).numpy()
        regions, _ = picture_segments(picture, cache.maps[1][i].float(), settings, (32, 32))
        found.append(F.interpolate(regions[None, None].float(), size=(SIDE, SIDE), mode="nearest")[0, 0].long())
    return found
