"""What each engine of the encoder changes: pixels with the same label, and mIoU, compared with torch in float32.

    python benchmarks/agreement.py [--scenes 300] [--weights scenes] [--out runs/bench]

Drawn scenes with the packaged CLIP, with their ground truth; and scikit-image's photographs at the size of VOC with a
seeded CLIP of ViT-B/16 size, which knows nothing, so that only the agreement counts there. Labels are given; CLIP-ES
with affinity and CRF.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from cam import ENGINES, vit_b_16
from PIL import Image
from skimage import data

from clip_es.config.run import DEFAULT
from clip_es.encoder import Encoder, load_encoder
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.pipelines.agree import compare
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.prompts import Vocabulary, load_vocabulary
from clip_es.records import Dataset, voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ImageRecord

PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "coins", "hubble_deep_field", "immunohistochemistry",
               "moon", "page", "retina", "rocket", "brick", "grass", "gravel")  # fmt: skip
LABELS = ((0,), (7, 14), (14,), (1, 8, 19))


def main() -> None:
    """Print the table, write agreement.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--weights", default="scenes")
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
        results[f"{asked.scenes} scenes, {asked.weights}"] = table(encoders, words, drawn.records, drawn)
    encoders = {name: vit_b_16(config) for name, config in ENGINES.items()}
    records = photographs(folder)
    results[f"{len(records)} photographs, seeded ViT-B/16"] = table(encoders, load_vocabulary("voc12"), records)
    for title, rows in results.items():
        print(title)
        for name, row in rows.items():
            told = f"  {name:16s} pixels {100 * row['equal_pixels']:7.3f} %  worst {100 * row['least_pixels']:6.2f} %"
            told += f"  maps {row['maps_mean']:.5f}, largest {row['maps_largest']:.3f}"
            print(told + (f"  mIoU {row['miou_change']:+.3f}" if "miou_change" in row else ""))
    (asked.out / "agreement.json").write_text(json.dumps(results, indent=2) + "\n")
    shutil.rmtree(folder)


def photographs(folder: Path) -> list[ImageRecord]:
    """Those that are installed with scikit-image, scaled to 500 pixels on the longer side."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for name, labels in zip(PHOTOGRAPHS, cycle(LABELS), strict=False):
        try:
            picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        except Exception:  # not among those that are installed, and there may be no network
            continue
        scale = 500 / max(picture.size)
        picture.resize([round(scale * side) for side in picture.size]).save(folder / f"{name}.png")
        records.append(ImageRecord(name, folder / f"{name}.png", labels))
    return records


def table(
    encoders: dict[str, Encoder], words: Vocabulary, records: list[ImageRecord], truth: Dataset | None = None
) -> dict[str, dict[str, object]]:
    """The agreement of each engine with the first, and with ground truth the change of mIoU in points."""
    first, *others = (MaskMaker(one, words, config=replace(DEFAULT, encoder=one.config)) for one in encoders.values())
    exact = miou(first, records, truth)
    rows = {}
    for name, maker in zip([*encoders][1:], others, strict=True):
        found = asdict(compare(maker, first, records))
        change = {} if truth is None else {"miou_change": miou(maker, records, truth) - exact, "miou": exact}
        rows[name] = {**found, **change}
    return rows


def miou(maker: MaskMaker, records: list[ImageRecord], truth: Dataset | None) -> float:
    """Per cent, compared with the ground truth; NaN without."""
    if truth is None:
        return float("nan")
    counts = ConfusionMatrix(len(maker.vocabulary.names) + 1)
    for record in records:
        read = maker.read(record)
        made = maker.mask_of(read, maker.encode([read])[0], record.class_ids)
        counts.update(made.mask.decided, np.asarray(truth.read_truth(record.image_id)))
    return 100 * counts.compute().miou


if __name__ == "__main__":
    main()
