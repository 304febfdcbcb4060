"""The pixel-text head on classes it was never trained on: what each part adds, on drawn scenes.

python benchmarks/zero_shot_head.py --out runs/bench [--seeds 3] [--splits 2] [--train 140] [--val 50] [--steps 90]

Twelve classes, three of them unseen, two choices of the three. Training: pseudo masks that `clip-es masks` makes from
the image-level labels of the nine seen classes, and nothing else. `left out`: pictures with an unseen class are not
trained on; `kept in`: they are, and what is unseen in them is background of their masks. Evaluation: other pictures,
all twelve classes compete, background counts as a seen class. Nothing is chosen on these pictures: no checkpoint is
selected, and the settings were found on pictures of another seed. CLIP itself has read the names of all twelve classes
while it was trained (on captions), which any text head profits from.

Writes OUT/zero_shot_head.json: {row: {"seen", "unseen", "harmonic", "boundary_f", each with "_sd"}}, per cent, means
and standard deviations over seeds and splits. Trainings that are finished are not repeated: OUT/zero_shot_head/.
"""

from __future__ import annotations

import argparse
import csv
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from clip_es.config.presets import CLIPER_SCENES
from clip_es.config.run import DEFAULT, SpectralConfig
from clip_es.encoder import load_encoder
from clip_es.encoder.encode import PIXEL_MEAN, PIXEL_STD
from clip_es.masks import read_confidence, read_mask
from clip_es.metrics.boundaries import BoundaryMeter
from clip_es.metrics.zero_shot import ZeroShotMeter
from clip_es.pipelines.cli import main as clip_es
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.prompts import load_vocabulary
from clip_es.refine.spectral import picture_segments
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.segmentor.fusion import vote
from clip_es.segmentor.losses.edges import JointWeights, edge_targets, joint_edge_loss, shrink_edges
from clip_es.segmentor.losses.shape import MomentDistance
from clip_es.segmentor.models.clip_members import clip_members
from clip_es.segmentor.models.pixel_text import (
    ClipPixelEmbedding,
    PixelEmbedding,
    PixelText,
    TextTable,
    poly_lr,
    resize_scores,
    stream_labels,
    text_table,
)
from clip_es.store.tables import write_json
from clip_es.training import Plan, train

SIDE, STEM, CHANNELS = 192, 32, 48
RATE = 4e-3
"""Learning rate; ten times that for the few scalars."""
BONUS = 1.0
"""Added to the logits of unseen classes: chosen among 0.5, 1, 1.5, 2, 3 on 60 pictures of seed 77."""
FUSED = ("clip head", "clip head + edge + shape")
MEMBERS = 6
"""Embeddings of a patch in CLIP's space: its last token, four layers read as CLIPer does, the class token."""
SPLITS = ((9, 10, 12), (1, 4, 6))
"""Mask values of the unseen classes: plant, sheep, television; aeroplane, bottle, cat."""
VOCABULARY = load_vocabulary("scenes")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    embedding: str
    """closed, text or clip."""
    adapt: float = 0.0
    edge: float = 0.0
    shape: float = 0.0
    kept: bool = False
    """Whether pictures with unseen classes are trained on."""


ROWS: dict[str, Row] = {
    "plain head": Row("closed"),
    "text head": Row("text"),
    "clip head": Row("clip"),
    "clip head + edge": Row("clip", edge=0.3),
    "clip head + edge + shape": Row("clip", edge=0.3, shape=0.3),
    "plain head, kept in": Row("closed", kept=True),
    "clip head, kept in": Row("clip", kept=True),
}


