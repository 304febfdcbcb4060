"""The whole job, pictures to masks with CRF, on any device: the published way and ours, in images a second.

    python benchmarks/end_to_end.py [--device auto] [--pictures 40] [--published 8] [--dtype bfloat16] [--compare 8]

A CLIP of ViT-B/16 size with seeded weights; photographs of scikit-image cut to the sizes of VOC, with one to three
labels. The published way is written from its description: one picture at a time, attention weights in every block, the
last block forward and backward and the affinity matrix for each label, float16 arrays at full size on disk, then
pydensecrf from that file. Ours is `make_masks` into a run folder. Wall seconds, since both use the whole machine. The
encoder's rate is set against that of one large matrix product of its kind; on a GPU its use is sampled by nvidia-smi,
and the labels are compared with those of the CPU in float32. What it means for VOC train_aug and COCO train is the rate
times their sizes. The last lines are a table for docs/numbers.md. With a card: --pictures 2000 --dtype bfloat16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cam import published_encode
from PIL import Image
from skimage import data

from clip_es.config.run import DEFAULT, EncoderConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder
from clip_es.localize.gradcam.closed_form import Question, explain_autograd
from clip_es.masks import write_mask
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.method import masks
from clip_es.pipelines.masks.run import make_masks
from clip_es.pipelines.parallel.executor import Executor
from clip_es.prompts import load_vocabulary
from clip_es.refine.affinity import attention_affinity, box_mask
from clip_es.refine.crf.dense import crf
from clip_es.scaling import min_max, scale_twice
from clip_es.store.run import RunStore
from clip_es.types import ClassMaps, ImageRecord

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
SIZES_HW = ((375, 500), (333, 500), (500, 375), (375, 500), (500, 333), (281, 500))
"""The commonest of VOC, the first the most so."""
LABELS = ((0,), (7, 14), (14,), (1, 8, 19))
"""1.75 labels a picture; VOC has 1.5, COCO 2.9."""
SETS = {"VOC train_aug": 10_582, "COCO train": 82_081}


def main() -> None:
    """Print the table, write end_to_end.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--published", type=int, default=8, help="pictures that go the published way; it is slow")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "int8"), default="float32")
    parser.add_argument("--engine", choices=("auto", "torch", "onnx"), default="auto", help="of the encoder")
    parser.add_argument("--compare", type=int, default=8, help="pictures whose labels on a GPU are set against a CPU's")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    folder = arguments.out / "end_to_end"
    shutil.rmtree(folder, ignore_errors=True)
    records = photographs(folder / "pictures", arguments.pictures)

    encoder = vit_b_16(arguments.device, EncoderConfig(dtype=arguments.dtype, engine=arguments.engine))
    maker = MaskMaker(encoder, load_vocabulary("voc12"), config=DEFAULT)
    theirs = MaskMaker(vit_b_16(arguments.device, EncoderConfig()), maker.vocabulary, maker.bank, DEFAULT)
    warm = [replace(record, image_id=f"warm-{record.image_id}") for record in records[: 2 * arguments.batch_size]]
    with RunStore.open(folder / "warm", {}) as store:
        make_masks(warm, maker, store, batch_size=arguments.batch_size, workers=0)
    published(theirs, records[0], folder)

    maker.stopwatch.seconds.clear()
    with watch_gpu(encoder) as use, RunStore.open(folder / "run", {}) as store:
        start = time.perf_counter()
        make_masks(records, maker, store, batch_size=arguments.batch_size, workers=arguments.workers)
        ours = (time.perf_counter() - start) / len(records)
    start = time.perf_counter()
    for record in records[: arguments.published]:
        published(theirs, record, folder)
    slow = (time.perf_counter() - start) / arguments.published

    stages = {stage: seconds / len(records) for stage, seconds in maker.stopwatch.seconds.items()}
    results = {
        "device": torch.cuda.get_device_name(encoder.device) if encoder.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": encoder.config.dtype,
        "engine": encoder.config.engine,
        "images_per_second": 1 / ours,
        "published_images_per_second": 1 / slow,
        "times_faster": slow / ours,
        "seconds_for": {name: count * ours for name, count in SETS.items()},
        "stage_seconds_per_picture": stages,
        "gpu_use_per_cent": float(np.mean(use)) if use else None,
        "encoder_over_limit": encoder_over_limit(maker, records, arguments.batch_size),
        "labels_equal_to_cpu": labels_equal(maker, records[: arguments.compare])
        if encoder.device.type != "cpu"
        else None,
    }
    how = f"{encoder.config.dtype} by {encoder.config.engine}, {results['threads']} threads"
    print(f"{results['device']}, {how}, {len(records)} pictures")
    print(f"published way   {1 / slow:9.2f} images a second")
    print(f"ours            {1 / ours:9.2f} images a second, {slow / ours:.1f} times")
    for name, seconds in results["seconds_for"].items():
        print(f"  {name:20s}{seconds:9.0f} s")
    if use:
        print(f"GPU busy {np.mean(use):.0f} % of the time")
    for stage, seconds in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"  {stage:12s}{1000 * seconds:9.2f} ms a picture")
    print(f"encoder at {results['encoder_over_limit']:.0%} of what one large matrix product does")
    if results["labels_equal_to_cpu"] is not None:
        print(f"labels equal to those of the CPU on {results['labels_equal_to_cpu']:.4%} of pixels")
    print_table(results)
    (arguments.out / "end_to_end.json").write_text(json.dumps(results, indent=2) + "\n")
    shutil.rmtree(folder)


