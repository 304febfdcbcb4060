"""Which template finds all the labels: a score of many templates, and with ground truth the mIoU of their maps.

Pictures are encoded once, however many templates there are: sharpness and the labels' share compare their pooled
features, which are cached on disk, with the text of each template. With ground truth a picture goes through the encoder
once more, and only its last block runs for each template. What was finished before is not computed again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from clip_es.config.run import RunConfig
from clip_es.encoder import Encoder
from clip_es.errors import ConfigError, DataError
from clip_es.masks import read_mask
from clip_es.metrics.ranks import RankCorrelation, spearman, with_interval
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.sweep.features import FeatureCache, SavedArrays, digest, picture_digest, pooled_features
from clip_es.prompts.bank import Synonyms, build_bank
from clip_es.prompts.choice import SELECT, Select
from clip_es.prompts.share import label_share_terms, labelled, no_background
from clip_es.prompts.sharpness import SharpnessConfig, several_labels, sharpness_terms
from clip_es.prompts.vocabulary import Vocabulary
from clip_es.records import Dataset, Problem
from clip_es.types import ImageRecord, TextBank

RESAMPLES = 1000
"""Resamples of the pictures behind the interval of the rank correlation."""

_GROUPS = 500
"""Pictures are resampled in at most this many groups, which bounds the memory for large data sets."""

_SENTENCES_AT_ONCE = 1024
"""Sentences encoded together, in batches that the encoder chooses."""

Track = Callable[..., Iterator[Any]]
"""`track(items, what, total)`: the items, while a progress bar moves."""


def quiet(items, what: str, total: int):
    """A `Track` without a bar."""
    return iter(items)


@dataclass(frozen=True)
class TemplateScore:
    """One row of the table."""

    template: str
    score: float
    """Its sharpness, lower is better, or the share of the labels, higher is better: what the sweep selects by."""
    miou: float | None
    """Per cent, background included, of masks from this template; None without ground truth."""


@dataclass(frozen=True)
class SweepResult:
    """The templates, the best by the score first, and how well their order agrees with that by mIoU."""

    scores: tuple[TemplateScore, ...]
    correlation: RankCorrelation | None
    """Between score and mIoU: negative where templates of lower score make better masks. None without ground truth."""
    pictures: int
    """Pictures that the score is measured on: with several labels for sharpness, with any for the share."""
    with_truth: int
    """Pictures with ground truth, which mIoU is measured on."""
    problems: tuple[Problem, ...] = ()
    select: Select = "sharpness"
    """What the templates are ordered by."""

    @property
    def best(self) -> TemplateScore:
        """The template of the best score."""
        return self.scores[0]


def sweep(
    encoder: Encoder,
    vocabulary: Vocabulary,
    dataset: Dataset,
    templates: Sequence[str],
    *,
    config: RunConfig,
    select: Select = "sharpness",
    sharpness: SharpnessConfig | None = None,
    synonyms: Synonyms = "sentence",
    truth: bool = True,
    cache: Path | None = None,
    state: Path | None = None,
    track: Track = quiet,
) -> SweepResult:
    """The score of each template, from the labels of a data set; with ground truth also the mIoU of its maps.

    `select="sharpness"` scores by sharpness, as `sharpness` defines it, over the pictures with several labels; "share"
    by what the labels hold against the background words, over all pictures with labels.
    `config.refine` says what is done to the maps before they are scored; `cache` holds features of any sweep (default:
    the user's cache folder), `state` what this one has finished, so that calling again continues.
    Raises ConfigError: no template, one without `{}`, no picture with two labels (for the share: with one), or, for the
    share, no background word. DataError: no picture can be read.
    """
    sharpness = sharpness or SharpnessConfig()
    against_background = select == "share" or sharpness.softmax != "classes"
    if not templates or len(set(templates)) < len(templates):
        raise ConfigError("a sweep compares templates, each once", found=f"{len(templates)} templates")
    if select == "share" and not vocabulary.background:
        raise no_background(vocabulary.name)
    count = several_labels if select == "sharpness" else labelled
    chosen = [dataset.records[i] for i in count([record.class_ids for record in dataset.records])]
    judged = [record for record in dataset.records if truth and record.image_id in dataset.truth]
    features = pooled_features(chosen, FeatureCache(encoder, config.image, cache), track)
    labels = [record.class_ids for record in features.records]
    pictures = digest(features.vectors.numpy().tobytes(), json.dumps(labels).encode())
    words = [repr(vocabulary.classes), vocabulary.background if against_background else ()]
    definition = asdict(sharpness) if select == "sharpness" else select
    told = ("terms", encoder.source, encoder.config.half_weights, words, synonyms, definition, pictures)
    saved = None if state is None else SavedArrays(state, *told)
    terms = {t: known for t in templates if saved and (known := saved.load(digest(t.encode()))) is not None}
    missing = [template for template in templates if template not in terms]
    found = banks(encoder, vocabulary, missing, synonyms, background=against_background)
    for template, bank in track(found, "templates", len(missing)):
        text, others = bank.vectors.cpu().split([bank.class_count, len(bank.names) - bank.class_count])
        if select == "share":
            row = label_share_terms(features.vectors, labels, text, others, encoder.logit_scale)
        else:
            row = sharpness_terms(features.vectors, labels, text, encoder.logit_scale, sharpness, others)
        terms[template] = row.numpy()
        if saved:
            saved.save(digest(template.encode()), terms[template])

    counted: list[PictureCounts] = []
    problems = list(features.problems)
    if judged:
        makers = [
            MaskMaker(encoder, vocabulary, config=config, templates=[template], synonyms=synonyms)
            for template in track(templates, "text", len(templates))
        ]
        counter = Counter(makers, state, dataset.truth_table)
        for record in track(judged, "maps", len(judged)):
            try:
                counted.append(counter(record, dataset.truth[record.image_id]))
            except DataError as error:
                problems.append(Problem.of(record.image_id, error, "maps"))
    ids = [record.image_id for record in features.records]
    stacked = np.stack([terms[template] for template in templates])
    return _result(templates, stacked, ids, counted, len(vocabulary.classes) + 1, problems, select)


def banks(
    encoder: Encoder, vocabulary: Vocabulary, templates: Sequence[str], synonyms: Synonyms, background: bool
) -> Iterator[tuple[str, TextBank]]:
    """Each template with its text bank. Sentences of several templates go through the text tower together."""
    words: list[str] = []

    def listen(sentences: Sequence[str]) -> Tensor:
        words.extend(sentences)  # in this template a sentence is the word itself
        return torch.ones(len(sentences), 1)

    build_bank(encoder, vocabulary, templates=["{}"], synonyms=synonyms, background=background, encode=listen)
    together = max(1, _SENTENCES_AT_ONCE // len(words))
    for start in range(0, len(templates), together):
        some = templates[start : start + together]
        sentences = [template.replace("{}", word) for template in some for word in words]
        vectors = dict(zip(sentences, encoder.encode_text(sentences), strict=True))
        for template in some:
            bank = build_bank(
                encoder,
                vocabulary,
                templates=[template],
                synonyms=synonyms,
                background=background,
                encode=lambda asked, known=vectors: torch.stack([known[sentence] for sentence in asked]),
            )
            yield template, bank


@dataclass(frozen=True)
class PictureCounts:
    """Pixels of one picture, as far as mIoU needs them."""

    image_id: str
    classes: Int64[np.ndarray, " class"]
    """Labels that occur in the ground truth or may occur in a mask; 0 is background."""
    right: Int64[np.ndarray, "template class"]
    predicted: Int64[np.ndarray, "template class"]
    true: Int64[np.ndarray, " class"]

    def pack(self) -> Int64[np.ndarray, "row class"]:
        """All counts in one array: classes, true, then right and predicted of each template."""
        return np.concatenate([self.classes[None], self.true[None], self.right, self.predicted])

    @classmethod
    def unpack(cls, image_id: str, rows: Int64[np.ndarray, "row class"]) -> PictureCounts:
        """The counts of a picture from `pack`."""
        right, predicted = np.split(rows[2:], 2)
        return cls(image_id, rows[0], right, predicted, rows[1])


class Counter:
    """Compares the masks of all templates with the ground truth, by picture; what was done before is read back."""

    def __init__(
        self,
        makers: Sequence[MaskMaker],
        state: Path | None = None,
        table: UInt8[np.ndarray, " 256"] | None = None,
    ) -> None:
        """`table`: from the values of the ground truth's files to those of masks, where they have others."""
        self.makers = makers
        self.table = table
        self.config, self.vocabulary = makers[0].config, makers[0].vocabulary
        told = ("counts", [maker.bank.source for maker in makers], asdict(self.config), self.vocabulary.box_threshold)
        self.saved = None if state is None else SavedArrays(state, *told)

    def __call__(self, record: ImageRecord, truth: Path) -> PictureCounts:
        """The counts of a picture. Raises DataError: picture or ground truth cannot be read or do not fit."""
        if self.saved is None:
            return self._count(record, truth)
        labels = json.dumps(record.class_ids).encode()
        numbers = b"" if self.table is None else self.table.tobytes()
        key = digest(picture_digest(record, self.config.image).encode(), labels, _bytes(truth) + numbers)
        known = self.saved.load(key)
        if known is not None and known.ndim == 2 and len(known) == 2 + 2 * len(self.makers):
            return PictureCounts.unpack(record.image_id, known)
        counts = self._count(record, truth)
        self.saved.save(key, counts.pack())
        return counts

    def _count(self, record: ImageRecord, truth_path: Path) -> PictureCounts:
        picture = self.makers[0].read(record)
        truth = read_mask(truth_path)
        truth = truth if self.table is None else self.table[truth]
        if truth.shape != picture.size_hw:
            raise DataError(
                "picture and ground truth differ in size", where=truth_path, expected=picture.size_hw, found=truth.shape
            )
        known = truth <= len(self.vocabulary.classes)
        classes = np.unique([0, *(k + 1 for k in record.class_ids), *np.unique(truth[known])])
        seen = self.makers[0].encode([picture])[0]
        right, predicted = [], []
        for maker in self.makers:
            mask = maker.mask_of(picture, seen, record.class_ids).mask.decided
            predicted.append([np.count_nonzero(mask[known] == k) for k in classes])
            right.append([np.count_nonzero((mask == k) & (truth == k)) for k in classes])
        true = np.array([np.count_nonzero(truth == k) for k in classes])
        return PictureCounts(record.image_id, classes, np.array(right), np.array(predicted), true)


def miou(right: Float64[np.ndarray, "*set class"], predicted, true) -> Float64[np.ndarray, "*set"]:
    """Mean IoU over the classes with true pixels, per cent, as `ConfusionMatrix` computes it."""
    present = true > 0
    union = predicted + true - right
    iou = np.divide(right, union, out=np.zeros(right.shape), where=present & (union > 0))
    return 100 * iou.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)


