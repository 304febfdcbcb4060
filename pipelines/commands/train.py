"""`clip-es train`: from the masks of a run to a segmenter."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.pipelines.commands.flags import OwnVocabularyFlag
from clip_es.pipelines.console import bar, say, summarize
from clip_es.prompts.vocabulary_files import classes_of_run, load_vocabulary
from clip_es.segmentor.data.unseen import WithUnseen
from clip_es.segmentor.training.launch import train
from clip_es.segmentor.training.settings import TrainData, TrainSettings, class_names
from clip_es.storage import address_of
from clip_es.store.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a segmenter of mmsegmentation (extra `segmentor`) on the masks of a run, or on any folder of masks.

    The same call continues. A config given as a file is a Python program and is run; no checkpoint ever is.
    Several GPUs: torchrun --nproc-per-node 8 -m clip_es.pipelines.cli train RUN ... --launcher pytorch.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The --out of `clip-es masks`, or a folder of mask PNGs (with --images, --vocabulary and --loss plain)."""
    out: Path
    """Folder of checkpoints, log, TensorBoard's events and final.pth."""
    images: Path | None = None
    """Folder of the pictures. None: those the masks were made from."""
    list_file: Path | None = None
    """Ids to train on, one a line. None: every mask of the folder."""
    vocabulary: OwnVocabularyFlag = None
    unseen: str | None = None
    """Classes that the masks hold and the model is not to learn, separated by commas. None: all are learnt."""
    pictures_with_unseen: WithUnseen | None = None
    """What becomes of pictures with one of --unseen. drop, the default: they are not trained on. ignore: they are,
    without its pixels. keep: its pixels are background, a leak that published figures have."""
    val: Path | None = None
    """Root of a data set in the layout of VOC, with ground truth for validation."""
    val_split: str = "val"
    """Its list in ImageSets/Segmentation."""
    val_images: Path | None = None
    """In place of --val: a folder of pictures ..."""
    val_masks: Path | None = None
    """... and one of their ground-truth masks."""
    val_list_file: Path | None = None
    """Ids to validate with. None: --val-split, or every mask of --val-masks."""
    resume: bool = True
    """Continue the training in --out from its newest whole checkpoint; --no-resume refuses where there is one."""
    check: bool = True
    """Look at all masks before the training: sizes, labels, missing files."""
    verbose: bool = False
    """mmengine's own log on the terminal, too."""
    settings: Annotated[TrainSettings, tyro.conf.arg(name="")] = field(default_factory=TrainSettings)

    def run(self) -> int:
        """Train, with a bar and a line for each validation."""
        data = self.data()
        first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
        with bar("training", 1) as progress:
            tell = _Teller(progress) if first else None
            result = train(
                self.settings,
                data,
                self.out,
                resume=self.resume,
                check=self.check,
                tell=tell,
                quiet=not self.verbose,
            )
        if first:
            known = "" if result.miou is None else f", mIoU {result.miou:.2f} on {self.val or self.val_masks}"
            say(f"{result.iterations} iterations{known}")
            summarize({"iterations": result.iterations, "miou": result.miou, "model": str(result.model)})
            say(f"Model: {result.model}   Log and TensorBoard: {self.out}")
        return 0

    def data(self) -> TrainData:
        """What to train on and to validate with. Raises ConfigError, DataError."""
        is_run = Manifest.is_in(self.run_folder)
        if not is_run and address_of(self.run_folder):
            raise DataError("is not a run", where=address_of(self.run_folder), expected="run.yaml")
        if not is_run and not (self.run_folder.is_dir() and any(self.run_folder.glob("*.png"))):
            raise DataError(
                "is neither the folder of a run nor one of masks",
                where=self.run_folder,
                expected="run.yaml, or PNG files",
                found="no such folder" if not self.run_folder.is_dir() else "neither",
                next_step="Pass the --out of `clip-es masks`.",
            )
        masks, pictures, listed = self.val_masks, self.val_images, self.val_list_file
        if self.val is not None:
            if masks is not None:
                raise ConfigError("--val and --val-masks mean the same thing", next_step="Pass one of them.")
            masks, pictures = self.val / "SegmentationClass", pictures or self.val / "JPEGImages"
            listed = listed or self.val / "ImageSets" / "Segmentation" / f"{self.val_split}.txt"
        every = self._names(is_run)
        unseen = self._unseen(every)
        names = [name for name in every if name not in dict(unseen)]
        return TrainData(
            classes=class_names(names),
            unseen=unseen,
            pictures_with_unseen=self.pictures_with_unseen or "drop",
            **(self._words(names, is_run) if self.settings.head == "pixel-text" else {}),
            run=self.run_folder if is_run else None,
            masks=None if is_run else self.run_folder,
            images=self.images,
            list_file=self.list_file,
            val_masks=masks,
            val_images=pictures,
            val_list_file=listed,
        )

    def _unseen(self, names: Sequence[str]) -> tuple[tuple[str, int], ...]:
        """Name and mask value of each class that is not to be learnt."""
        if self.unseen is None:
            if self.pictures_with_unseen is not None:
                raise ConfigError("--pictures-with-unseen goes with --unseen", next_step="Name the classes as well.")
            return ()
        asked = dict.fromkeys(name.strip() for name in self.unseen.split(","))
        if wrong := [name for name in asked if name not in names]:
            raise ConfigError(
                f"{wrong[0]!r} is no class of these masks", where="--unseen", expected=f"of {', '.join(names[:10])}"
            )
        if len(asked) == len(names):
            raise ConfigError("no class is left to learn", where="--unseen", found=self.unseen)
        return tuple((name, value) for value, name in enumerate(names, 1) if name in asked)

    def _names(self, is_run: bool) -> Sequence[str]:
        if is_run:
            names = classes_of_run(Manifest.read(self.run_folder), self.vocabulary)
        else:
            names = None if self.vocabulary is None else load_vocabulary(self.vocabulary).names
        if names is None:
            raise ConfigError("the classes of these masks are not known", next_step="Pass --vocabulary.")
        return names

    def _words(self, names: Sequence[str], is_run: bool) -> dict[str, Any]:
        """Synonyms, background words and templates, where the vocabulary has them."""
        named = self.vocabulary or (Manifest.read(self.run_folder).about.get("vocabulary") if is_run else None)
        try:
            vocabulary = load_vocabulary(str(named)) if named else None
        except ClipEsError:
            vocabulary = None  # A file that is gone, or names on the command line: the names alone will do.
        if vocabulary is None or not set(names) <= set(vocabulary.names):
            return {}
        entries = {entry.name: (entry.name, *entry.synonyms) for entry in vocabulary.classes}
        return {
            "words": tuple(entries[name] for name in names),
            "background_words": tuple(vocabulary.background),
            "templates": tuple(vocabulary.templates),
        }


class _Teller:
    """Moves the bar; where no terminal is, a line now and then with the time left."""

    def __init__(self, progress) -> None:
        self.progress, self.task = progress, progress.task_ids[0]
        self.began: tuple[int, float] | None = None
        self.loss = float("nan")

    def __call__(self, iteration: int, total: int, loss: float | None, miou: float | None) -> None:
        if miou is not None:
            say(f"iteration {iteration} of {total}: mIoU {miou:.2f}")
            return
        self.loss = self.loss if loss is None else loss
        if self.began is None:
            # The first one pays for everything that is only done once; a resumed training begins in the middle.
            self.began = iteration, time.monotonic()
            self.progress.reset(self.task, total=total, completed=iteration)
        self.progress.update(self.task, completed=iteration, total=total, description=f"loss {self.loss:.3f}")
        if not sys.stderr.isatty() and (iteration % max(1, total // 20) == 0 or iteration == total):
            done, since = iteration - self.began[0], time.monotonic() - self.began[1]
            left = f", {since / done * (total - iteration) / 60:.1f} min left" if done else ""
            say(f"iteration {iteration} of {total}: loss {self.loss:.3f}{left}")