def print_table(results: dict[str, Any]) -> None:
    """One row in Markdown, with what is wanted of a GPU above it."""
    equal, use = results["labels_equal_to_cpu"], results["gpu_use_per_cent"]
    row = (
        results["device"],
        results["dtype"],
        f"{results['images_per_second']:.1f}",
        f"{results['times_faster']:.1f}",
        f"{results['encoder_over_limit']:.0%}",
        "-" if use is None else f"{use:.0f} %",
        "-" if equal is None else f"{equal:.3%}",
        f"{results['seconds_for']['VOC train_aug']:.0f} s",
    )
    print(
        "\n| device | dtype | images a second | over published | encoder of its limit | GPU busy | as CPU | train_aug |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    print("| aim | bfloat16 | 176 | 10 | 60 % | | 99.9 % | 60 s |")
    print(f"| {' | '.join(row)} |")


def encoder_over_limit(maker: MaskMaker, records: list[ImageRecord], batch_size: int) -> float:
    """Multiplications a second of the encoder, over those of one product of two large matrices of its type."""
    device, sizes = maker.encoder.device, maker.encoder.sizes
    pictures = [maker.read(records[0])] * batch_size
    patches = pictures[0].grid_hw[0] * pictures[0].grid_hw[1]
    each = sizes.layers * (patches + 1) * sizes.width * (12 * sizes.width + 2 * (patches + 1))
    side = 8192 if device.type != "cpu" else 1024
    kind = torch.bfloat16 if maker.encoder.config.dtype == "bfloat16" else torch.float32
    matrix = torch.ones(side, side, dtype=kind, device=device)
    encoder = batch_size * each / _seconds(lambda: maker.encode(pictures), device)
    return encoder / (side**3 / _seconds(lambda: matrix @ matrix, device))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of three calls, after one."""
    found = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def labels_equal(maker: MaskMaker, records: list[ImageRecord]) -> float:
    """Share of pixels whose label a maker on the CPU in float32 finds, too."""
    here = MaskMaker(vit_b_16("cpu", EncoderConfig()), maker.vocabulary, config=DEFAULT)
    same = [
        there.mask.decided == own.mask.decided
        for (_, there), (_, own) in zip(
            sorted(masks(records, maker, Executor(), len(records)), key=lambda pair: pair[0].image_id),
            sorted(masks(records, here, Executor()), key=lambda pair: pair[0].image_id),
            strict=True,
        )
    ]
    return float(np.concatenate([one.ravel() for one in same]).mean())


def vit_b_16(device: str, config: EncoderConfig) -> Encoder:
    """A CLIP of ViT-B/16 size with seeded weights."""
    torch.manual_seed(0)
    model = CLIP(TowerSizes(patch=16, width=768, layers=12, grid=14, embed=512, text_width=512, text_layers=12))
    return build_encoder(model.state_dict(), device=device, config=config)


def photographs(folder: Path, count: int) -> list[ImageRecord]:
    """JPEG files of the sizes of VOC, each its own cut, and some labels for each."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    records = []
    for number, name, size, labels in zip(range(count), cycle(PHOTOGRAPHS), cycle(SIZES_HW), cycle(LABELS)):
        picture = Image.fromarray(getattr(data, name)()[..., :3])
        left, top = random.integers(0, 40, 2)
        path = folder / f"{number:06d}.jpg"
        picture.crop((left, top, picture.width, picture.height)).resize(size[::-1]).save(path, quality=92)
        records.append(ImageRecord(path.stem, path, labels))
    return records


def published(maker: MaskMaker, record: ImageRecord, folder: Path) -> None:
    """One picture the published way: maps to a file, then the CRF from that file."""
    encoder, picture = maker.encoder, maker.read(record)
    grid, background = picture.grid_hw, maker.bank.background
    with torch.no_grad():
        seen = published_encode(encoder, encoder._pixels([picture.patches]), grid)
    maps = []
    for label in range(len(record.class_ids)):
        ids = [record.class_ids[label], *(k for k in record.class_ids if k != record.class_ids[label])]
        text = torch.cat([maker.bank.vectors[ids], background]).to(encoder.device)
        question = Question(text, 1, encoder.logit_scale, softmax=True)
        raw = explain_autograd(encoder.model.visual, seen.tokens, question).raw
        scaled = scale_twice(raw.unflatten(1, grid))
        affinity = attention_affinity(seen.attention)
        affinity = affinity @ affinity
        inside = affinity * box_mask(scaled, 0.4, "drop").flatten(1)
        refined = min_max((inside @ scaled.flatten()).unflatten(0, grid)[None])
        full = F.interpolate(refined[None], picture.size_hw, mode="bilinear", align_corners=False)[0, 0]
        maps.append(full.cpu().numpy().astype(np.float16))
    path = folder / f"{record.image_id}.npy"
    np.save(path, np.stack(maps))
    back = ClassMaps(torch.from_numpy(np.load(path).astype(np.float32)).clamp(0, 1), record.class_ids)
    # Where pydensecrf does not build, the native engine stands for it: that flatters the published way.
    backend = "pydensecrf" if find_spec("pydensecrf") else "auto"
    decided = crf(picture, back, replace(DEFAULT.refiners.crf, backend=backend))
    scores = torch.cat([decided.background[None], decided.scores]) if decided.background is not None else decided.scores
    write_mask(folder / f"{record.image_id}.png", scores.argmax(0).numpy().astype(np.uint8))


@contextmanager
def watch_gpu(encoder: Encoder) -> Iterator[list[float]]:
    """Per cent of the time in which the GPU was busy, sampled each half second; empty without one."""
    readings: list[float] = []
    stop = threading.Event()

    def sample() -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not stop.wait(0.5):
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
            readings.extend(float(word) for word in said[:1])

    if encoder.device.type == "cuda" and shutil.which("nvidia-smi"):
        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield readings
        finally:
            stop.set()
            thread.join()
    else:
        yield readings


if __name__ == "__main__":
    main()
