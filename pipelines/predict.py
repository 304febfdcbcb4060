"""From a trained segmenter and pictures without labels to a run folder of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from clip_es.config.run import CrfConfig, ImageConfig
from clip_es.errors import ConfigError
from clip_es.images import look_at
from clip_es.pipelines.parallel.executor import Executor, Failure
from clip_es.pipelines.parallel.threads import Threads
from clip_es.pipelines.segments import SegmentFolder
from clip_es.pipelines.stopwatch import Stopwatch
from clip_es.pipelines.training_free import TrainingFree, mixed
from clip_es.refine.crf.dense import crf
from clip_es.segmentor.fusion import nearest_sides, vote
from clip_es.segmentor.inference import Segmenter, TestViews
from clip_es.store.disk import StoreError
from clip_es.store.run import RunStore
from clip_es.types import MAX_CLASSES, UNDECIDED, UNDECIDED_WIDE, ClassMaps, ImageRecord, Picture, PseudoMask

Rgb = UInt8[np.ndarray, "h w 3"]
Probabilities = Float32[Tensor, "label h w"]
FuseRule = Literal["vote", "nearest-side"]

LEAST = 0.01
"""A label that nowhere in a picture reaches this probability is not shown to the CRF, which costs time and memory for
each; with the usual weights it could not win a pixel there."""


@dataclass(frozen=True)
class PredictConfig:
    """What decides the bytes of predicted masks, besides the model."""

    views: TestViews = field(default_factory=TestViews)
    crf: CrfConfig | None = None
    """The CRF that follows the softmax; None: none."""
    threshold: float = 0.0
    """Pixels less confident than this become 255."""
    max_megapixels: float = 100.0
    """Pictures with more than this many million pixels are refused before they are decoded."""
    fuse: float = 0.0
    """How much of the mean over its segment a pixel takes, 0..1; 0: segments are not looked at."""
    fuse_rule: FuseRule = "vote"
    """What segments do where `fuse` is above 0; the share counts for the vote alone."""
    fuse_tau: float = 0.5
    """IoU with a predicted mask that nearest-side asks of a segment."""
    background_threshold: float | None = None
    """Pixels whose likeliest class has a lower probability, among the classes alone, are background; None: background
    is a label among the others."""
    training_free: float = 0.0
    """How much of training-free CLIPer's probabilities is mixed in, 0..1; 0: CLIPer is not asked."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError("the threshold is a confidence", expected="0..1", found=self.threshold)
        for flag, share in (
            ("--fuse-amount", self.fuse),
            ("--fuse-tau", self.fuse_tau),
            ("--training-free", self.training_free),
        ):
            if not 0 <= share <= 1:
                raise ConfigError(f"{flag} is a share", expected="0..1", found=share)
        least = self.background_threshold
        if least is not None and not 0 <= least <= 1:
            raise ConfigError("--background-threshold is a probability", expected="0..1", found=least)
        if least is not None and self.fuse and self.fuse_rule == "nearest-side":
            raise ConfigError(
                "--fuse-rule nearest-side needs background as a row",
                found="--background-threshold",
                next_step="Leave the threshold out, or pass --fuse-rule vote.",
            )
        ImageConfig(max_megapixels=self.max_megapixels)  # It knows the range.


