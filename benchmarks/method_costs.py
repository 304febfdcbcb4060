"""What each way to masks costs at the size of ViT-B/16: CPU seconds, passes of the encoder, memory.

python benchmarks/method_costs.py --out runs/bench [--labels 20] [--rows NAME ...]

One picture of 368 x 496 pixels (713 patches), the words of VOC, random weights from a seed, one thread. Passes: all
operations of matrix products before the refiners of pixels, over those of the vision tower alone. Memory: the most that
was held above the loaded model. Refiners of pixels are told apart: they do not depend on the encoder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from method_rows import Row, rows
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clip_es.config.methods import PatchTextConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes
from clip_es.encoder.capture import shown_to
from clip_es.images import shown_at
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.stopwatch import Stopwatch
from clip_es.prompts import load_vocabulary
from clip_es.store.tables import write_json
from clip_es.types import Picture

HEIGHT, WIDTH = 368, 496

WANTED = (
    *("clip-es", "clip-es + otsu", "clip-es + words", "clip-es + shifts", "cliper", "patch-text", "joint"),
    *("best-fast", "best-fast + 2 shifts", "best", "best-multiscale"),
)


def build() -> Encoder:
    """ViT-B/16 with random weights."""
    torch.manual_seed(0)
    model = CLIP(TowerSizes(16, 768, 12, 14, 512, 512, 12))
    return Encoder(model.eval().requires_grad_(False), source="seeded")


def one_pass(encoder: Encoder) -> int:
    """Operations of the vision tower over the picture, the products of its attention among them.

    These are inside a fused kernel, which the counter does not see, so they are written out here.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        encoder.model.visual(shown_to(encoder, np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)))
    return counter.get_total_flops()


def measured(encoder: Encoder, row: Row, labels: int, one: int) -> dict[str, Any]:
    """The figures of one row, in this process; `one`: operations of one pass."""
    # The rows are those of scenes; at this size the settings are those for photographs.
    config = row.config.using(patch_text=PatchTextConfig())
    watch = Stopwatch(time.process_time)
    maker = MaskMaker(encoder, load_vocabulary("voc12"), config=config, stopwatch=watch)
    rgb = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    plain = Picture("noise", rgb, rgb, encoder.patch)
    picture = shown_at(plain, maker.localizer.seen_hw(plain.size_hw), None)
    before = psutil.Process().memory_info().rss
    start = time.process_time()
    with FlopCounterMode(display=False) as every:
        refined = maker.refine(maker.locate(picture, maker.encode([picture])[0], tuple(range(labels))))
    seconds, most = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    maker.decide(refined)
    return {
        "seconds": seconds,
        "seconds_of_pixel_refiners": watch.seconds.get("crf", 0.0) + watch.seconds.get("segments", 0.0),
        "passes": every.get_total_flops() / one,
        "megabytes": max(0, most - before) / 2**20,
    }


def apart(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """In a forked process, so that its peak of memory is its own."""
    there, here = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=lambda: there.send(work()))
    child.start()
    found = here.recv()
    child.join()
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--rows", nargs="+", default=list(WANTED))
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder, found = build(), {}
    one = one_pass(encoder)
    print("| | passes | CPU seconds | of pixel refiners | MB |\n|---|---:|---:|---:|---:|")
    for row in rows():
        if row.name in args.rows:
            cost = found[row.name] = apart(lambda row=row: measured(encoder, row, args.labels, one))
            cells = (cost["passes"], cost["seconds"], cost["seconds_of_pixel_refiners"], cost["megabytes"])
            print(f"| {row.name} | {cells[0]:.2f} | {cells[1]:.1f} | {cells[2]:.1f} | {cells[3]:.0f} |")
            sys.stdout.flush()
            write_json(args.out / "method_costs.json", {"labels": args.labels, "patches": 713, "rows": found})


if __name__ == "__main__":
    main()
