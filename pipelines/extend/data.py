"""Models, masks, names and maps read for an extension; features computed where they are not there yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from clip_es.config.run import ImageConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, nearest
from clip_es.images import look_at
from clip_es.masks import CRF_THRESHOLD, read_confidence, read_mask
from clip_es.pipelines.extend.conditions import BACKGROUND, LEAK, Named, vectors_of
from clip_es.prompts.vocabulary_files import classes_of_run, load_vocabulary
from clip_es.segmentor.data.pairs import Pair, check_labels, find_pairs
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.zero_shot.beginning import OldClassifier
from clip_es.segmentor.zero_shot.features import Example, Extractor, FeatureStore
from clip_es.segmentor.zero_shot.settings import ExtendSettings
from clip_es.segmentor.zero_shot.split import SeenUnseenSplit
from clip_es.store.disk import make_folder
from clip_es.store.manifest import Manifest
from clip_es.types import UNDECIDED


@dataclass(frozen=True)
class ExtendData:
    """Masks of seen classes, and where the classes' names come from."""

    run: Path | None = None
    """Folder of a run."""
    masks: Path | None = None
    """In its place: a folder of masks, with `images`."""
    images: Path | None = None
    list_file: Path | None = None
    vocabulary: str | None = None
    """Names of the masks' labels; None: as the run says."""
    threshold: float = CRF_THRESHOLD
    """Confidence below which a run's pixel is ignored."""
    gate: Path | None = None
    """Folder of a run whose masks say where the localizer sees unseen classes."""


def label_names(data: ExtendData) -> tuple[str, ...]:
    """Names of the masks' labels, 0 first. Raises ConfigError: they are not known."""
    run = Manifest.read(data.run) if data.run is not None else None
    names = (
        classes_of_run(run, data.vocabulary)
        if run is not None
        else None
        if data.vocabulary is None
        else load_vocabulary(data.vocabulary).names
    )
    if names is None:
        raise ConfigError(
            "the classes of these masks are not known", where=data.run or data.masks, next_step="Pass --vocabulary."
        )
    return (BACKGROUND, *names)


def split_of(
    model: Sequence[str], masks: Sequence[str], unseen: Sequence[str]
) -> tuple[SeenUnseenSplit, tuple[str, ...]]:
    """The classes of a model and of its masks with those to be added; and the labels of the extended model, 0 first.

    Mask ids are the labels of the masks; whatever of them is neither a class of the model nor unseen is ignored.
    The new labels stand in the masks' order, so predictions can be compared with the same ground truth.
    Raises ConfigError: a class both seen and unseen, or a name like one that is known.
    """
    both = [name for name in unseen if name in model]
    if both:
        raise ConfigError(
            "a class is both seen and unseen",
            found=f"{', '.join(both)}: the model was trained on it",
            next_step="Name classes of which the model has seen no mask.",
        )
    for name in unseen:
        if name not in masks and (hint := nearest(name, [n for n in masks if n not in model])):
            raise ConfigError(f"'{name}' is an unknown name among the classes of the masks", next_step=hint)
    ids = {name: k for k, name in enumerate(masks)}
    free = iter(k for k in range(UNDECIDED) if k >= len(masks))
    names = {name: ids[name] if name in ids else next(free) for name in (*model, *unseen)}
    split = SeenUnseenSplit(names, tuple(model), tuple(unseen))
    return split, tuple(sorted(names, key=lambda name: (name != model[0], names[name])))


@dataclass(frozen=True)
class Prepared:
    """All that an extension is trained on."""

    segmenter: Segmenter
    split: SeenUnseenSplit
    labels: tuple[str, ...]
    vectors: Tensor
    examples: list[Example]
    told: dict[str, Any]
    level: int | None = None
    """The backbone's map that is read too, counted from 0."""
    shared: int = 0
    """The last so many channels of the features lie in one space with the last so many numbers of a vector."""
    old: OldClassifier | None = None
    """The classifier of the segmenter as it was; None where it has another number of outputs."""

    @property
    def order(self) -> list[int]:
        """The classifier's output of each label."""
        return [self.split.order.index(name) for name in self.labels]


