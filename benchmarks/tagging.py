"""How good labels from CLIP itself are: the ladder of steps, honest confidences, and masks without any label given.

    python benchmarks/tagging.py --pictures 300

Prints, on scenes the model never saw and with thresholds chosen on others: mAP, precision, recall, F1 and exact label
sets of plain global scores and of each step; how far a confidence is off; and the mIoU of the whole pipeline with the
true labels, with labels found, and with every class of the vocabulary as label. Also on scenes of one class or more,
for which nothing was chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from clip_es.config.run import RunConfig
from clip_es.encoder import Encoder
from clip_es.localize import pooled_embedding
from clip_es.localize.gradcam.closed_form import LastBlock
from clip_es.masks import read_mask
from clip_es.metrics.labels import LabelScores, best_threshold, label_scores, reliability
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.records import Dataset, voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.tagging import TaggingConfig, decide_tags, fit_confidence, tag
from clip_es.types import EncodedImage, Picture, TextBank

SETTINGS = TaggingConfig()
LADDER: dict[str, TaggingConfig] = {
    "best patch alone": replace(SETTINGS, refine=False, reidentify=False, peak=1),
    "+ mean of the best patches": replace(SETTINGS, refine=False, reidentify=False),
    "+ carried along the attention": replace(SETTINGS, reidentify=False),
    "+ second look at the region": SETTINGS,
}
OTHERS: dict[str, TaggingConfig] = {
    "TagCLIP's best patch (peak 1)": replace(SETTINGS, peak=1),
    "without carrying": replace(SETTINGS, refine=False),
    "patches mixed (mix attention)": replace(SETTINGS, mix="attention"),
    "mixed, without second look": replace(SETTINGS, mix="attention", reidentify=False),
    "region without surroundings": replace(SETTINGS, context=0, zoom=100.0),
}
Scorer = Callable[[Encoder, Picture, EncodedImage, TextBank], np.ndarray]


@dataclass(frozen=True)
class Scored:
    """Pictures by classes."""

    scores: dict[str, np.ndarray]
    present: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--weights", default="scenes")
    parser.add_argument("--refine", nargs="*", default=["affinity", "crf"])
    parser.add_argument("--variants", action="store_true", help="also score what was tried beside the ladder")
    parser.add_argument("--no-masks", dest="masks", action="store_false", help="labels only")
    parser.add_argument("--root", type=Path, default=Path("runs/benchmark-tagging"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    maker = MaskMaker.load(args.weights, config=RunConfig(refine=tuple(args.refine)))
    print(f"on scenes of two classes or more, 1 to 5 objects; thresholds from {args.pictures} others of another seed")
    tuned = scored(maker, drawn(maker, args.root / "tune", args.pictures, seed=41_001), args.variants)
    held = drawn(maker, args.root / "held", args.pictures, seed=2026)
    found = scored(maker, held, args.variants)
    thresholds = {name: best_threshold(row, tuned.present) for name, row in tuned.scores.items()}
    table(found, thresholds)
    ours = next(reversed(LADDER))
    centre, steepness = fit_confidence(*(torch.from_numpy(part) for part in (tuned.scores[ours], tuned.present)))
    print(f"\nfitted on the others: centre {centre:.4f}, steepness {steepness:.3f} (in use: {SETTINGS})")
    honest(found.scores[ours], found.present)
    loose = drawn(maker, args.root / "one", args.pictures, seed=53_001, least_classes=1)
    few = scored(maker, loose, args.variants)
    print("\nscenes of one class or more, thresholds as above")
    table(few, thresholds)
    honest(few.scores[ours], few.present)
    if args.masks:
        masks(maker, held, found, thresholds)


def drawn(maker: MaskMaker, root: Path, count: int, seed: int, least_classes: int = 2) -> Dataset:
    make(root, ScenesConfig(train=0, val=count, seed=seed, least_classes=least_classes))
    return voc(root, "val", class_id=maker.vocabulary.class_id)


def scored(maker: MaskMaker, dataset: Dataset, variants: bool) -> Scored:
    scorers: dict[str, Scorer] = dict(BASELINES)
    for name, config in (LADDER | OTHERS if variants else LADDER).items():
        scorers[name] = partial(steps, config)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
    present = np.zeros((len(dataset.records), maker.bank.class_count), dtype=bool)
    for number, record in enumerate(dataset.records):
        present[number, list(record.class_ids)] = True
        picture = maker.read(record)
        seen = maker.encode([picture])[0]
        for name, score in scorers.items():
            rows[name].append(score(maker.encoder, picture, seen, maker.bank))
    return Scored({name: np.stack(row) for name, row in rows.items()}, present)


def steps(config: TaggingConfig, encoder: Encoder, picture: Picture, seen: EncodedImage, bank: TextBank) -> np.ndarray:
    return tag(encoder, picture, seen, bank, config).scores.numpy()


@torch.no_grad()
def class_token(encoder: Encoder, picture: Picture, seen: EncodedImage, bank: TextBank) -> np.ndarray:
    """CLIP as it was made: the class token's softmax over classes and background words."""
    visual = encoder.model.visual
    block = visual.transformer.blocks[-1]
    values = block.attn.project(block.ln_1(seen.tokens))[2]
    z = seen.tokens[:1] + block.attn.merge(seen.last_attention[:, :1] @ values)
    z = z + block.mlp(block.ln_2(z))
    vector = F.normalize(visual.ln_post(z) @ visual.proj, dim=-1)[0]
    return (encoder.logit_scale * bank.vectors @ vector).softmax(0)[: bank.class_count].numpy()


