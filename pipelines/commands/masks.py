"""`clip-es masks ...`: from a data set with image-level labels to a run folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import tyro

from clip_es.config import PRESETS, RunConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError
from clip_es.pipelines.cluster import run_on_ray
from clip_es.pipelines.commands.sources import Coco14Source, FolderSource, Voc12Source
from clip_es.pipelines.console import bar, say, show_table
from clip_es.pipelines.evaluate import Evaluation, evaluate
from clip_es.pipelines.mask_maker import MaskMaker
from clip_es.pipelines.pseudo_masks import make_masks
from clip_es.pipelines.run_report import write_run_report
from clip_es.prompts import Synonyms, Vocabulary, load_vocabulary
from clip_es.records import Dataset, OnBadLabel
from clip_es.store import KeepCams, RunStore, parse_shard, read_failures, shard
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
    preset: Literal["default", "reference"] = "default"
    """reference computes what the published code computes, quirks included; sets the defaults of the flags below."""
    method: Literal["clip-es"] = "clip-es"
    """How labels are found."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    batch_size: int = 8
    """Most pictures of one size to encode together. Does not change the masks on a CPU."""
    workers: int | None = None
    """Processes for the CRF; 0: none; None: chosen by cores and number of pictures."""
    ray: str | None = None
    """Spread the work over a Ray cluster (extra `ray`): auto, HOST:PORT, or local for one on this machine."""
    shard: str = "1/1"
    """i/n: do every n-th picture, beginning with the i-th. All shards may share one --out."""
    keep_cams: KeepCams = "none"
    """Keep the maps: maps (patch grid) or full (with the probabilities at full size)."""
    on_bad_label: OnBadLabel = "fail"
    """An unknown label fails its picture, or is left out."""
    report_pictures: int = 8
    """Pictures shown in report.html, evenly spread over the run."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)


@dataclass(frozen=True, kw_only=True)
class _Masks(MaskOptions):
    """Base of the four commands: each knows how to read its data set."""

    @classmethod
    def preset_default(cls, args: Sequence[str]):
        """The defaults under the `--preset` among the arguments; None where it is not named or not known."""
        words = [word for arg in args for word in arg.split("=", 1)]
        names = [after for before, after in pairwise(words) if before == "--preset"]
        if not names or names[-1] not in PRESETS:
            return None
        # Made without __init__: a field that only the command line can fill holds tyro's mark for that.
        default = object.__new__(cls)
        for known in fields(cls):
            given = known.default if known.default_factory is MISSING else known.default_factory()
            object.__setattr__(default, known.name, tyro.MISSING if given is MISSING else given)
        object.__setattr__(default, "preset", names[-1])
        object.__setattr__(default, "config", PRESETS[names[-1]])
        return default

    def dataset(self, vocabulary: Vocabulary, on_bad_label: OnBadLabel, need_size: bool) -> Dataset:
        """The records to work on; comes from the source."""
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
        dataset = self.dataset(vocabulary, self.on_bad_label, self.config.image.size_from == "annotation")
        # To the machines of a cluster the model travels from the CPU.
        device = "cpu" if self.ray else self.device
        encoder = load_encoder(self.weights, device=device, config=self.config.encoder)
        maker = MaskMaker(
            encoder, vocabulary, config=self.config, templates=self.template or None, synonyms=self.synonyms
        )
        settings = {
            "method": self.method,
            "config": maker.config,
            "prompts": {"templates": self.template or vocabulary.templates, "synonyms": self.synonyms},
            "sha256": {"weights": encoder.source, "text": maker.bank.source},
        }
        about = {
            "dataset": dataset.name,
            # Not among the settings: pictures may be added and labels mended between calls.
            "dataset_sha256": dataset.fingerprint(),
            "weights": self.weights,
            "vocabulary": vocabulary.name,
            "preset": self.preset,
            "device": str(encoder.device),
            "versions": versions(),
        }
        with RunStore.open(self.out, settings, about=about, keep=self.keep_cams, shard=(index, count)) as store:
            store.note(dataset.problems)
            mine = shard(dataset.records, index, count)
            todo = store.unfinished(mine)
            say(f"{dataset.name}: {len(mine)} pictures, {len(mine) - len(todo)} done before, {len(todo)} to do")
            with bar("masks", len(todo)) as progress:

                def done() -> None:
                    progress.advance(progress.task_ids[0])

                if self.ray:
                    options = {"address": self.ray, "device": self.device, "batch_size": self.batch_size}
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
    """Masks for COCO 2014, labels from a published list of `COCO_train2014_... 45 49` lines with 0-based ids."""

    vocabulary: str = "coco14"
    """voc12, coco14, scenes, or a YAML file: classes, prompts, background words, template."""


@dataclass(frozen=True, kw_only=True)
class MasksFolder(FolderSource, _Masks):
    """Masks for pictures of your own: a folder and a CSV with the header `image,labels`, labels separated by `;`."""


@dataclass(frozen=True, kw_only=True)
class MasksScenes(Voc12Source, _Masks):
    """Masks for scenes drawn by `clip-es scenes make`, with the CLIP that ships with the package."""

    weights: str = "scenes"
    """scenes (in the package), a file, or the name of an official CLIP."""
    vocabulary: str = "scenes"
    """voc12, coco14, scenes, or a YAML file: classes, prompts, background words, template."""
    root: Path = Path("runs/scenes")
    """Folder of the scenes; `clip-es scenes make` draws one."""
    split: str = "val"
    """Name of a list in ImageSets/Segmentation."""

    def dataset(self, vocabulary: Vocabulary, on_bad_label: OnBadLabel = "fail", need_size: bool = False) -> Dataset:
        """The scenes of the split, under their own name."""
        return replace(super().dataset(vocabulary, on_bad_label, need_size), name=f"scenes {self.split}")


def score_run(out: Path, dataset: Dataset, vocabulary: Vocabulary) -> Evaluation | None:
    """The decided labels of a run against the truth; None where the data set has none."""
    pairs = {
        record.image_id: (label, dataset.truth[record.image_id])
        for record in dataset.records
        if record.image_id in dataset.truth and (label := out / "labels" / f"{record.image_id}.png").is_file()
    }
    return evaluate(pairs, len(vocabulary.classes) + 1) if pairs else None


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
