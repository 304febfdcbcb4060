"""The picture of the README: picture, map of each label, maps spread by affinity, mask, truth.

python benchmarks/overview.py [--number 11] [--out data/overview.png]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clip_es.masks import read_mask
from clip_es.pipelines import MaskMaker
from clip_es.pipelines.report import gallery_row
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make

HEIGHT, GAP, CAPTION = 190, 8, 18


def strip(pictures: list[tuple[str, np.ndarray]]) -> Image.Image:
    """Pictures side by side at one height, each with its caption below."""
    sized = [
        (text, Image.fromarray(p).resize((round(p.shape[1] * HEIGHT / p.shape[0]), HEIGHT))) for text, p in pictures
    ]
    width = sum(image.width + GAP for _, image in sized) - GAP
    sheet = Image.new("RGB", (width, HEIGHT + CAPTION), "white")
    draw, x = ImageDraw.Draw(sheet), 0
    for text, image in sized:
        sheet.paste(image, (x, 0))
        draw.text((x + 2, HEIGHT + 3), text, fill="#5d6b7d")
        x += image.width + GAP
    return sheet


def main() -> None:
    """Draw some scenes, take one, save the strip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path("data/overview.png"))
    arguments = parser.parse_args()
    maker = MaskMaker.load()
    with tempfile.TemporaryDirectory() as folder:
        root = make(folder, ScenesConfig(train=1, val=arguments.number + 1))
        dataset = voc(root, "val", class_id=maker.vocabulary.class_id)
        record = dataset.records[arguments.number]
        picture = maker.read(record)
        located = maker.locate(picture, maker.encode([picture])[0], record.class_ids)
        row = gallery_row(
            located,
            maker.finish(located).mask.labels,
            maker.vocabulary.names,
            read_mask(dataset.truth[record.image_id]),
        )
    (first, mask), *labels, (truth,) = row.columns
    shown = [("picture", first[1]), *(p for column in labels for p in column), ("mask", mask[1]), truth]
    strip(shown).save(arguments.out, optimize=True)
    print(f"{arguments.out}: {record.image_id}")


if __name__ == "__main__":
    main()
