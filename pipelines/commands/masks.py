"""`clip-es masks ...`: from a data set with image-level labels to a run folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from clip_es.config.presets import find_preset
from clip_es.config.run import RunConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError
from clip_es.localize.methods import weakly_supervised
from clip_es.pipelines.commands.sources import (
    Ade20kSource,
    CityscapesSource,
    Coco14Source,
    Coco17Source,
    ContextSource,
    FolderSource,
    ScenesSource,
    Voc12Source,
)
from clip_es.pipelines.console import bar, say, show_table
from clip_es.pipelines.evaluate import Evaluation, evaluate
from clip_es.pipelines.masks.method import LabelSource, MaskMaker
from clip_es.pipelines.masks.ray import run_on_ray
from clip_es.pipelines.masks.report import write_run_report
from clip_es.pipelines.masks.run import make_masks
from clip_es.prompts import Synonyms, Vocabulary, load_vocabulary
from clip_es.prompts.templates import load_templates
from clip_es.records import Dataset, OnBadLabel
from clip_es.store.run import KeepCams, RunStore, parse_shard, read_failures, shard
from clip_es.types import MAX_CLASSES


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """What all sources of pictures share."""

    out: Path
    """Folder of the run. The same call with the same folder continues it."""
    weights: str = "ViT-B/16"
    """ViT-B/32, ViT-B/16, ViT-L/14, ViT-L/14@336px (each fetched once), scenes (in the package), or a file."""
    vocabulary: str = "voc12"
    """voc12, coco14, scenes, or a YAML file: classes, prompts, background words, template."""
    template: tuple[str, ...] = ()
    """Sentences in place of the vocabulary's, with {} for the class; several are averaged."""
    synonyms: Synonyms = "sentence"
    """Synonyms of a class in one sentence (the paper's), as the mean of their vectors, or left out."""
    preset: str = "default"
    """Sets the defaults of the other flags. reference: what CLIP-ES's published code computes, quirks included.
    cliper-DATA-b16 or -l14: CLIPer's published settings and templates for voc21, voc20, context60, context59, object,
    stuff, ade or cityscapes, chosen on those very sets; with -sliding its windows too. cliper-scenes: for scenes."""
    labels: Literal["given", "auto", "none"] = "given"
    """Who says what is in a picture: the data set, CLIP's own reading of the picture, or the method itself."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    batch_size: int = 8
    """Most pictures of one size to encode together. Does not change the masks on a CPU."""
    workers: int | None = None
    """Processes for the CRF; 0: none; None: chosen by cores and number of pictures."""
    engine: Literal["local", "ray"] = "local"
    """Where the work is done: here, or on a Ray cluster (extra `ray`)."""
    ray_address: str | None = None
    """Of the cluster, HOST:PORT or auto. None: RAY_ADDRESS, or where that is not set, this machine alone."""
    shard: str = "1/1"
    """i/n: do every n-th picture, beginning with the i-th. All shards may share one --out."""
    keep_cams: KeepCams = "none"
    """Keep the maps: maps (patch grid) or full (with the probabilities at full size)."""
    on_bad_label: OnBadLabel = "fail"
    """An unknown label fails its picture, or is left out."""
    report_pictures: int = 8
    """Pictures shown in report.html, evenly spread over the run."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)

    @property
    def label_source(self) -> LabelSource:
        """Where the labels come from."""
        return self.labels if self.labels in ("auto", "none") else "given"