@dataclass
class Cache:
    """Pictures and what the frozen CLIP says of them, on 12 x 12 patches; bfloat16 would do, float16 is smaller."""

    ids: list[str]
    pixels: Tensor
    """uint8 [picture 3 192 192]"""
    maps: list[Tensor]
    """[picture width 12 12] of blocks 2 and 4, and of the common space."""
    truth: np.ndarray

    def batch(self, index: Tensor, flip: bool) -> list[Tensor]:
        """Pixels and maps of some pictures; a mirrored picture has, nearly, the mirrored maps."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
        found = [(self.pixels[index].float() / 255 - mean) / std, *(maps[index].float() for maps in self.maps)]
        return [part.flip(-1) for part in found] if flip else found


def look(folder: Path, split: str) -> Cache:
    """Read a split and encode it."""
    encoder = load_encoder("scenes", device="cpu")
    tower = encoder.model.visual
    ids = (folder / f"ImageSets/Segmentation/{split}.txt").read_text().split()
    pictures = [np.asarray(Image.open(folder / f"JPEGImages/{name}.jpg").convert("RGB")) for name in ids]
    maps: list[list[Tensor]] = [[], [], []]
    with torch.no_grad():
        for picture in pictures:
            tokens = tower.embed(encoder._pixels([picture]), tower.positions((12, 12)))
            for number, block in enumerate(tower.transformer.blocks, start=1):
                tokens = block(tokens)
                if number == 2:
                    maps[0].append(_as_map(tokens))
            seen = tower.ln_post(tokens)
            maps[1].append(_as_map(seen))
            maps[2].append(clip_members(encoder, encoder._pixels([picture]), seen @ tower.proj))
    truth = np.stack([read_mask(folder / f"SegmentationClass/{name}.png") for name in ids])
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Cache(ids, pixels, [torch.cat(part).half() for part in maps], truth)


def _as_map(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (12, 12))


def pseudo_masks(folder: Path, cache: Cache, unseen: Sequence[int], out: Path) -> tuple[Tensor, Tensor]:
    """Labels and confidence [picture 48 48] that `clip-es masks` makes from the labels that are not unseen."""
    names = ("background", *VOCABULARY.names)
    rows = out.with_suffix(".csv")
    present = [sorted(set(np.unique(mask).tolist()) - {0, 255, *unseen}) for mask in cache.truth]
    with rows.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "labels"))
        kept = [(name, values) for name, values in zip(cache.ids, present, strict=True) if values]
        writer.writerows((f"{name}.jpg", ";".join(names[value] for value in values)) for name, values in kept)
    flags = ["masks", "folder", "--images", str(folder / "JPEGImages"), "--labels", str(rows), "--vocabulary", "scenes"]
    flags += ["--weights", "scenes", "--out", str(out), "--workers", "0", "--report-pictures", "0", "--device", "cpu"]
    if clip_es(flags):
        raise SystemExit("masks failed")
    labels, sure = torch.full((len(cache.ids), 48, 48), 0), torch.ones(len(cache.ids), 48, 48)
    for i, name in enumerate(cache.ids):
        if (out / f"labels/{name}.png").exists():
            labels[i] = torch.from_numpy(read_mask(out / f"labels/{name}.png")[2::4, 2::4].astype(np.int64))
            sure[i] = torch.from_numpy(read_confidence(out / f"confidence/{name}.png")[2::4, 2::4].copy())
    return labels, sure


class Model(nn.Module):
    """A convolutional stem beside the frozen maps, a head, and an edge head."""

    def __init__(self, row: Row, table: TextTable) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, 16, 2), *_convolution(16, STEM, 2), *_convolution(STEM, STEM, 1))
        widths = (STEM, 192, 192)
        self.edge = nn.Conv2d(CHANNELS, 1, 1)
        if row.embedding == "closed":
            self.head: PixelText | PixelEmbedding = PixelEmbedding(widths, len(table.names), CHANNELS)
            return
        if row.embedding == "text":
            embedding = PixelEmbedding(widths, 192, CHANNELS)
        else:
            embedding = ClipPixelEmbedding((*widths, MEMBERS * 192), 192, CHANNELS, adapt=row.adapt)
        self.head = PixelText(embedding, table, objectness=row.embedding == "clip", channels=CHANNELS)

    def forward(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits and edge logits [batch . 48 48]."""
        maps = [self.stem(batch[0]), *batch[1:]]
        if isinstance(self.head, PixelText):
            joined = self.head.embedding.joined(maps[: len(self.head.embedding.inputs)])
            return self.head.logits(maps, joined), self.edge(joined)
        joined = self.head.joined(maps[:3])
        return self.head.embed(joined, maps), self.edge(joined)


def _convolution(inside: int, outside: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]


