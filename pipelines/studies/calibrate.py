"""Settings for pictures without labels: which of them make two looks at a picture, and two methods, agree.

Nothing says here what is right. A threshold at which a mirrored or moved picture has the same classes as the plain one,
a scale at which patch-text says the same of both and the same as CLIP-ES, are better guesses than others. All
agreement is Cohen's kappa: 0 is what chance gives, so that "nothing anywhere" and "everything everywhere" gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from clip_es.calibration import calibrated
from clip_es.config.methods import LocalizeConfig, PatchTextConfig
from clip_es.config.stages import ImageConfig
from clip_es.config.views import ViewsConfig
from clip_es.encoder import Encoder
from clip_es.errors import ClipEsError, DataError
from clip_es.images import read_picture
from clip_es.localize.gradcam.localizer import ClipEs
from clip_es.localize.patchtext.localizer import PatchText
from clip_es.localize.patchtext.reading import PatchSight
from clip_es.localize.patchtext.texts import words_share
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.refine.affinity import AffinityConfig, spread
from clip_es.tagging import tag
from clip_es.types import ClassMaps, EncodedImage, ImageRecord, Picture, TextBank
from clip_es.views import View, views

SCALES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""Text scales that are tried, as shares of the learned one."""

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Confidences from which a class counts as found."""

SHIFTS = (1, 2, 4)

_SIDE = 160
"""Maps are compared at this longer side, pixels."""

_ENOUGH = 0.01
"""More views are suggested only where they add more agreement than this."""


@dataclass
class Candidate:
    """One value of a setting."""

    setting: str
    value: str
    stability: float
    """Kappa between the plain picture and the same mirrored, moved by half a patch."""
    agreement: float
    """Kappa between two methods; NaN where the setting has none."""
    oracle: float = float("nan")
    """mIoU or F1 with the ground truth, per cent, where it was given."""

    @property
    def score(self) -> float:
        """The mean of what is known."""
        return float(np.nanmean([self.stability, self.agreement]))


@dataclass(frozen=True)
class Calibration:
    """All candidates, and the best of each setting."""

    candidates: tuple[Candidate, ...]
    pictures: int
    failures: tuple[tuple[str, str], ...] = ()

    def of(self, setting: str) -> list[Candidate]:
        """The candidates of a setting."""
        return [one for one in self.candidates if one.setting == setting]

    def suggested(self, setting: str) -> Candidate:
        """The best; of views the fewest that are about as good as the best."""
        found = self.of(setting)
        best = max(found, key=lambda one: one.score)
        if setting != "views.shifts":
            return best
        return next(one for one in found if one.score > best.score - _ENOUGH)


def kappa(counts: Int64[np.ndarray, "one other"]) -> float:
    """Cohen's kappa of two judgements, from how often each pair of them occurred; NaN where both always say one."""
    total = counts.sum()
    if not total:
        return float("nan")
    observed = np.trace(counts) / total
    chance = float((counts.sum(0) / total) @ (counts.sum(1) / total))
    return float("nan") if chance >= 1 else float((observed - chance) / (1 - chance))


@dataclass
class _Counts:
    """Pairs of judgements by setting, value and kind of comparison."""

    classes: int
    known: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)

    def add(self, key: tuple[str, str, str], one: np.ndarray, other: np.ndarray, kinds: int) -> None:
        """Two arrays of judgements 0..kinds-1."""
        pair = np.bincount(one.ravel().astype(np.int64) * kinds + other.ravel(), minlength=kinds**2)
        self.known[key] = self.known.get(key, 0) + pair.reshape(kinds, kinds)

    def kappa(self, *key: str) -> float:
        """Of the pairs of one kind; NaN where there are none."""
        counts = self.known.get((key[0], key[1], key[2]))
        return float("nan") if counts is None else kappa(counts)


