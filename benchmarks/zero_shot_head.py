"""The pixel-text head on classes it was never trained on: what each part adds, on drawn scenes.

python benchmarks/zero_shot_head.py --out runs/bench [--weights scenes] [--seeds 3] [--train 120] [--val 50]

A quarter of the classes is unseen, two choices of them (in the world of 12 classes three, in that of 32 eight).
Training: pseudo masks that `clip-es masks` makes from the image-level labels of the seen classes, and nothing else.
Left out: pictures with an unseen class are not trained on. `kept in`: they are, and what is unseen in them is
background of their masks. Evaluation: other pictures, all classes compete, background counts as a seen class.

Writes OUT/zero_shot_head.json: {row: {"seen", "unseen", "harmonic", "boundary_f", each with "_sd", "protocol"}}, per
cent, means and standard deviations over seeds and choices. What is finished is not repeated (OUT/zero_shot/); the first
seed of every row comes before the others. Settings were chosen with `--development`: other pictures, other classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from zero_shot_data import DEVELOPMENT_SEED, VOCABULARY, Cache, Drawn, cpu_seconds, held_out, pseudo_masks
from zero_shot_model import CLOSED_STEPS, STEPS, HeadTask, Lesson, Row, shares_of

from clip_es.metrics.boundaries import BoundaryMeter
from clip_es.metrics.zero_shot import ZeroShotMeter
from clip_es.pipelines.training_free import mixed
from clip_es.segmentor.fusion import vote
from clip_es.segmentor.models.pixel_text import PixelText
from clip_es.segmentor.models.text_table import TextTable
from clip_es.store.tables import read_json, write_json
from clip_es.training import Plan, train

SHARE = 0.3
"""Of training-free CLIPer in the mixed rows."""
AMOUNT = 0.5
"""Of soft voting over segments."""

ROWS: dict[str, Row] = {
    "plain head": Row("closed", steps=CLOSED_STEPS),
    "text head": Row("text"),
    "clip head": Row("clip", fused=True),
    "clip head + edge": Row("clip", edge=0.3),
    "clip head + edge + shape": Row("clip", edge=0.3, shape=0.3, fused=True),
}
FUSIONS = {"": (0.0, 0.0), " + segments": (0.0, AMOUNT), " + cliper": (SHARE, 0.0)}
"""What follows the prediction -> share of CLIPer, amount of the vote."""
TRIED = {f" + {share} cliper": (share, 0.0) for share in (0.3, 0.5, 0.7)}
"""Of these SHARE is chosen, on the development pictures."""


@dataclass(frozen=True)
class Exam:
    """The pictures every row is evaluated on, and what is fused with predictions."""

    cache: Cache
    cliper: Tensor
    segments: list[Tensor]
    classes: int

    def figures(
        self, answer: Callable[[Tensor], Tensor], unseen: Sequence[int], fusions: Mapping[str, tuple[float, float]]
    ) -> dict[str, dict[str, float]]:
        """Seen, unseen, harmonic mIoU and boundary F, per cent, of each fusion. `answer`: probabilities [n label ..]
        of all classes for some pictures."""
        seen = [value for value in range(1, self.classes + 1) if value not in unseen]
        meters = {name: (ZeroShotMeter(seen, unseen), BoundaryMeter()) for name in fusions}
        for index in torch.arange(len(self.cache.ids)).split(8):
            for i, share in zip(index.tolist(), answer(index), strict=True):
                for name, (amount, votes) in fusions.items():
                    fused = mixed(share, self.cliper[i].float(), amount)
                    fused = vote(fused, self.segments[i], votes) if votes else fused
                    labels = fused.argmax(0).numpy().astype(np.uint8)
                    for meter in meters[name]:
                        meter.update(labels, self.cache.truth[i])
        every = list(range(self.classes + 1))
        return {name: _figures(meter, outlines.mean(every)) for name, (meter, outlines) in meters.items()}


def _figures(meter: ZeroShotMeter, boundary: float) -> dict[str, float]:
    found = meter.compute().percent()
    return {**{name: found[name] for name in ("seen", "unseen", "harmonic")}, "boundary_f": 100 * boundary}


class Table:
    """Figures as they come, and the table of their means."""

    def __init__(self, out: Path, protocol: Mapping[str, Any]) -> None:
        self.out, self.protocol = out, protocol
        self.found: dict[str, list[dict[str, float]]] = {}
        self.about: dict[str, dict[str, Any]] = {}

    def note(self, row: str, where: str, figures: dict[str, float], about: Mapping[str, Any]) -> None:
        """Add a row's figures of one training."""
        self.found.setdefault(row, []).append(figures)
        self.about[row] = {**self.protocol, **about}
        print(f"{row}, {where}: {', '.join(f'{name} {value:.1f}' for name, value in figures.items())}", flush=True)

    def write(self) -> None:
        """OUT/zero_shot_head.json."""
        rows = {
            row: {**_summary(found), "protocol": {**self.about[row], "trainings": len(found)}}
            for row, found in self.found.items()
        }
        write_json(self.out / "zero_shot_head.json", rows)

    def show(self) -> None:
        """The table, as docs/numbers.md has it."""
        print("\n| | seen | unseen | harmonic | boundary F | trainings |\n|---|---:|---:|---:|---:|---:|")
        for row, found in self.found.items():
            mean = _summary(found)
            cells = [f"{mean[k]:.1f} ± {mean[k + '_sd']:.1f}" for k in ("seen", "unseen", "harmonic", "boundary_f")]
            print(f"| {row} | {' | '.join(cells)} | {len(found)} |")


