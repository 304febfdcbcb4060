"""`clip-es demo`: the main job, end to end, on the embedded default."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.pipelines.studies.demo import run_demo
from clip_es.scenes.dataset import ScenesConfig


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Draw scenes, make masks from their labels, climb the ladder, train a segmenter, and write a report to look at."""

    out: Path = Path("runs/demo")
    """Folder of the run; the scenes lie beside it."""
    scenes: Annotated[ScenesConfig, tyro.conf.arg(name="scenes")] = field(
        default_factory=lambda: ScenesConfig(train=400, val=200)
    )

    iterations: int = 300
    """Steps of the segmenter's training."""

    def run(self) -> int:
        """Everything, in minutes."""
        run_demo(self.out, self.scenes, self.iterations)
        return 0
