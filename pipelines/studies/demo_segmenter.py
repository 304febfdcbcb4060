"""The demo's last step: a small segmenter trained on masks, beside the masks themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clip_es.errors import ConfigError
from clip_es.masks import read_mask
from clip_es.overlay import overlay_labels
from clip_es.pipelines.commands.masks import Masks
from clip_es.pipelines.commands.sources import ScenesSource
from clip_es.pipelines.commands.train import Train
from clip_es.pipelines.console import say
from clip_es.pipelines.masks.report import evenly
from clip_es.pipelines.report import GalleryRow, Page
from clip_es.records import Dataset
from clip_es.segmentor import prepare
from clip_es.segmentor.training.settings import TrainSettings
from clip_es.store.tables import read_json


@dataclass(frozen=True)
class TrainedSegmenter:
    """What the training came to."""

    miou: float
    """Per cent, on scenes it never saw, without their labels."""
    masks_miou: float
    """Per cent, of the masks it was trained on."""
    model: Path
    iterations: int


def train_segmenter(out: Path, data: Path, iterations: int) -> TrainedSegmenter | None:
    """Make masks of the split `train` in OUT-train, train on them in OUT-segmenter. None without mmsegmentation."""
    try:
        prepare()
    except ConfigError as error:
        say(f"   Left out: {error}")
        return None
    masks, folder = out.with_name(f"{out.name}-train"), out.with_name(f"{out.name}-segmenter")
    Masks.of(ScenesSource(root=data, split="train"), out=masks, report_pictures=0).run()
    settings = TrainSettings(
        config="scenes_small", iterations=iterations, balanced=True, val_interval=iterations, workers=0
    )
    Train(run_folder=masks, out=folder, val=data, resume=True, check=False, settings=settings).run()
    figures = read_json(folder / "train.json")
    of_masks = read_json(masks / "summary.json")["miou"]
    return TrainedSegmenter(figures["miou"], of_masks, folder / "final.pth", iterations)


def show_segmenter(
    page: Page,
    out: Path,
    val: Dataset,
    trained: TrainedSegmenter,
    miou: float,
    names: Sequence[str],
    pictures: int,
) -> None:
    """Add figures and pictures to the report; `miou` is that of the masks of the same scenes, from their labels."""
    page.heading("A segmenter trained on masks")
    page.paragraph(
        f"{trained.iterations} steps with the confidence-guided loss on the masks of the training scenes, which have "
        f"{trained.masks_miou:.1f} mIoU. On the {len(val.records)} scenes of this report, which it never saw, the "
        f"segmenter has {trained.miou:.1f} mIoU without being told what is in them; the masks, made knowing it, have "
        f"{miou:.1f}."
    )
    page.bars(
        ["masks of these scenes, from their labels", "segmenter, from the picture alone"],
        [miou, trained.miou],
        "mIoU, per cent",
    )
    page.gallery(_rows(out, val, trained, pictures), names)


def _rows(out: Path, val: Dataset, trained: TrainedSegmenter, count: int) -> list[GalleryRow]:
    from clip_es.segmentor.inference import Segmenter

    segmenter = Segmenter.load(trained.model, device="cpu")
    rows = []
    for record in evenly(val.records, count):
        with Image.open(record.path) as image:
            rgb = np.array(image.convert("RGB"))
        found = segmenter.probabilities(rgb).argmax(dim=0).numpy().astype(np.uint8)
        mask, truth = read_mask(out / "labels" / f"{record.image_id}.png"), read_mask(val.truth[record.image_id])
        labels = set(np.unique(np.concatenate([part.ravel() for part in (mask, found, truth)])).tolist())
        shown = [
            (record.image_id, rgb),
            ("mask, from its labels", overlay_labels(rgb, mask)),
            ("segmenter", overlay_labels(rgb, found)),
            ("ground truth", overlay_labels(rgb, truth)),
        ]
        rows.append(GalleryRow([[pair] for pair in shown], labels))
    return rows