def predict(
    records: Iterable[ImageRecord],
    segmenter: Segmenter,
    store: RunStore,
    config: PredictConfig,
    *,
    stopwatch: Stopwatch,
    segments: SegmentFolder | None = None,
    training_free: TrainingFree | None = None,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Predict and store the masks of all records; a picture that fails becomes a row of failures.csv.

    `segments`: where those of the pictures lie, for `config.fuse`; no ground truth is looked at. `training_free`: what
    CLIPer is asked with, for `config.training_free`.

    Pictures are decoded while the model looks at others. `done` is called once for each. Raises StoreError: the disk
    does not take the files. ConfigError: what would fail for every picture, such as a missing CRF.
    """
    image = ImageConfig(max_megapixels=config.max_megapixels)
    row, least = config.background_threshold is None, config.background_threshold

    def failed(failure: Failure) -> None:
        if isinstance(failure.error, (StoreError, ConfigError)):
            raise failure.error
        store.fail(failure.record, failure.stage, failure.error)
        done()

    def save_labels(record: ImageRecord, rgb: Rgb) -> None:
        with stopwatch("predict"):
            labels, confidence = segmenter.labels(rgb, background=row)
            if least is not None:
                labels, confidence = behind_threshold(labels, confidence, least)
        with stopwatch("store"):
            store.save(record, decided_wide(labels, confidence, len(segmenter.names), config.threshold))

    def look(rgb: Rgb) -> tuple[Rgb, Probabilities]:
        with stopwatch("predict"):
            return rgb, segmenter.probabilities(rgb, config.views, row)

    def mix(record: ImageRecord, rgb: Rgb, probabilities: Probabilities) -> tuple[Rgb, Probabilities]:
        assert training_free is not None
        with stopwatch("training-free"):
            alone = training_free(record)
            return rgb, mixed(probabilities, alone if row else without_background(alone), config.training_free)

    def fuse(record: ImageRecord, rgb: Rgb, probabilities: Probabilities) -> tuple[Rgb, Probabilities]:
        assert segments is not None
        with stopwatch("fuse"):
            if config.fuse_rule == "nearest-side":
                sides = segments.sides(record.image_id).to(probabilities.device)
                return rgb, nearest_sides(probabilities, sides, config.fuse_tau)
            regions = segments.regions(record.image_id).to(probabilities.device)
            return rgb, vote(probabilities, regions, config.fuse)

    def sharpen(record: ImageRecord, crf: CrfConfig, rgb: Rgb, probabilities: Probabilities) -> Probabilities:
        with stopwatch("crf"):
            if least is None:
                return smooth(record.image_id, rgb, probabilities, crf)
            # The threshold is background's score among those of the classes, so it wins exactly below it.
            scored = torch.cat([torch.full_like(probabilities[:1], least), probabilities[1:]]) / (1 + least)
            return smooth(record.image_id, rgb, scored, crf)

    def save(record: ImageRecord, probabilities: Probabilities) -> None:
        with stopwatch("store"):
            store.save(record, decided(probabilities, config.threshold, None if config.crf else least))

    with Threads(2, most=4) as readers:
        executor = Executor(failed, readers=readers)
        pictures = executor.ahead("read", partial(_read, image), records)
        if segmenter.wide:
            check_wide(config, len(segmenter.names) - 1)
            for _ in executor.each("predict", save_labels, ((record, (record, *rgb)) for record, rgb in pictures)):
                done()
            return
        flow = executor.each("predict", look, pictures)
        if training_free is not None and config.training_free:
            flow = executor.each("training-free", mix, ((record, (record, *seen)) for record, (seen,) in flow))
        if segments is not None and config.fuse:
            flow = executor.each("fuse", fuse, ((record, (record, *seen)) for record, (seen,) in flow))
        if crf := config.crf:
            flow = executor.each("crf", sharpen, ((record, (record, crf, *seen)) for record, (seen,) in flow))
        else:
            flow = ((record, (probabilities,)) for record, ((_, probabilities),) in flow)
        for _ in executor.each("store", save, ((record, (record, found)) for record, (found,) in flow)):
            done()


def without_background(probabilities: Float32[Tensor, "label h w"]) -> Float32[Tensor, "label h w"]:
    """What the classes are among themselves, and 0 for background; 0 for all where only background is."""
    classes = torch.cat([torch.zeros_like(probabilities[:1]), probabilities[1:]])
    return classes / classes.sum(0).clamp(min=1e-12)


def behind_threshold(
    labels: Int64[Tensor, "h w"], probability: Float32[Tensor, "h w"], least: float
) -> tuple[Int64[Tensor, "h w"], Float32[Tensor, "h w"]]:
    """Background, 0, where the likeliest class has a probability below `least`; its confidence is what that lacks."""
    behind = probability < least
    return labels.masked_fill(behind, 0), torch.where(behind, 1 - probability, probability)


def decided(
    probabilities: Float32[Tensor, "label h w"], threshold: float = 0.0, background_below: float | None = None
) -> PseudoMask:
    """The likeliest label of each pixel, the first of equals, with its probability; 255 below the threshold.

    With `background_below` it is the likeliest class, and background where that has a lower probability.
    """
    if background_below is None:
        found = probabilities.argmax(dim=0), probabilities.amax(dim=0)
    else:
        classes = probabilities[1:]
        found = behind_threshold(classes.argmax(dim=0) + 1, classes.amax(dim=0), background_below)
    winner, confidence = (values.cpu().numpy() for values in found)
    labels = winner.astype(np.uint8)
    confidence = np.clip(confidence, 0, 1, dtype=np.float32)
    return PseudoMask(
        labels=np.where(confidence < threshold, np.uint8(UNDECIDED), labels),
        confidence=confidence,
        class_ids=tuple(range(len(probabilities) - 1)),
        decided=labels,
    )


def check_wide(config: PredictConfig, classes: int) -> None:
    """Raises ConfigError: what needs the probabilities of all classes at once, which are not kept for so many."""
    asked = {
        "--scales or --flip": config.views != TestViews(),
        "--crf": config.crf is not None,
        "--fuse": config.fuse > 0,
        "--training-free": config.training_free > 0,
    }
    if any(asked.values()):
        raise ConfigError(
            f"{' and '.join(flag for flag, there in asked.items() if there)} cannot go with so many classes",
            expected=f"at most {MAX_CLASSES} classes",
            found=classes,
            next_step="Leave the flag out, or ask for fewer classes.",
        )


def decided_wide(
    labels: Int64[Tensor, "h w"], confidence: Float32[Tensor, "h w"], count: int, threshold: float = 0.0
) -> PseudoMask:
    """A 16-bit mask of streamed labels, `count` of them with background; 65535 below the threshold."""
    winner = labels.cpu().numpy().astype(np.uint16)
    sure = np.clip(confidence.cpu().numpy(), 0, 1, dtype=np.float32)
    return PseudoMask(
        labels=np.where(sure < threshold, np.uint16(UNDECIDED_WIDE), winner),
        confidence=sure,
        class_ids=tuple(range(count - 1)),
        decided=winner,
    )


def smooth(
    image_id: str, rgb: UInt8[np.ndarray, "h w 3"], probabilities: Float32[Tensor, "label h w"], config: CrfConfig
) -> Float32[Tensor, "label h w"]:
    """The probabilities after the dense CRF, whose unary energy is their -log; labels that are nowhere become 0.

    Raises ConfigError: the CRF's backend is not installed.
    """
    kept = (probabilities.amax(dim=(1, 2)) >= LEAST) | _winners(probabilities)
    kept[0] = True
    ids = kept.nonzero()[:, 0].tolist()
    if len(ids) == 1:
        return probabilities
    maps = ClassMaps(
        scores=probabilities[ids[1:]].clamp(0, 1),
        class_ids=tuple(label - 1 for label in ids[1:]),
        background=probabilities[0].clamp(0, 1),
    )
    found = crf(Picture(image_id=image_id, rgb=rgb, patches=rgb[:1, :1], patch=1), maps, config)
    assert found.background is not None
    result = torch.zeros_like(probabilities)
    result[ids[1:]] = found.scores.to(result)
    result[0] = found.background.to(result)
    return result


def _read(config: ImageConfig, record: ImageRecord) -> UInt8[np.ndarray, "h w 3"]:
    rgb = look_at(record.path, config).rgb
    assert rgb is not None
    return rgb


def _winners(probabilities: Float32[Tensor, "label h w"]) -> Tensor:
    """Labels that are the likeliest somewhere."""
    return torch.bincount(probabilities.argmax(dim=0).flatten(), minlength=len(probabilities)) > 0
