"""What each step of CLIP-ES adds: the same pictures, one step more in each row.

GradCAM on plain logits, + softmax over the labels, + background words, + the templates of low sharpness (or of a large
share), + synonyms, + affinity, + CRF. No row uses the ground truth to choose anything: templates are chosen on pictures
with labels alone, and the background score has the same fixed power in all rows. `climb_best` has the steps of the
preset `best` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from clip_es.config.presets import BEST_MULTISCALE
from clip_es.config.run import LocalizeConfig, RunConfig
from clip_es.config.views import ViewsConfig
from clip_es.encoder import Encoder
from clip_es.errors import ConfigError
from clip_es.localize import pooled_embedding
from clip_es.masks import read_mask
from clip_es.metrics.bootstrap import resampled_miou
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.prompts import Vocabulary, build_bank
from clip_es.prompts.choice import SELECT, Select
from clip_es.prompts.share import label_share
from clip_es.prompts.sharpness import sharpness
from clip_es.prompts.templates import load_templates
from clip_es.records import Dataset
from clip_es.refine.registry import REFINERS

PLAIN_TEMPLATE = "a photo of a {}."
"""What the rows before the chosen templates use."""

TEMPLATE_LISTS = ("imagenet80", "drawn24")
"""The packaged lists that templates are chosen from."""

TEMPLATE_ROWS: dict[Select, str] = {
    "sharpness": "+ templates of low sharpness",
    "share": "+ templates of a large share",
}
"""The name of the row where the chosen templates come in."""

_MOST_BY_SHARE = 5
"""Templates fused when the share chooses. On 80 scenes that no figure uses one did as well, the upper half less."""


@dataclass(frozen=True)
class Rung:
    """One row of the ladder."""

    name: str
    miou: float
    """Per cent, background included."""
    error: float = float("nan")
    """Standard error of `miou`, by bootstrap over the pictures."""
    gain_error: float = float("nan")
    """Standard error of the gain over the row before, on the same samples of the pictures."""


@dataclass(frozen=True)
class Ladder:
    """The rows, and the templates that were chosen from."""

    rungs: list[Rung]
    ranked: list[tuple[str, float]]
    """Every template with its score, the best first."""
    select: Select = "sharpness"
    """What the score is."""

    @property
    def chosen(self) -> list[str]:
        """The templates whose mean vectors were used."""
        return fused_templates(self.ranked, self.select)

    @property
    def choice(self) -> str:
        """The chosen templates in words, as the end of a sentence."""
        if self.select == "share":
            return f"the {len(self.chosen)} of the largest share of {len(self.ranked)}"
        return f"the {len(self.chosen)} of lower sharpness of {len(self.ranked)}"

    def rows(self) -> list[tuple[str, str, str]]:
        """Step, mIoU and gain over the step before, both with their standard errors."""
        rows = [(self.rungs[0].name, f"{self.rungs[0].miou:.1f} +- {self.rungs[0].error:.1f}", "")]
        for last, rung in pairwise(self.rungs):
            gain = f"{rung.miou - last.miou:+.1f} +- {rung.gain_error:.1f}"
            rows.append((rung.name, f"{rung.miou:.1f} +- {rung.error:.1f}", gain))
        return rows


def measure(
    encoder: Encoder,
    vocabulary: Vocabulary,
    train: Dataset,
    val: Dataset,
    config: RunConfig,
    track: Callable[[Iterable, str, int], Iterable] = lambda items, what, total: items,
    *,
    select: Select = "sharpness",
) -> Ladder:
    """Choose packaged templates by `select` on `train`, from labels alone, and climb on `val`.

    The half of lower sharpness is fused: sharpness orders templates rightly on the whole, while the very lowest are
    those under which every label scores alike because none is found ("a photo of the hard to see {}."). The share of
    the labels has no such exceptions, so the five of the largest share are fused.
    Templates with a word the CLIP never read are left out: what they say is noise, and noise can score well.
    """
    every = dict.fromkeys(t for name in TEMPLATE_LISTS for t in load_templates(name))
    templates = [template for template in every if encoder.reads(template.format(""))]
    ranked = ranked_templates(encoder, vocabulary, train, templates, track, select=select)
    rungs = climb(encoder, vocabulary, val, fused_templates(ranked, select), config, track, select=select)
    return Ladder(rungs, ranked, select)


def fused_templates(ranked: Sequence[tuple[str, float]], select: Select = "sharpness") -> list[str]:
    """The templates to fuse, of those in the order of their score: the half of lower sharpness, or five by share."""
    most = _MOST_BY_SHARE if select == "share" else (len(ranked) + 1) // 2
    return [template for template, _ in ranked[:most]]


def ranked_templates(
    encoder: Encoder,
    vocabulary: Vocabulary,
    dataset: Dataset,
    templates: Sequence[str],
    track: Callable[[Iterable, str, int], Iterable] = lambda items, what, total: items,
    *,
    select: Select = "sharpness",
) -> list[tuple[str, float]]:
    """Templates with their score on the multi-label pictures of a data set, the best first.

    Bare class names stand in the templates, so that synonyms cannot stand in for a bad one.
    """
    maker = MaskMaker(encoder, vocabulary)
    several = [record for record in dataset.records if len(record.class_ids) > 1]
    found = []
    for record in track(several, "features", len(several)):
        found.append(pooled_embedding(encoder, maker.encode([maker.read(record)])[0]))
    images, labels, scale = torch.stack(found), [record.class_ids for record in several], encoder.logit_scale
    scores = []
    for template in templates:
        bank = build_bank(encoder, vocabulary, templates=[template], synonyms="none", background=select == "share")
        classes = bank.vectors[: bank.class_count]
        if select == "share":
            scores.append((template, label_share(images, labels, classes, bank.background, scale)))
        else:
            scores.append((template, sharpness(images, labels, classes, scale)))
    return sorted(scores, key=lambda pair: SELECT[select].sign * pair[1])


def climb(
    encoder: Encoder,
    vocabulary: Vocabulary,
    dataset: Dataset,
    templates: Sequence[str],
    config: RunConfig,
    track: Callable[[Iterable, str, int], Iterable] = lambda items, what, total: items,
    *,
    select: Select = "sharpness",
) -> list[Rung]:
    """mIoU of each row over the pictures of a data set that have a truth. `select` names the row of the templates."""
    return _climbed(rungs(encoder, vocabulary, templates, config, select), dataset, track, one_encoding=True)


def climb_best(
    encoder: Encoder,
    vocabulary: Vocabulary,
    dataset: Dataset,
    config: RunConfig,
    track: Callable[[Iterable, str, int], Iterable] = lambda items, what, total: items,
) -> list[Rung]:
    """mIoU of each step from CLIP-ES to the preset `best`, whose settings `config` is.

    Raises ConfigError: the settings join no methods.
    """
    return _climbed(best_rungs(encoder, vocabulary, config), dataset, track, one_encoding=False)


def _climbed(
    makers: dict[str, MaskMaker],
    dataset: Dataset,
    track: Callable[[Iterable, str, int], Iterable],
    one_encoding: bool,
) -> list[Rung]:
    matrices: dict[str, list[ConfusionMatrix]] = {name: [] for name in makers}
    records = [record for record in dataset.records if record.image_id in dataset.truth]
    for record in track(records, "ladder", len(records)):
        truth = read_mask(dataset.truth[record.image_id])
        picture = seen = None
        for name, maker in makers.items():
            if picture is None or seen is None or not one_encoding:
                picture = maker.read(record)
                seen = maker.encode([picture])[0]
            mask = maker.mask_of(picture, seen, record.class_ids).mask
            matrices[name].append(ConfusionMatrix(len(maker.vocabulary.classes) + 1))
            matrices[name][-1].update(mask.decided, truth)
    return _with_errors(matrices)


def _with_errors(matrices: dict[str, list[ConfusionMatrix]]) -> list[Rung]:
    """The rows, from one matrix for each of the same pictures."""
    found: list[Rung] = []
    before = None
    for name, pictures in matrices.items():
        if not pictures:
            found.append(Rung(name, float("nan")))
            continue
        whole = ConfusionMatrix(pictures[0].num_classes, pictures[0].undecided)
        for picture in pictures:
            whole.merge(picture)
        draws = 100 * resampled_miou(pictures)
        gain_error = float("nan") if before is None else float(np.nanstd(draws - before))
        found.append(Rung(name, 100 * whole.compute().miou, float(np.nanstd(draws)), gain_error))
        before = draws
    return found


def rungs(
    encoder: Encoder,
    vocabulary: Vocabulary,
    templates: Sequence[str],
    config: RunConfig,
    select: Select = "sharpness",
) -> dict[str, MaskMaker]:
    """The makers of all rows, each with one step more than the one before."""
    plain = build_bank(encoder, vocabulary, templates=[PLAIN_TEMPLATE], synonyms="none")
    chosen = build_bank(encoder, vocabulary, templates=templates, synonyms="none")
    fused = build_bank(encoder, vocabulary, templates=templates)
    bare = replace(config, refine=())
    return {
        name: MaskMaker(encoder, vocabulary, bank, settings)
        for name, bank, settings in (
            ("GradCAM on logits", plain, bare.using(localize=LocalizeConfig(softmax=False))),
            ("+ softmax over the labels", plain, bare.using(localize=LocalizeConfig(background=False))),
            ("+ background words", plain, bare),
            (TEMPLATE_ROWS[select], chosen, bare),
            ("+ synonyms", fused, bare),
            ("+ affinity", fused, replace(config, refine=("affinity",))),
            ("+ CRF", fused, replace(config, refine=("affinity", "crf"))),
        )
    }


def best_rungs(encoder: Encoder, vocabulary: Vocabulary, config: RunConfig) -> dict[str, MaskMaker]:
    """The makers of all rows that lead to the preset `best`. Raises ConfigError: the settings join no methods."""
    joint = config.methods.joint
    if config.method != "joint":
        raise ConfigError("this ladder leads to two methods joined", expected="--preset best", found=config.method)
    grid = tuple(name for name in config.refine if REFINERS[name].grid != "pixels")
    full = tuple(name for name in config.refine if REFINERS[name].grid == "pixels")
    plain = replace(config, views=ViewsConfig(), refine=(*grid, *(name for name in full if name != "segments")))
    fixed = plain.using(joint=replace(joint, calibration="fixed"))
    fast = replace(plain, refine=config.refine)
    rows = {
        joint.second: replace(plain, method=joint.second),
        f"{joint.first} in its place": replace(plain, method=joint.first, refine=plain.refine[len(grid) :]),
        "both, the mean": fixed,
        "+ a threshold for each map": fast if "segments" not in full else plain,
        "+ segments (best-fast)": fast,
        "+ shifts": replace(config, views=replace(config.views, certainty=0.0)),
        "+ sure views count more (best)": config,
        "+ scales (best-multiscale)": replace(config, views=BEST_MULTISCALE.views),
    }
    bank = build_bank(encoder, vocabulary)
    return {name: MaskMaker(encoder, vocabulary, bank, settings) for name, settings in rows.items()}