def _summary(figures: list[dict[str, float]]) -> dict[str, float]:
    found = {}
    for name in figures[0]:
        values = np.array([one[name] for one in figures])
        found[name], found[f"{name}_sd"] = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return found


def arguments() -> argparse.Namespace:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--weights", default="scenes", help="a packaged CLIP of drawn scenes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=120)
    parser.add_argument("--val", type=int, default=50)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the heads that are compared with text")
    parser.add_argument("--closed-steps", type=int, default=CLOSED_STEPS, help="of the head of fixed classes")
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--left-out", action="store_true", help="no training on pictures with an unseen class")
    parser.add_argument("--finished", action="store_true", help="the table of what earlier calls have trained")
    parser.add_argument("--development", action="store_true", help="other pictures and other unseen classes")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    began, names = cpu_seconds(), VOCABULARY.names
    splits, seed = held_out(len(names), args.development), DEVELOPMENT_SEED if args.development else 2026
    drawn = Drawn.read(args.out, args.weights, args.train, args.val, seed)
    exam = Exam(drawn.val, drawn.cliper(), drawn.segments(), len(names))
    every = drawn.table(range(1, len(names) + 1))
    table = Table(args.out, protocol_of(args, [[names[v - 1] for v in unseen] for unseen in splits], seed))
    print(f"pictures, their maps, CLIPer and segments: {cpu_seconds() - began:.0f} s of processor time", flush=True)
    for split, unseen in enumerate(splits):
        figures = exam.figures(lambda index: exam.cliper[index].float(), unseen, {"": (0.0, 0.0)})
        table.note("cliper", f"split {split}", figures[""], {"training": "none"})
    fusions = FUSIONS | TRIED if args.development else FUSIONS
    lessons: dict[tuple[int, str], tuple[list[int], Lesson]] = {}
    for number, left, split, name in order(args.seeds, len(splits), args.rows):
        if left and args.left_out:
            continue
        closed = ROWS[name].embedding == "closed"
        row = replace(ROWS[name], steps=args.closed_steps if closed else args.steps)
        place = drawn.work / "head" / f"{split}-{number}-{row.steps}-{name}{left}".replace(" ", "_").replace(",", "")
        if args.finished and not figures_file(place, row, exam).is_file():
            continue
        if (split, left) not in lessons:
            start = cpu_seconds()
            lessons |= taught(drawn, split, splits[split], args.weights)
            print(f"pseudo masks, split {split}: {cpu_seconds() - start:.0f} s of processor time", flush=True)
        seen, lesson = lessons[split, left]
        start = cpu_seconds()
        figures = trained_figures(fusions, row, lesson, number, place, (seen, splits[split], every), exam)
        about = {"trained_pictures": len(lesson.index), "unseen_pictures": "kept in" if left else "left out"}
        for fusion, found in figures.items():
            more = {**about, "steps": row.steps, "share_of_cliper": fusions[fusion][0]}
            table.note(f"{name}{fusion}{left}", f"split {split}, seed {number}", found, more)
        print(f"  {cpu_seconds() - start:.0f} s of processor time", flush=True)
        table.write()
    table.show()
    print(f"\n{cpu_seconds() - began:.0f} s of processor time")


