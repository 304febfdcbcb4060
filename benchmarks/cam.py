"""The CAM stage and the CRF: the published way, ours, and the floor, in one process.

    python benchmarks/cam.py [--repeat 3] [--out runs/bench]

Ours is measured with each engine of the encoder: torch and ONNX Runtime in float32, torch in bfloat16, ONNX Runtime in
int8; their names are those of results.json. End to end is one picture with two labels, from its file to the mask with
CRF; there larger is better: how many times the published way's seconds ours would fit into.

Every figure is CPU seconds of this process with one thread, the best of some repeats taken in turn, so that other work
on the machine disturbs all alike; ratios are the claim. The published way is written from its description: one picture
at a time, attention weights in every block, the last block forward and backward once for each label, the affinity
matrix balanced and squared for each label, full-resolution float16 arrays. The floor is a plain forward pass with fused
attention.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from clip_es import published
from clip_es.config.run import DEFAULT, REFERENCE, EncoderConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder
from clip_es.images import read_picture
from clip_es.localize import localize
from clip_es.masks import write_mask
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.prompts import build_bank, load_vocabulary
from clip_es.refine import affinity
from clip_es.refine.crf.dense import crf
from clip_es.scaling import upsample
from clip_es.types import ClassMaps, EncodedImage, ImageRecord, Picture

LABELS = (1, 2, 4)
ENGINES = {
    "torch float32": EncoderConfig(),
    "onnx float32": EncoderConfig(engine="onnx"),
    "bfloat16": EncoderConfig(dtype="bfloat16"),
    "int8": EncoderConfig(dtype="int8"),
}
ENDS = 2
"""Labels of the picture that goes from file to mask."""
SIZE_HW = (375, 500)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def best(works: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """The least CPU seconds of each, all taken in turn."""
    taken = [{name: seconds(work) for name, work in works.items()} for _ in range(repeat)]
    return {name: min(row[name] for row in taken) for name in works}


def vit_b_16(config: EncoderConfig) -> Encoder:
    """A CLIP of ViT-B/16 size with seeded weights."""
    torch.manual_seed(0)
    model = CLIP(TowerSizes(patch=16, width=768, layers=12, grid=14, embed=512, text_width=512, text_layers=12))
    return build_encoder(model.state_dict(), device="cpu", config=config)


def photograph(folder: Path) -> Picture:
    """scikit-image's coffee at the usual size of VOC."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "coffee.png"
    Image.fromarray(data.coffee()).resize(SIZE_HW[::-1]).save(path)
    return read_picture(ImageRecord("coffee", path, (0,)), 16, DEFAULT.image)