def _result(
    templates: Sequence[str],
    terms: Float64[np.ndarray, "template image"],
    ids: Sequence[str],
    counted: Sequence[PictureCounts],
    labels: int,
    problems: Sequence[Problem],
    select: Select,
) -> SweepResult:
    mean = terms.mean(axis=1)
    found: list[float | None] = [None] * len(templates)
    correlation = None
    if counted:
        groups = Groups(terms, ids, counted, labels)
        values = groups.miou(np.ones((1, groups.count)))[0]
        found = values.tolist()
        if len(templates) > 1:
            weights = np.random.default_rng(0).multinomial(
                groups.count, np.full(groups.count, 1 / groups.count), size=RESAMPLES
            )
            pairs = [(groups.score(w), groups.miou(w)) for w in np.array_split(weights, math.ceil(RESAMPLES / 50))]
            resampled = np.concatenate([spearman(*pair) for pair in pairs])
            correlation = with_interval(float(spearman(mean, values)), resampled)
    rows = [TemplateScore(t, float(s), m) for t, s, m in zip(templates, mean, found, strict=True)]
    return SweepResult(
        tuple(sorted(rows, key=lambda row: SELECT[select].sign * row.score)),
        correlation,
        len(ids),
        len(counted),
        tuple(problems),
        select,
    )


