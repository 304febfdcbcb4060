"""The report of a run: figures, IoU of each class, a gallery, what failed, the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import ClipEsError
from clip_es.masks import read_confidence, read_mask
from clip_es.metrics.certainty import ScoreName, certainty
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.pipelines.agree import Agreement
from clip_es.pipelines.console import by_reason, examples
from clip_es.pipelines.evaluate import Evaluation
from clip_es.pipelines.masks.method import Maker
from clip_es.pipelines.report import GalleryRow, Page, gallery_row
from clip_es.records import Dataset
from clip_es.storage import Place
from clip_es.store.failures import read_failures
from clip_es.store.finished import Finished, in_folder
from clip_es.store.manifest import FILE, Manifest
from clip_es.store.tables import read_json
from clip_es.types import ImageRecord

_SHOWN: dict[ScoreName, str] = {"mean-confidence": "mean confidence", "expected-miou": "expected mIoU"}
"""The certainties that stand over a picture, with their names there."""


def write_run_report(
    out: Path,
    dataset: Dataset,
    maker: Maker,
    scores: Evaluation | None,
    pictures: int,
    agreement: Agreement | None = None,
    finished: Mapping[str, Finished] | None = None,
) -> None:
    """Write OUT/report.html from what the folder holds; the maps of the gallery are made once more for it.

    `agreement`: with torch's float32, where the encoder was computed in another way. `finished`: pictures that may be
    shown; None: those of the folder.
    """
    page = run_page(out, dataset, maker, scores, pictures, finished=finished)
    if agreement:
        page.heading(f"Agreement of {agreement.how} with float32 by torch")
        page.paragraph("The same pictures both ways; `clip-es agree` does this with more of them.")
        page.table(("", ""), agreement.rows)
    page.write(out / "report.html")


def write_shards_report(
    place: Place,
    dataset: Dataset,
    maker: Maker,
    scores: Evaluation | None,
    agreement: Agreement | None,
    finished: Mapping[str, Finished],
) -> None:
    """The same of a run in shards, wherever they are; `finished` are the pictures that are shown. Raises StoreError."""
    with TemporaryDirectory() as folder:
        for name in (FILE, "summary.json", "failures.csv"):
            Path(folder, name).write_bytes(place.read(name))
        write_run_report(Path(folder), dataset, maker, scores, len(finished), agreement, finished)
        place.write("report.html", Path(folder, "report.html").read_bytes())


def run_page(
    out: Path,
    dataset: Dataset,
    maker: Maker,
    scores: Evaluation | None,
    pictures: int,
    title: str = "Masks",
    finished: Mapping[str, Finished] | None = None,
) -> Page:
    """The page of a run, for those who want to add to it before it is written."""
    summary = read_json(out / "summary.json")
    page = Page(f"{title}: {dataset.name}", maker.rests_on)
    numbers: dict[str, object] = {"pictures": summary["images"]["done"], "failed": summary["images"]["failed"]}
    if "labels" in summary:
        numbers |= {"labels found": summary["labels"]["found"], "without": summary["labels"]["pictures_without"]}
    if scores:
        numbers["mIoU"] = 100 * scores.scores.miou
        numbers["pixel accuracy"] = 100 * scores.scores.pixel_accuracy
    page.figures(numbers)
    if caution := Manifest.read(out).about.get("caution"):
        page.paragraph(f"{caution}")
    if scores:
        page.heading("IoU of each class")
        page.paragraph(
            f"The decided label of every pixel compared with the ground truth of {scores.images} pictures; "
            "pixels whose ground truth is 255 do not count."
        )
        names = ("background", *(entry.name for entry in maker.vocabulary.classes))
        known = [(n, 100 * v) for n, v in zip(names, scores.scores.iou.tolist(), strict=True) if v == v]
        page.bars([name for name, _ in known], [value for _, value in known], "IoU, per cent")
    page.heading("Pictures")
    rows = gallery(out, dataset, maker, pictures, finished)
    page.paragraph(
        f"{len(rows)} of {summary['images']['done']} pictures, evenly spread: picture, mask, map of each label before "
        "and after the refiners on the patch grid, ground truth. `clip-es ui` with this folder shows all of them."
    )
    page.gallery(rows, ("background", *maker.vocabulary.names))
    seconds = summary.get("seconds", {})
    if seconds:
        page.heading("Time")
        page.table(("stage", "seconds"), [(stage, float(value)) for stage, value in seconds.items()])
    failures = read_failures(out / "failures.csv")
    if failures:
        page.heading("Failures")
        page.table(
            ("pictures", "stage", "reason", "such as"),
            [(len(group), group[0].stage, reason, examples(group)) for reason, group in by_reason(failures)],
        )
    page.heading("Settings")
    page.preformatted((out / "run.yaml").read_text(encoding="utf-8"))
    return page


def gallery(
    out: Path, dataset: Dataset, maker: Maker, count: int, finished: Mapping[str, Finished] | None = None
) -> list[GalleryRow]:
    """Rows for at most `count` finished pictures of a run, evenly spread; their maps are made once more."""
    names = [entry.name for entry in maker.vocabulary.classes]
    if finished is None:
        finished = in_folder(out, (record.image_id for record in dataset.records))
    rows: list[GalleryRow] = []
    for record in evenly([record for record in dataset.records if record.image_id in finished], count):
        files = finished[record.image_id]
        try:
            picture = maker.read(record)
            refined = maker.refine(maker.locate(picture, maker.encode([picture])[0], record.class_ids))
            mask = read_mask(files.mask)
            truth = dataset.read_truth(record.image_id) if record.image_id in dataset.truth else None
            rows.append(gallery_row(refined, mask, names, truth, _scores(files, mask, truth, len(names))))
        except ClipEsError:
            # A picture or ground truth that has become unreadable since; the run's own failures are in failures.csv.
            continue
    return rows


def _scores(
    files: Finished,
    mask: UInt8[np.ndarray, "h w"],
    truth: UInt8[np.ndarray, "h w"] | None,
    classes: int,
) -> dict[str, float]:
    """What a picture can be ordered by, in per cent; the certainties where the run keeps labels and confidences."""
    scores: dict[str, float] = {}
    decided = mask
    if files.beside:
        decided = read_mask(files.labels)
        sure = certainty(decided, mask, read_confidence(files.confidence))
        scores = {_SHOWN[name]: 100 * sure[name] for name in _SHOWN}
    if truth is not None:
        matrix = ConfusionMatrix(classes + 1)
        matrix.update(decided, truth)
        scores["mIoU"] = 100 * matrix.compute().miou
    return {name: value for name, value in scores.items() if value == value}


def evenly(items: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """At most `count` of the items, evenly spread."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