@dataclass(frozen=True, kw_only=True)
class _Masks(MaskOptions):
    """Base of the four commands: each knows how to read its data set."""

    @classmethod
    def preset_default(cls, args: Sequence[str]):
        """The defaults under the `--preset` among the arguments; None where it is not named.

        Raises ConfigError: there is no such preset.
        """
        words = [word for arg in args for word in arg.split("=", 1)]
        names = [after for before, after in pairwise(words) if before == "--preset"]
        if not names:
            return None
        preset = find_preset(names[-1])
        changed = {"preset": names[-1], "config": preset.config}
        if preset.template:
            changed["template"] = load_templates(preset.template)
        if preset.weights:
            changed["weights"] = preset.weights
        # Made without __init__: a field that only the command line can fill holds tyro's mark for that.
        default = object.__new__(cls)
        for known in fields(cls):
            given = known.default if known.default_factory is MISSING else known.default_factory()
            given = changed.get(known.name, given)
            object.__setattr__(default, known.name, tyro.MISSING if given is MISSING else given)
        return default

    def dataset(
        self, vocabulary: Vocabulary, on_bad_label: OnBadLabel, need_size: bool, labelled: bool = True
    ) -> Dataset:
        """The records to work on, with their labels or without; comes from the source."""
        raise NotImplementedError

    def run(self) -> int:
        """Make the masks, evaluate them where there is truth, write the report."""
        index, count = parse_shard(self.shard)
        vocabulary = load_vocabulary(self.vocabulary)
        if len(vocabulary.classes) > MAX_CLASSES:
            raise ConfigError(
                "an 8-bit mask cannot hold this number of classes",
                where=f"vocabulary '{vocabulary.name}'",
                expected=f"at most {MAX_CLASSES}",
                found=len(vocabulary.classes),
                next_step="Split the vocabulary.",
            )
        need_size = self.config.image.size_from == "annotation"
        dataset = self.dataset(vocabulary, self.on_bad_label, need_size, self.label_source == "given")
        # To the machines of a cluster the model travels from the CPU.
        device = "cpu" if self.engine == "ray" else self.device
        encoder = load_encoder(self.weights, device=device, config=self.config.encoder)
        config = self.config
        if not dataset.has_background:
            config = replace(config, mask=replace(config.mask, background=False))
        maker = MaskMaker(
            encoder,
            vocabulary,
            config=config,
            templates=self.template or None,
            synonyms=self.synonyms,
            labels=self.label_source,
        )
        settings = {
            "labels": self.label_source,
            **supervision(maker),
            "config": maker.config.in_use(self.label_source),
            "prompts": {"templates": self.template or vocabulary.templates, "synonyms": self.synonyms},
            "sha256": {"weights": encoder.source, "text": maker.bank.source, **maker.localizer.sources},
        }
        about = {
            "dataset": dataset.name,
            # Not among the settings: pictures may be added and labels mended between calls.
            "dataset_sha256": dataset.fingerprint(),
            "images": picture_folder(dataset),
            "weights": self.weights,
            "vocabulary": vocabulary.name,
            "classes": [entry.name for entry in vocabulary.classes],
            "preset": self.preset,
            "device": str(encoder.device),
            "versions": versions(),
        }
        with RunStore.open(self.out, settings, about=about, keep=self.keep_cams, shard=(index, count)) as store:
            store.note(dataset.problems)
            for note in dataset.notes:
                say(note)
            mine = shard(dataset.records, index, count)
            todo = store.unfinished(mine)
            say(f"{dataset.name}: {len(mine)} pictures, {len(mine) - len(todo)} done before, {len(todo)} to do")
            with bar("masks", len(todo)) as progress:

                def done() -> None:
                    progress.advance(progress.task_ids[0])

                if self.engine == "ray":
                    options = {"address": self.ray_address, "device": self.device, "batch_size": self.batch_size}
                    run_on_ray(todo, maker, store, **options, done=done)
                else:
                    make_masks(todo, maker, store, batch_size=self.batch_size, workers=self.workers, done=done)
            seconds = dict(maker.stopwatch.seconds)
            scores = score_run(self.out, dataset, vocabulary)
            summary = store.finish(seconds, figures(scores))
            failed = store.failed_here
        write_run_report(self.out, dataset, maker, scores, self.report_pictures)
        _tell(self.out, summary.done, failed, seconds, scores, vocabulary)
        return 1 if failed else 0


@dataclass(frozen=True, kw_only=True)
class MasksVoc12(Voc12Source, _Masks):
    """Masks for pictures in the layout of PASCAL VOC 2012: labels from the XML files, ids from ImageSets."""


@dataclass(frozen=True, kw_only=True)
class MasksCoco14(Coco14Source, _Masks):
    """Masks for COCO 2014, labels from a published list of `COCO_train2014_... 45 49` lines or the instances file."""

    vocabulary: str = "coco14"
    """voc12, coco14, scenes, or a YAML file: classes, prompts, background words, template."""


@dataclass(frozen=True, kw_only=True)
class MasksCoco17(Coco17Source, _Masks):
    """Masks for COCO 2017, labels from its instances file."""

    vocabulary: str = "coco14"
    """coco14 (the same 80 classes), another packaged one, a file, or names such as cat,dog."""


@dataclass(frozen=True, kw_only=True)
class MasksAde20k(Ade20kSource, _Masks):
    """Masks for ADE20K, scored by its own truth: 150 classes, no background."""

    vocabulary: str = "ade20k"
    """ade20k, or a file with its 150 classes in the same order."""