class HeadTask:
    """The training of one head, for `clip_es.training.train`."""

    def __init__(
        self,
        row: Row,
        table: TextTable,
        cache: Cache,
        labels: Tensor,
        sure: Tensor,
        index: Tensor,
        steps: int,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.row, self.cache, self.steps = row, cache, steps
        self.model = Model(row, table)
        self.target = torch.where(sure < 0.95, 255, labels)
        self.edges = shrink_edges(edge_targets(labels, len(table.names), radius=1.0), (48, 48))
        self.index = index
        few = [p for name, p in self.model.named_parameters() if name.endswith(("mix", "log_scale", "nearness"))]
        rest = [p for name, p in self.model.named_parameters() if not name.endswith(("mix", "log_scale", "nearness"))]
        groups = [{"params": rest, "factor": 1.0}, {"params": few, "factor": 10.0, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.01)
        self.shape = MomentDistance() if row.shape else None

    def advance(self, step: int, batch: Any, /) -> dict[str, float]:
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = group["factor"] * poly_lr(RATE, step, self.steps) * min(1.0, (step + 1) / 20)
        chosen = self.index[torch.randint(len(self.index), (6,))]
        flip = bool(torch.rand(()) < 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            logits, edge = self.model(self.cache.batch(chosen, flip))
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
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])

    def save(self, out: Path, step: int) -> None:
        pass


@torch.no_grad()
def evaluate(
    model: Model,
    cache: Cache,
    values: Sequence[int],
    unseen: Sequence[int],
    fuse: Callable[[int, Tensor], Tensor] | None,
) -> dict[str, float]:
    """Seen, unseen, harmonic mIoU and boundary F, per cent; `values` are the mask values of the model's classes."""
    model.eval()
    seen = [value for value in range(1, 13) if value not in unseen]
    meter, outlines = ZeroShotMeter(seen, unseen), BoundaryMeter()
    to_value = torch.tensor(values)
    for start in range(0, len(cache.ids), 8):
        index = torch.arange(start, min(start + 8, len(cache.ids)))
        with torch.autocast("cpu", torch.bfloat16):
            logits, _ = model(cache.batch(index, False))
        shares = resize_scores(logits.float(), (SIDE, SIDE)).softmax(1)
        for i, share in zip(index.tolist(), shares, strict=True):
            labels = to_value[(share if fuse is None else fuse(i, share)).argmax(0)].numpy().astype(np.uint8)
            meter.update(labels, cache.truth[i])
            outlines.update(labels, cache.truth[i])
    found = meter.compute().percent()
    figures = {name: found[name] for name in ("seen", "unseen", "harmonic")}
    return {**figures, "boundary_f": 100 * outlines.mean([0, *range(1, 13)])}


def cliper_figures(folder: Path, cache: Cache, unseen: Sequence[int]) -> dict[str, float]:
    """Training-free CLIPer on the same pictures, asked for the same twelve classes."""
    encoder = load_encoder("scenes", device="cpu")
    settings = replace(DEFAULT, method="cliper", refine=()).using(cliper=CLIPER_SCENES)
    maker = MaskMaker(encoder, VOCABULARY, config=settings, labels="none")
    seen = [value for value in range(1, 13) if value not in unseen]
    meter, outlines = ZeroShotMeter(seen, unseen), BoundaryMeter()
    for name, truth in zip(cache.ids, cache.truth, strict=True):
        labels = maker(folder / f"JPEGImages/{name}.jpg").mask.decided
        meter.update(labels, truth)
        outlines.update(labels, truth)
    found = meter.compute().percent()
    figures = {name: found[name] for name in ("seen", "unseen", "harmonic")}
    return {**figures, "boundary_f": 100 * outlines.mean([0, *range(1, 13)])}


def segments_of(cache: Cache) -> list[Tensor]:
    """Segments [192 192] of each picture from CLIP's patches and colours, for the fusion."""
    found, settings = [], SpectralConfig(segments=12, eigenvectors=12)
    for i in range(len(cache.ids)):
        picture = cache.pixels[i].permute(1, 2, 0).numpy()
        regions, _ = picture_segments(picture, cache.maps[1][i], settings, (32, 32))
        found.append(F.interpolate(regions[None, None].float(), size=(SIDE, SIDE), mode="nearest")[0, 0].long())
    return found


def soft_vote(segments: list[Tensor], amount: float, i: int, share: Tensor) -> Tensor:
    return vote(share, segments[i], amount)


def many(counts: Sequence[int] = (1_000, 10_000)) -> None:
    """How long one picture takes with very many classes, and how much memory beside the rows themselves."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 192, 48, 48, generator=generator)
    for count in counts:
        rows = F.normalize(torch.randn(count + 1, 192, generator=generator), dim=1)
        table = TextTable(tuple(str(k) for k in range(count + 1)), rows, torch.arange(count + 1))
        before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        stream_labels(features, table, (SIDE, SIDE), scale=14.0)
        spent = time.process_time() - begun
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        told = f"{count} classes: {spent:.2f} s of one core, peak memory {grown:+.0f} MB"
        print(f"{told} (all logits at once: {count * SIDE**2 / 2**18:.0f} MB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--train", type=int, default=140)
    parser.add_argument("--val", type=int, default=50)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--data-seed", type=int, default=2026, help="of the drawn pictures")
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--amount", type=float, default=0.5, help="of soft voting over segments")
    parser.add_argument("--many", action="store_true", help="time a picture with 1,000 and 10,000 classes, no more")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.many:
        return many()
    work = args.out / "zero_shot_head"
    folder = work / f"scenes-{args.data_seed}"
    make(folder, ScenesConfig(args.train, args.val, args.data_seed, (SIDE, SIDE)))
    training, testing = look(folder, "train"), look(folder, "val")
    encoder = load_encoder("scenes", device="cpu")
    words = [(entry.name, *entry.synonyms) for entry in VOCABULARY.classes]
    every = text_table(encoder, words, VOCABULARY.background, VOCABULARY.templates)
    segments = segments_of(testing)
    results: dict[str, list[dict[str, float]]] = {}

    def note(row: str, split: int, seed: int, figures: dict[str, float]) -> None:
        results.setdefault(row, []).append(figures)
        told = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
        print(f"{row}, split {split}, seed {seed}: {told}", flush=True)

    prepared = []
    for split, unseen in enumerate(SPLITS[: args.splits]):
        note("cliper", split, 0, cliper_figures(folder, testing, unseen))
        labels, sure = pseudo_masks(folder, training, unseen, work / f"masks-{args.data_seed}-{split}")
        seen = [value for value in range(1, 13) if value not in unseen]
        table = text_table(encoder, [words[v - 1] for v in seen], VOCABULARY.background, VOCABULARY.templates)
        rank = torch.zeros(256, dtype=torch.int64)
        rank[[0, *seen]] = torch.arange(len(seen) + 1)
        clean = torch.tensor([not set(np.unique(mask).tolist()) & set(unseen) for mask in training.truth])
        prepared.append((split, unseen, seen, table, rank[labels], sure, clean))
    for seed, (split, unseen, seen, table, target, sure, clean) in product(range(args.seeds), prepared):
        ask = partial(evaluate, cache=testing, unseen=unseen)
        for name in args.rows:
            row = ROWS[name]
            index = torch.arange(len(clean)) if row.kept else clean.nonzero()[:, 0]
            task = HeadTask(row, table, training, target, sure, index, args.steps, seed)
            place = work / f"{args.data_seed}-{args.train}-{split}-{seed}-{name}".replace(" ", "_")
            config = {"row": vars(row), "steps": args.steps, "train": args.train}
            train(task, place, Plan(args.steps, args.steps, seed, config))
            head = task.model.head
            if not isinstance(head, PixelText):
                note(name, split, seed, ask(task.model, values=[0, *seen], fuse=None))
                continue
            values = list(range(13))
            if name == "clip head":
                head.set_table(every)
                note(f"{name}, no bonus", split, seed, ask(task.model, values=values, fuse=None))
            head.set_table(every, BONUS if row.embedding == "clip" else 0.0)
            note(name, split, seed, ask(task.model, values=values, fuse=None))
            if name in FUSED:
                fuse = partial(soft_vote, segments, args.amount)
                note(f"{name} + segments", split, seed, ask(task.model, values=values, fuse=fuse))
        table_of = {row: _summary(figures) for row, figures in results.items()}
        write_json(args.out / "zero_shot_head.json", table_of)
    print(f"\n{'':36}{'seen':>14}{'unseen':>14}{'harmonic':>14}{'boundary F':>14}")
    for row, found in table_of.items():
        cells = (f"{found[k]:8.1f} ±{found[k + '_sd']:4.1f}" for k in ("seen", "unseen", "harmonic", "boundary_f"))
        print(f"{row:36}{''.join(cells)}")


def _summary(figures: list[dict[str, float]]) -> dict[str, float]:
    found = {}
    for name in figures[0]:
        values = np.array([one[name] for one in figures])
        found[name], found[f"{name}_sd"] = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return found


if __name__ == "__main__":
    main()
