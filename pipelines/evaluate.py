"""Masks compared with the ground truth: one streaming confusion matrix, whatever the number of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from clip_es.errors import ClipEsError, DataError
from clip_es.masks import read_mask
from clip_es.metrics.masks import ConfusionMatrix, Scores
from clip_es.records.dataset import read_lines


@dataclass(frozen=True)
class Evaluation:
    """Scores over all pairs, and the pairs that could not be compared."""

    scores: Scores
    images: int
    failures: tuple[tuple[str, str], ...]
    """Picture and reason."""

    @property
    def miou_of_all(self) -> float:
        """Mean IoU over the classes that are drawn or predicted, as mmsegmentation counts: a class that is only
        predicted is a 0 in the mean. `scores.miou` leaves it out, as CLIP-ES does."""
        iou = self.scores.iou[~np.isnan(self.scores.iou)]
        return float(iou.mean()) if len(iou) else float("nan")


def pair(predictions: Path, truths: Path, ids: Iterable[str] | None = None) -> dict[str, tuple[Path, Path]]:
    """Masks of two folders with the same name below them, in the order of the names or of `ids`.

    `a/b.png` and `a__b.png` are the same picture, as in a run folder. With `ids`, a picture that lacks one of the two
    files is paired all the same, and `evaluate` reports it.
    Raises DataError: a folder is missing, the two have no name in common, or one has two files for a picture.
    """
    found = masks_below(predictions), masks_below(truths)
    common = found[0].keys() & found[1].keys()
    names = sorted(common) if ids is None else [_known(name, found) for name in ids]
    if common.isdisjoint(names):
        raise DataError(
            "the two folders have no mask of the same name" + (", of those listed" if ids is not None else ""),
            where=predictions,
            expected=f"some of the {len(found[1])} names in {truths}",
            found=f"{len(found[0])} PNG files",
            next_step="Check that both hold one PNG for each picture, named alike.",
        )
    return {
        name: (
            found[0].get(name, predictions / f"{name}.png"),
            found[1].get(name, truths / f"{name}.png"),
        )
        for name in names
    }


def masks_below(folder: Path) -> dict[str, Path]:
    """PNG files of a folder and its sub-folders by name, `a__b` for `a/b.png`.

    Raises DataError: no such folder, or two files of one name.
    """
    if not folder.is_dir():
        raise DataError(
            "this is not a folder of masks",
            where=folder,
            found="no folder of this name",
            next_step="Name the folder that holds the PNG files themselves, for example RUN/labels.",
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.png")):
        name = "__".join(path.relative_to(folder).with_suffix("").parts)
        if name in found:
            raise DataError("two files are the mask of one picture", where=path, found=str(found[name]))
        found[name] = path
    return found


def read_ids(path: Path) -> list[str]:
    """Ids of a list: the first word of each line, each once. Raises DataError: no usable list."""
    found: dict[str, None] = {}
    for _, line in read_lines(path):
        if isinstance(line, DataError):
            raise line
        found[line.split()[0]] = None
    if not found:
        raise DataError("lists no picture", where=path, expected="one id per line")
    return list(found)


def evaluate(
    pairs: Mapping[str, tuple[Path, Path]],
    num_classes: int,
    undecided: Literal["miss", "ignore"] = "miss",
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    table: np.ndarray | None = None,
) -> Evaluation:
    """Compare each pair (prediction, truth); a pair that cannot be compared is reported and left out.

    `num_classes` counts background. Predicted 255 counts as a miss, or not at all, as `undecided` says.
    `table` (uint8 [256]) brings the values of the ground truth's files to those of masks, where they have others.
    Raises DataError: no pair at all could be compared.
    """
    return evaluate_each(((name, *pairs[name]) for name in progress(pairs)), num_classes, undecided, table)


def evaluate_each(
    pairs: Iterable[tuple[str, Path, Path]],
    num_classes: int,
    undecided: Literal["miss", "ignore"] = "miss",
    table: np.ndarray | None = None,
) -> Evaluation:
    """The same for name, prediction and truth that come one after the other; a file need not be there before its turn,
    nor after it."""
    matrix = ConfusionMatrix(num_classes, undecided=undecided)
    failures: list[tuple[str, str]] = []
    compared = 0
    for name, prediction, truth in pairs:
        try:
            labels = read_mask(truth)
            matrix.update(read_mask(prediction), labels if table is None else table[labels])
        except ClipEsError as error:
            failures.append((name, str(error)))
        else:
            compared += 1
    if not compared:
        raise DataError(
            "no mask could be compared with its ground truth",
            found=failures[0][1] if failures else "no pair at all",
            next_step="Repair the files, or name other folders.",
        )
    return Evaluation(matrix.compute(), compared, tuple(failures))


def _known(name: str, found: tuple[dict[str, Path], dict[str, Path]]) -> str:
    """What a listed id is called among the files: `/JPEGImages/x.jpg` of some lists is x."""
    path = PurePosixPath(name.lstrip("/"))
    for spelling in (name, "__".join(path.parts), "__".join(path.with_suffix("").parts), path.name, path.stem):
        if spelling in found[0] or spelling in found[1]:
            return spelling
    return path.name
