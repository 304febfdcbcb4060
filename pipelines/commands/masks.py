"""`clip-es masks ...`: from a data set with image-level labels to a run folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from clip_es.config.presets import find_preset
from clip_es.config.run import RunConfig
from clip_es.config.stages import LabelSource
from clip_es.encoder import load_encoder
from clip_es.errors import ClipEsError, ConfigError
from clip_es.localize.methods import weakly_supervised
from clip_es.pipelines.agree import Agreement, compare, exact_encoder, is_exact
from clip_es.pipelines.commands.data_source import DataSource, OnSource, S, first
from clip_es.pipelines.commands.flags import DataVocabularyFlag, FormFlag, LimitFlag, TemplateFlag, WeightsFlag
from clip_es.pipelines.commands.given_back import given_back, last_of, not_as_before
from clip_es.pipelines.commands.sources import ScenesSource
from clip_es.pipelines.console import bar, counted, say, say_failures, show_table
from clip_es.pipelines.evaluate import Evaluation, evaluate_each
from clip_es.pipelines.exchange.import_masks import imported_ids
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.ray import run_on_ray, shards_on_ray
from clip_es.pipelines.masks.report import evenly, write_run_report, write_shards_report
from clip_es.pipelines.masks.run import make_masks, make_shards
from clip_es.prompts import Synonyms, Vocabulary
from clip_es.prompts.templates import load_templates, sentences
from clip_es.records import Dataset, OnBadLabel
from clip_es.refine.registry import supervision as refiners_saw
from clip_es.storage import Folder, Place, address_of, place_of
from clip_es.store.cams import KeepCams
from clip_es.store.failures import read_failures
from clip_es.store.finished import in_folder, in_shards, labels_in_shards
from clip_es.store.opening import parse_shard, shard
from clip_es.store.run import RunStore
from clip_es.store.shards.forms import FormName
from clip_es.store.shards.store import ROWS_PER_SHARD, ShardStore
from clip_es.types import ImageRecord


@dataclass(frozen=True, kw_only=True)
class OnPresets(OnSource[S]):
    """Base of the commands that make masks: `--preset` chooses the defaults of the other flags."""

    preset: str = "default"
    """Sets the defaults of the other flags. best: the most accurate masks without any training, four views; best-fast:
    the same from one view; best-multiscale: at three scales; -scenes behind any: for drawn scenes. reference: what
    CLIP-ES's published code computes, quirks included. cliper-DATA-b16 or -l14: CLIPer's published settings and
    templates for voc21, voc20, context60, context59, object, stuff, ade or cityscapes, chosen on those very sets; with
    -sliding its windows too. cliper-scenes: for scenes. excel-voc, excel-coco: ExCEL without its training."""

    earlier: Annotated[Path | None, tyro.conf.arg(name="config", metavar="RUN.YAML")] = None
    """The run.yaml of an earlier run, whose settings become the defaults of the other flags: weights, words, method,
    refiners and all else that decides the masks, but not the data set."""

    @classmethod
    def preset_options(cls, args: Sequence[str]) -> dict[str, Any]:
        """The defaults under the `--preset` among the arguments. Raises ConfigError: there is no such preset."""
        name = last_of("--preset", args)
        known = {field.name for field in fields(cls)}
        earlier = {name: value for name, value in given_back(args).items() if name in known}
        if name is None:
            return earlier
        preset = find_preset(name)
        options: dict[str, Any] = {"preset": name, "config": preset.config}
        if preset.template:
            options["template"] = load_templates(preset.template)
        if preset.weights:
            options["weights"] = preset.weights
        if preset.vocabulary:
            options["vocabulary"] = preset.vocabulary
        if earlier:
            raise ConfigError("--config and --preset both set the other flags", next_step="Pass one of them.")
        return options

    @classmethod
    def source_options(cls, args: Sequence[str], source: type[DataSource]) -> dict[str, Any]:
        """What the run under `--config` says of its labels, where it looked for them itself."""
        labels = given_back(args).get("labels")
        return {"labels": labels} if labels in ("auto", "none") and "labels" in (f.name for f in fields(source)) else {}


DRAWINGS_ONLY = (
    "The weights `scenes` know small drawn scenes only: on photographs their masks mean nothing. For photographs pass "
    "--weights ViT-B/16."
)


@dataclass(frozen=True, kw_only=True)
class Masks(OnPresets[S]):
    """Masks from image-level labels."""

    out: Path
    """Folder of the run, or an address such as s3://bucket/run or gs://bucket/run (extra `storage`). The same call with
    the same place continues it."""
    form: FormFlag = None
    rows_per_shard: int = ROWS_PER_SHARD
    """Pictures of a shard: what is written at a time, and lost at most where a machine dies."""
    shard_pictures: bool = False
    """Put the pictures' own files into the shards, so that a training needs nothing else."""
    weights: WeightsFlag = "ViT-B/16"
    vocabulary: DataVocabularyFlag = "voc12"
    template: TemplateFlag = ()
    synonyms: Synonyms = "sentence"
    """Synonyms of a class in one sentence (the paper's), as the mean of their vectors, or left out."""
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
    limit: LimitFlag = None
    shard: str = "1/1"
    """i/n: do every n-th picture, beginning with the i-th. All shards may share one --out."""
    keep_cams: KeepCams = "none"
    """Keep the maps: maps (patch grid) or full (with the probabilities at full size)."""
    on_bad_label: OnBadLabel = "fail"
    """An unknown label fails its picture, or is left out."""
    redo: Literal["changed", "all", "none"] | None = None
    """Masks of an earlier call to make again: those whose labels or picture file have changed since, all, or none.
    None: none, but it is said how many have changed. What a person has edited is never made again."""
    report_pictures: int = 8
    """Pictures shown in report.html, evenly spread over the run."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)

    def run(self) -> int:
        """Make the masks, evaluate them where there is truth, write the report."""
        part, form = parse_shard(self.shard), self._form()
        vocabulary = self.source.words(self.vocabulary).for_masks()
        labels = self.source.label_source
        need_size = self.config.image.size_from == "annotation"
        dataset = first(self.source.dataset(vocabulary, self.on_bad_label, need_size, labels == "given"), self.limit)
        maker = self._maker(vocabulary, dataset, labels)
        settings, about = self._settings(maker), self._about(maker, dataset)
        if note := not_as_before(self.earlier, settings):
            say(note)
        if not is_exact(maker.encoder):
            say(f"Encoder: {maker.encoder.chosen}")
        if form != "folder":
            return self._run_shards(form, dataset, maker, settings, about)
        with RunStore.open(self.out, settings, about=about, keep=self.keep_cams, shard=part) as store:
            store.note(dataset.problems)
            for note in (*dataset.notes, *([DRAWINGS_ONLY] if self._drawings_only else [])):
                say(note)
            mine = shard(dataset.records, *part)
            self._redo(store, mine)
            todo = store.unfinished(mine)
            if store.damaged:
                what = counted(len(store.damaged), "finished picture")
                say(f"{what} with an empty or torn file: done again")
            before = len(mine) - len(todo)
            say(f"{dataset.name}: {counted(len(mine), 'picture')}, {before} done before, {len(todo)} to do")
            self._make(todo, maker, store)
            seconds = dict(maker.stopwatch.seconds)
            scores = score_run(self.out, dataset, vocabulary)
            summary = store.finish(seconds, figures(scores))
            failed = store.failed_here
        finished = in_folder(self.out, (record.image_id for record in dataset.records))
        agreement = self._agreement(maker, finished, dataset) if self.report_pictures else None
        write_run_report(self.out, dataset, maker, scores, self.report_pictures, agreement, finished)
        tell(self.out, summary.done, failed, seconds, scores, vocabulary)
        return 1 if failed else 0

    def _form(self) -> FormName | Literal["folder"]:
        """What the results become. Raises ConfigError: a place that does not take it, a flag that it does not know."""
        address = address_of(self.out)
        form = self.form or ("webdataset" if address else "folder")
        if address and form == "folder":
            raise ConfigError(
                "object storage takes shards, not a file for each mask",
                where=address,
                expected="--form webdataset or --form parquet",
                next_step="Or make the masks on a disk.",
            )
        if form != "folder" and self.redo in ("changed", "all"):
            raise ConfigError(
                "shards do not know which labels and files they were made from",
                found=f"--redo {self.redo} --form {form}",
                next_step="Pass another --out.",
            )
        return form

    def _run_shards(
        self,
        form: FormName,
        dataset: Dataset,
        maker: MaskMaker,
        settings: Mapping[str, object],
        about: Mapping[str, object],
    ) -> int:
        """The masks as shards."""
        part = parse_shard(self.shard)
        place: Place = place_of(self.out)
        # Workers have folders of their own, in which a relative path would mean another place.
        place = Folder(self.out.absolute()) if isinstance(place, Folder) else place
        with ShardStore.open(
            place,
            settings,
            classes=maker.vocabulary.names,
            form=form,
            about=about,
            keep=self.keep_cams,
            pictures=self.shard_pictures,
            shard=part,
        ) as store:
            store.note(dataset.problems)
            for note in (*dataset.notes, *([DRAWINGS_ONLY] if self._drawings_only else [])):
                say(note)
            for error in store.damaged:
                say(f"{error} Its pictures are done again.")
            mine = shard(dataset.records, *part)
            self._make_shards(mine, maker, store)
            seconds = dict(maker.stopwatch.seconds)
            shown = [record.image_id for record in evenly(dataset.records, self.report_pictures)]
            scores = score_shards(place, dataset, maker.vocabulary)
            summary, failed = store.finish(seconds, figures(scores)), store.failed_here
        finished = in_shards(place, shown)
        agreement = self._agreement(maker, finished, dataset)
        write_shards_report(place, dataset, maker, scores, agreement, finished)
        tell_figures(summary.done, failed, seconds, scores, maker.vocabulary)
        say(f"Shards: {place.at('shards')}   See `clip-es shards ls {place}`.   Report: {place.at('report.html')}")
        return 1 if failed else 0

    def _make_shards(self, mine: Sequence[ImageRecord], maker: MaskMaker, store: ShardStore) -> None:
        left = sum(map(len, store.units(mine, self.rows_per_shard)))
        say(f"{counted(len(mine), 'picture')}, {len(mine) - left} done before, {left} to do")
        with bar("masks", left) as progress:
            options = {
                "size": self.rows_per_shard,
                "batch_size": self.batch_size,
                "done": lambda: progress.advance(progress.task_ids[0]),
            }
            if self.engine == "ray":
                shards_on_ray(mine, maker, store, address=self.ray_address, device=self.device, **options)
            else:
                make_shards(mine, maker, store, workers=self.workers, **options)

    def _maker(self, vocabulary: Vocabulary, dataset: Dataset, labels: LabelSource) -> MaskMaker:
        # To the machines of a cluster the model travels from the CPU.
        device = "cpu" if self.engine == "ray" else self.device
        encoder = load_encoder(self.weights, device=device, config=self.config.encoder)
        config = self.config.for_data(dataset.has_background)
        return MaskMaker(
            encoder,
            vocabulary,
            config=config,
            templates=sentences(self.template) or None,
            synonyms=self.synonyms,
            labels=labels,
            # The machines of a cluster do not see this folder, and object storage is none.
            cache=None if self.engine == "ray" or self._form() != "folder" else self.out / "regions",
        )

    def _agreement(self, maker: MaskMaker, finished: Collection[str], dataset: Dataset) -> Agreement | None:
        """With torch's float32 on a few finished pictures; None where that is what was computed."""
        done = [one for one in dataset.records if one.image_id in finished]
        if is_exact(maker.encoder) or not done:
            return None
        try:
            slow = MaskMaker(
                exact_encoder(maker.encoder, self.weights), maker.vocabulary, maker.bank, maker.config,
                templates=sentences(self.template) or None, synonyms=self.synonyms, labels=maker.labels,
            )  # fmt: skip
            found = compare(maker, slow, evenly(done, self.report_pictures))
        except ClipEsError as error:
            say(f"Not compared with float32 by torch: {error}")
            return None
        share = f"{100 * found.equal_pixels:.2f} %"
        say(f"{found.how}: {share} of the pixels of {counted(found.pictures, 'picture')} are as in float32 by torch")
        return found

    @property
    def _drawings_only(self) -> bool:
        """Whether weights that know drawn scenes look at something else."""
        return self.weights == "scenes" and not isinstance(self.source, ScenesSource)

    def _settings(self, maker: MaskMaker) -> dict[str, object]:
        """What decides the bytes of the masks."""
        return {
            "labels": maker.labels,
            **supervision(maker),
            "config": maker.config.in_use(maker.labels),
            "prompts": {"templates": sentences(self.template) or maker.vocabulary.templates, "synonyms": self.synonyms},
            "sha256": {"weights": maker.encoder.source, "text": maker.bank.source, **maker.localizer.sources},
        }

    def _about(self, maker: MaskMaker, dataset: Dataset) -> dict[str, object]:
        """What may change between calls: pictures are added, labels mended, versions move on."""
        return {
            "dataset": dataset.name,
            "dataset_sha256": dataset.fingerprint(),
            "images": picture_folder(dataset),
            "weights": self.weights,
            "vocabulary": maker.vocabulary.name,
            **({"vocabulary_given": self.vocabulary} if self.vocabulary not in (None, maker.vocabulary.name) else {}),
            "classes": list(maker.vocabulary.names),
            "preset": self.preset,
            **({"caution": DRAWINGS_ONLY} if self._drawings_only else {}),
            "device": str(maker.encoder.device),
            "versions": versions(),
        }

    def _redo(self, store: RunStore, mine: Sequence[ImageRecord]) -> None:
        """Take back the masks that are to be made again, or say which no longer fit."""
        if self.redo == "none":
            return
        edited = imported_ids(store.folder)
        ours = [record for record in mine if record.image_id not in edited]
        changed = store.changed(ours)
        if self.redo is None:
            if changed.ids:
                say(f"{changed}: --redo changed | all | none")
            return
        ids = {record.image_id for record in ours} if self.redo == "all" else set(changed.ids)
        again = ids & store.finished
        store.redo(again)
        spared = len(mine) - len(ours)
        say(f"To be made again: {len(again)}" + (f"; {spared} that a person edited stay" if spared else ""))

    def _make(self, todo: Sequence[ImageRecord], maker: MaskMaker, store: RunStore) -> None:
        with bar("masks", len(todo)) as progress:

            def done() -> None:
                progress.advance(progress.task_ids[0])

            if self.engine == "ray":
                options = {"address": self.ray_address, "device": self.device, "batch_size": self.batch_size}
                run_on_ray(todo, maker, store, **options, done=done)
            else:
                make_masks(todo, maker, store, batch_size=self.batch_size, workers=self.workers, done=done)