def prepare(
    model: Path,
    data: ExtendData,
    unseen: Sequence[str],
    named: Named,
    out: Path,
    settings: ExtendSettings,
    *,
    config: Path | None = None,
    device: str = "auto",
    progress: Callable[[Sequence[Pair]], Iterable[Pair]] = iter,
) -> Prepared:
    """Read model, masks, names and maps; compute features where they are not there yet.

    Raises ConfigError, DataError, WeightsError: what cannot be used, before anything is trained.
    """
    segmenter = Segmenter.load(model, config, device=device)
    masks = label_names(data)
    split, labels = split_of(segmenter.names, masks, unseen)
    gate = Gate.of(data.gate, unseen) if settings.self_training == "gated" else None
    vocabulary = data.vocabulary
    if vocabulary is None and data.run is not None:
        stated = Manifest.read(data.run).vocabulary
        vocabulary = stated if stated is not None and _loads(stated) else None
    vectors, told = vectors_of(split.order, named, vocabulary, device)
    pairs = find_pairs(run=data.run, masks=data.masks, images=data.images, list_file=data.list_file)
    make_folder(out)
    nets = settings.networks
    extractor = Extractor(segmenter, nets.level, named.weights if nets.clip else None)
    clip = load_encoder(named.weights, device="cpu") if nets.clip else None
    kind = "plain" if clip is None else f"clip-{clip.source[:12]}"
    folder = out / "features" / f"{segmenter.source[:12]}-{nets.level}-{kind}"
    stores = [FeatureStore(folder, extractor, read_rgb, scale) for scale in settings.scales]
    examples = [
        _example(pair, store, split, len(masks), data.threshold, gate) for pair in progress(pairs) for store in stores
    ]
    told |= {"seen": list(split.seen), "unseen": list(split.unseen), "labels": list(labels)}
    if clip is not None:
        told |= {"clip_features": named.weights, "comparable": LEAK}
    shared = clip.sizes.embed if clip is not None and named.kind != "words" else 0
    old = OldClassifier.of(extractor.classifier, len(split.seen))
    return Prepared(segmenter, split, labels, vectors, examples, told, extractor.level, shared, old)


def _loads(vocabulary: str) -> bool:
    try:
        load_vocabulary(vocabulary)
    except ConfigError:
        return False
    return True


class Gate:
    """Where a localizer sees unseen classes: the confidence of its masks where they are of that class."""

    def __init__(self, run: Path, unseen: Sequence[str]) -> None:
        self.run = run
        known = classes_of_run(Manifest.read(run)) or ()
        lacking = [name for name in unseen if name not in known]
        if lacking:
            raise ConfigError(
                "the run of the gate does not know an unseen class",
                where=run,
                expected=", ".join(unseen),
                found=f"no {', '.join(lacking)}",
                next_step="Make masks with a vocabulary that has it: clip-es masks ... --labels auto.",
            )
        self.ids = [known.index(name) + 1 for name in unseen]

    @classmethod
    def of(cls, run: Path | None, unseen: Sequence[str]) -> Gate:
        """Raises ConfigError: no run."""
        if run is None:
            raise ConfigError(
                "gated self-training needs masks of the unseen classes made by a localizer",
                next_step="Run clip-es masks ... --labels auto on the same pictures and pass its folder as --gate.",
            )
        return cls(run, unseen)

    def __call__(self, image_id: str) -> np.ndarray:
        """Maps [unseen h w] of a picture, 0..1."""
        mask, sure = self.run / "labels" / f"{image_id}.png", self.run / "confidence" / f"{image_id}.png"
        labels, confidence = read_mask(mask), read_confidence(sure)
        return np.stack([np.where(labels == k, confidence, 0) for k in self.ids]).astype(np.float32)


def read_rgb(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture, upright. Raises DataError: it cannot be read."""
    rgb = look_at(path, ImageConfig()).rgb
    assert rgb is not None
    return rgb


def _example(
    pair: Pair, store: FeatureStore, split: SeenUnseenSplit, count: int, threshold: float, gate: Gate | None
) -> Example:
    features, geometry = store(pair.image_id, pair.image)
    labels = read_mask(pair.mask)
    check_labels(labels, count, pair.mask)
    indices = split.to_index[labels]
    if pair.confidence is not None:
        indices = np.where(read_confidence(pair.confidence) < threshold, np.uint8(UNDECIDED), indices)
    gates = None if gate is None else geometry.maps(gate(pair.image_id)).numpy().astype(np.float16)
    return Example(pair.image_id, features, geometry.labels(indices), geometry, gates)
