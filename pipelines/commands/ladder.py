"""`clip-es ladder`: what each step of the method adds, on scenes the model never saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.config.run import RunConfig
from clip_es.encoder import load_encoder
from clip_es.pipelines.console import say, show_table, track
from clip_es.pipelines.studies.ladder import measure
from clip_es.prompts import load_vocabulary
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.tables import write_json


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Print mIoU after each step: logits, softmax, background words, template, synonyms, affinity, CRF.

    The template is chosen by sharpness on the split `train`, from labels alone; mIoU is that of the split `val`.
    """

    root: Path = Path("runs/ladder")
    """Folder of the scenes; what is missing is drawn."""
    scenes: Annotated[ScenesConfig, tyro.conf.arg(name="scenes")] = field(
        default_factory=lambda: ScenesConfig(train=300, val=300)
    )
    weights: str = "scenes"
    """scenes (in the package), or a file."""
    vocabulary: str = "scenes"
    """Name of a vocabulary or a YAML file."""
    out: Path | None = None
    """Also write the rows to this JSON file."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)

    def run(self) -> int:
        """Draw what is missing, choose the template, print the rows with their standard errors."""
        make(self.root, self.scenes)
        vocabulary = load_vocabulary(self.vocabulary)
        encoder = load_encoder(self.weights, config=self.config.encoder)
        splits = {split: voc(self.root, split, class_id=vocabulary.class_id) for split in ("train", "val")}
        ladder = measure(encoder, vocabulary, splits["train"], splits["val"], self.config, track)
        show_table(
            f"Ladder over {len(splits['val'].records)} scenes (mIoU, per cent)", ("step", "mIoU", "gain"), ladder.rows()
        )
        (lowest, score), (highest, most) = ladder.ranked[0], ladder.ranked[-1]
        say(f"Sharpness of {len(ladder.ranked)} templates (lower is better): lowest {score:.4f}, {lowest!r}, used here")
        say(f"highest {most:.4f}, {highest!r}")
        if self.out:
            record = {
                "template": lowest,
                "ladder": {rung.name: rung.miou for rung in ladder.rungs},
                "standard_error": {rung.name: rung.error for rung in ladder.rungs},
                "standard_error_of_gain": {rung.name: rung.gain_error for rung in ladder.rungs[1:]},
            }
            write_json(self.out, record)
        return 0
