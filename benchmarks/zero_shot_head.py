"""The pixel-text head on classes it was never trained on: what each part adds, on drawn scenes.

python benchmarks/zero_shot_head.py --out runs/bench [--weights scenes] [--seeds 3] [--train 160] [--val 50]

A quarter of the classes is unseen, two choices of them (in the world of 12 classes three, in that of 32 eight).
Training: pseudo masks that `clip-es masks` makes from the image-level labels of the seen classes, and nothing else.
Left out: pictures with an unseen class are not trained on. `kept in`: they are, and what is unseen in them is
background of their masks. Evaluation: other pictures, all classes compete, background counts as a seen class.

Writes OUT/zero_shot_head.json: {row: {"seen", "unseen", "harmonic", "boundary_f", each with "_sd", "protocol"}}, per
cent, means and standard deviations over seeds and choices. Trainings that are finished are not repeated:
OUT/zero_shot_head/. `--development` takes other pictures and other unseen classes; the settings were chosen there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zero_shot_data import (
    DEVELOPMENT_SEED,
    GRID,
    SIDE,
    Cache,
    held_out,
    look,
    pseudo_masks,
    segments_of,
    training_free,
)

from clip_es.encoder import load_encoder
from clip_es.metrics.boundaries import BoundaryMeter
from clip_es.metrics.zero_shot import ZeroShotMeter
from clip_es.pipelines.training_free import mixed
from clip_es.prompts import load_vocabulary
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.segmentor.fusion import vote
from clip_es.segmentor.losses.edges import JointWeights, edge_targets, joint_edge_loss, shrink_edges
from clip_es.segmentor.losses.shape import MomentDistance
from clip_es.segmentor.models.pixel_embedding import ClipPixelEmbedding, PixelEmbedding
from clip_es.segmentor.models.pixel_text import PixelText, poly_lr, resize_scores
from clip_es.segmentor.models.text_table import TextTable, text_table
from clip_es.store.tables import read_json, write_json
from clip_es.training import Plan, train

STEM, CHANNELS, BATCH = 32, 48, 6
RATE = 4e-3
"""Learning rate; ten times that for the few scalars."""
STEPS = 90
CLOSED_STEPS = 180
"""A head of fixed classes begins with nothing and needs more."""
SHARE = 0.7
"""Of training-free CLIPer in the mixed rows; among 0.3, 0.5, 0.7 on the development pictures."""
AMOUNT = 0.5
"""Of soft voting over segments."""
VOCABULARY = load_vocabulary("scenes")


@dataclass(frozen=True)
class Row:
    """One training."""

    embedding: str
    """closed, text or clip."""
    edge: float = 0.0
    shape: float = 0.0
    fused: bool = False

    @property
    def steps(self) -> int:
        """Of the optimiser."""
        return CLOSED_STEPS if self.embedding == "closed" else STEPS


ROWS: dict[str, Row] = {
    "plain head": Row("closed"),
    "text head": Row("text"),
    "clip head": Row("clip", fused=True),
    "clip head + edge": Row("clip", edge=0.3),
    "clip head + edge + shape": Row("clip", edge=0.3, shape=0.3, fused=True),
}
FUSIONS = {"": (0.0, 0.0), " + segments": (0.0, AMOUNT), " + cliper": (SHARE, 0.0)}
"""What follows the prediction -> share of CLIPer, amount of the vote."""


class Model(nn.Module):
    """A convolutional stem beside the frozen maps, a head, and an edge head."""

    def __init__(self, row: Row, table: TextTable, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, 16, 2), *_convolution(16, STEM, 2), *_convolution(STEM, STEM, 1))
        inside, embed = (STEM, *widths[:2]), table.rows.shape[1]
        self.edge = nn.Conv2d(CHANNELS, 1, 1)
        if row.embedding == "closed":
            self.head: PixelText | PixelEmbedding = PixelEmbedding(inside, len(table.names), CHANNELS)
            return
        own = row.embedding == "clip"
        embedding = (
            ClipPixelEmbedding((*inside, widths[2]), embed, CHANNELS)
            if own
            else PixelEmbedding(inside, embed, CHANNELS)
        )
        self.head = PixelText(embedding, table, objectness=own, channels=CHANNELS)

    def forward(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits and edge logits [batch . 48 48]."""
        maps = [self.stem(batch[0]), *batch[1:]]
        if isinstance(self.head, PixelText):
            joined = self.head.joined(maps)
            return self.head.logits(maps, joined), self.edge(joined)
        joined = self.head.joined(maps[:3])
        return self.head.embed(joined, maps), self.edge(joined)


