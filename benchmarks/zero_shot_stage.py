"""Classes without masks: what each part of `clip-es extend` is worth on drawn scenes.

    python benchmarks/zero_shot_stage.py --out runs/bench [--seeds 0 1 2] [--train 120] [--val 50]

The pictures and the two choices of unseen classes, a quarter of all, are those of `zero_shot_head.py`. The small
segmenter is trained on ground-truth masks of the seen classes (unseen ones are 255) and extended to the others from
their names. `text head` is the pixel-text head of that benchmark, trained on the same masks. `pseudo` rows have
neither masks nor labels: both trainings are on what `clip-es masks --labels auto` makes. Evaluation: other pictures,
full size, all classes compete, background counts as a seen class.

Writes OUT/zero_shot_stage.json: {row: {seen, unseen, harmonic, each with _sd, runs, cpu_s}} in per cent. Each run is
written as it is done and not repeated (OUT/zero_shot/); the first seed of every row comes before the others. Rows that
begin alike share their beginning: `pixel+gated` goes on from `pixel`, `blocks` from the first phase.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from zero_shot_data import DEVELOPMENT_SEED, Drawn, cpu_seconds, held_out
from zero_shot_model import HeadTask, Lesson, shares_of
from zero_shot_model import Row as HeadRow
from zero_shot_rows import Masks, Row, order, rows, wanted, write_words

from clip_es.masks import read_mask, write_mask
from clip_es.metrics.zero_shot import ZeroShotMeter
from clip_es.pipelines.extend import ExtendData, Named, Prepared, prepare, read_rgb
from clip_es.scenes.draw import CLASSES
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.zero_shot.extension import Extension
from clip_es.segmentor.zero_shot.settings import NetworkSettings, Rate, settings_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--train", type=int, default=120, help="scenes to train on")
    parser.add_argument("--val", type=int, default=50, help="scenes to measure on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=300, help="of the segmenter that is extended")
    parser.add_argument("--steps", type=int, default=80, help="of a phase; the last takes half as many")
    parser.add_argument("--choices", type=int, nargs="+", default=[0, 1], help="of the unseen classes")
    parser.add_argument("--rows", nargs="+", help="only these, and those they begin with")
    parser.add_argument("--development", action="store_true", help="other pictures and other unseen classes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = replace(
        settings_of("default"),
        seen_steps=args.steps,
        unseen_steps=args.steps,
        self_steps=args.steps,
        again_steps=args.steps // 2,
        batch=8,
        crop=12,
        # Twice the default rates, for less than half of its steps.
        unseen_rates=Rate(2e-3, 3e-4, poly=True),
        self_rate=Rate(1e-3, 3e-4, 1e-4, poly=True),
        again_rate=Rate(1e-3, 3e-4, poly=True),
        networks=NetworkSettings(context_hidden=16, widths=(128,), dropout=(0.1,), hidden=128),
    )
    known = rows(base)
    chosen = wanted(known, args.rows)
    drawn = Drawn.read(args.out, "scenes", args.train, args.val, DEVELOPMENT_SEED if args.development else 2026)
    work = drawn.work / f"stage-{args.iterations}-{args.steps}"
    stages = [
        Stage(drawn, work, choice, unseen, args.iterations)
        for choice, unseen in enumerate(held_out(len(CLASSES), args.development))
        if choice in args.choices
    ]
    for seed, name in order(args.seeds, chosen):
        for stage in stages:
            if name in known:
                stage.measure(name, seed, stage.of_row, name, known[name], seed)
            elif name == "text head":
                stage.measure(name, seed, stage.of_text_head, seed)
            elif seed == args.seeds[0]:
                stage.measure(name, seed, stage.of_segmenter, "pseudo" if name.startswith("pseudo") else "truth")
        table(work, args.out)


class Stage:
    """One choice of unseen classes, for all rows and seeds."""

    def __init__(self, drawn: Drawn, work: Path, choice: int, unseen: tuple[int, ...], iterations: int) -> None:
        self.drawn, self.work, self.choice, self.iterations = drawn, work, choice, iterations
        work.mkdir(parents=True, exist_ok=True)
        self.ready: dict[tuple[object, ...], Prepared] = {}
        self.unseen, self.seen = unseen, [k + 1 for k in range(len(CLASSES)) if k + 1 not in unseen]
        self.ids = {"background": 0, **{name: k + 1 for k, name in enumerate(CLASSES)}}

    def measure(self, row: str, seed: int, predict: Callable[..., Iterator[np.ndarray]], *args: object) -> None:
        """Measure a row once and keep its figures."""
        path, key = self.work / "figures.json", f"{row}|{self.choice}|{seed}"
        if path.exists() and key in json.loads(path.read_text()):
            return
        start, meter = cpu_seconds(), ZeroShotMeter(self.seen, self.unseen)
        for predicted, truth in zip(predict(*args), self.drawn.val.truth, strict=True):
            meter.update(predicted, truth)
        percent = meter.compute().percent()
        found = {name: percent[name] for name in ("seen", "unseen", "harmonic")}
        found["cpu_s"] = cpu_seconds() - start
        with FileLock(path.with_suffix(".lock")):
            known = json.loads(path.read_text()) if path.exists() else {}
            known[key] = found
            path.write_text(json.dumps(known, indent=1) + "\n")
        print(f"{key}: " + ", ".join(f"{name} {value:.1f}" for name, value in found.items()), flush=True)

    def of_segmenter(self, masks: Masks) -> Iterator[np.ndarray]:
        """The segmenter as it was trained."""
        loaded = Segmenter.load(self._segmenter(masks), device="cpu")
        table_of = self._table(loaded.names)
        for name in self.drawn.val.ids:
            yield table_of[loaded.probabilities(self._picture(name)).argmax(dim=0).numpy()]

    def of_text_head(self, seed: int) -> Iterator[np.ndarray]:
        """The pixel-text head, trained on the same masks."""
        cache, row = self.drawn.train, HeadRow("clip")
        rank = torch.zeros(256, dtype=torch.int64)
        rank[[0, *self.seen]] = torch.arange(len(self.seen) + 1)
        truth = torch.from_numpy(cache.truth[:, 2::4, 2::4].astype(np.int64))
        sure = 1 - torch.isin(truth, torch.tensor([*self.unseen, 255])).float()
        task = HeadTask(
            row, Lesson(cache, rank[truth], sure, torch.arange(len(truth)), self.drawn.table(self.seen)), seed
        )
        for step in range(row.steps):
            torch.manual_seed(1000 * seed + step)
            task.advance(step, None)
        task.model.head.set_table(self.drawn.table(range(1, len(CLASSES) + 1)))
        for index in torch.arange(len(self.drawn.val.ids)).split(8):
            labels = range(len(CLASSES) + 1)
            yield from shares_of(task.model, labels, len(labels), self.drawn.val, index).argmax(1).numpy()

    def of_row(self, name: str, row: Row, seed: int) -> Iterator[np.ndarray]:
        """Train what the row adds to the one it begins with, and keep the weights."""
        settings = replace(row.settings, seed=seed)
        train = self._prepared(row, "train")
        extension = Extension(
            settings,
            train.examples,
            train.vectors,
            len(train.split.seen),
            train.segmenter.device,
            train.shared,
            train.old,
        )
        if row.after is not None:
            extension.load_networks(torch.load(self._weights(row.after, seed), weights_only=True))
        begin = 0
        for phase, steps in settings.phases:
            for step in range(begin, begin + steps) if phase in row.phases else ():
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(1000 * seed + step)
                    extension.advance(step)
            begin += steps
        torch.save(extension.state_dict()["networks"], self._weights(name, seed))
        seen = self._prepared(replace(row, settings=replace(settings, scales=(1.0,))), "val")
        table_of = self._table(seen.split.order)
        for example in seen.examples:
            scores = extension.scores(torch.from_numpy(np.array(example.features, dtype=np.float32))[None])[0]
            yield table_of[example.geometry.back(scores.cpu(), self.drawn.val.truth.shape[1:]).argmax(dim=0).numpy()]

    def _prepared(self, row: Row, part: Literal["train", "val"]) -> Prepared:
        key = (row.conditions, row.settings.networks.clip, row.settings.scales, row.masks, part)
        if key not in self.ready:
            folder = self.drawn.folder
            pseudo = part == "train" and row.masks == "pseudo"
            data = ExtendData(
                run=self._gate() if pseudo else None,
                masks=None if pseudo else folder / "SegmentationClass",
                images=folder / "JPEGImages",
                list_file=None if pseudo else folder / f"ImageSets/Segmentation/{part}.txt",
                vocabulary="scenes",
                gate=self._gate(),
            )
            vectors = self.work / "words.txt"
            if not vectors.exists():
                write_words(vectors)
            named = Named(row.conditions, vectors, "scenes")
            settings = replace(row.settings, self_training="gated" if part == "train" else "none")
            names = [CLASSES[k - 1] for k in self.unseen]
            model, out = self._segmenter(row.masks), self.work / f"features-{self.choice}"
            self.ready[key] = prepare(model, data, names, named, out, settings, device="cpu")
        return self.ready[key]

    def _segmenter(self, masks: Masks) -> Path:
        """The segmenter of the seen classes, trained where it is not there yet."""
        out, mapped = self.work / f"segmenter-{masks}-{self.choice}", self.work / f"{masks}-{self.choice}"
        if (out / "final.pth").exists():
            return out / "final.pth"
        lookup = np.full(256, 255, dtype=np.uint8)
        lookup[[0, *self.seen]] = np.arange(len(self.seen) + 1)
        mapped.mkdir(exist_ok=True)
        there = self.drawn.folder / "SegmentationClass" if masks == "truth" else self._gate() / "masks"
        for name in self.drawn.train.ids:
            if (there / f"{name}.png").exists():
                write_mask(mapped / f"{name}.png", lookup[read_mask(there / f"{name}.png")])
        names = ",".join(CLASSES[k - 1] for k in self.seen)
        data = (mapped, "--images", self.drawn.folder / "JPEGImages", "--vocabulary", names)
        flags = ("--loss", "plain", "--balanced", "--config", "scenes_small", "--iterations", self.iterations)
        call("train", *data, *flags, "--out", out, "--no-check")
        return out / "final.pth"

    def _gate(self) -> Path:
        """Masks of all classes that CLIP finds in the training pictures, without labels."""
        out = self.drawn.work / "gate"
        with FileLock(out.with_suffix(".lock")):
            if not (out / "summary.json").exists():
                source = ("scenes", "--root", self.drawn.folder, "--split", "train")
                flags = ("--labels", "auto", "--report-pictures", 0, "--workers", 0)
                call("masks", *source, *flags, "--limit", len(self.drawn.train.ids), "--out", out)
        return out

    def _weights(self, row: str, seed: int) -> Path:
        folder = self.work / "weights"
        folder.mkdir(exist_ok=True)
        return folder / f"{self.choice}-{seed}-{row.replace(', ', '-').replace(' ', '-')}.pt"

    def _table(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self.ids[name] for name in names], dtype=np.uint8)

    def _picture(self, name: str) -> np.ndarray:
        return read_rgb(self.drawn.folder / f"JPEGImages/{name}.jpg")


def table(work: Path, out: Path) -> None:
    """Write the means of what is there, and print them."""
    known = json.loads((work / "figures.json").read_text())
    result: dict[str, dict[str, float]] = {}
    for row in dict.fromkeys(key.split("|")[0] for key in known):
        found = [value for key, value in known.items() if key.split("|")[0] == row]
        result[row] = {"runs": len(found), "cpu_s": statistics.mean(one["cpu_s"] for one in found)}
        for name in ("seen", "unseen", "harmonic"):
            values = [one[name] for one in found]
            result[row][name] = statistics.mean(values)
            result[row][f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    out.mkdir(parents=True, exist_ok=True)
    (out / "zero_shot_stage.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n| | seen | unseen | harmonic | runs | CPU s |\n|---|---:|---:|---:|---:|---:|")
    for row, one in result.items():
        cells = [f"{one[name]:.1f} ± {one[name + '_sd']:.1f}" for name in ("seen", "unseen", "harmonic")]
        print(f"| {row} | {' | '.join(cells)} | {one['runs']} | {one['cpu_s']:.0f} |", flush=True)


def call(*words: object) -> None:
    """Run `clip-es` with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, "-m", "clip_es.pipelines.cli", *map(str, words)], check=True, env=environment)


if __name__ == "__main__":
    main()
