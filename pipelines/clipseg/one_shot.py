"""One class at a time, shown by one example or named: the one-shot protocols of CLIPSeg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Bool, Float32, UInt8
from PIL import Image
from torch import Tensor

from clip_es.config.methods import VisualPrompt
from clip_es.encoder import Encoder
from clip_es.encoder.capture import normalised
from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.localize.clipseg.decoder import Decoder
from clip_es.localize.clipseg.draws import example_config
from clip_es.localize.clipseg.prompts import visual_prompt
from clip_es.localize.clipseg.sight import IMAGENET_MEAN, IMAGENET_STD, Texts, block_outputs, image_prompts
from clip_es.masks import read_mask
from clip_es.metrics.phrases import ReferringMeter, ReferringScores
from clip_es.pipelines.clipseg.truth import Track, nearest, with_truth
from clip_es.records import Dataset
from clip_es.records.phrases.table import read_rgb
from clip_es.types import UNDECIDED


@dataclass(frozen=True)
class OneShotConfig:
    """Which episodes, and how their pictures are fitted. The defaults are those of Pascal-5i."""

    prompt: Literal["example", "text"] = "example"
    """The prompt: another picture with its mask, or the name of the class."""
    folds: Literal["blocks", "interleaved"] = "blocks"
    """Fold k holds the classes k n .. k n + n - 1 (Pascal-5i), or k, k + folds, ... (COCO-20i)."""
    fold_count: int = 4
    """Number of folds; the figures are means over them."""
    fold: int | None = None
    """One fold alone, from 0; None: all."""
    least_pixels: int = 2048
    """A class counts in a picture only with so many pixels, at the picture's own size."""
    episodes: int | None = None
    """So many random episodes of each fold (COCO-20i: 1000); None: each picture once."""
    fit: Literal["corner", "stretch"] = "corner"
    """corner: shrunk where larger than the side, laid into its top left corner on black. stretch: resized to the
    square."""
    compare: Literal["published", "exact"] = "published"
    """Where prediction and mask meet. published: corner stretches the square over the longer side of the picture, as
    if it filled the square, and stretch compares inside the square. exact: the prediction is laid over the picture."""
    side: int | None = None
    """Side of the square, pixels; None: as the decoder's file says, else 352."""
    text: Annotated[str, tyro.conf.arg(name="template", aliases=["--text"])] = "a photo of a {}."
    """Sentence around a class name."""
    example_mode: VisualPrompt = "crop_blur_highlight352"
    """How an example is faded and cut."""
    example_side: int | None = None
    """Side of the cut example; None: as the decoder's file says, else 352."""
    threshold: float = 0.3
    """At which figures are given; 0.3 in the published table, 0.1 for COCO-20i."""
    seed: int = 0
    """Which class of a picture, and which example."""

    def __post_init__(self) -> None:
        if self.fold_count < 1 or (self.fold is not None and not 0 <= self.fold < self.fold_count):
            raise ConfigError("fold is a number from 0 below fold_count", found=(self.fold, self.fold_count))

    def classes_of(self, fold: int, count: int) -> list[int]:
        """The classes of a fold among `count`."""
        if self.folds == "interleaved":
            return list(range(fold, count, self.fold_count))
        size = -(-count // self.fold_count)
        return list(range(fold * size, min((fold + 1) * size, count)))


@dataclass(frozen=True)
class Episode:
    """A picture, the class asked for, and the picture that shows it."""

    query: int
    class_id: int
    example: int


def episodes(
    sizes: Sequence[dict[int, int]], classes: Sequence[int], config: OneShotConfig, fold: int
) -> list[Episode]:
    """The episodes of a fold. `sizes`: for each picture the pixels of its classes.

    A picture with no class of the fold that is large enough, or of which no other picture is at hand, has none.
    """
    rng = np.random.default_rng((0x0E5, config.seed, fold))
    shown = {k: [i for i, size in enumerate(sizes) if size.get(k, 0) >= config.least_pixels] for k in classes}
    usable = {k: pictures for k, pictures in shown.items() if len(pictures) > 1}
    queries = sorted({i for pictures in usable.values() for i in pictures})
    if not queries:
        return []
    if config.episodes is not None:
        queries = [queries[int(i)] for i in rng.integers(len(queries), size=config.episodes)]
    found = []
    for query in queries:
        here = [k for k, pictures in usable.items() if query in pictures]
        class_id = here[int(rng.integers(len(here)))]
        others = [i for i in usable[class_id] if i != query]
        found.append(Episode(query, class_id, others[int(rng.integers(len(others)))]))
    return found


@dataclass(frozen=True)
class OneShotScores:
    """Figures of each fold, and their means."""

    folds: dict[int, ReferringScores]
    threshold: float

    def mean(self) -> dict[str, float]:
        """mIoU, IoU_FG, IoU_BIN at the threshold, the best mIoU at a threshold common to all folds, and AP."""
        every = list(self.folds.values())
        at = [one.at(self.threshold) for one in every]
        means = {name: float(np.mean([row[name] for row in at])) for name in ("miou", "iou_fg", "iou_bin")}
        pooled = np.mean([one.miou for one in every], axis=0)
        best = int(np.argmax(pooled))
        means |= {"best_miou": float(pooled[best]), "best_threshold": every[0].thresholds[best]}
        return means | {"ap": float(np.mean([one.ap for one in every]))}


@torch.no_grad()
def one_shot(
    encoder: Encoder,
    decoder: Decoder,
    dataset: Dataset,
    names: Sequence[str],
    config: OneShotConfig | None = None,
    *,
    track: Track = iter,
) -> OneShotScores:
    """One class at a time, asked for by an example (or by its name) of which the decoder should have seen no mask.

    Raises DataError: no picture has a mask, or no fold has an episode.
    Source: CLIPSeg's Pascal-5i and COCO-20i evaluation, with the loaders of PFENet and HSNet. Differs: episodes are
    seeded.
    """
    config = config or OneShotConfig()
    side = config.side or decoder.side or 352
    records = with_truth(dataset)
    sizes = []
    for record in track(records):
        counts = np.bincount(read_mask(dataset.truth[record.image_id]).ravel(), minlength=256)
        sizes.append({k: int(counts[k + 1]) for k in range(len(names)) if counts[k + 1]})
    texts, found = Texts(encoder), {}
    for fold in range(config.fold_count) if config.fold is None else (config.fold,):
        meter = ReferringMeter()
        classes = config.classes_of(fold, len(names))
        for episode in track(episodes(sizes, classes, config, fold)):
            record = records[episode.query]
            rgb, truth = read_rgb(record.path), read_mask(dataset.truth[record.image_id])
            pixels, inside = fit(rgb, side, config.fit, encoder.patch)
            seen = block_outputs(encoder, pixels[None].to(encoder.device), decoder.layers)
            if config.prompt == "text":
                vector = texts([config.text.format(names[episode.class_id])])
            else:
                vector = _example(encoder, decoder, dataset, records[episode.example], episode.class_id, side, config)
            logits = decoder(seen, vector, (side // encoder.patch, side // encoder.patch)).float()
            probability, labels = meet(logits.sigmoid().cpu()[0], truth, inside, config)
            meter.update(
                probability, labels == episode.class_id + 1, classes.index(episode.class_id), labels != UNDECIDED
            )
        if meter.counts:
            found[fold] = meter.compute()
    if not found:
        raise DataError(
            "no fold has an episode",
            where=dataset.name,
            expected=f"two pictures with {config.least_pixels} pixels of one class",
            next_step="Lower --least-pixels or take more pictures.",
        )
    return OneShotScores(found, config.threshold)


def meet(
    probability: Float32[Tensor, "s s"],
    truth: UInt8[np.ndarray, "h w"],
    inside: tuple[int, int],
    config: OneShotConfig,
) -> tuple[Float32[Tensor, "th tw"], UInt8[Tensor, "th tw"]]:
    """Prediction and mask at one size. `inside`: the height and width that the picture takes in the square."""
    if config.compare == "published" and config.fit == "stretch":
        return probability, torch.from_numpy(nearest(truth, (probability.shape[0], probability.shape[1])))
    height, width = truth.shape
    if config.compare == "published":
        size = (max(height, width), max(height, width))
    else:
        size, probability = (height, width), probability[: inside[0], : inside[1]]
    wide = F.interpolate(probability[None, None], size=size, mode="bilinear", align_corners=True)[0, 0]
    return wide[:height, :width], torch.from_numpy(truth)


def fit(
    rgb: UInt8[np.ndarray, "_ _ 3"], side: int, how: Literal["corner", "stretch"], patch: int
) -> tuple[Float32[Tensor, "3 s s"], tuple[int, int]]:
    """A picture in a square, normalised, and the height and width it takes there. Raises ShapeError: no whole patches.

    Source: `test_Resize` of PFENet (corner: OpenCV's linear resize), HSNet's loader (stretch: Pillow's). Differs:
    nothing.
    """
    if side % patch:
        raise ShapeError("the side must be whole patches", expected=f"a multiple of {patch}", found=side)
    if how == "stretch":
        height, width = side, side
        resized = Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).movedim(-1, 0)[None].float()
    else:
        height, width = fitted_size((rgb.shape[0], rgb.shape[1]), side)
        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 0)[None].float()
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    square = pixels.new_zeros(1, 3, side, side)  # black before it is normalised
    square[..., :height, :width] = pixels / 255
    return normalised(square, IMAGENET_MEAN, IMAGENET_STD)[0], (height, width)


def fitted_size(size_hw: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of a picture shrunk into a square, never enlarged: the longer one, of equal ones the height,
    becomes `side`; both are then floored to multiples of 8."""
    height, width = size_hw
    if max(size_hw) <= side:
        return size_hw
    if height >= width:
        width, height = int(width * (side * 1.0 / height)), side
    else:
        height, width = int(height * (side * 1.0 / width)), side
    return max(height // 8 * 8, 8), max(width // 8 * 8, 8)


def _example(
    encoder: Encoder, decoder: Decoder, dataset: Dataset, record, class_id: int, side: int, config: OneShotConfig
) -> Float32[Tensor, "1 embed"]:
    """The prompt of an example picture."""
    pixels, inside = fit(read_rgb(record.path), side, config.fit, encoder.patch)
    mask = torch.zeros(side, side, dtype=torch.bool)
    labels = read_mask(dataset.truth[record.image_id])
    mask[: inside[0], : inside[1]] = torch.from_numpy(nearest(labels, inside) == class_id + 1)
    cut = config.example_side or int(decoder.about.get("example_side", 352))
    shown = visual_prompt(pixels, _filled(mask), example_config(config.example_mode, cut))
    return image_prompts(encoder, shown[None].to(encoder.device)).float()


def _filled(mask: Bool[Tensor, "s s"]) -> Bool[Tensor, "s s"]:
    """The mask, or all of the square where shrinking has lost the object."""
    return mask if bool(mask.any()) else torch.ones_like(mask)