def _convolution(inside: int, outside: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]


@dataclass(frozen=True)
class Lesson:
    """What is learnt from: pictures, targets on a quarter of their grid, which of them count, and the words."""

    cache: Cache
    labels: Tensor
    """Ranks of the seen classes, 0 background."""
    sure: Tensor
    index: Tensor
    table: TextTable


class HeadTask:
    """The training of one head, for `clip_es.training.train`."""

    def __init__(self, row: Row, lesson: Lesson, seed: int) -> None:
        torch.manual_seed(seed)
        self.row, self.lesson = row, lesson
        self.model = Model(row, lesson.table, [part.shape[1] for part in lesson.cache.maps])
        self.target = torch.where(lesson.sure < 0.95, 255, lesson.labels)
        self.edges = shrink_edges(edge_targets(lesson.labels, len(lesson.table.names), radius=1.0), (48, 48))
        named = list(self.model.named_parameters())
        few = [p for name, p in named if name.endswith(("mix", "log_scale", "nearness"))]
        rest = [p for name, p in named if not name.endswith(("mix", "log_scale", "nearness"))]
        groups = [{"params": rest, "factor": 1.0}, {"params": few, "factor": 10.0, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.01)
        self.shape = MomentDistance() if row.shape else None

    def advance(self, step: int, batch: Any, /) -> dict[str, float]:
        """One step."""
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = group["factor"] * poly_lr(RATE, step, self.row.steps) * min(1.0, (step + 1) / 20)
        chosen = self.lesson.index[torch.randint(len(self.lesson.index), (BATCH,))]
        flip = bool(torch.rand(()) < 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            logits, edge = self.model(self.lesson.cache.batch(chosen, flip))
        logits, edge = logits.float(), edge.float()
        target, edges = self.target[chosen], self.edges[chosen]
        if flip:
            target, edges = target.flip(-1), edges.flip(-1)
        logp = logits.log_softmax(1)
        if self.row.edge or self.row.shape:
            weights = JointWeights(1.0, self.row.edge, self.row.edge / 3, self.row.shape)
            loss = joint_edge_loss(logp, target, edge, edges, self.shape, weights)["total"]
        else:
            loss = F.nll_loss(logp, target, ignore_index=255)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {"loss": float(loss.detach())}

    def after(self, step: int, figures: dict[str, float]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Model and optimiser."""
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The same back."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])

    def save(self, out: Path, step: int) -> None:
        """Nothing besides the checkpoint."""


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


@torch.no_grad()
def shares_of(model: Model, values: Sequence[int], exam: Exam, index: Tensor) -> Tensor:
    """Probabilities [picture label 192 192] of all classes; `values` are the mask values of the model's."""
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = model(exam.cache.batch(index, False))
    shares = resize_scores(logits.float(), (SIDE, SIDE)).softmax(1)
    found = shares.new_zeros(len(shares), exam.classes + 1, SIDE, SIDE)
    found[:, list(values)] = shares
    return found


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
    parser.add_argument("--train", type=int, default=160)
    parser.add_argument("--val", type=int, default=50)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--finished", action="store_true", help="the table of what earlier calls have trained")
    parser.add_argument("--development", action="store_true", help="other pictures and other unseen classes")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    began, names = time.process_time(), VOCABULARY.names
    splits, seed = held_out(len(names), args.development), DEVELOPMENT_SEED if args.development else 2026
    work = args.out / "zero_shot_head" / args.weights
    folder = work / f"scenes-{len(names)}-{seed}"
    make(folder, ScenesConfig(args.train, args.val, seed, (SIDE, SIDE)))
    encoder = load_encoder(args.weights, device="cpu")
    if encoder.patch * GRID[0] != SIDE:
        raise SystemExit(f"a CLIP of {SIDE // GRID[0]}-pixel patches is needed")
    training, testing = look(folder, "train", encoder), look(folder, "val", encoder)
    exam = Exam(testing, training_free(folder, testing, encoder, VOCABULARY), segments_of(testing), len(names))
    words = [(entry.name, *entry.synonyms) for entry in VOCABULARY.classes]
    every = text_table(encoder, words, VOCABULARY.background, VOCABULARY.templates)
    table = Table(args.out, protocol_of(args, [[names[v - 1] for v in unseen] for unseen in splits], seed))
    for split, unseen in enumerate(splits):
        figures = exam.figures(lambda index: exam.cliper[index].float(), unseen, {"": (0.0, 0.0)})
        table.note("cliper", f"split {split}", figures[""], {"training": "none"})
    lessons = {}
    for split, unseen in enumerate(splits):
        seen = [value for value in range(1, len(names) + 1) if value not in unseen]
        labels, sure = pseudo_masks(folder, training, unseen, work / f"masks-{seed}-{split}", args.weights, names)
        rank = torch.zeros(256, dtype=torch.int64)
        rank[[0, *seen]] = torch.arange(len(seen) + 1)
        asked = text_table(encoder, [words[v - 1] for v in seen], VOCABULARY.background, VOCABULARY.templates)
        clean = training.clean(unseen).nonzero()[:, 0]
        for left, index in (("", clean), (", kept in", torch.arange(len(training.ids)))):
            lessons[split, left] = seen, Lesson(training, rank[labels], sure, index, asked)
    # Seed by seed, so that a run that is stopped leaves a whole table of fewer seeds.
    for number, left, split, name in product(range(args.seeds), ("", ", kept in"), range(len(splits)), args.rows):
        row, (seen, lesson) = ROWS[name], lessons[split, left]
        place = work / f"{seed}-{args.train}-{split}-{number}-{name}{left}".replace(" ", "_").replace(",", "")
        if args.finished and not figures_file(place, exam).is_file():
            continue
        figures = trained_figures(row, lesson, number, place, (seen, splits[split], every), exam)
        about = {"trained_pictures": len(lesson.index), "unseen_pictures": "kept in" if left else "left out"}
        for fusion, found in figures.items():
            more = {**about, "steps": row.steps, "share_of_cliper": FUSIONS[fusion][0]}
            table.note(f"{name}{fusion}{left}", f"split {split}, seed {number}", found, more)
        table.write()
    table.show()
    print(f"\n{time.process_time() - began:.0f} s of processor time")


def figures_file(place: Path, exam: Exam) -> Path:
    """Where the figures of a training stand once it is evaluated."""
    return place / f"figures-{len(exam.cache.ids)}-{SHARE}-{AMOUNT}.json"


def trained_figures(
    row: Row, lesson: Lesson, seed: int, place: Path, asked: tuple[list[int], Sequence[int], TextTable], exam: Exam
) -> dict[str, dict[str, float]]:
    """Train a row and evaluate it with its fusions, or read what an earlier call found. `asked`: seen and unseen mask
    values, and the rows of all classes."""
    kept = figures_file(place, exam)
    if kept.is_file():
        return read_json(kept)
    values, unseen, every = asked
    task = HeadTask(row, lesson, seed)
    config = {"row": vars(row), "steps": row.steps, "train": len(lesson.cache.ids)}
    train(task, place, Plan(row.steps, row.steps, seed, config))
    values = [0, *values]
    if isinstance(task.model.head, PixelText):
        task.model.head.set_table(every)
        values = list(range(exam.classes + 1))
    fusions = FUSIONS if row.fused else {"": FUSIONS[""]}
    figures = exam.figures(lambda index: shares_of(task.model, values, exam, index), unseen, fusions)
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
