"""What each engine of the encoder changes: pixels with the same label, and mIoU, compared with torch in float32.

    python benchmarks/agreement.py [--scenes 300] [--photographs 14] [--weights scenes] [--out runs/bench]

Drawn scenes with the packaged CLIP, with their ground truth; and scikit-image's photographs at the size of VOC with a
seeded CLIP of ViT-B/16 size, which knows nothing, so that only the agreement counts there. Labels are given; CLIP-ES
with affinity and CRF.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from cam import ENGINES, vit_b_16
from PIL import Image
from skimage import data

from clip_es.config.run import DEFAULT
from clip_es.encoder import Encoder, load_encoder
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.pipelines.agree import Comparison, made
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.prompts import Vocabulary, load_vocabulary
from clip_es.records import Dataset, voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ImageRecord

PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "coins", "hubble_deep_field", "immunohistochemistry",
               "moon", "page", "retina", "rocket", "brick", "grass", "gravel")  # fmt: skip
LABELS = ((0,), (7, 14), (14,), (1, 8, 19))
FIRST = "torch float32"
"""What the others are compared with."""


def main() -> None:
    """Print the table, write agreement.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--weights", default="scenes")
    parser.add_argument("--photographs", type=int, default=len(PHOTOGRAPHS), help="most photographs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = asked.out / "agreement"
    shutil.rmtree(folder, ignore_errors=True)
    results: dict[str, dict[str, dict[str, object]]] = {}
    if asked.scenes:
        words = load_vocabulary("scenes")
        drawn = voc(make(folder, ScenesConfig(train=0, val=asked.scenes)), "val", class_id=words.class_id)
        encoders = {name: load_encoder(asked.weights, device="cpu", config=one) for name, one in ENGINES.items()}
        title = f"{asked.scenes} scenes, {asked.weights}"
        results[title] = show(title, table(encoders, words, drawn.records, drawn))
    if asked.photographs:
        encoders = {name: vit_b_16(config) for name, config in ENGINES.items()}
        records = list(islice(photographs(folder), asked.photographs))
        title = f"{len(records)} photographs, seeded ViT-B/16"
        results[title] = show(title, table(encoders, load_vocabulary("voc12"), records))
    (asked.out / "agreement.json").write_text(json.dumps(results, indent=2) + "\n")
    shutil.rmtree(folder)


def show(title: str, rows: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Print a table and give it back."""
    print(title)
    for name, row in rows.items():
        told = f"  {name:16s} pixels {100 * row['equal_pixels']:7.3f} %  worst {100 * row['least_pixels']:6.2f} %"
        told += f"  maps {row['maps_mean']:.5f}, largest {row['maps_largest']:.3f}"
        change = f"  mIoU {row['miou_of_truth']:.2f}, {row['miou_change']:+.3f}" if "miou_change" in row else ""
        print(told + change, flush=True)
    return rows


def photographs(folder: Path) -> Iterator[ImageRecord]:
    """Those that are installed with scikit-image, scaled to 500 pixels on the longer side."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in zip(PHOTOGRAPHS, cycle(LABELS), strict=False):
        try:
            picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        except Exception:  # not among those that are installed, and there may be no network
            continue
        scale = 500 / max(picture.size)
        picture.resize([round(scale * side) for side in picture.size]).save(folder / f"{name}.png")
        yield ImageRecord(name, folder / f"{name}.png", labels)


def table(
    encoders: dict[str, Encoder], words: Vocabulary, records: list[ImageRecord], truth: Dataset | None = None
) -> dict[str, dict[str, object]]:
    """The agreement of each engine with the first, and with ground truth mIoU in per cent and how it changes."""
    makers = {
        name: MaskMaker(one, words, config=replace(DEFAULT, encoder=one.config)) for name, one in encoders.items()
    }
    counts = {name: ConfusionMatrix(len(words.names) + 1) for name in makers}
    found = {name: Comparison(maker) for name, maker in makers.items()}
    for number, record in enumerate(records):
        if not number:
            for maker in makers.values():
                made(maker, record)  # graphs and buffers are made with the first picture
        drawn = None if truth is None else np.asarray(truth.read_truth(record.image_id))
        masks = {name: made(maker, record) for name, maker in makers.items()}
        theirs, slow = masks[FIRST]
        for name, (ours, quick) in masks.items():
            found[name].add(record.image_id, ours, theirs, quick, slow)
            if drawn is not None:
                counts[name].update(ours.mask.decided, drawn)
    rows = {name: asdict(one.agreement()) for name, one in found.items() if name != FIRST}
    if truth is not None:
        miou = {name: 100 * one.compute().miou for name, one in counts.items()}
        for name, row in rows.items():
            row |= {"miou_of_truth": miou[name], "miou_change": miou[name] - miou[FIRST]}
    return rows


if __name__ == "__main__":
    main()
