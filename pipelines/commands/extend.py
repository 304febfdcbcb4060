"""`clip-es extend` and `clip-es evaluate-zero-shot`: classes a segmenter has no masks of."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.masks import CRF_THRESHOLD, read_mask
from clip_es.metrics.zero_shot import ZeroShotMeter
from clip_es.pipelines.commands.flags import LimitFlag
from clip_es.pipelines.console import bar, say, show_table, summarize, track
from clip_es.pipelines.evaluate import pair, read_ids
from clip_es.pipelines.extend import Conditions, ExtendData, Named, extend, prepare
from clip_es.prompts.vocabulary_files import load_vocabulary
from clip_es.segmentor.zero_shot.labels import resize_labels
from clip_es.segmentor.zero_shot.settings import ExtendSettings, Way, settings_of
from clip_es.segmentor.zero_shot.split import SeenUnseenSplit, load_split, own_split, split_names
from clip_es.store.disk import write_atomic
from clip_es.store.manifest import Manifest


def names_of(text: str) -> tuple[str, ...]:
    """Names with commas between them. Raises ConfigError: none."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ConfigError("there is no name", where="--unseen", expected="names such as boat,cow", found=repr(text))
    return names


@dataclass(frozen=True, kw_only=True)
class Extend:
    """Teach a trained segmenter classes it has no masks of, from their names (CaGNet). The same call continues.

    The segmenter stays frozen; a contextual module and a new classifier of all classes are put on its features.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """final.pth of `clip-es train`, or any checkpoint of mmsegmentation whose head ends with a 1x1 classifier."""
    data: Path
    """Folder of a run whose masks hold the seen classes, or a folder of masks (with --images and --vocabulary)."""
    unseen: str | None = None
    """Names of the new classes, commas between: boat,cow. None: those of --split."""
    out: Path
    """Folder of features, checkpoint, TensorBoard's events and the extended model, final.pth."""
    way: Way = "default"
    """parity: networks, losses, steps and rates of the published code, on a frozen segmenter. default: the paper's or
    what is meant to be better."""
    split: str | None = None
    """voc-15-5, context-29-4 or coco-stuff-167-15: its unseen classes, and with --way parity its steps and rates."""
    published: Path | None = None
    """Start from weights of the published code (.pth): whatever parts of it the file has and the networks fit."""
    conditions: Conditions = "clip"
    """What names are known by: CLIP's text (centred), word vectors, or both side by side."""
    words: Path | None = None
    """File of word vectors: text (word and numbers a line) or .npy with names in a .txt beside it."""
    weights: str = "ViT-B/16"
    """CLIP whose text tower reads the names: ViT-B/16, ..., scenes (in the package), or a file."""
    images: Path | None = None
    """Folder of the pictures. None: where the masks were made from."""
    list_file: Path | None = None
    """Ids to train on, one a line. None: every mask."""
    vocabulary: str | None = None
    """Names of the masks' labels: voc12, scenes, a file, names with commas. None: those the run was made with."""
    threshold: float = CRF_THRESHOLD
    """Confidence below which a run's pixel is ignored."""
    gate: Path | None = None
    """With gated self-training: folder of `clip-es masks ... --labels auto` on the same pictures."""
    config: Path | None = None
    """Config of the model, an mmengine file that is run as such. None: config.py beside the checkpoint, never run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    save_every: int = 200
    """Steps between two checkpoints."""
    settings: Annotated[ExtendSettings, tyro.conf.arg(name="")] = field(default_factory=ExtendSettings)

    @classmethod
    def chosen(cls, args: Sequence[str]) -> dict[str, Any]:
        """The defaults that belong to --way, as arguments of tyro.cli."""

        def said(flag: str) -> str | None:
            found = [b for a, b in pairwise(args) if a == flag]
            found += [arg.partition("=")[2] for arg in args if arg.startswith(f"{flag}=")]
            return found[-1] if found else None

        if said("--way") != "parity":
            return {}
        missing: Any = tyro.MISSING
        settings = settings_of("parity", said("--split") or "voc-15-5")
        return {"default": cls(model=missing, data=missing, out=missing, settings=settings)}

    def run(self) -> int:
        """Train, with a bar and a line now and then."""
        is_run = Manifest.is_in(self.data)
        if not is_run and not self.data.is_dir():
            raise DataError("is neither the folder of a run nor one of masks", where=self.data, found="no such folder")
        data = ExtendData(
            run=self.data if is_run else None,
            masks=None if is_run else self.data,
            images=self.images,
            list_file=self.list_file,
            vocabulary=self.vocabulary,
            threshold=self.threshold,
            gate=self.gate,
        )
        prepared = prepare(
            self.model,
            data,
            self._unseen(),
            Named(self.conditions, self.words, self.weights),
            self.out,
            self.settings,
            config=self.config,
            device=self.device,
            progress=lambda pairs: track(pairs, "features", len(pairs)),
        )
        say(f"Seen: {', '.join(prepared.split.seen)}")
        say(f"Unseen: {', '.join(prepared.split.unseen)}; known by {self.conditions}")
        if "comparable" in prepared.told:
            say(prepared.told["comparable"])
        with bar("steps", self.settings.steps) as progress:
            path = extend(
                prepared,
                self.settings,
                self.out,
                way=self.way,
                published=self.published,
                save_every=self.save_every,
                report=_Teller(self.settings, progress),
            )
        summarize({"model": str(path), "labels": list(prepared.labels)})
        say(f"Model: {path}   Labels: {', '.join(prepared.labels)}")
        return 0

    def _unseen(self) -> tuple[str, ...]:
        if self.unseen is not None:
            return names_of(self.unseen)
        if self.split is None:
            raise ConfigError("which classes are new?", next_step="Pass --unseen boat,cow or --split voc-15-5.")
        return load_split(self.split).unseen


class _Teller:
    """Moves the bar; where no terminal is, a line now and then with the losses and the time left."""

    def __init__(self, settings: ExtendSettings, progress: Any) -> None:
        self.settings, self.progress, self.task = settings, progress, progress.task_ids[0]
        self.began: tuple[int, float] | None = None
        self.every = max(settings.steps // 40, 1)

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        phase, _ = self.settings.at(step - 1)
        self.progress.update(self.task, completed=step, description=phase)
        if self.began is None:
            self.began = step, time.monotonic()
        if step % self.every and step != self.settings.steps:
            return
        if not sys.stderr.isatty():
            each = (time.monotonic() - self.began[1]) / max(step - self.began[0], 1)
            losses = ", ".join(f"{name} {value:.3g}" for name, value in figures.items() if name != "seconds")
            left = each * (self.settings.steps - step) / 60
            say(f"step {step} of {self.settings.steps} [{phase}]: {losses}; {left:.1f} min left")


@dataclass(frozen=True, kw_only=True)
class EvaluateZeroShot:
    """Seen, unseen and harmonic mIoU, pixel and mean accuracy of predicted masks: all classes compete.

    Not comparable with `evaluate-clipseg zero-shot`, which asks for one class at a time.
    """

    masks: Path
    """Folder of predicted PNGs, such as OUT/masks of `clip-es predict`."""
    truth: Path
    """Folder of ground-truth PNGs with the same names."""
    split: str | None = None
    """voc-15-5, context-29-4 or coco-stuff-167-15: ids as in that data set."""
    vocabulary: str | None = None
    """In its place: names of the classes; label 0 is background, k + 1 the k-th. voc12, scenes, a file, or names."""
    unseen: str | None = None
    """With --vocabulary: names of the unseen classes, commas between."""
    include_background: bool = False
    """Count background as a seen class. Off, as published: its pixels are left out."""
    eval_grid: Literal["full", "feature"] = "full"
    """full: pixel by pixel. feature: both masks shrunk by the nearest pixel, as published figures are measured."""
    grid: int = 65
    """Side of the grid with --eval-grid feature."""
    list_file: Path | None = None
    """Only these pictures, one id a line."""
    limit: LimitFlag = None
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def run(self) -> int:
        """Print the table."""
        split, background = self.classes()
        shift = 0 if background else 1  # Data sets without background begin with id 0, which the meter keeps for it.
        include = self.include_background and background
        meter = ZeroShotMeter(
            [k + shift for k in split.seen_ids],
            [k + shift for k in split.unseen_ids],
            include_background=include,
        )
        pairs = pair(self.masks, self.truth, None if self.list_file is None else read_ids(self.list_file))
        pairs = dict(islice(pairs.items(), self.limit))
        failures: list[str] = []
        for name in track(pairs, "evaluate", len(pairs)):
            try:
                predicted, truth = (self._shrunk(read_mask(path)) for path in pairs[name])
                if shift:
                    predicted, truth = (np.where(m == 255, 255, m.astype(np.int64) + 1) for m in (predicted, truth))
                meter.update(predicted, truth)
            except ClipEsError as error:
                failures.append(f"left out {name}: {error}")
        if len(failures) == len(pairs):
            raise DataError("no mask could be compared", found=failures[0] if failures else "no pair")
        scores = meter.compute()
        names = {split.names[name]: name for name in split.order}
        iou = {names[k]: 100 * float(scores.iou[k + shift]) for k in names}
        show_table(
            "IoU of each class",
            ("class", "seen?", "IoU"),
            [
                (name, "unseen" if name in split.unseen else "seen", value)
                for name, value in iou.items()
                if value == value
            ],
        )
        groups = {group: getattr(scores, group) for group in ("all", "seen", "unseen", "harmonic")}
        figures = {
            group: {
                "miou": 100 * part.miou,
                "pixel_accuracy": 100 * part.pixel_accuracy,
                "mean_accuracy": 100 * part.mean_accuracy,
            }
            for group, part in groups.items()
        }
        counted = "counted" if include else "left out"
        told = f"{len(pairs) - len(failures)} masks, grid {self.eval_grid}, background {counted}"
        header = ("classes", "mIoU", "pixel accuracy", "mean accuracy")
        show_table(told, header, [(group, *values.values()) for group, values in figures.items()])
        for line in failures:
            say(line)
        record = {**figures, "iou": iou, "eval_grid": self.eval_grid, "include_background": include}
        summarize({"images": len(pairs) - len(failures), "left_out": len(failures), **record})
        if self.out:
            write_atomic(self.out, (json.dumps(record, indent=1) + "\n").encode())
        return 1 if failures else 0

    def classes(self) -> tuple[SeenUnseenSplit, bool]:
        """The split, and whether id 0 is background. Raises ConfigError."""
        if (self.split is None) == (self.vocabulary is None):
            raise ConfigError(
                "the classes are given in one of two ways",
                expected=f"--split {' | '.join(split_names())}, or --vocabulary with --unseen",
            )
        if self.split is not None:
            split = load_split(self.split)
            return split, 0 not in split.names.values()
        names = load_vocabulary(str(self.vocabulary)).names
        return own_split(names, names_of(self.unseen or ""), first_id=1), True

    def _shrunk(self, mask: np.ndarray) -> np.ndarray:
        return resize_labels(mask, (self.grid, self.grid)) if self.eval_grid == "feature" else mask
