"""`clip-es ladder`: what each step of the method is worth, on scenes the model never saw."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.config import RunConfig
from clip_es.encoder import load_encoder
from clip_es.pipelines.console import say, show_table, track
from clip_es.pipelines.ladder import TEMPLATE_LISTS, climb, sharpest_template
from clip_es.prompts import load_vocabulary
from clip_es.prompts.templates import load_templates
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store import write_atomic


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
        """Draw what is missing, choose the template, print the rows."""
        make(self.root, self.scenes)
        vocabulary = load_vocabulary(self.vocabulary)
        encoder = load_encoder(self.weights, config=self.config.encoder)
        splits = {split: voc(self.root, split, class_id=vocabulary.class_id) for split in ("train", "val")}
        templates = list(dict.fromkeys(t for name in TEMPLATE_LISTS for t in load_templates(name)))
        ranked = sharpest_template(encoder, vocabulary, splits["train"], templates, track)
        rows = climb(encoder, vocabulary, splits["val"], ranked[0][0], self.config, track)
        show_table(
            f"Ladder over {len(splits['val'].records)} scenes (mIoU, per cent)",
            ("step", "mIoU", "gain"),
            [(row.name, row.miou, row.miou - rows[i - 1].miou if i else 0.0) for i, row in enumerate(rows)],
        )
        say(f"Sharpest of {len(ranked)} templates: {ranked[0][0]!r} ({ranked[0][1]:.4f}); bluntest: {ranked[-1][0]!r}")
        if self.out:
            record = {"template": ranked[0][0], "ladder": {row.name: row.miou for row in rows}}
            write_atomic(self.out, (json.dumps(record, indent=2) + "\n").encode())
        return 0
