"""How much a quicker way of computing the encoder changes: the same pictures both ways, compared at every step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from clip_es.encoder import Encoder, load_encoder
from clip_es.errors import ClipEsError, DataError
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.result import MaskResult
from clip_es.types import ImageRecord


@dataclass(frozen=True)
class Agreement:
    """What changed in some pictures. Shares and values of maps lie in 0..1."""

    engine: str
    dtype: str
    pictures: int
    equal_pixels: float
    """Share of the pixels with the same label before any was left undecided, mean over pictures."""
    equal_masks: float
    """The same of the masks as they are written, where some pixels are undecided."""
    least_pixels: float
    """The share of `equal_pixels` in the picture that changed most."""
    least: str
    """That picture."""
    miou: float
    """mIoU of one way's labels with the other's in the place of the ground truth."""
    classes: tuple[tuple[str, float], ...]
    """IoU of each class that occurs, background first."""
    maps_mean: float
    """Mean absolute difference of the maps that both made, after the refiners on the patch grid."""
    maps_largest: float
    """The largest one."""
    equal_labels: float | None
    """Share of the pictures in which the same classes were found; None where the labels were given."""
    times_faster: float
    """Seconds of the encoder in torch and float32 over those of the other way."""
    failures: tuple[tuple[str, str], ...] = ()
    """Pictures that could not be compared, and why."""

    @property
    def how(self) -> str:
        """The way that was compared: `int8 by onnx`."""
        return f"{self.dtype} by {self.engine}"

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The figures for people."""
        found = [
            ("pictures", f"{self.pictures}"),
            ("pixels with the same label", f"{100 * self.equal_pixels:.2f} %"),
            ("in the picture that changed most", f"{100 * self.least_pixels:.2f} % ({self.least})"),
            ("pixels with the same value in the mask, 255 included", f"{100 * self.equal_masks:.2f} %"),
            ("mIoU of one with the other", f"{100 * self.miou:.2f} %"),
            ("difference of the maps: mean, largest", f"{self.maps_mean:.4f}, {self.maps_largest:.3f}"),
        ]
        if self.equal_labels is not None:
            found.append(("pictures in which the same classes were found", f"{100 * self.equal_labels:.1f} %"))
        return [*found, ("encoder, times faster", f"{self.times_faster:.2f}")]


def exact_encoder(encoder: Encoder, weights: str) -> Encoder:
    """The same weights in torch and float32. Raises WeightsError, ConfigError: they cannot be read again."""
    if encoder.config.dtype != "bfloat16":
        return encoder.in_float32()
    config = replace(encoder.config, engine="torch", dtype="float32")
    return load_encoder(weights, device=str(encoder.device), config=config)


def is_exact(encoder: Encoder) -> bool:
    """Whether there is nothing to compare: torch computes it in float32."""
    return (encoder.config.engine, encoder.config.dtype) == ("torch", "float32")


class Comparison:
    """Collects what two ways have made of pictures, one after the other."""

    def __init__(self, maker: MaskMaker) -> None:
        """`maker`: the one that is compared; the other one computes in torch and float32."""
        self._maker = maker
        self._counts = ConfusionMatrix(len(maker.vocabulary.names) + 1)
        self._shares: list[tuple[float, float, str]] = []
        self._maps: list[np.ndarray] = []
        self._alike: list[bool] = []
        self._seconds = [0.0, 0.0]

    def __len__(self) -> int:
        return len(self._shares)

    def add(self, image_id: str, ours: MaskResult, theirs: MaskResult, quick: float = 0.0, slow: float = 0.0) -> None:
        """Count one picture; `quick` and `slow` are the seconds of both encoders."""
        same, equal = ours.mask.decided == theirs.mask.decided, ours.mask.labels == theirs.mask.labels
        self._shares.append((float(same.mean()), float(equal.mean()), image_id))
        self._counts.update(ours.mask.decided, theirs.mask.decided)
        self._maps.append(_differences(ours, theirs).ravel())
        self._alike.append(set(ours.mask.class_ids) == set(theirs.mask.class_ids))
        self._seconds[0] += slow
        self._seconds[1] += quick

    def agreement(self, failures: Sequence[tuple[str, str]] = ()) -> Agreement:
        """What it comes to. Raises DataError: no picture was counted."""
        if not self._shares:
            raise DataError(
                "there is no picture to compare both ways on",
                found=failures[0][1] if failures else "no picture",
                next_step="Check the folder and the labels.",
            )
        scores, maps, least = self._counts.compute(), np.concatenate(self._maps), min(self._shares)
        maker, names = self._maker, ("background", *self._maker.vocabulary.names)
        return Agreement(
            engine=maker.config.encoder.engine,
            dtype=maker.config.encoder.dtype,
            pictures=len(self),
            equal_pixels=float(np.mean([one for one, *_ in self._shares])),
            equal_masks=float(np.mean([one for _, one, _ in self._shares])),
            least_pixels=least[0],
            least=least[2],
            miou=scores.miou,
            classes=tuple((n, float(v)) for n, v in zip(names, scores.iou, strict=True) if v == v),
            maps_mean=float(maps.mean()) if maps.size else 0.0,
            maps_largest=float(maps.max(initial=0.0)),
            equal_labels=None if maker.labels == "given" else float(np.mean(self._alike)),
            times_faster=self._seconds[0] / max(self._seconds[1], 1e-9),
            failures=tuple(failures),
        )


def compare(maker: MaskMaker, exact: MaskMaker, records: Iterable[ImageRecord]) -> Agreement:
    """Make the masks of some pictures both ways; without given labels each way finds its own.

    A picture that fails is left out. Raises DataError: none is left.
    """
    found, failures = Comparison(maker), []
    for record in records:
        try:
            if not found:
                for one in (exact, maker):
                    made(one, record)  # graphs and buffers are made with the first picture
            (theirs, slow), (ours, quick) = (made(one, record) for one in (exact, maker))
        except ClipEsError as error:
            failures.append((record.image_id, str(error)))
            continue
        found.add(record.image_id, ours, theirs, quick, slow)
    return found.agreement(failures)


def made(maker: MaskMaker, record: ImageRecord) -> tuple[MaskResult, float]:
    """The mask of a picture, and the seconds of its encoder."""
    picture = maker.read(record)
    start = time.perf_counter()
    (seen,) = maker.encode([picture])
    if seen.tokens.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return maker.mask_of(picture, seen, record.class_ids or None), seconds


def _differences(ours: MaskResult, theirs: MaskResult) -> np.ndarray:
    """Of the maps of the classes that both have."""
    one, other = (
        dict(zip(made.refined.maps.class_ids, made.refined.maps.scores.cpu().numpy(), strict=True))
        for made in (ours, theirs)
    )
    both: Sequence[np.ndarray] = [np.abs(one[k] - other[k]).ravel() for k in one if k in other]
    return np.concatenate(both) if both else np.zeros(0, dtype=np.float32)
