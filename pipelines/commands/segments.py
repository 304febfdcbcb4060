"""`clip-es segments` and `clip-es train-shape-net`: parts of SAZS that need no masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from clip_es.config.run import SpectralConfig
from clip_es.encoder import load_encoder
from clip_es.pipelines.console import bar, say
from clip_es.pipelines.predict import pictures_to_predict
from clip_es.pipelines.segments import SegmentFolder, SegmentsConfig, segment, settings_of
from clip_es.pipelines.shape_net import ShapeNetConfig, train_shape_net


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Segments of any pictures, without labels and without training: regions, and the sides of eigenvectors.

    From CLIP's patches, or a DINO's, and colours. The same call continues; `predict --fuse segments` reads the folder.
    """

    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder of pictures (sub-folders too: a/b.jpg becomes a__b.png), a .txt with one path per line, or one picture."""
    out: Path
    """Folder of the results."""
    weights: str = "ViT-B/16"
    """The CLIP whose patches are compared: ViT-B/16, ..., scenes (in the package), or a file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    export: Literal["png", "rle"] = "png"
    """rle: also write the sides as COCO's compressed RLE to OUT/rle.json."""
    nodes: int = 2
    """Nodes of the graph along each side of a patch; more follow outlines more closely and take longer."""
    spectral: Annotated[SpectralConfig, tyro.conf.arg(name="")] = field(default_factory=SpectralConfig)

    def run(self) -> int:
        """Make what is not there yet."""
        encoder = load_encoder(self.weights, device=self.device)
        config = SegmentsConfig(self.spectral, self.nodes)
        records, unusable = pictures_to_predict(self.images, 2, None, self.out)
        folder = SegmentFolder(self.out, settings_of(config, encoder))
        todo = [record for record in records if not folder.has(record.image_id)]
        say(f"{len(records)} pictures, {len(records) - len(todo)} done before, {len(todo)} to do")
        with bar("segments", len(todo)) as progress:
            problems = segment(todo, encoder, folder, config, lambda: progress.advance(progress.task_ids[0]))
        for problem in (failed := [*unusable, *problems])[:5]:
            say(f"  {problem.image_id} {problem.reason}")
        if self.export == "rle":
            say(f"COCO RLE: {folder.write_rle(record.image_id for record in records)}")
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
