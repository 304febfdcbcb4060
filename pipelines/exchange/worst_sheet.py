"""A page with the pictures a run is least sure of: picture, likeliest labels, undecided pixels, doubt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_es.config.run import ImageConfig
from clip_es.errors import ClipEsError
from clip_es.formats.pictures import PictureMode
from clip_es.images import read_picture
from clip_es.masks import read_confidence
from clip_es.metrics.certainty import ScoreName
from clip_es.overlay import overlay_heat, overlay_labels
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.exchange.worst import PictureScore
from clip_es.pipelines.report import GalleryRow, Page
from clip_es.types import ImageRecord

_MOST = 100
"""Pictures on the page; more would make it heavy."""


def write_sheet(
    path: Path, run: Run, chosen: Sequence[PictureScore], by: ScoreName, images: Path | None, pictures: PictureMode
) -> None:
    """Write the page. A picture that cannot be shown is left out. Raises StoreError."""
    page = Page(f"Least sure: {run.folder.name}", f"{len(chosen)} pictures with the lowest {by}, least sure first.")
    shown = chosen[:_MOST]
    files = {} if pictures == "none" else run.pictures(images, [picture.image_id for picture in shown])
    rows = []
    for picture in shown:
        if picture.image_id in files:
            try:
                rows.append(_row(run, picture, files[picture.image_id], by))
            except ClipEsError:
                continue
    page.gallery(rows, ("background", *run.names.classes))
    header = ("picture", by, "true mIoU")
    table = [
        (p.image_id, 100 * p.scores[by], "unknown" if p.miou is None else 100 * p.miou) for p in chosen[: 10 * _MOST]
    ]
    page.table(header, table)
    page.write(path)


def _row(run: Run, picture: PictureScore, file: Path, by: ScoreName) -> GalleryRow:
    rgb = read_picture(ImageRecord(picture.image_id, file, ()), 1, ImageConfig()).rgb
    decided, masks = run.labels(picture.image_id, "decided"), run.labels(picture.image_id, "masks")
    confidence = read_confidence(run.folder / "confidence" / f"{picture.image_id}.png")
    if not rgb.shape[:2] == decided.shape == masks.shape == confidence.shape:
        return GalleryRow([[(f"{picture.image_id}: its picture has another size", rgb)]])
    scores = {name: 100 * score for name, score in picture.scores.items()}
    if picture.miou is not None:
        scores["true mIoU"] = 100 * picture.miou
    return GalleryRow(
        [
            [("picture", rgb)],
            [("likeliest labels", overlay_labels(rgb, decided))],
            [("mask", overlay_labels(rgb, masks))],
            [("doubt (1 - confidence)", overlay_heat(rgb, 1 - confidence))],
        ],
        set(np.unique([decided, masks]).tolist()),
        maps=True,
        name=picture.image_id,
        scores={by: scores.pop(by), **scores},
    )
