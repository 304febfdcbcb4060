"""How many operations a GPU would be asked for, a picture: a GPU is done with one before it is told the next.

    python benchmarks/operations.py [--batch-size 16] [--out runs/bench]

A CLIP of ViT-B/16 size and pictures of 375 x 500 with one to three labels go through every step on a GPU that computes
nothing (tests/support/fake_gpu.py): views and allocations do not count, copies to and from the GPU do. `reads` are the
places in a batch where the CPU waits for the GPU. The whole is printed for pictures that go together, as on any GPU,
and for the same pictures one by one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fake_gpu import FakeGpu, to_fake_gpu

from clip_es.config.run import DEFAULT, CrfConfig
from clip_es.encoder import CLIP, TowerSizes, build_encoder
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.prompts import load_vocabulary
from clip_es.types import ImageRecord

SIZE_HW = (375, 500)
LABELS = ((0,), (7, 14), (14,), (1, 8, 19))
"""1.75 labels a picture; VOC has 1.5."""


def main() -> None:
    """Print the table, write operations.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    maker = on_fake_gpu()
    results = {"batch_size": arguments.batch_size, "one_by_one": {}, "together": {}}
    print(f"operations a picture at a batch of {arguments.batch_size} (reads a batch)")
    print(f"{'':12s}{'encode':>14s}{'locate':>14s}{'refine':>14s}{'CRF and mask':>14s}")
    for name in ("one_by_one", "together"):
        counted = count(maker, arguments.batch_size, together=name == "together")
        for step, gpu in counted.items():
            operations, reads = sum(gpu.operations.values()), sum(gpu.reads.values())
            results[name][step] = {"operations_per_picture": operations / arguments.batch_size, "reads": reads}
        told = results[name].values()
        print(f"{name:12s}" + "".join(f"{one['operations_per_picture']:9.1f} ({one['reads']:2d})" for one in told))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "operations.json").write_text(json.dumps(results, indent=2) + "\n")


def on_fake_gpu() -> MaskMaker:
    """A maker of ViT-B/16 size on the fake GPU."""
    torch.manual_seed(0)
    model = CLIP(TowerSizes(patch=16, width=768, layers=12, grid=14, embed=512, text_width=64, text_layers=1))
    encoder = build_encoder(model.state_dict(), device="cpu")
    maker = MaskMaker(encoder, load_vocabulary("voc12"), config=DEFAULT.using(crf=CrfConfig(backend="torch")))
    assert maker.encoder.logit_scale > 1  # read once from any device
    before = nn.Module.to
    nn.Module.to = to_fake_gpu  # type: ignore[method-assign]
    try:
        with FakeGpu():
            return maker.to("cuda")
    finally:
        nn.Module.to = before  # type: ignore[method-assign]


def count(maker: MaskMaker, pictures: int, together: bool) -> dict[str, FakeGpu]:
    """What each step asks of the GPU for a batch, the second of its size: what is kept from the first is there."""
    rgb = np.zeros((*SIZE_HW, 3), np.uint8)
    records = [
        ImageRecord(f"p{number}", Path(f"p{number}"), LABELS[number % len(LABELS)], image=rgb)
        for number in range(pictures)
    ]
    read = [maker.read(record) for record in records]
    many = maker.together if together else None
    for _ in range(2):
        with FakeGpu() as encode:
            seen = maker.encode(read)
        asked = [(picture, one, record.class_ids) for picture, one, record in zip(read, seen, records, strict=True)]
        with FakeGpu() as locate:
            located = many.locate(asked) if many else [maker.locate(*one) for one in asked]
        with FakeGpu() as refine:
            refined = many.refine(located) if many else [maker.refine(one) for one in located]
        with FakeGpu() as decide:
            _ = many.decide(refined) if many else [maker.decide(one) for one in refined]
    return {"encode": encode, "locate": locate, "refine": refine, "decide": decide}


if __name__ == "__main__":
    main()
