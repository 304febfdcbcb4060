"""Extend a trained segmenter in a folder that can be killed at any moment and continued by the same call.

OUT/features/       features of the frozen segmenter, one file for each picture; may be removed afterwards
OUT/checkpoint.pt   all that the next step needs
OUT/final.pth, OUT/config.py   the extended model, for `predict`, `evaluate` and `export-onnx`
OUT/extend.json     classes, conditions, settings, what the figures may be compared with
OUT/tensorboard/    the losses of every phase
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from clip_es.config.run import ImageConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, DataError, nearest
from clip_es.images import look_at
from clip_es.masks import CRF_THRESHOLD, read_confidence, read_mask
from clip_es.prompts.bank import build_bank
from clip_es.prompts.vocabulary import ClassEntry, Vocabulary, classes_of_run, load_vocabulary
from clip_es.prompts.word_vectors import centred, concatenated, load_word_vectors
from clip_es.segmentor.data.pairs import Pair, check_labels, find_pairs
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.zero_shot.extension import Extension
from clip_es.segmentor.zero_shot.features import Example, Extractor, FeatureStore
from clip_es.segmentor.zero_shot.settings import ExtendSettings
from clip_es.segmentor.zero_shot.split import SeenUnseenSplit
from clip_es.segmentor.zero_shot.write import write_model
from clip_es.store.disk import make_folder, write_atomic
from clip_es.store.manifest import Manifest
from clip_es.training import Plan, train
from clip_es.types import UNDECIDED

BACKGROUND = "background"

Conditions = Literal["clip", "words", "both"]

_LEAK = (
    "CLIP has seen the unseen classes in pictures and texts: figures with CLIP text, or with a frozen CLIP as the "
    "backbone, cannot be compared with those of word vectors on a backbone that has not."
)


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


@dataclass(frozen=True)
class Named:
    """What the classes are known by."""

    kind: Conditions
    words: Path | None
    weights: str
    templates: tuple[str, ...] | None = None


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


def vectors_of(
    order: Sequence[str], named: Named, vocabulary: str | None, device: str
) -> tuple[Tensor, dict[str, Any]]:
    """The vector of each class [class d], a row of zeros for a background without one; and what to say of them.

    Raises ConfigError, DataError: no file where one is needed, or a class without a vector.
    """
    told: dict[str, Any] = {"conditions": named.kind}
    parts: list[np.ndarray] = []
    if named.kind in ("words", "both"):
        if named.words is None:
            raise ConfigError("there is no file of word vectors", next_step="Pass --words FILE, or --conditions clip.")
        rows, averaged = _word_rows(order, named.words)
        told |= {"words": str(named.words), "averaged": averaged, "words_sha256": _digest(named.words)}
        parts.append(rows)
    if named.kind in ("clip", "both"):
        parts.append(_clip_rows(order, named, vocabulary, device, told))
    joined = parts[0] if len(parts) == 1 else concatenated(parts[0], parts[1])
    if len(parts) == 2 and not parts[0][0].any():
        joined[0] = 0
    return torch.from_numpy(joined.astype(np.float32)), told


def _word_rows(order: Sequence[str], path: Path) -> tuple[np.ndarray, dict[str, list[str]]]:
    named = [name for name in order if name != BACKGROUND]
    known = load_word_vectors(path, named)
    rows = known.vectors
    if BACKGROUND in order:
        try:
            own = load_word_vectors(path, [BACKGROUND]).vectors
        except DataError:
            own = np.zeros_like(rows[:1])
        at = list(order).index(BACKGROUND)
        rows = np.concatenate([rows[:at], own, rows[at:]])
    return rows, {name: list(words) for name, words in known.averaged.items()}


def _clip_rows(
    order: Sequence[str], named: Named, vocabulary: str | None, device: str, told: dict[str, Any]
) -> np.ndarray:
    encoder = load_encoder(named.weights, device=device)
    known = load_vocabulary(vocabulary) if vocabulary is not None else None
    entries = {entry.name: entry for entry in known.classes} if known else {}
    classes = tuple(entries.get(name, ClassEntry(name)) for name in order if name != BACKGROUND)
    background = known.background if known else load_vocabulary("voc12").background
    taken = {entry.name for entry in classes}
    words = Vocabulary("extend", classes, tuple(word for word in background if word not in taken))
    bank = build_bank(encoder, words, templates=named.templates or (known.templates if known else None))
    rows = bank.vectors.float().cpu().numpy()
    mean = rows[bank.class_count :].mean(axis=0)
    by_name = dict(zip(bank.names, rows, strict=True)) | {BACKGROUND: mean / np.linalg.norm(mean)}
    told |= {"clip": named.weights, "clip_sha256": encoder.source, "comparable": _LEAK}
    return centred(np.stack([by_name[name] for name in order]).astype(np.float32))


@dataclass(frozen=True)
class Prepared:
    """All that an extension is trained on."""

    segmenter: Segmenter
    split: SeenUnseenSplit
    labels: tuple[str, ...]
    vectors: Tensor
    examples: list[Example]
    told: dict[str, Any]

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
    store = FeatureStore(
        out / "features" / f"{segmenter.source[:12]}-{settings.networks.level}",
        Extractor(segmenter, settings.networks.level),
        read_rgb,
    )
    examples = [_example(pair, store, split, len(masks), data.threshold, gate) for pair in progress(pairs)]
    told |= {"seen": list(split.seen), "unseen": list(split.unseen), "labels": list(labels)}
    return Prepared(segmenter, split, labels, vectors, examples, told)


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


def extend(
    prepared: Prepared,
    settings: ExtendSettings,
    out: Path,
    *,
    way: str = "default",
    save_every: int = 200,
    stop_after: int | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
    model_config: dict[str, Any] | None = None,
) -> Path | None:
    """Train, or go on training, and write the extended model. Returns its checkpoint; None where it was stopped early.

    Raises as `clip_es.training.train`, and ConfigError: no mask holds a seen class.
    """
    extension = Extension(
        settings, prepared.examples, prepared.vectors, len(prepared.split.seen), prepared.segmenter.device
    )
    identity = {
        "model": prepared.segmenter.source,
        "vectors": _hash(prepared.vectors),
        "data": fingerprint(prepared.examples),
    }
    plan = Plan(settings.steps, save_every, settings.seed, asdict(settings) | identity, device=extension.device)
    with _board(out) as note:

        def told(step: int, figures: dict[str, float]) -> None:
            note(step, settings.at(step - 1)[0], figures)
            if report:
                report(step, figures)

        done = train(extension, out, plan, stop_after=stop_after, report=told)
    if done < settings.steps:
        return None
    config = model_config or dict(prepared.segmenter.settings)
    path = write_model(out, config, prepared.segmenter, extension, prepared.labels, prepared.order)
    record = {"way": way, **prepared.told, **identity, "settings": asdict(settings)}
    write_atomic(out / "extend.json", (json.dumps(record, indent=1) + "\n").encode())
    return path


class _board:
    """TensorBoard's events, where it is installed."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.writer: Any = None

    def __enter__(self) -> Callable[[int, str, dict[str, float]], None]:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return lambda step, phase, figures: None
        self.writer = SummaryWriter(str(self.out / "tensorboard"))
        return self._note

    def _note(self, step: int, phase: str, figures: dict[str, float]) -> None:
        if step % 10 == 0:
            for name, value in figures.items():
                self.writer.add_scalar(f"{phase.replace(' ', '-')}/{name}", value, step)

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()


def fingerprint(examples: Iterable[Example]) -> str:
    """Of pictures' names, labels and gates."""
    value = 0
    for example in examples:
        value = zlib.crc32(example.image_id.encode(), value)
        value = zlib.crc32(np.ascontiguousarray(example.labels).tobytes(), value)
        if example.gates is not None:
            value = zlib.crc32(np.ascontiguousarray(example.gates).tobytes(), value)
    return f"{value:08x}"


def _hash(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.cpu().numpy().tobytes()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