def order(seeds: int, splits: int, rows: Sequence[str]) -> list[tuple[int, str, int, str]]:
    """Seed, what becomes of pictures with unseen classes, split and row: what is stopped leaves a whole table of fewer
    seeds, and the other way of training comes after the second and third seed of the first."""
    named = list(product(range(splits), rows))
    plain = [(number, "", *rest) for number in range(seeds) for rest in named]
    other = [(number, ", kept in", *rest) for number in range(seeds) for rest in named]
    return plain[: len(named)] + other[: len(named)] + plain[len(named) :] + other[len(named) :]


def taught(
    drawn: Drawn, split: int, unseen: Sequence[int], weights: str
) -> dict[tuple[int, str], tuple[list[int], Lesson]]:
    """What is learnt from under a split, in both ways, with the mask values of its seen classes."""
    names = VOCABULARY.names
    seen = [value for value in range(1, len(names) + 1) if value not in unseen]
    labels, sure = pseudo_masks(drawn, unseen, drawn.work / f"masks-{split}", weights)
    rank = torch.zeros(256, dtype=torch.int64)
    rank[[0, *seen]] = torch.arange(len(seen) + 1)
    asked, clean = drawn.table(seen), drawn.train.clean(unseen).nonzero()[:, 0]
    ways = {"": clean, ", kept in": torch.arange(len(drawn.train.ids))}
    return {
        (split, left): (seen, Lesson(drawn.train, rank[labels], sure, index, asked)) for left, index in ways.items()
    }


def figures_file(place: Path, row: Row, exam: Exam) -> Path:
    """Where the figures of a training stand once it is evaluated."""
    return place / f"figures-{len(exam.cache.ids)}{f'-{SHARE}-{AMOUNT}' if row.fused else ''}.json"


def trained_figures(
    fusions: Mapping[str, tuple[float, float]],
    row: Row,
    lesson: Lesson,
    seed: int,
    place: Path,
    asked: tuple[list[int], Sequence[int], TextTable],
    exam: Exam,
) -> dict[str, dict[str, float]]:
    """Train a row and evaluate it with its fusions, or read what an earlier call found. `asked`: seen and unseen mask
    values, and the rows of all classes."""
    kept = figures_file(place, row, exam)
    if kept.is_file():
        return read_json(kept)
    values, unseen, every = asked
    task = HeadTask(row, lesson, seed)
    told = {name: value for name, value in vars(row).items() if name != "steps"}
    config = {"row": told, "steps": row.steps, "train": len(lesson.cache.ids)}
    train(task, place, Plan(row.steps, row.steps, seed, config))
    values = [0, *values]
    if isinstance(task.model.head, PixelText):
        task.model.head.set_table(every)
        values = list(range(exam.classes + 1))
    fusions = fusions if row.fused else {"": FUSIONS[""]}
    figures = exam.figures(
        lambda index: shares_of(task.model, values, exam.classes + 1, exam.cache, index), unseen, fusions
    )
    write_json(kept, figures)
    return figures


def protocol_of(args: argparse.Namespace, unseen: list[list[str]], seed: int) -> dict[str, Any]:
    """What every figure depends on."""
    return {
        "weights": args.weights,
        "unseen_classes": unseen,
        "classes": len(VOCABULARY.names),
        "templates": list(VOCABULARY.templates),
        "background_words": list(VOCABULARY.background),
        "ignore_policy": "drop; drawn masks have no ignored pixel",
        "selection": "none: the last weights; settings were chosen on other pictures and other unseen classes",
        "clip_read_the_names": "yes: captions of this CLIP's training name all classes",
        "pictures": {"train": args.train, "val": args.val, "seed": seed},
        "masks": "clip-es masks from image-level labels of the seen classes",
    }


if __name__ == "__main__":
    main()
