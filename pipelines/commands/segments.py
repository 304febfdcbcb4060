"""`clip-es segments` and `clip-es train-shape-net`: parts of SAZS that need no masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from clip_es.config.run import SpectralConfig
from clip_es.encoder import load_encoder
from clip_es.encoder.encode import find_device
from clip_es.joints import Choice, hint
from clip_es.pipelines.commands.flags import LimitFlag
from clip_es.pipelines.console import bar, say, summarize
from clip_es.pipelines.segments import (
    SegmentFolder,
    SegmentsConfig,
    find_regions,
    finder,
    region_file,
    segment,
    settings_of,
)
from clip_es.pipelines.shape_net import ShapeNetConfig, train_shape_net
from clip_es.records import Problem
from clip_es.records.unlabeled import unlabeled_pictures
from clip_es.refine.regions.settings import RegionsConfig
from clip_es.refine.regions.sources import SOURCES
from clip_es.refine.regions.superpixels import SuperpixelConfig
from clip_es.sam.settings import SamConfig
from clip_es.store.manifest import plain
from clip_es.types import ImageRecord


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Segments of any pictures, without labels and without training.

    spectral: regions, and the sides of eigenvectors, from CLIP's patches, or a DINO's, and colours; `predict --fuse
    segments` reads the folder. All: OUT/regions, for `--refine.regions.folder`. The same call continues.
    """

    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder of pictures (sub-folders too: a/b.jpg becomes a__b.png), a .txt with one path per line, or one picture."""
    out: Path
    """Folder of the results."""
    limit: LimitFlag = None
    source: Annotated[
        Annotated[str, Choice(SOURCES, lambda row: row.name != "folder")],
        tyro.conf.arg(help_behavior_hint=hint(SOURCES)),
    ] = "spectral"
    """What makes the segments."""
    weights: str = "ViT-B/16"
    """spectral: the CLIP whose patches are compared: ViT-B/16, ..., scenes (in the package), or a file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    export: Annotated[Literal["png", "rle"], tyro.conf.arg(name="format", aliases=["--export"])] = "png"
    """How regions are written: png, numbers of which one lies at each pixel; rle, COCO RLE that keeps overlaps and
    scores. spectral writes png, and with rle its sides to OUT/rle.json too."""
    nodes: int = 2
    """Nodes of the graph along each side of a patch; more follow outlines more closely and take longer."""
    spectral: Annotated[SpectralConfig, tyro.conf.arg(name="")] = field(default_factory=SpectralConfig)
    superpixels: SuperpixelConfig = field(default_factory=SuperpixelConfig)
    sam: SamConfig = field(default_factory=SamConfig)

    def run(self) -> int:
        """Make what is not there yet."""
        return self._spectral() if self.source == "spectral" else self._regions()

    def _regions(self) -> int:
        """Regions of a mask generator, or superpixels."""
        config = RegionsConfig(self.source, superpixels=self.superpixels, sam=self.sam)
        find = finder(config, str(find_device(self.device)))
        records, unusable = self._records()
        used = {"sam": self.sam} if self.source == "sam" else {"superpixels": self.superpixels}
        settings = plain({"source": self.source, "export": self.export, **used}, "settings")
        folder = SegmentFolder(self.out, settings, ("regions",))
        todo = [one for one in records if not region_file(self.out, one.image_id, self.export).is_file()]
        say(f"{len(records)} pictures, {len(records) - len(todo)} done before, {len(todo)} to do")
        with bar("segments", len(todo)) as progress:
            done = partial(progress.advance, progress.task_ids[0])
            problems = find_regions(todo, find, folder, self.export, done)
        for problem in (failed := [*unusable, *problems])[:5]:
            say(f"  {problem.image_id} {problem.reason}")
        self._summarize(len(records), len(todo), len(failed))
        say(f"Regions: {self.out / 'regions'}   For masks: --refine.regions.folder {self.out / 'regions'}")
        return 1 if failed else 0

    def _records(self) -> tuple[Sequence[ImageRecord], Sequence[Problem]]:
        """The first pictures of the folder, and what is none."""
        records, unusable = unlabeled_pictures(self.images, 1, None, self.out)
        return records[: self.limit], unusable

    @staticmethod
    def _summarize(pictures: int, todo: int, failed: int) -> None:
        summarize({"pictures": pictures, "done_before": pictures - todo, "failed": failed})

    def _spectral(self) -> int:
        encoder = load_encoder(self.weights, device=self.device)
        config = SegmentsConfig(self.spectral, self.nodes)
        records, unusable = self._records()
        folder = SegmentFolder(self.out, settings_of(config, encoder))
        todo = [record for record in records if not folder.has(record.image_id)]
        say(f"{len(records)} pictures, {len(records) - len(todo)} done before, {len(todo)} to do")
        with bar("segments", len(todo)) as progress:
            problems = segment(todo, encoder, folder, config, lambda: progress.advance(progress.task_ids[0]))
        for problem in (failed := [*unusable, *problems])[:5]:
            say(f"  {problem.image_id} {problem.reason}")
        if self.export == "rle":
            say(f"COCO RLE: {folder.write_rle(record.image_id for record in records)}")
        self._summarize(len(records), len(todo), len(failed))
        say(f"Regions: {self.out / 'regions'}   Sides of eigenvectors: {self.out / 'sides'}")
        return 1 if failed else 0


@dataclass(frozen=True, kw_only=True)
class TrainShapeNet:
    """Train the small network that tells shift and scale between two outlines, for `train --shape-net`.

    From outlines of drawn shapes alone; nothing is downloaded. The same call continues.
    """

    out: Path
    """Folder of the checkpoint and of shape_net.pth."""
    net: Annotated[ShapeNetConfig, tyro.conf.arg(name="")] = field(default_factory=ShapeNetConfig)

    def run(self) -> int:
        """Train to the end, or continue; say how well shift and scale are told."""
        with bar("steps", self.net.steps) as progress:
            task = progress.task_ids[0]
            path, errors = train_shape_net(
                self.net,
                self.out,
                report=lambda step, figures: progress.update(
                    task, completed=step, description=f"loss {figures['loss']:.4f}"
                ),
            )
        say(
            f"Length for the same outline twice: {errors['same']:.3f}; moved by a twentieth of the tile: "
            f"{errors['near']:.3f}; by 15 %: {errors['far']:.3f}"
        )
        say(f"Network: {path}")
        return 0
