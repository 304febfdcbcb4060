"""The whole job on the embedded default: draw scenes, make masks, climb the ladder, train on masks, report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from clip_es.config.run import DEFAULT
from clip_es.encoder import load_encoder
from clip_es.pipelines.commands.masks import Masks, score_run
from clip_es.pipelines.commands.sources import FolderSource, ScenesSource
from clip_es.pipelines.console import bar, say, show_table, track
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.report import gallery, run_page
from clip_es.pipelines.studies.demo_segmenter import TrainedSegmenter, show_segmenter, train_segmenter
from clip_es.pipelines.studies.ladder import Rung, measure
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, folder, voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.tables import read_json, write_csv, write_json

PHOTOGRAPHS = {
    "astronaut.png": "person",
    "chelsea.png": "cat",
    "rocket.jpg": "aeroplane",
    "camera.png": "person",
}
"""Pictures that scikit-image ships, and what of the scenes' classes they show or come nearest to."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found."""

    miou: float
    """Per cent, of the final masks."""
    ladder: list[Rung]
    segmenter: TrainedSegmenter | None
    """None without mmsegmentation."""


RANKED_ON = 200
"""Training scenes that the templates are ranked on; all of them are trained on."""


def run_demo(out: Path, scenes: ScenesConfig, iterations: int = 300) -> DemoResult:
    """Do everything, in one folder; calling again continues. Raises ClipEsError.

    The run itself lies in OUT (masks, confidence, labels, summary.json, report.html); its pictures lie beside it in
    OUT-scenes, the photographs and their run in OUT-photographs, masks to train on in OUT-train and the segmenter in
    OUT-segmenter.
    """
    data, photographs = out.with_name(f"{out.name}-scenes"), out.with_name(f"{out.name}-photographs")
    say(f"1. Drawing {scenes.train} + {scenes.val} scenes: {data}")
    with bar("scenes", scenes.train + scenes.val) as progress:
        make(data, scenes, progress=lambda done, _: progress.update(progress.task_ids[0], completed=done))

    say("2. Masks from their labels, with the CLIP that ships with the package")
    Masks.of(ScenesSource(root=data), out=out, report_pictures=0).run()

    say("3. What each step adds")
    vocabulary, encoder = load_vocabulary("scenes"), load_encoder("scenes")
    train, val = (voc(data, split, class_id=vocabulary.class_id) for split in ("train", "val"))
    ladder = measure(encoder, vocabulary, replace(train, records=train.records[:RANKED_ON]), val, DEFAULT, track)
    show_table("Ladder (mIoU, per cent)", ("step", "mIoU", "gain"), ladder.rows())
    say(f"Templates: {ladder.choice}, without ground truth")

    say("4. The same command on photographs that scikit-image ships")
    pictures = copy_photographs(photographs)
    Masks.of(
        FolderSource(images=pictures, labels=str(pictures / "labels.csv")),
        out=photographs / "run",
        weights="scenes",
        vocabulary="scenes",
        report_pictures=len(PHOTOGRAPHS),
    ).run()

    say("5. A segmenter trained on the masks of the training scenes")
    trained = train_segmenter(out, data, iterations)

    maker = MaskMaker(encoder, vocabulary)
    scores = score_run(out, val, vocabulary)
    miou = 100 * scores.scores.miou if scores else float("nan")
    _add_to_summary(out / "summary.json", miou, ladder.rungs, ladder.chosen, trained)
    label_names = ("background", *vocabulary.names)
    page = run_page(out, replace(val, name="scenes"), maker, scores, pictures=10, title="Demo")
    page.heading("The ladder: what each step adds")
    page.paragraph(
        f"mIoU over {len(val.records)} scenes the model never saw. The templates are {ladder.choice}, "
        f"measured on other scenes and from labels alone. "
        "The model saw pictures and sentences only, but its training also draws its attention and its GradCAM maps to "
        "its own readings of the patches (clip_es/scenes/data/CARD.md): the rows show what each step adds here, "
        "not for a CLIP of photographs."
    )
    page.bars([row.name for row in ladder.rungs], [row.miou for row in ladder.rungs], "mIoU, per cent")
    if trained:
        show_segmenter(page, out, val, trained, miou, label_names, pictures=6)
    page.heading("Real photographs")
    page.paragraph(
        "They show that real files are processed. The model knows drawn scenes only, so the masks are meaningless "
        "here: for photographs pass --weights ViT-B/16."
    )
    page.gallery(
        gallery(photographs / "run", _photograph_dataset(pictures, vocabulary.class_id), maker, 4), label_names
    )
    page.write(out / "report.html")
    learned = f", of the segmenter trained on such masks {trained.miou:.1f}" if trained else ""
    say(f"Done: mIoU of the masks {miou:.1f}{learned}. Open {out / 'report.html'}")
    return DemoResult(miou, ladder.rungs, trained)


def copy_photographs(target: str | Path) -> Path:
    """The photographs and their labels.csv in a folder of their own. Returns the folder with both."""
    pictures = Path(target) / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str]] = []
    for name, label in PHOTOGRAPHS.items():
        source = files("skimage") / "data" / name
        if source.is_file():
            with source.open("rb") as reader, (pictures / name).open("wb") as copy:
                shutil.copyfileobj(reader, copy)
            rows.append((name, label))
    write_csv(pictures / "labels.csv", ("image", "labels"), rows)
    return pictures


def _photograph_dataset(pictures: Path, class_id) -> Dataset:
    return folder(pictures, pictures / "labels.csv", class_id=class_id)


def _add_to_summary(
    path: Path, miou: float, ladder: list[Rung], templates: list[str], trained: TrainedSegmenter | None
) -> None:
    summary = read_json(path)
    summary |= {"miou": miou, "ladder": {row.name: row.miou for row in ladder}, "templates": templates}
    if trained:
        summary |= {"segmenter_miou": trained.miou, "segmenter_trained_on_miou": trained.masks_miou}
    write_json(path, summary)