class Calibrator:
    """Looks at pictures one by one, and keeps counts alone."""

    def __init__(self, encoder: Encoder, bank: TextBank, text: PatchTextConfig, box_threshold: float) -> None:
        self.encoder, self.bank, self.box_threshold = encoder, bank, box_threshold
        self.text = PatchText(encoder, bank, text)
        self.gradient = ClipEs(encoder, bank, LocalizeConfig())
        self.counts = _Counts(bank.class_count)
        self.truth: dict[tuple[str, str], ConfusionMatrix] = {}
        self.found: dict[str, np.ndarray] = {}
        self.pictures = 0

    def look(self, record: ImageRecord, image: ImageConfig, truth: np.ndarray | None = None) -> None:
        """Count one picture. `truth`: its mask, for the oracle alone. Raises DataError: it cannot be read."""
        picture = read_picture(record, self.encoder.patch, image, self.text.seen_hw)
        every = list(views(ViewsConfig(4, flip=True), picture.patch))
        seen = [self.text.encode([view.of(picture)])[0] for view in every]
        labels = self._labels(picture, every, seen, truth)
        if labels:
            self._masks(picture, every, seen, labels, truth)
        self.pictures += 1

    def _labels(
        self, picture: Picture, every: Sequence[View], seen: Sequence[EncodedImage], truth: np.ndarray | None
    ) -> tuple[int, ...]:
        """Count which classes are found; returns those of the plain view at the usual threshold."""
        plain = tag(self.encoder, picture, seen[0], self.bank)
        shares = self.text.shares(seen[0])[: self.bank.class_count]  # pyright: ignore[reportArgumentType]
        other = (shares.amax(1) > self.text.config.score_threshold).long().numpy()
        again = []
        for place in (_mirrored(every), _moved(every)):
            view = every[place]
            shown = replace(view.of(picture), rgb=view.apply(picture.rgb, picture.patch))
            again.append(tag(self.encoder, shown, seen[place], self.bank).confidences.numpy())
        for threshold in THRESHOLDS:
            mine = (plain.confidences.numpy() >= threshold).astype(np.int64)
            for confidences in again:
                theirs = (confidences >= threshold).astype(np.int64)
                self.counts.add(("tagging.threshold", f"{threshold:g}", "stability"), mine, theirs, 2)
            self.counts.add(("tagging.threshold", f"{threshold:g}", "agreement"), mine, other, 2)
            if truth is not None:
                present = np.isin(np.arange(1, self.bank.class_count + 1), truth).astype(np.int64)
                hits = np.array([(mine & present).sum(), mine.sum(), present.sum()])
                self.found[f"{threshold:g}"] = self.found.get(f"{threshold:g}", 0) + hits
        return plain.class_ids

    def _masks(
        self,
        picture: Picture,
        every: Sequence[View],
        seen: Sequence[EncodedImage],
        labels: tuple[int, ...],
        truth: np.ndarray | None,
    ) -> None:
        hw = _small(picture.size_hw)
        true = None if truth is None else _nearest(truth, hw)
        back = [_Back(view, picture, hw) for view in every]
        scores = [self._gradient(sight, labels) for sight in seen]
        gradient = {
            "fixed": [undo(maps.scores) for undo, maps in zip(back, scores, strict=True)],
        }
        gradient["otsu"] = [calibrated(ClassMaps(maps, labels)).scores for maps in gradient["fixed"]]
        stretched = {name: [_decided(maps, labels) for maps in some] for name, some in gradient.items()}
        reference = stretched["otsu"][0]
        near = (_mirrored(every), _moved(every))
        shares: list[Tensor] = []
        for factor in SCALES:
            some = [self._shares(sight, labels, factor) for sight in seen]
            full = [undo(maps) for undo, maps in zip(back, some, strict=True)]
            masks = [_decided(maps, labels, shares=True) for maps in full]
            key = ("patch-text.scale", f"{factor * self.encoder.logit_scale:.3g}")
            self._compare(key, masks, near, reference, true)
            if factor == 1.0:
                shares, plain = full, masks[0]
        for name, masks in stretched.items():
            self._compare(("mask.calibration", name), masks, near, plain, true)
        for count in SHIFTS:
            first = [place for place, view in enumerate(every) if not view.flip][:: 4 // count][:count]
            first = first if count != 2 else [0, _diagonal(every)]
            both = [first, [place + 4 for place in first]]
            masks = [
                _decided(torch.stack([shares[place] for place in some]).mean(0), labels, shares=True) for some in both
            ]
            key = ("views.shifts", str(count))
            self._compare(key, masks, (1,), None, true)

    def _compare(
        self,
        key: tuple[str, str],
        masks: Sequence[np.ndarray],
        others: Sequence[int],
        reference: np.ndarray | None,
        truth: np.ndarray | None,
    ) -> None:
        kinds = self.counts.classes + 1
        for place in others:
            self.counts.add((*key, "stability"), masks[0], masks[place], kinds)
        if reference is not None:
            self.counts.add((*key, "agreement"), masks[0], reference, kinds)
        if truth is not None:
            self.truth.setdefault(key, ConfusionMatrix(kinds)).update(masks[0], truth)

    def _gradient(self, seen: EncodedImage, labels: tuple[int, ...]) -> ClassMaps:
        found = self.gradient.locate(None, seen, labels).maps
        return spread(found, seen.attention, AffinityConfig(), self.box_threshold)

    def _shares(self, seen: EncodedImage, labels: tuple[int, ...], factor: float) -> Float32[Tensor, "class gh gw"]:
        assert isinstance(seen, PatchSight)
        shares = words_share(seen.embeddings[1:], self.text.text, factor * self.encoder.logit_scale)
        return shares[list(labels)].unflatten(1, seen.read_hw)

    def result(self, failures: Sequence[tuple[str, str]] = ()) -> Calibration:
        """All candidates. Raises DataError: no picture had any class."""
        if not any(key[0] == "patch-text.scale" for key in self.counts.known):
            raise DataError(
                "CLIP found no class of the vocabulary in any picture, so nothing can be compared",
                found=f"{self.pictures} pictures",
                next_step="Check --vocabulary, or pass other pictures.",
            )
        values = {key[:2]: None for key in self.counts.known}
        every = [
            Candidate(
                *key, self.counts.kappa(*key, "stability"), self.counts.kappa(*key, "agreement"), self._oracle(*key)
            )
            for key in values
        ]
        return Calibration(tuple(every), self.pictures, tuple(failures))

    def _oracle(self, setting: str, value: str) -> float:
        if setting == "tagging.threshold":
            if value not in self.found:
                return float("nan")
            both, found, present = self.found[value]
            return 200 * float(both) / max(float(found + present), 1.0)
        matrix = self.truth.get((setting, value))
        return float("nan") if matrix is None else 100 * matrix.compute().miou


def calibrate(
    calibrator: Calibrator,
    records: Sequence[ImageRecord],
    image: ImageConfig,
    truth: Mapping[str, np.ndarray] | Callable[[str], np.ndarray | None] | None = None,
    track: Callable[[Iterable, str, int], Iterable] = lambda items, what, total: items,
) -> Calibration:
    """Look at every picture; one that cannot be read is told and left out. Raises DataError: nothing could be read, or
    nothing was found in any."""
    failures = []
    for record in track(records, "calibrate", len(records)):
        mask = None
        if truth is not None:
            mask = truth(record.image_id) if callable(truth) else truth.get(record.image_id)
        try:
            calibrator.look(record, image, mask)
        except ClipEsError as error:
            failures.append((record.image_id, str(error)))
    return calibrator.result(failures)


@dataclass(frozen=True)
class _Back:
    """Maps of a view to the picture."""

    view: View
    picture: Picture
    hw: tuple[int, int]

    def __call__(self, maps: Float32[Tensor, "class gh gw"]) -> Float32[Tensor, "class h w"]:
        height, width = self.picture.patches.shape[:2]
        return self.view.undo(maps, (height, width), self.picture.patch, self.hw)


def _decided(maps: Float32[Tensor, "class h w"], labels: tuple[int, ...], shares: bool = False) -> np.ndarray:
    """The label of each pixel: background is what no label explains, or 1 - the best map."""
    background = 1 - (maps.sum(0) if shares else maps.amax(0))
    return np.array([0, *(k + 1 for k in labels)])[torch.cat([background[None], maps]).argmax(0).numpy()]


def _small(size_hw: tuple[int, int]) -> tuple[int, int]:
    shrink = min(1.0, _SIDE / max(size_hw))
    return max(1, round(size_hw[0] * shrink)), max(1, round(size_hw[1] * shrink))


def _nearest(mask: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    rows, columns = (np.arange(new) * old // new for old, new in zip(mask.shape, hw, strict=True))
    return mask[rows[:, None], columns]


def _mirrored(every: Sequence[View]) -> int:
    return next(place for place, view in enumerate(every) if view.flip and not any(view.shift))


def _moved(every: Sequence[View]) -> int:
    return _diagonal(every)


def _diagonal(every: Sequence[View]) -> int:
    return next(place for place, view in enumerate(every) if all(view.shift) and not view.flip)
