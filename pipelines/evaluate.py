"""Masks against the truth: one streaming confusion matrix, whatever the number of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip_es.errors import ClipEsError, DataError
from clip_es.masks import read_mask
from clip_es.metrics import ConfusionMatrix, Scores


@dataclass(frozen=True)
class Evaluation:
    """Scores over all pairs, and the pairs that could not be compared."""

    scores: Scores
    images: int
    failures: tuple[tuple[str, str], ...]
    """Picture and reason."""


def pair(predictions: Path, truths: Path) -> dict[str, tuple[Path, Path]]:
    """Masks of two folders with the same file name, in the order of the names.

    Raises DataError: a folder is missing, or the two have no file name in common.
    """
    found: list[dict[str, Path]] = []
    for folder in (predictions, truths):
        if not folder.is_dir():
            raise DataError(
                "this is no folder of masks",
                where=folder,
                found="no folder of this name",
                next_step="Name the folder that holds the PNG files themselves, for example RUN/labels.",
            )
        found.append({path.stem: path for path in sorted(folder.glob("*.png"))})
    common = sorted(found[0].keys() & found[1].keys())
    if not common:
        raise DataError(
            "the two folders have no mask of the same name",
            where=predictions,
            expected=f"some of the {len(found[1])} names in {truths}",
            found=f"{len(found[0])} PNG files",
            next_step="Check that both hold one PNG for each picture, named alike.",
        )
    return {name: (found[0][name], found[1][name]) for name in common}


def evaluate(
    pairs: Mapping[str, tuple[Path, Path]],
    num_classes: int,
    undecided: Literal["miss", "ignore"] = "miss",
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Evaluation:
    """Compare each pair (prediction, truth); a pair that cannot be compared is reported and left out.

    `num_classes` counts background. Predicted 255 counts as a miss, or not at all, as `undecided` says.
    Raises DataError: no pair at all could be compared.
    """
    matrix = ConfusionMatrix(num_classes, undecided=undecided)
    failures: list[tuple[str, str]] = []
    for name in progress(pairs):
        prediction, truth = pairs[name]
        try:
            matrix.update(read_mask(prediction), read_mask(truth))
        except ClipEsError as error:
            failures.append((name, str(error)))
    if len(failures) == len(pairs):
        raise DataError(
            "no mask could be compared with its truth",
            found=failures[0][1] if failures else "no pair at all",
            next_step="Mend the files, or name other folders.",
        )
    return Evaluation(matrix.compute(), len(pairs) - len(failures), tuple(failures))