@torch.no_grad()
def mean_token(encoder: Encoder, picture: Picture, seen: EncodedImage, bank: TextBank) -> np.ndarray:
    """What CLIP-ES scores: the mean of the patch tokens, softmax over classes and background words."""
    vector = pooled_embedding(encoder, seen)
    return (encoder.logit_scale * bank.vectors @ vector).softmax(0)[: bank.class_count].numpy()


@torch.no_grad()
def cosine(encoder: Encoder, picture: Picture, seen: EncodedImage, bank: TextBank) -> np.ndarray:
    """The same vector's cosine, stretched to 0..1."""
    block = LastBlock(encoder.model.visual, seen.tokens, seen.last_attention)
    return ((bank.vectors[: bank.class_count] @ block.embedding + 1) / 2).numpy()


BASELINES: dict[str, Scorer] = {
    "whole picture, class token": class_token,
    "whole picture, mean of patches": mean_token,
    "whole picture, cosine": cosine,
}


def table(found: Scored, thresholds: dict[str, float]) -> None:
    print(f"\n{'labels':34s}   mAP      P     R    F1  exact   mAP over the first row, 95 % of draws")
    first = next(iter(found.scores.values()))
    for name, row in found.scores.items():
        low, high = gain(row, first, found.present)
        print(f"{name:34s} {line(label_scores(row, found.present, thresholds[name]))}   {low:+.1f} .. {high:+.1f}")
    told = label_scores(*last_confidences(found), SETTINGS.threshold)
    print(f"{'as shipped: confidence >= ' + format(SETTINGS.threshold, 'g'):34s} {line(told)}")


def line(s: LabelScores) -> str:
    shares = (s.mean_average_precision, s.precision, s.recall, s.f1, s.exact)
    return "{:5.1f}  {:5.1f} {:5.1f} {:5.1f}  {:5.1f}".format(*(100 * share for share in shares))


def last_confidences(found: Scored) -> tuple[np.ndarray, np.ndarray]:
    rows = found.scores[next(reversed(LADDER))]
    return np.stack([decide_tags(torch.from_numpy(row)).confidences.numpy() for row in rows]), found.present


def gain(scores: np.ndarray, other: np.ndarray, present: np.ndarray, draws: int = 300) -> tuple[float, float]:
    """Points of mAP more than the other scores have, over pictures drawn again with replacement."""
    rng = np.random.default_rng(0)
    picks = [rng.integers(0, len(scores), len(scores)) for _ in range(draws)]
    mean = [[label_scores(s[p], present[p]).mean_average_precision for s in (scores, other)] for p in picks]
    low, high = np.quantile(100 * np.diff(mean)[:, 0] * -1, (0.025, 0.975))
    return float(low), float(high)


def honest(scores: np.ndarray, present: np.ndarray) -> None:
    tags = [decide_tags(torch.from_numpy(row)) for row in scores]
    p = np.stack([t.confidences.numpy() for t in tags])
    whole = reliability(p, present)
    print(f"confidence is off by {100 * whole.error:.1f} points on average (all classes):")
    for mean, share, count in whole.bins:
        print(f"  told {mean:.2f}, right {share:.2f}  ({int(count)})")
    exact = ((p >= SETTINGS.threshold) == present).all(1)
    sure = np.array([t.sure for t in tags])
    print(f"per picture: sure {sure.mean():.3f} on average, all labels right {exact.mean():.3f}")
    order = np.argsort(-sure)
    for what, part in (("surest", order[: len(order) // 2]), ("other", order[len(order) // 2 :])):
        print(f"  {what} half: sure {sure[part].mean():.2f}, all labels right {exact[part].mean():.2f}")


def masks(maker: MaskMaker, dataset: Dataset, found: Scored, thresholds: dict[str, float]) -> None:
    """mIoU with labels from various places, the masks before pixels are left undecided."""
    ours, plain = last_confidences(found)[0] >= SETTINGS.threshold, "whole picture, class token"
    sources = {
        "labels given": found.present,
        "labels found": ours,
        "labels found by the class token": found.scores[plain] >= thresholds[plain],
        "every class of the vocabulary": np.ones_like(found.present),
    }
    matrices = {name: ConfusionMatrix(maker.bank.class_count + 1) for name in sources}
    for number, record in enumerate(dataset.records):
        picture, truth = maker.read(record), read_mask(dataset.truth[record.image_id])
        seen = maker.encode([picture])[0]
        done: dict[tuple[int, ...], np.ndarray] = {(): np.zeros(picture.size_hw, np.uint8)}
        for name, given in sources.items():
            ids = tuple(int(k) for k in np.flatnonzero(given[number]))
            if ids not in done:
                done[ids] = maker.mask_of(picture, seen, ids).mask.decided
            matrices[name].update(done[ids], truth)
    print(
        f"\nmasks of {len(dataset.records)} scenes, refined by {', '.join(maker.config.refine) or 'nothing'}     mIoU"
    )
    for name, matrix in matrices.items():
        print(f"  {name:52s} {100 * matrix.compute().miou:6.1f}")


if __name__ == "__main__":
    main()
