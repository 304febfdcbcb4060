"""`clip-es evaluate`: a folder of masks against the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip_es.pipelines.console import say, show_table, track
from clip_es.pipelines.evaluate import evaluate, pair
from clip_es.prompts import load_vocabulary
from clip_es.store import write_atomic


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Compare masks with the truth, file by file, in one pass that holds one pair at a time.

    Truth outside the classes (255) is ignored. Classes without ground-truth pixels do not enter the mIoU.
    """

    masks: Path
    """Folder of predicted PNGs. RUN/labels has a label for every pixel, RUN/masks leaves unsure ones at 255."""
    truth: Path
    """Folder of ground-truth PNGs with the same names."""
    vocabulary: str = "voc12"
    """Names of the classes: voc12, coco14, scenes, or a YAML file."""
    undecided: Literal["miss", "ignore"] = "miss"
    """A predicted 255 counts against the true class, or not at all."""
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def run(self) -> int:
        """Print IoU of each class, mIoU and accuracies."""
        names = ("background", *(entry.name for entry in load_vocabulary(self.vocabulary).classes))
        pairs = pair(self.masks, self.truth)
        result = evaluate(
            pairs, len(names), self.undecided, progress=lambda items: track(items, "evaluate", len(pairs))
        )
        scores = result.scores
        iou = {name: 100 * value for name, value in zip(names, scores.iou.tolist(), strict=True) if value == value}
        figures = {
            "miou": 100 * scores.miou,
            "pixel_accuracy": 100 * scores.pixel_accuracy,
            "mean_accuracy": 100 * scores.mean_accuracy,
            "frequency_weighted_iou": 100 * scores.frequency_weighted_iou,
        }
        show_table("IoU of each class", ("class", "IoU"), iou.items())
        show_table(f"{result.images} masks", ("figure", "per cent"), figures.items())
        for name, reason in result.failures:
            say(f"left out {name}: {reason}")
        if self.out:
            record = {"images": result.images, **figures, "iou": iou, "undecided": self.undecided}
            write_atomic(self.out, (json.dumps(record, indent=2) + "\n").encode())
        return 1 if result.failures else 0
