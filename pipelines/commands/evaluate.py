"""`clip-es evaluate`: a folder of masks compared with the ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.commands.flags import LimitFlag, OwnVocabularyFlag
from clip_es.pipelines.console import say, show_table, summarize, track
from clip_es.pipelines.evaluate import evaluate, masks_below, pair, read_ids
from clip_es.prompts.vocabulary_files import classes_of_run, load_vocabulary
from clip_es.records.dataset import read_lines
from clip_es.store.manifest import Manifest
from clip_es.store.tables import write_json
from clip_es.types import UNDECIDED


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Compare masks with the ground truth, file by file, in one pass that holds one pair at a time.

    Ground truth outside the classes (255) is ignored. Classes without ground-truth pixels do not enter the mIoU.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run (its labels/, with its classes), or any folder of predicted PNGs. RUN/labels has a label for
    every pixel, RUN/masks leaves unsure ones at 255."""
    truth: Path
    """Folder of ground-truth PNGs with the same names; in sub-folders, a/b.png belongs to a/b.png or a__b.png."""
    vocabulary: OwnVocabularyFlag = None
    classes: str | None = None
    """In place of a vocabulary: how many labels there are, or a text file with one name per line, label 0 first."""
    list_file: Path | None = None
    """Only these pictures, one id per line; one without a mask is reported, and the exit code is 1."""
    limit: LimitFlag = None
    undecided: Literal["miss", "ignore"] = "miss"
    """A predicted 255 counts against the true class, or not at all."""
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def run(self) -> int:
        """Print IoU of each class, mIoU and accuracies."""
        masks, run = self._masks()
        names = self.names(run)
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        say(f"{masks}: labels 0 to {len(names) - 1} are {', '.join(names[:12])}{more}")
        ids = None if self.list_file is None else read_ids(self.list_file)
        every_pair = pair(masks, self.truth, ids)
        pairs = dict(islice(every_pair.items(), self.limit))
        result = evaluate(
            pairs, len(names), self.undecided, progress=lambda items: track(items, "evaluate", len(pairs))
        )
        scores = result.scores
        if run and not _has_background(run):
            scores.iou[0] = np.nan  # It cannot be right; where it was predicted, a class was missed.
        iou = {name: 100 * value for name, value in zip(names, scores.iou.tolist(), strict=True) if value == value}
        figures = {
            "miou": 100 * scores.miou,
            "pixel_accuracy": 100 * scores.pixel_accuracy,
            "mean_accuracy": 100 * scores.mean_accuracy,
            "frequency_weighted_iou": 100 * scores.frequency_weighted_iou,
        }
        every = 100 * result.miou_of_all
        shown = figures | ({"miou, with classes only predicted": every} if every != figures["miou"] else {})
        show_table("IoU of each class", ("class", "IoU"), iou.items())
        show_table(f"{result.images} masks", ("figure", "per cent"), shown.items())
        if ids is None and (alone := len(masks_below(self.truth)) - len(every_pair)):
            say(
                f"{alone} pictures with ground truth have no mask and were not counted; "
                "--list-file compares the masks with a list"
            )
        for name, reason in result.failures:
            say(f"left out {name}: {reason}")
        record = {"images": result.images, **figures, "miou_of_all": every, "iou": iou, "undecided": self.undecided}
        summarize({**record, "left_out": len(result.failures)})
        if self.out:
            write_json(self.out, record)
        return 1 if result.failures else 0

    def _masks(self) -> tuple[Path, Manifest | None]:
        """The folder of the masks, and the run they belong to. Raises DataError: a folder of something else."""
        for run, part in ((self.run_folder, "labels"), (self.run_folder.parent, self.run_folder.name)):
            if Manifest.is_in(run):
                part = "masks" if part == "labels" and not (run / part).is_dir() else part
                if part not in ("labels", "masks"):
                    raise DataError(
                        "holds no labels",
                        where=self.run_folder,
                        expected=f"{run}, {run / 'labels'} or {run / 'masks'}",
                    )
                return run / part, Manifest.read(run)
        return self.run_folder, None

    def names(self, run: Manifest | None = None) -> tuple[str, ...]:
        """Name of each label, 0 first: as said, as the run says, or VOC's. Raises ConfigError, DataError."""
        if self.classes is None:
            classes = None if run is None else classes_of_run(run, self.vocabulary)
            first = str(run.about.get("label_0") or "background") if run and self.vocabulary is None else "background"
            return (first, *(load_vocabulary(self.vocabulary or "voc12").names if classes is None else classes))
        if self.classes.isascii() and self.classes.isdigit():
            if not 1 <= int(self.classes) <= UNDECIDED:
                raise ConfigError("an 8-bit mask distinguishes 1 to 255 labels", where="--classes", found=self.classes)
            return tuple(str(label) for label in range(int(self.classes)))
        names = []
        for _, line in read_lines(Path(self.classes)):
            if isinstance(line, DataError):
                raise line
            names.append(line.strip())
        if len(set(names)) != len(names) or not 1 <= len(names) <= UNDECIDED:
            raise DataError(
                "is not a list of class names",
                where=self.classes,
                expected="1 to 255 lines, each with another name, label 0 first",
                found=f"{len(names)} names, {len(names) - len(set(names))} of them a second time",
            )
        return tuple(names)


def _has_background(run: Manifest) -> bool:
    """Whether the run could decide for background at all."""
    config = run.settings.get("config")
    mask = config.get("mask") if isinstance(config, dict) else None
    return not isinstance(mask, dict) or mask.get("background") is not False
