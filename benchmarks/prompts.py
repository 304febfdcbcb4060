"""Does sharpness find good templates, and do synonyms help? On scenes the model never saw, over several seeds.

    python benchmarks/prompts.py --seeds 5 --pictures 80

Prints, for 80 ImageNet templates and 24 of our own: sharpness and mIoU of the maps before refinement; their rank
correlation, and that of other label-only scores, with the 95 % interval of the mean over seeds; the gain of the
template of the lowest sharpness over `a photo of a {}.` and over the mean template; and the IoU of classes with a
common and with a rare or ambiguous name, without synonyms, with them in one sentence, and as the mean of their vectors.
Calling again continues.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from clip_es.config.run import ImageConfig, RunConfig
from clip_es.encoder import Encoder, load_encoder
from clip_es.metrics.ranks import spearman
from clip_es.pipelines.commands.sweep import joined_templates
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.sweep.features import FeatureCache, pooled_features
from clip_es.pipelines.sweep.sweep import Counter, SweepResult, sweep
from clip_es.prompts import Synonyms, Vocabulary, build_bank, load_vocabulary
from clip_es.prompts.sharpness import SharpnessConfig, sharpness_terms
from clip_es.records import Dataset, voc
from clip_es.scenes.captions import NAMES
from clip_es.scenes.dataset import ScenesConfig, make

PLAIN = "a photo of a {}."
RARE = 0.25
"""A class name is rare where captions use it at most this often; `plant` is also ambiguous: a factory or a flower."""


@dataclass(frozen=True)
class Seed:
    """What one drawn world says."""

    result: SweepResult
    predictors: dict[str, np.ndarray]
    """Label-only scores of each template, in the order of `templates`."""
    iou: dict[str, np.ndarray]
    """IoU of each class by form of synonyms, per cent, with the template of the lowest sharpness."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=80)
    parser.add_argument("--weights", default="scenes")
    parser.add_argument("--synonyms", choices=("none", "sentence", "mean"), default="none")
    parser.add_argument("--refine", nargs="*", default=[], help="refiners before mIoU, for example affinity")
    parser.add_argument("--root", type=Path, default=Path("runs/benchmark-prompts"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder, vocabulary = load_encoder(args.weights), load_vocabulary("scenes")
    templates = joined_templates(("imagenet80", "drawn24"))
    seeds = []
    for seed in range(args.seeds):
        root = make(args.root / f"scenes-{seed}", ScenesConfig(train=0, val=args.pictures, seed=31_000 + seed))
        dataset = voc(root, "val", class_id=vocabulary.class_id)
        config = RunConfig(refine=tuple(args.refine))
        seeds.append(measure(encoder, vocabulary, dataset, templates, args.root / "state", args.synonyms, config))
        found = seeds[-1].result
        print(f"seed {seed}: {found.pictures} pictures with several labels, rank correlation {found.correlation}")
    report(templates, seeds, vocabulary)


def measure(
    encoder: Encoder,
    vocabulary: Vocabulary,
    dataset: Dataset,
    templates: tuple[str, ...],
    state: Path,
    synonyms: Synonyms,
    config: RunConfig,
) -> Seed:
    cache = state / "features"
    result = sweep(
        encoder, vocabulary, dataset, templates, config=config, synonyms=synonyms, cache=cache, state=state
    )  # fmt: skip
    several = [record for record in dataset.records if len(record.class_ids) > 1]
    features = pooled_features(several, FeatureCache(encoder, ImageConfig(), cache), lambda items, what, total: items)
    labels = [record.class_ids for record in features.records]
    rows = [scores(encoder, vocabulary, features.vectors, labels, template, synonyms) for template in templates]
    predictors = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    iou = {form: class_iou(encoder, vocabulary, dataset, result.best.template, form, state) for form in FORMS}
    return Seed(result, predictors, iou)


FORMS = ("none", "sentence", "mean")


def scores(encoder: Encoder, vocabulary: Vocabulary, images, labels, template: str, synonyms) -> dict[str, float]:
    """Scores of a template that need labels but no masks. For all of them lower should be better."""
    bank = build_bank(encoder, vocabulary, templates=[template], synonyms=synonyms)
    classes, words, scale = bank.vectors[: bank.class_count], bank.background, encoder.logit_scale

    def sharp(**options) -> float:
        return float(sharpness_terms(images, labels, classes, scale, SharpnessConfig(**options), words).mean())

    logits = scale * images @ bank.vectors.T
    own = [logits[:, : bank.class_count].softmax(1)[i, list(ids)] for i, ids in enumerate(labels)]
    competing = []
    for i, ids in enumerate(labels):
        row = torch.cat([logits[i, list(ids)], logits[i, bank.class_count :]])
        competing.append(row.softmax(0)[: len(ids)])
    between = (classes @ classes.T).fill_diagonal_(0).sum() / (len(classes) * (len(classes) - 1))
    return {
        "sharpness (population, all classes)": sharp(),
        "sharpness (sample variance)": sharp(variance="sample"),
        "sharpness (labels + background)": sharp(softmax="labels+background"),
        "standard deviation / mean": _mean([p.std(correction=0) / p.mean() for p in own]),
        "variance": _mean([p.var(correction=0) for p in own]),
        "- mean score of the labels": -_mean([p.mean() for p in own]),
        "- smallest score of a label": -_mean([p.min() for p in own]),
        "- mean log score of the labels": -_mean([p.clamp_min(1e-12).log().mean() for p in own]),
        "- labels' share against background": -_mean([p.sum() for p in competing]),
        "- smallest, against labels + background": -_mean([p.min() for p in competing]),
        "cosine between classes": float(between),
        "cosine between classes and background": float((classes @ words.T).mean()),
    }


def _mean(values) -> float:
    return float(torch.stack(values).double().mean())


def class_iou(encoder: Encoder, vocabulary: Vocabulary, dataset: Dataset, template: str, form, state: Path):
    """IoU of each class, per cent, of masks with one form of synonyms."""
    maker = MaskMaker(encoder, vocabulary, config=RunConfig(refine=()), templates=[template], synonyms=form)
    counter = Counter([maker], state)
    sums = np.zeros((3, len(vocabulary.classes) + 1))
    for record in dataset.records:
        counts = counter(record, dataset.truth[record.image_id])
        sums[:, counts.classes] += np.stack([counts.right[0], counts.predicted[0], counts.true])
    right, predicted, true = sums
    return 100 * right[1:] / np.maximum(predicted + true - right, 1)[1:]


def report(templates: tuple[str, ...], seeds: list[Seed], vocabulary: Vocabulary) -> None:
    found = [{row.template: row for row in seed.result.scores} for seed in seeds]
    sharp = np.array([[rows[t].score for t in templates] for rows in found])
    miou = np.array([[rows[t].miou for t in templates] for rows in found])
    order = np.argsort(sharp.mean(0))
    print(f"\n{len(templates)} templates, mean over {len(seeds)} seeds (mIoU is an oracle figure)")
    print(" rank  sharpness   mIoU  template")
    for rank, i in enumerate(order, start=1):
        print(f"{rank:5d}  {sharp[:, i].mean():.5f}  {miou[:, i].mean():6.2f}  {templates[i]}")

    plain = templates.index(PLAIN)
    print("\nRank correlation with mIoU over seeds (negative: it finds good templates), and what its choice gains")
    for name in seeds[0].predictors:
        values = np.array([spearman(seed.predictors[name], row) for seed, row in zip(seeds, miou, strict=True)])
        choice = [int(seed.predictors[name].argmin()) for seed in seeds]
        gain = miou[range(len(seeds)), choice] - miou[:, plain]
        print(f"  {name:42s} {interval(values)}   choice over {PLAIN!r} {interval(gain)}")

    rows, chosen = range(len(seeds)), sharp.argmin(1)
    best, top = miou[rows, chosen], miou.max(1)
    print("\nmIoU of the template of the lowest sharpness of each seed")
    print(f"  chosen                      {interval(best)}   {sorted({templates[i] for i in chosen})}")
    print(f"  gain over {PLAIN!r} {interval(best - miou[:, plain])}")
    print(f"  gain over the mean template {interval(best - miou.mean(1))}")
    print(f"  short of the best by mIoU   {interval(top - best)}")

    names = [entry.name for entry in vocabulary.classes]
    rare = np.array([NAMES[name].get(name, 0.0) <= RARE for name in names])
    print(f"\nIoU by form of synonyms; rare or ambiguous names: {', '.join(np.array(names)[rare])}")
    base = np.array([seed.iou["none"] for seed in seeds])
    for form in FORMS:
        iou = np.array([seed.iou[form] for seed in seeds])
        gain = iou - base
        print(
            f"  {form:9s} rare {interval(iou[:, rare].mean(1))} (gain {interval(gain[:, rare].mean(1))}), "
            f"other {interval(iou[:, ~rare].mean(1))} (gain {interval(gain[:, ~rare].mean(1))})"
        )
    for k, name in enumerate(names):
        told = "  ".join(f"{form} {np.mean([seed.iou[form][k] for seed in seeds]):5.1f}" for form in FORMS)
        print(f"    {name:12s} in {NAMES[name].get(name, 0.0):4.0%} of its captions: {told}")


def interval(values: np.ndarray) -> str:
    """Mean with the half width of its 95 % interval over seeds."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{values.mean():+6.2f} +- {half:.2f}"


if __name__ == "__main__":
    main()
