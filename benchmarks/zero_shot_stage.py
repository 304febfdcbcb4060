"""Classes without masks: what each part of `clip-es extend` is worth on drawn scenes.

    python benchmarks/zero_shot_stage.py --out runs/bench

Draws scenes, trains the small segmenter on ground-truth masks of all classes but three (those are set to 255), and
extends it to the three from their names. Two choices of the three, several seeds. Prints seen, unseen and harmonic mIoU
(background counted as seen, full size) and writes OUT/zero_shot_stage.json: {row: {seen, unseen, harmonic, and each
with _sd, runs}} in per cent. Each run is written as it is done; calling again continues.

Rows that begin alike share their beginning: `pixel+gated` goes on from `pixel`, `blocks` from the first phase.
The backbone is the scenes CLIP, which has seen all classes; so has the CLIP whose text and patches are used. Rows that
begin with "words" use neither its text nor its patches beside the segmenter's features.

Word vectors: each class counted with the classes, backgrounds and colours it is drawn with in 400 other scenes;
positive pointwise mutual information; its first 16 singular vectors, scaled by the roots of their values.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from clip_es.masks import read_mask, write_mask
from clip_es.metrics.zero_shot import ZeroShotMeter
from clip_es.pipelines.extend import ExtendData, Named, Prepared, prepare, read_rgb
from clip_es.scenes.draw import BACKGROUNDS, CLASSES, COLOURS, SceneConfig, draw_scene
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.zero_shot.extension import Extension
from clip_es.segmentor.zero_shot.settings import ExtendSettings, NetworkSettings, settings_of

CHOICES = {"a": ("boat", "cow", "bottle"), "b": ("bird", "sheep", "train")}
FIRST = ("seen",)
TWO = ("seen", "unseen")
AGAIN = ("self-training", "unseen again")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    settings: ExtendSettings
    phases: tuple[str, ...]
    after: str | None = None
    """The row whose weights it begins with; None: from random ones."""
    conditions: str = "clip"


def rows(base: ExtendSettings) -> dict[str, Row]:
    """Every row, those that others begin with before them."""
    nets, weights = base.networks, base.weights
    blocks = replace(base, sampler="blocks", block_steps=60)
    gated, top = (replace(base, self_training=kind) for kind in ("gated", "top-p"))
    nothing = replace(base, weights=replace(weights, synthetic=0.0))
    words = replace(base, networks=replace(nets, clip=False))
    return {
        "first phase": Row(base, FIRST),
        "pixel": Row(base, ("unseen",), "first phase"),
        "pixel+gated": Row(gated, AGAIN, "pixel"),
        "without generator": Row(nothing, ("unseen",), "first phase"),
        "gate alone": Row(replace(gated, weights=nothing.weights), AGAIN, "without generator"),
        "pixel+self-training": Row(top, AGAIN, "pixel"),
        "blocks": Row(blocks, ("blocks", "unseen"), "first phase"),
        "blocks+gated": Row(replace(blocks, self_training="gated"), AGAIN, "blocks"),
        "empirical blocks": Row(replace(base, sampler="empirical"), ("unseen",), "first phase"),
        "latent noise": Row(replace(base, noise="latent"), ("unseen",), "first phase"),
        "words, pixel": Row(words, TWO, None, "words"),
        "words, pixel+gated": Row(replace(words, self_training="gated"), AGAIN, "words, pixel", "words"),
        "both, pixel": Row(base, TWO, None, "both"),
        "without contextual module": Row(replace(base, networks=replace(nets, context=False)), TWO),
        "without reconstruction": Row(replace(base, noise="latent", content="none"), TWO),
        "without adversary": Row(replace(base, noise="latent", adversary="none"), TWO),
        "without KL": Row(replace(base, noise="latent", weights=replace(weights, kl=0.0)), TWO),
        "classifier with a hidden layer": Row(replace(base, networks=replace(nets, linear=False)), TWO),
        "trained path from names": Row(replace(base, noise="latent", networks=replace(nets, names="trained")), TWO),
        "without CLIP's patches": Row(words, TWO),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--work", type=Path, help="scenes, segmenters, features; default OUT/zero-shot-stage")
    parser.add_argument("--train", type=int, default=120, help="scenes to train on")
    parser.add_argument("--val", type=int, default=30, help="scenes to measure on; the first of those drawn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=300, help="of the segmenter that is extended")
    parser.add_argument("--steps", type=int, default=80, help="of a phase; the last takes half as many")
    parser.add_argument("--choices", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    parser.add_argument("--rows", nargs="+", help="only these, and those they begin with")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = args.work or args.out / "zero-shot-stage"
    scenes, gate = work / "scenes", work / "gate"
    if not (scenes / "ImageSets/Segmentation/val.txt").exists():
        call("scenes", "make", "--out", scenes, "--train", args.train, "--val", args.val)
    if not (gate / "summary.json").exists():
        source = ("scenes", "--root", scenes, "--split", "train", "--limit", args.train)
        call("masks", *source, "--labels", "auto", "--refine", "affinity", "--out", gate, "--report-pictures", 0)
    if not (work / "words.txt").exists():
        write_words(work / "words.txt")
    base = replace(
        settings_of("default"),
        seen_steps=args.steps,
        unseen_steps=args.steps,
        self_steps=args.steps,
        again_steps=args.steps // 2,
        batch=6,
        crop=9,
        networks=NetworkSettings(context_hidden=16, widths=(128,), dropout=(0.1,), hidden=128),
    )
    chosen = wanted(rows(base), args.rows)
    for seed in args.seeds:
        for choice in args.choices:
            stage = Stage(work, choice, seed, segmenter(work, choice, args.iterations), args.train, args.val)
            stage.measure("before", lambda stage=stage: stage.of_segmenter())
            for name, row in chosen.items():
                stage.measure(name, lambda stage=stage, name=name, row=row: stage.of_row(name, row))
                table(work, args.out)


def wanted(known: dict[str, Row], names: list[str] | None) -> dict[str, Row]:
    """The rows asked for, and those they begin with."""
    if names is None:
        return known
    kept: set[str] = set()
    for name in names:
        at: str | None = name
        while at is not None:
            kept.add(at)
            at = known[at].after
    return {name: row for name, row in known.items() if name in kept}


class Stage:
    """One choice of unseen classes and one seed."""

    def __init__(self, work: Path, choice: str, seed: int, model: Path, train: int, val: int) -> None:
        self.work, self.choice, self.seed, self.model = work, choice, seed, model
        self.count = {"train": train, "val": val}
        self.ready: dict[tuple[str, bool, str], Prepared] = {}
        ids = {name: k + 1 for k, name in enumerate(CLASSES)}
        unseen = [ids[name] for name in CHOICES[choice]]
        self.groups = [k for k in ids.values() if k not in unseen], unseen
        self.ids = {"background": 0, **ids}

    def measure(self, row: str, make: Callable[[], ZeroShotMeter]) -> None:
        """Measure a row once and keep its figures."""
        path, key = self.work / "figures.json", f"{row}|{self.choice}|{self.seed}"
        if row == "before":
            key = f"before|{self.choice}|0"
        if path.exists() and key in json.loads(path.read_text()):
            return
        percent = make().compute().percent()
        found = {name: percent[name] for name in ("seen", "unseen", "harmonic")}
        with FileLock(path.with_suffix(".lock")):
            known = json.loads(path.read_text()) if path.exists() else {}
            known[key] = found
            path.write_text(json.dumps(known, indent=1) + "\n")
        print(f"{key}: " + ", ".join(f"{name} {value:.1f}" for name, value in found.items()), flush=True)

    def of_segmenter(self) -> ZeroShotMeter:
        """The segmenter as it was trained."""
        loaded, meter = Segmenter.load(self.model, device="cpu"), ZeroShotMeter(*self.groups)
        table_of = np.array([self.ids[name] for name in loaded.names], dtype=np.uint8)
        for image_id in self._listed("val").read_text().split():
            picture = read_rgb(self.work / "scenes/JPEGImages" / f"{image_id}.jpg")
            meter.update(table_of[loaded.probabilities(picture).argmax(dim=0).numpy()], self._truth(image_id))
        return meter

    def of_row(self, name: str, row: Row) -> ZeroShotMeter:
        """Train what the row adds to the one it begins with, keep the weights, measure."""
        settings = replace(row.settings, seed=self.seed)
        train = self._prepared(row, settings, "train")
        extension = Extension(
            settings, train.examples, train.vectors, len(train.split.seen), train.segmenter.device, train.shared
        )
        if row.after is not None:
            extension.load_networks(torch.load(self._kept(row.after), weights_only=True))
        begin = 0
        for phase, steps in settings.phases:
            for step in range(begin, begin + steps) if phase in row.phases else ():
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(1000 * self.seed + step)
                    extension.advance(step)
            begin += steps
        torch.save(extension.state_dict()["networks"], self._kept(name))
        seen = self._prepared(row, settings, "val")
        meter = ZeroShotMeter(*self.groups)
        table_of = np.array([self.ids[label] for label in seen.split.order], dtype=np.uint8)
        for example in seen.examples:
            truth = self._truth(example.image_id)
            scores = extension.scores(torch.from_numpy(np.array(example.features, dtype=np.float32))[None])[0]
            meter.update(table_of[example.geometry.back(scores.cpu(), truth.shape).argmax(dim=0).numpy()], truth)
        return meter

    def _prepared(self, row: Row, settings: ExtendSettings, part: str) -> Prepared:
        key = (row.conditions, settings.networks.clip, part)
        if key not in self.ready:
            data = ExtendData(
                masks=self.work / "scenes/SegmentationClass",
                images=self.work / "scenes/JPEGImages",
                list_file=self._listed(part),
                vocabulary="scenes",
                gate=self.work / "gate",
            )
            named = Named(row.conditions, self.work / "words.txt", "scenes")  # type: ignore[arg-type]
            settings = replace(settings, self_training="gated" if part == "train" else "none")
            out = self.work / f"features-{self.choice}"
            self.ready[key] = prepare(self.model, data, CHOICES[self.choice], named, out, settings, device="cpu")
        return self.ready[key]

    def _kept(self, row: str) -> Path:
        folder = self.work / "weights"
        folder.mkdir(exist_ok=True)
        return folder / f"{self.choice}-{self.seed}-{row.replace(', ', '-').replace(' ', '-')}.pt"

    def _listed(self, part: str) -> Path:
        path = self.work / f"{part}-{self.count[part]}.txt"
        if not path.exists():
            names = (self.work / f"scenes/ImageSets/Segmentation/{part}.txt").read_text().split()
            path.write_text("\n".join(names[: self.count[part]]) + "\n")
        return path

    def _truth(self, image_id: str) -> np.ndarray:
        return read_mask(self.work / "scenes/SegmentationClass" / f"{image_id}.png")


def segmenter(work: Path, choice: str, iterations: int) -> Path:
    """The segmenter of the other classes, trained on their ground truth."""
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


def write_words(path: Path, scenes: int = 400, width: int = 16) -> None:
    """Vectors of the classes from what they are drawn with, in scenes of another seed."""
    others = [*CLASSES, *BACKGROUNDS, *COLOURS]
    joint = np.zeros((len(CLASSES), len(others)))
    for number in range(scenes):
        scene = draw_scene(9_999, number, SceneConfig((32, 32)))
        there = {CLASSES[thing.class_id] for thing in scene.objects} | set(scene.backgrounds)
        for thing in scene.objects:
            company = (there - {CLASSES[thing.class_id]}) | {thing.colour}
            joint[thing.class_id, [others.index(word) for word in company if word in others]] += 1
    joint /= max(joint.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(joint / (joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)))
    pmi = np.where(np.isfinite(pmi), np.maximum(pmi, 0), 0)
    u, s, _ = np.linalg.svd(pmi, full_matrices=False)
    found = (u * np.sqrt(s))[:, :width]
    lines = [
        " ".join([name.replace(" ", "_"), *(f"{value:.6f}" for value in row)])
        for name, row in zip(CLASSES, found, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")


def table(work: Path, out: Path) -> None:
    """Write the means of what is there, and print them."""
    known = json.loads((work / "figures.json").read_text())
    result: dict[str, dict[str, float]] = {}
    for row in dict.fromkeys(key.split("|")[0] for key in known):
        found = [value for key, value in known.items() if key.split("|")[0] == row]
        result[row] = {"runs": len(found)}
        for name in ("seen", "unseen", "harmonic"):
            values = [one[name] for one in found]
            result[row][name] = statistics.mean(values)
            result[row][f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    out.mkdir(parents=True, exist_ok=True)
    (out / "zero_shot_stage.json").write_text(json.dumps(result, indent=1) + "\n")
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
