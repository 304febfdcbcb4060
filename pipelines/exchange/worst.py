"""Which pictures the method is least sure of, from the confidences of a run alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import ClipEsError
from clip_es.masks import read_confidence, read_mask
from clip_es.metrics.certainty import ScoreName, certainty
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.metrics.ranks import RankCorrelation, spearman, with_interval
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.records import Problem


@dataclass(frozen=True)
class PictureScore:
    """How sure the method is of one picture."""

    image_id: str
    scores: Mapping[ScoreName, float]
    miou: float | None = None
    """Of the likeliest labels against the ground truth, where there is one."""
    labels: frozenset[int] = frozenset()
    """That occur among the likeliest labels or in the mask: 0 background, k + 1 class k, 255 undecided."""


@dataclass(frozen=True)
class Ranking:
    """Pictures, the least sure first."""

    pictures: tuple[PictureScore, ...]
    problems: tuple[Problem, ...] = ()

    def correlation(self, name: ScoreName, resamples: int = 2000) -> RankCorrelation | None:
        """Rank correlation of a score with the true mIoU, with its bootstrap interval; None where there is no ground
        truth.
        """
        known = [(p.scores[name], p.miou) for p in self.pictures if p.miou is not None]
        if len(known) < 3:
            return None
        score, miou = np.array(known, dtype=np.float64).T
        pick = np.random.default_rng(0).integers(len(known), size=(resamples, len(known)))
        return with_interval(float(spearman(score, miou)), spearman(score[pick], miou[pick]))


def rank(
    run: Run,
    by: ScoreName = "expected-miou",
    *,
    truth: Path | None = None,
    skip: frozenset[str] | set[str] = frozenset(),
    done: Callable[[], object] = lambda: None,
) -> Ranking:
    """Score every picture of the run that is not in `skip`; ties are broken by the id.

    `truth` is a folder of ground-truth PNGs with the pictures' names. A picture whose files cannot be read is left out
    and told.
    """
    pictures: list[PictureScore] = []
    problems: list[Problem] = []
    for image_id in run.image_ids:
        if image_id not in skip:
            try:
                pictures.append(_score(run, image_id, truth))
            except ClipEsError as error:
                problems.append(Problem.of(image_id, error, "worst"))
        done()
    pictures.sort(key=lambda picture: (picture.scores[by], picture.image_id))
    return Ranking(tuple(pictures), tuple(problems))


def all_scores() -> Sequence[ScoreName]:
    """The names of the scores."""
    return get_args(ScoreName)


def _score(run: Run, image_id: str, truth: Path | None) -> PictureScore:
    decided, masks = run.labels(image_id, "decided"), run.labels(image_id, "masks")
    confidence = read_confidence(run.folder / "confidence" / f"{image_id}.png")
    scores = certainty(decided, masks, confidence)
    miou = None if truth is None else _miou(run, decided, truth / f"{image_id}.png")
    return PictureScore(image_id, scores, miou, frozenset(np.unique([decided, masks]).tolist()))


def _miou(run: Run, decided: UInt8[np.ndarray, "h w"], truth: Path) -> float | None:
    if not truth.is_file():
        return None
    matrix = ConfusionMatrix(len(run.names.classes) + 1)
    matrix.update(decided, read_mask(truth))
    miou = matrix.compute().miou
    return miou if miou == miou else None
