"""What a sweep costs beside encoding its pictures once, in CPU seconds of this process on one thread.

    python benchmarks/sweep.py                                    # 300 scenes, the shipped CLIP, 80 templates
    python benchmarks/sweep.py --weights vit-b-16 --pictures 40   # the shape of ViT-B/16, seeded random weights

"Encoding once" is reading each picture and running the whole vision tower on it. The sweep does that too, and besides
hashes and caches the pictures, encodes all sentences and scores them; a second sweep over other templates finds the
features in the cache. Where the pictures are few and the text tower is large, the sentences weigh more than the limit
allows; the benchmark prints from how many pictures on the sweep stays below 1.1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from clip_es.config.run import ImageConfig, RunConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder, load_encoder
from clip_es.images import read_picture
from clip_es.localize import pooled_embedding
from clip_es.pipelines.commands.sweep import joined_templates
from clip_es.pipelines.sweep.sweep import sweep
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, voc
from clip_es.scenes.dataset import ScenesConfig, make

VIT_B_16 = TowerSizes(patch=16, width=768, layers=12, grid=14, embed=512, text_width=512, text_layers=12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300, help="pictures with several labels")
    parser.add_argument("--templates", type=int, default=80)
    parser.add_argument("--weights", default="scenes", help="scenes, vit-b-16 (random), or a file")
    parser.add_argument("--root", type=Path, default=Path("runs/benchmark-sweep"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder = random_encoder() if args.weights == "vit-b-16" else load_encoder(args.weights, device="cpu")
    vocabulary = load_vocabulary("scenes")
    root = make(args.root, ScenesConfig(train=0, val=2 * args.pictures, seed=77))
    dataset = several(voc(root, "val", class_id=vocabulary.class_id), args.pictures)
    templates = (joined_templates(("imagenet80",)) * (args.templates // 80 + 1))[: args.templates]
    templates = tuple(f"{'so ' * (i // 80)}{template}" for i, template in enumerate(templates))

    encode_once(encoder, replace(dataset, records=dataset.records[:3]))
    once = seconds(lambda: encode_once(encoder, dataset))
    with tempfile.TemporaryDirectory() as folder:

        def run(some: tuple[str, ...]) -> None:
            sweep(encoder, vocabulary, dataset, some, config=RunConfig(), cache=Path(folder), truth=False)

        first = seconds(lambda: run(templates))
        again = seconds(lambda: run(tuple(f"once more, {template}" for template in templates)))
    pictures, count = len(dataset.records), len(templates)
    print(f"{pictures} pictures, {count} templates, {len(vocabulary.classes)} classes, weights {args.weights}")
    print(f"encoding once      {once:8.2f} CPU s   {1000 * once / pictures:7.2f} ms a picture")
    print(f"whole sweep        {first:8.2f} CPU s   ratio {first / once:.3f} (limit 1.1)")
    print(f"other templates    {again:8.2f} CPU s   {1000 * again / count:7.2f} ms a template, features from the cache")
    print(f"1000 templates would take {again / count * 1000:.0f} CPU s more")
    print(f"the ratio is below 1.1 from about {again / 0.1 / (once / pictures):.0f} pictures on")


def encode_once(encoder: Encoder, dataset: Dataset) -> None:
    for record in dataset.records:
        picture = read_picture(record, encoder.patch, ImageConfig())
        pooled_embedding(encoder, encoder.encode([picture.patches], attention_layers=1)[0])


def several(dataset: Dataset, count: int) -> Dataset:
    return replace(dataset, records=tuple(r for r in dataset.records if len(r.class_ids) > 1)[:count])


def random_encoder() -> Encoder:
    torch.manual_seed(0)
    return build_encoder(CLIP(VIT_B_16).state_dict(), device="cpu")


def seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
