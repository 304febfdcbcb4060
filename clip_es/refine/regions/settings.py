"""Settings of the regions that vote, and of their sources."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal

import tyro

from clip_es.config.bounds import check_within
from clip_es.errors import ConfigError
from clip_es.joints import Choice, hint
from clip_es.refine.regions.sources import SOURCES
from clip_es.refine.regions.superpixels import SuperpixelConfig
from clip_es.refine.regions.vote import Order, Stretch
from clip_es.sam.settings import SamConfig

SourceName = Annotated[str, Choice(SOURCES, attrgetter("votes"))]


@dataclass(frozen=True)
class RegionsConfig:
    """Regions of a mask generator vote on the maps, in place of the CRF or before it."""

    source: Annotated[SourceName, tyro.conf.arg(help_behavior_hint=hint(SOURCES))] = "folder"
    """Where the regions come from."""
    folder: Path | None = None
    """Folder of region files, <id>.json or <id>.png; sub-folders of pictures are written a__b. For sam: where regions
    are kept and found again; None: in the run's own folder."""
    rule: Literal["soft", "hard"] = "soft"
    """soft (FMA-WSSS): a region takes the label of its mean scores, and regions are painted one over another. hard
    (SEPL): a region goes to the label that fills more than half of it."""
    amount: float = 1.0
    """How much of a region's answer a pixel takes; published 1. At 0.5 the regions are one voice of two."""
    unclaimed: Literal["background", "maps"] = "background"
    """soft: pixels in no region become background, as published, or keep their maps."""
    order: Order = "auto"
    """soft: what lies on top. level (published): parts first, then whole objects, the surest last. confidence: the
    surest. area: the smallest. auto: level where all regions tell theirs, else area."""
    stretch: Stretch = "regions"
    """soft: region scores of each label are brought to 0..1 over the regions of the picture (regions), its map over the
    pixels before (both, published), or neither."""
    background_power: float = 0.7
    """soft, where the maps know no background: it is (1 - best score) to this power. FMA: 0.7."""
    covered: float | None = 0.85
    """hard: a region that holds at least this share of a label is taken too. None: off. SEPL: 0.85."""
    keep: bool = True
    """hard: pixels of a label that are in no free region stay. SEPL: on."""
    least_area: int = 0
    """Regions with fewer pixels do not vote."""
    least_quality: float = 0.0
    """Regions whose predicted IoU is lower do not vote."""
    least_stability: float = 0.0
    """Regions whose stability is lower do not vote."""
    most_inside: float | None = None
    """Regions of which at least this share lies in one region of a higher level do not vote. FMA-WSSS's later settings
    ("rock, sand, water"): .3. None: off."""
    superpixels: SuperpixelConfig = field(default_factory=SuperpixelConfig)
    sam: SamConfig = field(default_factory=SamConfig)

    def __post_init__(self) -> None:
        if not SOURCES.find(self.source, "--refine.regions.source").votes:
            raise ConfigError(
                "this source writes files, which vote from their folder",
                where=f"--refine.regions.source {self.source}",
                next_step=f"Call `clip-es segments --source {self.source}`, then pass --refine.regions.folder.",
            )
        check_within("amount", self.amount, 0, 1, "share of a region's answer")
        check_within("background_power", self.background_power, 0.01, 100, "exponent")
        if self.covered is not None:
            check_within("covered", self.covered, 0, 1, "share of a label")
        if self.most_inside is not None:
            check_within("most_inside", self.most_inside, 0, 1, "share of a region")
        check_within("least_area", self.least_area, 0, 10**9, "pixels")
        for name in ("least_quality", "least_stability"):
            check_within(name, getattr(self, name), 0, 1, "share")


def check(config: RegionsConfig) -> None:
    """Raises ConfigError: regions are to be read, but no folder of them is there."""
    if config.source != "folder":
        return
    if config.folder is None or not config.folder.is_dir():
        raise ConfigError(
            "the regions lie in a folder" if config.folder is None else "there is no such folder of regions",
            where="--refine.regions.folder",
            expected="a folder with <id>.json or <id>.png of each picture",
            found=config.folder,
            next_step="Make one with `clip-es segments`, or pass --refine.regions.source sam.",
        )