@torch.no_grad()
def floor(encoder: Encoder, pixels: torch.Tensor) -> None:
    """All blocks, fused attention, nothing kept."""
    visual = encoder.model.visual
    tokens = visual.embed(pixels, encoder.positions((pixels.shape[-2] // 16, pixels.shape[-1] // 16)))
    if encoder.config.dtype == "bfloat16":
        tokens = tokens.bfloat16()
    for block in visual.transformer.blocks[:-1]:
        tokens = block(tokens)
    visual.transformer.blocks[-1](tokens.float())


@torch.no_grad()
def published_encode(encoder: Encoder, pixels: torch.Tensor, grid: tuple[int, int]) -> EncodedImage:
    """Attention weights in every block, all kept, then the last eight averaged."""
    visual = encoder.model.visual
    tokens = visual.embed(pixels, encoder.positions(grid))
    kept = []
    for block in visual.transformer.blocks[:-1]:
        tokens, weights = block.forward_with_weights(tokens)
        kept.append(weights.mean(1))
    last = visual.transformer.blocks[-1]
    queries, keys, _ = last.attn.project(last.ln_1(tokens))
    last_attention = last.attn.weights(queries, keys)
    kept.append(last_attention.mean(1))
    attention = torch.stack(kept)[-8:, 0, 1:, 1:].mean(0)
    return EncodedImage(tokens[0], attention, last_attention[0], grid)


def published_maps(encoder: Encoder, seen: EncodedImage, bank, ids: list[int]) -> np.ndarray:
    """One forward and backward pass for each label; affinity for each label; float16 at full size."""
    for parameter in encoder.model.visual.transformer.blocks[-1].parameters():
        parameter.requires_grad_(True)  # as published: their gradients are formed too
    found = published.localize(encoder, seen, bank, ids)
    rows = []
    for k in range(len(ids)):
        one = replace(found.maps, scores=found.maps.scores[k : k + 1], class_ids=(ids[k],))
        spread = published.spread(one, seen.attention, REFERENCE.refiners.affinity, 0.4)
        rows.append(published.upsample(spread, SIZE_HW).scores[0].numpy())
    for parameter in encoder.model.visual.transformer.blocks[-1].parameters():
        parameter.requires_grad_(False)
    return np.stack(rows).astype(np.float16)


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the tables, write results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    picture = photograph(arguments.out)
    vocabulary = load_vocabulary("voc12")
    encoders = {name: vit_b_16(config) for name, config in ENGINES.items()}
    encoder, narrow = encoders["torch float32"], encoders["bfloat16"]
    bank = build_bank(encoder, vocabulary)
    makers = {name: MaskMaker(one, vocabulary, bank, DEFAULT) for name, one in encoders.items()}
    pixels = encoder._pixels([picture.patches])
    grid = picture.grid_hw

    def ours(model: Encoder, ids: list[int]) -> bytes:
        seen = model.encode([picture.patches])[0]
        maps = localize(model, seen, bank, ids).maps
        refined = affinity.spread(maps, seen.attention, DEFAULT.refiners.affinity, 0.4)
        file = io.BytesIO()
        np.savez(file, refined=refined.scores.numpy())
        return file.getvalue()

    def theirs(ids: list[int]) -> bytes:
        array = published_maps(encoder, published_encode(encoder, pixels, grid), bank, ids)
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    record = ImageRecord("coffee", arguments.out / "coffee.png", tuple(range(ENDS)))

    def end(maker: MaskMaker) -> None:
        read = maker.read(record)
        made = maker.mask_of(read, maker.encode([read])[0], record.class_ids)
        write_mask(arguments.out / "ours.png", made.mask.labels)

    def published_end() -> None:
        read = read_picture(record, 16, REFERENCE.image)
        array = np.load(io.BytesIO(theirs(list(record.class_ids))))
        maps = ClassMaps(torch.from_numpy(array.astype(np.float32)).clamp(0, 1), record.class_ids)
        decided = crf(read, maps, replace(DEFAULT.refiners.crf, backend="pydensecrf"))
        scores = torch.cat([decided.background[None], decided.scores])
        write_mask(arguments.out / "published.png", scores.argmax(0).numpy().astype(np.uint8))

    works: dict[str, Callable[[], object]] = {
        "floor": lambda: floor(encoder, pixels),
        "floor bfloat16": lambda: floor(narrow, pixels),
    }
    for count in LABELS:
        ids = list(range(count))
        for name, model in encoders.items():
            works[f"{name} {count}"] = lambda model=model, ids=ids: ours(model, ids)
        works[f"published {count}"] = lambda ids=ids: theirs(ids)
    for name, maker in makers.items():
        works[f"end to end, {name}"] = lambda maker=maker: end(maker)
    works["end to end, published"] = published_end
    for work in works.values():
        work()
    times = best(works, arguments.repeat)

    seen = encoder.encode([picture.patches])[0]
    maps = localize(encoder, seen, bank, [0, 1]).maps
    stages = best(
        {
            **{
                f"encode, {name}": lambda model=model: model.encode([picture.patches])
                for name, model in encoders.items()
            },
            **{f"localize {c}": lambda c=c: localize(encoder, seen, bank, list(range(c))) for c in LABELS},
            "affinity 2": lambda: affinity.spread(maps, seen.attention, DEFAULT.refiners.affinity, 0.4),
            "upsample 2": lambda: upsample(maps, SIZE_HW),
            "read, resize": lambda: read_picture(
                ImageRecord("coffee", arguments.out / "coffee.png", (0,)), 16, DEFAULT.image
            ),
        },
        arguments.repeat,
    )
    crf_maps = upsample(affinity.spread(maps, seen.attention, DEFAULT.refiners.affinity, 0.4), SIZE_HW)
    crfs = best(
        {
            name: lambda name=name: crf(picture, crf_maps, replace(DEFAULT.refiners.crf, backend=name))
            for name in ("pydensecrf", "native")
        },
        arguments.repeat,
    )

    base = times["floor"]
    results = {
        "cam_over_floor": {name: {str(c): times[f"{name} {c}"] / base for c in LABELS} for name in ENGINES},
        "published_over_floor": {str(c): times[f"published {c}"] / base for c in LABELS},
        "bf16_over_floor": {str(c): times[f"bfloat16 {c}"] / base for c in LABELS},
        "end_to_end_over_published": {
            name: times["end to end, published"] / times[f"end to end, {name}"] for name in ENGINES
        },
        "crf_native_over_pydensecrf": crfs["native"] / crfs["pydensecrf"],
        "bytes_over_published": {
            str(c): len(ours(encoder, list(range(c)))) / len(theirs(list(range(c)))) for c in LABELS
        },
        "peak_mib": peak_mib(),
        "seconds": {**times, **stages, **{f"crf {name}": value for name, value in crfs.items()}},
        "torch": torch.__version__,
        "picture": f"{SIZE_HW[0]}x{SIZE_HW[1]}, {grid[0] * grid[1]} patches, ViT-B/16 size, one thread",
    }
    print(f"{results['picture']}; CPU seconds, best of {arguments.repeat}")
    print(f"{'floor: plain forward, fused attention':42s}{base:8.3f}    1.00")
    print(f"{'floor in bfloat16':42s}{times['floor bfloat16']:8.3f}  {times['floor bfloat16'] / base:6.2f}")
    for c in LABELS:
        for name in ("published", *ENGINES):
            value = times[f"{name} {c}"]
            print(f"{f'{name}, {c} labels':42s}{value:8.3f}  {value / base:6.2f}")
    for name in ("published", *ENGINES):
        value = times[f"end to end, {name}"]
        title = f"end to end, {name}, {ENDS} labels"
        print(f"{title:42s}{value:8.3f}  {times['end to end, published'] / value:6.2f} times")
    for name, value in {**stages, **{f"crf {name}": v for name, v in crfs.items()}}.items():
        print(f"  {name:40s}{value:8.4f}")
    print(f"native CRF / pydensecrf {results['crf_native_over_pydensecrf']:.2f}; peak {results['peak_mib']:.0f} MiB")
    (arguments.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
