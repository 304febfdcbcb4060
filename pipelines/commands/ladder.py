"""`clip-es ladder`: what each step of the method adds, on scenes the model never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from clip_es.config.presets import preset_for_scenes
from clip_es.config.run import RunConfig
from clip_es.encoder import load_encoder
from clip_es.pipelines.commands.flags import VocabularyFlag, WeightsFlag
from clip_es.pipelines.console import say, show_table, summarize, track
from clip_es.pipelines.studies.ladder import Ladder as StudyLadder
from clip_es.pipelines.studies.ladder import climb_best, measure
from clip_es.prompts import load_vocabulary
from clip_es.prompts.choice import SELECT, Select
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.tables import write_json


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Print mIoU after each step: logits, softmax, background words, templates, synonyms, affinity, CRF.

    Templates are chosen on the split `train`, from labels alone, and fused; mIoU is that of the split `val`. With
    --preset best the steps lead from CLIP-ES to that preset, and no template is chosen.
    """

    preset: str = "default"
    """default: the steps of CLIP-ES. best: those from there to the preset best, in its settings for scenes."""

    root: Path = Path("runs/ladder")
    """Folder of the scenes; what is missing is drawn."""
    scenes: Annotated[ScenesConfig, tyro.conf.arg(name="scenes")] = field(
        default_factory=lambda: ScenesConfig(train=300, val=300)
    )
    weights: WeightsFlag = "scenes"
    vocabulary: VocabularyFlag = "scenes"
    select: Select = "sharpness"
    """What chooses the templates. sharpness: the half of lower sharpness. share: the five under which labels hold most
    of the softmax against the background words."""
    out: Path | None = None
    """Also write the rows to this JSON file."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)

    @classmethod
    def chosen(cls, args: Sequence[str]) -> dict[str, Any]:
        """The defaults that belong to --preset, as arguments of tyro.cli. Raises ConfigError: there is none."""
        words = [word for arg in args for word in arg.split("=", 1)]
        names = [after for before, after in pairwise(words) if before == "--preset"]
        return {"default": cls(preset=names[-1], config=preset_for_scenes(names[-1]).config)} if names else {}

    def run(self) -> int:
        """Draw what is missing, choose the templates, print the rows with their standard errors."""
        make(self.root, self.scenes)
        vocabulary = load_vocabulary(self.vocabulary)
        encoder = load_encoder(self.weights, config=self.config.encoder)
        val = voc(self.root, "val", class_id=vocabulary.class_id)
        if self.config.method == "joint":
            ladder = StudyLadder(climb_best(encoder, vocabulary, val, self.config, track), [])
        else:
            train = voc(self.root, "train", class_id=vocabulary.class_id)
            ladder = measure(encoder, vocabulary, train, val, self.config, track, select=self.select)
        return self._tell(ladder, len(val.records))

    def _tell(self, ladder: StudyLadder, scenes: int) -> int:
        show_table(f"Ladder over {scenes} scenes (mIoU, per cent)", ("step", "mIoU", "gain"), ladder.rows())
        record: dict[str, object] = {"scenes": scenes}
        if ladder.ranked:
            (best, score), (worst, last), scoring = ladder.ranked[0], ladder.ranked[-1], SELECT[ladder.select]
            say(
                f"{scoring.name} under {len(ladder.ranked)} templates ({scoring.better} is better): best {score:.4f}, "
                f"{best!r}\nworst {last:.4f}, {worst!r}\nUsed here: {ladder.choice}, fused"
            )
            record["templates"] = ladder.chosen
        record |= {
            "ladder": {rung.name: rung.miou for rung in ladder.rungs},
            "standard_error": {rung.name: rung.error for rung in ladder.rungs},
            "standard_error_of_gain": {rung.name: rung.gain_error for rung in ladder.rungs[1:]},
        }
        summarize(record)
        if self.out:
            write_json(self.out, record)
        return 0
