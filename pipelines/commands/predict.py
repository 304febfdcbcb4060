"""`clip-es predict`: what a trained segmenter is for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from clip_es.config.run import CrfConfig
from clip_es.errors import ConfigError
from clip_es.pipelines.commands.flags import LimitFlag
from clip_es.pipelines.commands.masks import versions
from clip_es.pipelines.console import bar, counted, say, say_failures
from clip_es.pipelines.predict import FuseRule, PredictConfig, check_wide, predict
from clip_es.pipelines.segments import SegmentFolder
from clip_es.pipelines.stopwatch import Stopwatch, peak_memory
from clip_es.pipelines.training_free import TrainingFree
from clip_es.prompts import load_vocabulary
from clip_es.prompts.check import barely_known
from clip_es.prompts.vocabulary_files import LISTS, PACKAGED
from clip_es.records.unlabeled import unlabeled_pictures
from clip_es.refine.crf.dense import resolve_backend
from clip_es.segmentor.inference import Segmenter, TestViews
from clip_es.segmentor.models.pixel_text import ROWS_AT_ONCE
from clip_es.store.failures import read_failures
from clip_es.store.opening import parse_shard, shard
from clip_es.store.results import BESIDE
from clip_es.store.run import RunStore

DType = Literal["float32", "bfloat16", "float16"]

SUFFIXES = (*LISTS, ".yaml", ".yml")
"""Of files with class names."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Masks for any pictures with a trained segmenter: folder in, folder out.

    Calling again continues. One bad picture is a row in OUT/failures.csv, the others are done, and the exit code is 1.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """final.pth of a training, or any checkpoint of mmengine or mmsegmentation."""
    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder of pictures (sub-folders too: a/b.jpg becomes a__b.png), a .txt with one path per line, or one picture."""
    out: Path
    """Folder of the results. The same call with the same folder continues."""
    config: Path | None = None
    """Config of the model, an mmengine file, which is executed. None: config.py beside the checkpoint, never run."""
    list_file: Path | None = None
    """Only these pictures of the folder, one id or path a line."""
    scales: tuple[float, ...] = (1.0,)
    """Predict at several sizes, such as 0.5 0.75 1.0 1.25 1.5 1.75, and average."""
    flip: bool = False
    """Predict on the mirrored picture as well, and average."""
    crf: bool = False
    """Sharpen borders with the dense CRF, whose settings are the --refine.crf flags."""
    threshold: float = 0.0
    """Pixels less confident than this become 255."""
    confidence: bool = False
    """Also write confidence/ (0..255) and labels/ (without 255): a folder that can itself be trained on."""
    classes: str | None = None
    """Ask a model of `train --head pixel-text` for these classes: names separated by commas, a text file with one name
    per line, or a vocabulary (name or file), with its synonyms, background words and templates. None: those of its
    training. More than 254 are streamed, and the masks are then PNGs of 16 bits (65535 undecided)."""
    template: tuple[str, ...] = ()
    """Sentences with {} for the class, in place of the training's or the vocabulary's."""
    background: str | None = None
    """What counts as background, words separated by commas. None: the training's or the vocabulary's."""
    background_threshold: float | None = None
    """Background by a threshold in place of a row: the pixels whose likeliest class has a lower probability than this,
    0..1, among the classes asked alone. None: background is a row of its words."""
    unseen_bonus: float = 0.0
    """Added to the logits of classes that the model was not trained on, which otherwise lose to those that it was."""
    training_free: float = 0.0
    """How much of what training-free CLIPer says, asked for the same classes, is mixed in, 0..1: for a
    pixel-text model and classes that it was not trained on. 0.7 was best on scenes of 12 classes, 0 on scenes of 32."""
    fuse: Literal["none", "segments"] = "none"
    """segments: those in --segments join in, by --fuse-rule. No ground truth is looked at."""
    segments: Path | None = None
    """Folder that `clip-es segments` made for these pictures."""
    fuse_rule: FuseRule = "vote"
    """vote, the default: each pixel takes, in part, the mean of its segment. nearest-side: the side of an eigenvector
    with the highest IoU with the mask of a class takes its place, where that IoU is --fuse-tau or more."""
    fuse_amount: float = 0.5
    """How much of a segment's mean a pixel takes, 0..1, in the vote."""
    fuse_tau: float = 0.5
    """The IoU that nearest-side asks for, 0..1."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: DType = "float32"
    """Arithmetic of the model; the softmax is always float32."""
    limit: LimitFlag = None
    shard: str = "1/1"
    """i/n: do every n-th picture, beginning with the i-th. All shards may share one --out."""
    max_megapixels: float = 100.0
    """Pictures with more than this many million pixels are refused before they are decoded."""
    crf_config: Annotated[CrfConfig, tyro.conf.arg(name="refine.crf")] = field(default_factory=CrfConfig)

    def run(self) -> int:
        """Predict what is not there yet."""
        index, count = parse_shard(self.shard)
        views = TestViews(tuple(self.scales), self.flip)
        if (self.fuse == "segments") != (self.segments is not None):
            raise ConfigError(
                "--fuse segments and --segments FOLDER belong together", next_step="Pass both, or neither."
            )
        amount = 0.0 if self.fuse == "none" else 1.0 if self.fuse_rule == "nearest-side" else self.fuse_amount
        crf_config = self.crf_config if self.crf else None
        settings = PredictConfig(
            views,
            crf_config,
            self.threshold,
            self.max_megapixels,
            amount,
            self.fuse_rule,
            self.fuse_tau,
            self.background_threshold,
            self.training_free,
        )
        self._check_background()
        folder = None if self.segments is None else SegmentFolder(self.segments)
        segmenter = Segmenter.load(self.checkpoint, self.config, device=self.device, dtype=self.dtype)
        asked = ask(segmenter, self.classes, self.background, self.template, self.unseen_bonus)
        if self.background_threshold is not None:
            if len(segmenter.names) < 3:
                raise ConfigError(
                    "the probability of one class among itself is 1, which no threshold divides",
                    where="--background-threshold",
                    expected="two classes or more in --classes",
                    found=", ".join(segmenter.names[1:]),
                    next_step="Ask for more classes, or say with --background what is around it.",
                )
            asked["protocol"] |= {"background_words": [], "background_threshold": self.background_threshold}
        if segmenter.wide:
            check_wide(settings, len(segmenter.names) - 1)
        frozen = TrainingFree.beside(segmenter) if self.training_free else None
        if settings.crf:
            backend = resolve_backend(settings.crf.backend, segmenter.device.type)
            settings = replace(settings, crf=replace(settings.crf, backend=backend))
        records, problems = unlabeled_pictures(self.images, len(segmenter.names) - 1, self.list_file, self.out)
        compared = {
            "method": "predict",
            "config": settings,
            "dtype": self.dtype,
            "confidence": self.confidence,
            "sha256": {"checkpoint": segmenter.source, "config": segmenter.config_source},
        }
        about = {
            "checkpoint": self.checkpoint,
            "classes": segmenter.names[1:],
            "label_0": segmenter.names[0],
            **asked,
            "images": [str((self.images if self.images.is_dir() else self.images.parent).resolve())],
            "device": str(segmenter.device),
            "versions": versions(),
        }
        stopwatch = Stopwatch()
        beside = BESIDE if self.confidence else ()
        with RunStore.open(self.out, compared, about=about, shard=(index, count), beside=beside) as store:
            store.note(problems)
            mine = shard(records[: self.limit], index, count)
            todo = store.unfinished(mine)
            say(f"{counted(len(mine), 'picture')}, {len(mine) - len(todo)} done before, {len(todo)} to do")
            begun = time.process_time()
            with bar("predict", len(todo)) as progress:
                predict(
                    todo,
                    segmenter,
                    store,
                    settings,
                    stopwatch=stopwatch,
                    segments=folder,
                    training_free=frozen,
                    done=lambda: progress.advance(progress.task_ids[0]),
                )
            spent = time.process_time() - begun
            summary = store.finish(stopwatch.seconds)
            failed = store.failed_here
        times = ", ".join(f"{stage} {value:.1f} s" for stage, value in stopwatch.seconds.items())
        say(f"{counted(summary.done, 'picture')} done, {failed} failed" + (f" ({times})" if times else ""))
        if segmenter.wide and (made := len(todo) - failed) > 0:
            say(_speed(len(segmenter.names) - 1, stopwatch.seconds.get("predict", 0.0) / made, spent / made))
        if failed:
            say_failures(read_failures(self.out / "failures.csv"), self.out / "failures.csv")
        say(f"Masks: {self.out / 'masks'}")
        return 1 if failed else 0

    def _check_background(self) -> None:
        if self.background_threshold is not None and self.classes is None:
            raise ConfigError("--background-threshold goes with --classes", next_step="Pass --classes as well.")
        if self.background_threshold is not None and self.background is not None:
            raise ConfigError(
                "--background and --background-threshold are two ways to find background", next_step="Pass one of them."
            )


def ask(
    segmenter: Segmenter,
    classes: str | None,
    background: str | None = None,
    templates: Sequence[str] = (),
    bonus: float = 0.0,
) -> dict[str, Any]:
    """Give a model the classes of the flags, and say which names CLIP hardly knows. Returns the facts of the question.

    Raises ConfigError, DataError: no such classes, or a model that has its own.
    """
    others = None if background is None else _words(background, "--background")
    if classes is None:
        if others is not None or templates or bonus:
            raise ConfigError(
                "--background, --template and --unseen-bonus go with --classes", next_step="Pass --classes as well."
            )
        return text_facts(segmenter)
    words, sentences = [(name,) for name in _words(classes, "--classes")], tuple(templates) or None
    if len(words) == 1 and (
        words[0][0] in PACKAGED or (path := Path(words[0][0])).suffix in SUFFIXES or path.is_file()
    ):
        vocabulary = load_vocabulary(words[0][0])
        words = [(entry.name, *entry.synonyms) for entry in vocabulary.classes]
        others = tuple(vocabulary.background) or None if others is None else others
        sentences = sentences or tuple(vocabulary.templates)
    segmenter.set_classes(words, others, sentences, bonus)
    say(f"Asked for {len(words)} classes: {', '.join(segmenter.names[1:6])}{', ...' if len(words) > 5 else ''}")
    strange = [name for row in words for name in row if barely_known(name)]
    if strange:
        told = "; ".join(f"'{name}' ({' '.join(barely_known(name))})" for name in strange[:5])
        say(
            f"CLIP's tokenizer hardly knows {counted(len(strange), 'name')}, which it takes apart: {told}"
            f"{'; ...' if len(strange) > 5 else ''}. Expect little there, or name the class in common English words."
        )
    return text_facts(segmenter)


def text_facts(segmenter: Segmenter) -> dict[str, Any]:
    """What the figures and masks of a pixel-text model depend on besides its weights; nothing for another model."""
    facts = segmenter.text_facts()
    return {} if facts is None else {"protocol": facts}


def _speed(classes: int, seconds: float, processor: float) -> str:
    """What many classes cost: time on the clock, and of the processor, which other programs do not lengthen."""
    told = (
        f"{classes} classes at once: {seconds:.2f} s a picture ({classes / max(seconds, 1e-9):.0f} classes a second), "
        f"{processor:.2f} s of processor time; {ROWS_AT_ONCE} text rows at a time"
    )
    return told if (peak := peak_memory()) is None else f"{told}; peak memory of the process {peak / 1e9:.2f} GB"


def _words(text: str, flag: str) -> tuple[str, ...]:
    words = tuple(word.strip().strip("\"'") for word in text.split(","))
    if not any(words):
        raise ConfigError(f"{flag} is an empty list", expected="names separated by commas", found=repr(text))
    if not all(words):
        raise ConfigError(f"{flag} has an empty name", expected="names separated by commas", found=repr(text))
    return words