def supervision(maker: MaskMaker) -> dict[str, object]:
    """What the masks of a run rest on, for run.yaml: its labels, or the masks that a decoder was trained on."""
    refiners = refiners_saw(maker.config)
    if not weakly_supervised(maker.localizer):
        told = [f"{maker.localizer.supervision}, to train its decoder", *([refiners] if refiners != "none" else [])]
        return {"supervision": "; ".join(told), "weakly_supervised": "no"}
    rests_on = {"given": "image-level labels", "auto": "none: the labels are CLIP's own", "none": "none"}
    if refiners != "none":
        return {"supervision": f"{rests_on[maker.labels]}; {refiners}, to train a refiner", "weakly_supervised": "no"}
    return {"supervision": rests_on[maker.labels], "weakly_supervised": "yes"}


def score_run(out: Path, dataset: Dataset, vocabulary: Vocabulary) -> Evaluation | None:
    """The decided labels of a run compared with the ground truth; None where the data set has none."""
    there = {
        record.image_id: label
        for record in dataset.records
        if record.image_id in dataset.truth and (label := out / "labels" / f"{record.image_id}.png").is_file()
    }
    return _scored(there.items(), dataset, vocabulary) if there else None


def score_shards(place: Place, dataset: Dataset, vocabulary: Vocabulary) -> Evaluation | None:
    """The same of a run in shards."""
    found = labels_in_shards(place, dataset.truth) if dataset.truth else iter(())
    begin = next(found, None)
    return None if begin is None else _scored(chain([begin], found), dataset, vocabulary)