class Groups:
    """Sums over groups of pictures, from which figures for any weighting of the groups follow at once."""

    def __init__(
        self,
        terms: Float64[np.ndarray, "template image"],
        ids: Sequence[str],
        counted: Sequence[PictureCounts],
        labels: int,
    ) -> None:
        names = dict.fromkeys([*ids, *(counts.image_id for counts in counted)])
        self.count = min(len(names), _GROUPS)
        group = {name: i % self.count for i, name in enumerate(names)}
        self.terms = np.zeros((self.count, len(terms)))
        self.images = np.zeros(self.count)
        for column, image_id in enumerate(ids):
            self.terms[group[image_id]] += terms[:, column]
            self.images[group[image_id]] += 1
        self.right = np.zeros((self.count, len(terms), labels))
        self.predicted = np.zeros_like(self.right)
        self.true = np.zeros((self.count, labels))
        for counts in counted:
            g = group[counts.image_id]
            self.right[g][:, counts.classes] += counts.right
            self.predicted[g][:, counts.classes] += counts.predicted
            self.true[g][counts.classes] += counts.true

    def score(self, weights) -> Float64[np.ndarray, "set template"]:
        """Mean term of each template for each weighting [set group]; NaN where no picture that has a term is in."""
        terms, images = weights @ self.terms, (weights @ self.images)[:, None]
        return np.divide(terms, images, out=np.full_like(terms, np.nan), where=images > 0)

    def miou(self, weights) -> Float64[np.ndarray, "set template"]:
        """mIoU of each template for each weighting [set group], per cent."""
        right, predicted = (np.tensordot(weights, part, 1) for part in (self.right, self.predicted))
        return miou(right, predicted, (weights @ self.true)[:, None])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError("the ground truth cannot be read", where=path, found=error.strerror) from error
