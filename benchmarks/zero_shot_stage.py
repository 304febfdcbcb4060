"""Classes without masks: what each part of `clip-es extend` is worth on drawn scenes.

    python benchmarks/zero_shot_stage.py --out runs/bench

Draws scenes, trains the small segmenter on ground-truth masks of nine classes (three of the twelve are set to 255), and
extends it to the three from their names. Two choices of the three, several seeds. Prints seen, unseen and harmonic mIoU
(background counted as seen, full size) and writes OUT/zero_shot_stage.json: {row: {seen, unseen, harmonic, and each
with _sd}} in per cent. The frozen backbone of this segmenter is the scenes CLIP, which has seen all twelve classes, so
every row, also those with word vectors, says what can be read from its features. Calling again continues.

Word vectors (rows "words, ..."): 16 numbers of each class made from the contents of 1000 other scenes: counts of the
classes and backgrounds it is mentioned with, as positive pointwise mutual information, by singular values.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip_es.masks import read_mask, write_mask
from clip_es.metrics.zero_shot import ZeroShotMeter
from clip_es.pipelines.extend import ExtendData, Named, Prepared, extend, prepare, read_rgb
from clip_es.scenes.draw import BACKGROUNDS, CLASSES, SceneConfig, draw_scene
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.zero_shot.settings import ExtendSettings, NetworkSettings, settings_of

CHOICES = {"a": ("boat", "cow", "bottle"), "b": ("bird", "sheep", "train")}

SMALL = NetworkSettings(context_hidden=32, widths=(192,), dropout=(0.1,), hidden=192, level=-1)


def rows(base: ExtendSettings) -> dict[str, tuple[str, ExtendSettings]]:
    """Name of a row -> conditions and settings."""
    nets, weights = base.networks, base.weights
    return {
        "pixel+gated": ("clip", replace(base, self_training="gated")),
        "pixel": ("clip", base),
        "blocks": ("clip", replace(base, sampler="blocks", block_steps=60)),
        "pixel+self-training": ("clip", replace(base, self_training="top-p")),
        "words, pixel": ("words", base),
        "words, pixel+gated": ("words", replace(base, self_training="gated")),
        "without contextual module": ("clip", replace(base, networks=replace(nets, context=False))),
        "without reconstruction": ("clip", replace(base, content="none")),
        "without adversary": ("clip", replace(base, adversary="none")),
        "without KL": ("clip", replace(base, weights=replace(weights, kl=0.0))),
        "without generator": ("clip", replace(base, weights=replace(weights, synthetic=0.0))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--work", type=Path, help="scenes, segmenters, features; default OUT/zero-shot-stage")
    parser.add_argument("--train", type=int, default=400, help="scenes to train on")
    parser.add_argument("--val", type=int, default=120, help="scenes to measure on; the first of those drawn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=300, help="of the segmenter that is extended")
    parser.add_argument("--steps", type=int, default=400, help="of the first phase; the others follow from it")
    parser.add_argument("--choices", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    parser.add_argument("--rows", nargs="+", help="only these")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = args.work or args.out / "zero-shot-stage"
    scenes, gate = work / "scenes", work / "gate"
    if not (scenes / "ImageSets/Segmentation/val.txt").exists():
        call("scenes", "make", "--out", scenes, "--train", args.train, "--val", args.val)
    if not (gate / "summary.json").exists():
        call(
            *("masks", "scenes", "--root", scenes, "--split", "train", "--labels", "auto", "--out", gate),
            *("--report-pictures", 0),
        )
    words = work / "words.txt"
    part = args.steps // 2
    base = replace(
        settings_of("default"),
        seen_steps=args.steps,
        unseen_steps=part,
        self_steps=args.steps,
        again_steps=max(part // 2, 1),
        crop=9,
        networks=SMALL,
    )
    chosen = {name: row for name, row in rows(base).items() if args.rows is None or name in args.rows}
    if not words.exists() and any(conditions == "words" for conditions, _ in chosen.values()):
        write_words(words)
    for seed in range(args.seeds):
        for choice in args.choices:
            model = segmenter(work, choice, args.iterations)
            data = ExtendData(
                masks=scenes / "SegmentationClass",
                images=scenes / "JPEGImages",
                list_file=scenes / "ImageSets/Segmentation/train.txt",
                vocabulary="scenes",
                gate=gate,
            )
            measured(work, choice, seed, "before", args.val, lambda model=model: Segmenter.load(model, device="cpu"))
            for name, (conditions, settings) in chosen.items():
                settings = replace(settings, seed=seed)
                named = Named(conditions, words, "scenes")  # type: ignore[arg-type]
                make = lambda m=model, d=data, n=named, s=settings, r=name, c=choice: one(work, m, d, n, s, c, r)  # noqa: E731
                measured(work, choice, seed, name, args.val, make)
                table(work, args)


def one(
    work: Path, model: Path, data: ExtendData, named: Named, settings: ExtendSettings, choice: str, row: str
) -> Segmenter:
    """A segmenter extended as a row says."""
    out = work / f"{choice}-{settings.seed}-{row.replace(', ', '-').replace(' ', '-')}"
    out.mkdir(parents=True, exist_ok=True)
    shared = work / f"features-{choice}"
    shared.mkdir(exist_ok=True)
    if not (out / "features").exists():
        (out / "features").symlink_to(shared.resolve(), target_is_directory=True)
    ready: Prepared = prepare(model, data, CHOICES[choice], named, out, settings, device="cpu")
    path = extend(ready, settings, out, save_every=100)
    assert path is not None
    return Segmenter.load(path, device="cpu")


def measured(work: Path, choice: str, seed: int, row: str, count: int, make: Any) -> None:
    """Measure a row once and keep its figures."""
    path = work / "figures.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    key = f"{row}|{choice}|{seed}"
    if key in known:
        return
    found = evaluate(make(), work / "scenes", choice, count)
    known[key] = found
    path.write_text(json.dumps(known, indent=1) + "\n")
    print(f"{row} [{choice}, seed {seed}]: " + ", ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True)


def evaluate(segmenter: Segmenter, scenes: Path, choice: str, count: int) -> dict[str, float]:
    """Seen, unseen, harmonic mIoU in per cent."""
    ids = {name: k + 1 for k, name in enumerate(CLASSES)}
    unseen = [ids[name] for name in CHOICES[choice]]
    meter = ZeroShotMeter([k for k in ids.values() if k not in unseen], unseen)
    table_of = np.array([0 if name == "background" else ids[name] for name in segmenter.names], dtype=np.uint8)
    for image_id in (scenes / "ImageSets/Segmentation/val.txt").read_text().split()[:count]:
        labels = segmenter.probabilities(read_rgb(scenes / "JPEGImages" / f"{image_id}.jpg")).argmax(dim=0).numpy()
        meter.update(table_of[labels], read_mask(scenes / "SegmentationClass" / f"{image_id}.png"))
    percent = meter.compute().percent()
    return {name: percent[name] for name in ("seen", "unseen", "harmonic")}


def segmenter(work: Path, choice: str, iterations: int) -> Path:
    """The segmenter of the nine other classes, trained on their ground truth."""
    out, masks = work / f"segmenter-{choice}", work / f"masks-{choice}"
    if (out / "final.pth").exists():
        return out / "final.pth"
    seen = [name for name in CLASSES if name not in CHOICES[choice]]
    lookup = np.full(256, 255, dtype=np.uint8)
    lookup[0] = 0
    for index, name in enumerate(seen):
        lookup[CLASSES.index(name) + 1] = index + 1
    masks.mkdir(exist_ok=True)
    scenes = work / "scenes"
    for image_id in (scenes / "ImageSets/Segmentation/train.txt").read_text().split():
        write_mask(masks / f"{image_id}.png", lookup[read_mask(scenes / "SegmentationClass" / f"{image_id}.png")])
    call(
        *("train", masks, "--images", scenes / "JPEGImages", "--vocabulary", ",".join(seen), "--loss", "plain"),
        *("--balanced", "--config", "scenes_small", "--iterations", iterations, "--out", out, "--no-check"),
    )
    return out / "final.pth"


def write_words(path: Path, scenes: int = 1000, width: int = 16) -> None:
    """Vectors of the classes from what they are drawn with, in scenes of another world."""
    names = (*CLASSES, *BACKGROUNDS)
    counts = np.zeros((len(names), len(names)))
    for number in range(scenes):
        scene = draw_scene(9_999, number, SceneConfig((32, 32)))
        there = {CLASSES[k] for k in scene.class_ids} | set(scene.backgrounds)
        at = [names.index(name) for name in there if name in names]
        counts[np.ix_(at, at)] += 1
    joint = counts / scenes
    alone = np.diag(joint)
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(joint / (alone[:, None] * alone[None]))
    pmi = np.where(np.isfinite(pmi), np.maximum(pmi, 0), 0)
    u, s, _ = np.linalg.svd(pmi[: len(CLASSES)], full_matrices=False)
    rows_ = (u * np.sqrt(s))[:, :width]
    lines = [" ".join([name, *(f"{value:.6f}" for value in row)]) for name, row in zip(CLASSES, rows_, strict=True)]
    path.write_text("\n".join(lines) + "\n")


def table(work: Path, args: argparse.Namespace) -> None:
    """Write the means of what is there; the same to the terminal at the end of each row."""
    known = json.loads((work / "figures.json").read_text())
    result: dict[str, dict[str, float]] = {}
    for row in dict.fromkeys(key.split("|")[0] for key in known):
        found = [value for key, value in known.items() if key.split("|")[0] == row]
        result[row] = {"runs": len(found)}
        for name in ("seen", "unseen", "harmonic"):
            values = [one[name] for one in found]
            result[row][name] = statistics.mean(values)
            result[row][f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "zero_shot_stage.json").write_text(json.dumps(result, indent=1) + "\n")
    for row, values in result.items():
        shown = ", ".join(
            f"{name} {values[name]:.1f} ± {values[name + '_sd']:.1f}" for name in ("seen", "unseen", "harmonic")
        )
        print(f"{row:28} {shown} ({values['runs']} runs)", flush=True)


def call(*words: object) -> None:
    """Run `clip-es` with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, "-m", "clip_es.pipelines.cli", *map(str, words)], check=True, env=environment)


if __name__ == "__main__":
    main()