def _scored(labels: Iterable[tuple[str, Path]], dataset: Dataset, vocabulary: Vocabulary) -> Evaluation:
    pairs = ((name, path, dataset.truth[name]) for name, path in labels)
    result = evaluate_each(pairs, len(vocabulary.classes) + 1, table=dataset.truth_table)
    if not dataset.has_background:
        # It cannot be right, so an IoU of 0 would say nothing; where it was predicted, a class was missed.
        result.scores.iou[0] = np.nan
    return result


def picture_folder(dataset: Dataset) -> str | None:
    """The folder that holds all pictures, for `clip-es train`; None where there are none."""
    if dataset.records and dataset.records[0].image is not None:
        return None  # They are on object storage or in shards.
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
    for name in ("clip-es", "torch", "numpy", "pillow", "scipy", "pydensecrf2", "opencv-python", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def tell(
    out: Path, done: int, failed: int, seconds: Mapping[str, float], scores: Evaluation | None, vocabulary: Vocabulary
) -> None:
    """What a run folder has come to, for the terminal."""
    tell_figures(done, failed, seconds, scores, vocabulary)
    if failed:
        say_failures(read_failures(out / "failures.csv"), out / "failures.csv")
    say(f"Masks: {out / 'masks'}   Report: {out / 'report.html'}")


def tell_figures(
    done: int, failed: int, seconds: Mapping[str, float], scores: Evaluation | None, vocabulary: Vocabulary
) -> None:
    """IoU of each class, and how many pictures are done."""
    if scores:
        names = ("background", *(entry.name for entry in vocabulary.classes))
        rows = [(n, 100 * iou) for n, iou in zip(names, scores.scores.iou.tolist(), strict=True) if iou == iou]
        show_table("IoU of each class", ("class", "IoU"), [*rows, ("mIoU", 100 * scores.scores.miou)])
        for name, reason in scores.failures[:5]:
            say(f"  not evaluated: {name}: {reason}")
    times = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
    say(f"{counted(done, 'picture')} done, {failed} failed" + (f" ({times})" if times else ""))
