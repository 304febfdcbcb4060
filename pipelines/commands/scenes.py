"""`clip-es scenes ...`: draw a data set, train its CLIP again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.pipelines.console import bar, say, summarize
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.scenes.recipe import TrainConfig


@dataclass(frozen=True, kw_only=True)
class ScenesMake:
    """Draw a data set in VOC layout: JPEGImages, Annotations, SegmentationClass, ImageSets."""

    out: Path = Path("runs/scenes")
    """Folder of the data set. Calling again draws only what is missing."""
    scenes: Annotated[ScenesConfig, tyro.conf.arg(name="")] = field(default_factory=ScenesConfig)

    def run(self) -> int:
        """Draw, with a progress bar."""
        with bar("scenes", self.scenes.train + self.scenes.val) as progress:
            make(self.out, self.scenes, progress=lambda done, _: progress.update(progress.task_ids[0], completed=done))
        summarize({"train": self.scenes.train, "val": self.scenes.val})
        say(f"{self.scenes.train} + {self.scenes.val} scenes: {self.out}")
        return 0


@dataclass(frozen=True, kw_only=True)
class ScenesTrainClip:
    """Train a scenes CLIP from scratch on drawn pictures and their captions; continues from its last checkpoint.

    Two recipes: plain has contrastive terms alone, as public CLIPs have them; dense goes on with terms of our own that
    make its maps sharp. Dense goes on where plain ends, and a run leaves trunk.pt there.
    """

    out: Path = Path("runs/scenes-clip")
    """Folder of checkpoints and of the finished scenes_clip.safetensors."""
    trunk: Path | None = None
    """trunk.pt of a run of either recipe, to begin with instead of taking the steps of plain again."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Train to the end, or continue."""
        from clip_es.scenes.train_clip import train

        seconds = 0.0

        def report(step: int, figures: dict[str, float]) -> None:
            nonlocal seconds
            seconds = figures["seconds"]
            progress.update(progress.task_ids[0], completed=step, description=f"loss {figures['loss']:.2f}")

        with bar("steps", sum(phase.steps for phase in self.train.phases)) as progress:
            path = train(self.train, self.out, trunk=self.trunk, report=report)
        summarize({"weights": str(path)})
        say(f"Weights: {path}" + (f" ({seconds / 60:.0f} minutes)" if seconds else ""))
        return 0