@dataclass(frozen=True, kw_only=True)
class MasksCityscapes(CityscapesSource, _Masks):
    """Masks for Cityscapes, scored by its own truth: 19 classes, no background."""

    vocabulary: str = "cityscapes"
    """cityscapes, or a file with its 19 classes in the same order."""


@dataclass(frozen=True, kw_only=True)
class MasksContext(ContextSource, _Masks):
    """Masks for Pascal Context, scored by its own truth: 59 classes, with or without background."""

    vocabulary: str = "context"
    """context, or a file with its 59 classes in the same order."""


@dataclass(frozen=True, kw_only=True)
class MasksFolder(FolderSource, _Masks):
    """Masks for pictures of your own: a folder, and a table of labels, sub-folders named after the classes, or none."""


@dataclass(frozen=True, kw_only=True)
class MasksScenes(ScenesSource, _Masks):
    """Masks for scenes drawn by `clip-es scenes make`, with the CLIP that ships with the package."""

    weights: str = "scenes"
    """scenes (in the package), a file, or the name of an official CLIP."""
    vocabulary: str = "scenes"
    """voc12, coco14, scenes, or a YAML file: classes, prompts, background words, template."""


def supervision(maker: MaskMaker) -> dict[str, object]:
    """What the masks of a run rest on, for run.yaml: its labels, or the masks that a decoder was trained on."""
    if not weakly_supervised(maker.localizer):
        return {"supervision": f"{maker.localizer.supervision}, to train its decoder", "weakly_supervised": "no"}
    rests_on = {"given": "image-level labels", "auto": "none: the labels are CLIP's own", "none": "none"}
    return {"supervision": rests_on[maker.labels], "weakly_supervised": "yes"}


def score_run(out: Path, dataset: Dataset, vocabulary: Vocabulary) -> Evaluation | None:
    """The decided labels of a run against the truth; None where the data set has none."""
    pairs = {
        record.image_id: (label, dataset.truth[record.image_id])
        for record in dataset.records
        if record.image_id in dataset.truth and (label := out / "labels" / f"{record.image_id}.png").is_file()
    }
    if not pairs:
        return None
    result = evaluate(pairs, len(vocabulary.classes) + 1, table=dataset.truth_table)
    if not dataset.has_background:
        # It cannot be right, so an IoU of 0 would say nothing; where it was predicted, a class was missed.
        result.scores.iou[0] = np.nan
    return result


def picture_folder(dataset: Dataset) -> str | None:
    """The folder that holds all pictures, for `clip-es train`; None where there are none."""
    folders = {str(record.path.parent) for record in dataset.records}
    return str(Path(os.path.commonpath(folders)).resolve()) if folders else None


def figures(scores: Evaluation | None) -> Mapping[str, object]:
    """What summary.json says of the quality, per cent."""
    if scores is None:
        return {}
    return {
        "miou": 100 * scores.scores.miou,
        "pixel_accuracy": 100 * scores.scores.pixel_accuracy,
        "evaluated": scores.images,
    }


def versions() -> dict[str, str]:
    """Of this package and of those whose arithmetic the masks depend on."""
    found = {"python": platform.python_version()}
    for name in ("clip-es", "torch", "numpy", "pillow", "scipy", "pydensecrf2", "opencv-python"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _tell(
    out: Path, done: int, failed: int, seconds: Mapping[str, float], scores: Evaluation | None, vocabulary: Vocabulary
) -> None:
    if scores:
        names = ("background", *(entry.name for entry in vocabulary.classes))
        rows = [(n, 100 * iou) for n, iou in zip(names, scores.scores.iou.tolist(), strict=True) if iou == iou]
        show_table("IoU of each class", ("class", "IoU"), [*rows, ("mIoU", 100 * scores.scores.miou)])
        for name, reason in scores.failures[:5]:
            say(f"  not evaluated: {name}: {reason}")
    times = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
    say(f"{done} pictures done, {failed} failed" + (f" ({times})" if times else ""))
    for problem in read_failures(out / "failures.csv")[:5] if failed else ():
        say(f"  {problem.image_id} [{problem.stage}] {problem.reason}")
    if failed > 5:
        say(f"  ... all of them in {out / 'failures.csv'}")
    say(f"Masks: {out / 'masks'}   Report: {out / 'report.html'}")
