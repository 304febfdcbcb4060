"""`clip-es refine`: masks from maps that another method has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from clip_es.config.presets import find_preset
from clip_es.config.run import RunConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.commands.data_source import first
from clip_es.pipelines.commands.flags import LimitFlag, VocabularyFlag, WeightsFlag
from clip_es.pipelines.commands.given_back import given_back, last_of, not_as_before
from clip_es.pipelines.commands.masks import figures, picture_folder, score_run, tell, versions
from clip_es.pipelines.console import bar, counted, say
from clip_es.pipelines.evaluate import masks_below
from clip_es.pipelines.masks.from_maps import MapMaker, needs_encoder
from clip_es.pipelines.masks.report import write_run_report
from clip_es.pipelines.masks.run import make_masks
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, Problem
from clip_es.records.file_listing import picture_names
from clip_es.records.folder import image_id_of
from clip_es.records.maps import MapFolder, Scale, find_maps
from clip_es.records.picture_files import pictures_of
from clip_es.store.opening import parse_shard, shard
from clip_es.store.run import RunStore
from clip_es.types import ImageRecord

AFTER_MAPS = ("crf",)
"""What refines maps where nothing else is asked for: maps of other methods are mostly refined already."""


@dataclass(frozen=True, kw_only=True)
class Refine:
    """Masks from maps that any method has made: refiners, a confidence, 255 where it is low, a report, exports.

    The folder of maps may hold CLIP-ES's .npy files (never unpickled), arrays in .npz, TIFF of floating point, or a
    grey PNG for each class. Calling again continues.
    """

    maps: Path
    """Folder of ID.npy, ID.npz, ID.tif, ID/CLASS.png or CLASS/ID.png, sub-folders too."""
    images: Path
    """Folder of the pictures, named alike."""
    out: Path
    """Folder of the run. The same call with the same folder continues it."""
    vocabulary: VocabularyFlag = "voc12"
    scale: Scale = "none"
    """Maps as they are, which must lie in 0..1; or each stretched to 0..1 (for logits, activations, 0..255)."""
    first_class: int = 0
    """The number of the first class in the files: 0, or 1 where 0 stands for the background."""
    truth: Path | None = None
    """Folder of ground-truth PNGs of the same names, to evaluate the masks with."""
    weights: WeightsFlag = "ViT-B/16"
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... For --refine affinity and others that need CLIP."""
    batch_size: int = 8
    """Most pictures of one size to encode together, where CLIP is needed. Does not change the masks on a CPU."""
    workers: int | None = None
    """Processes for the CRF; 0: none; None: chosen by cores and number of pictures."""
    limit: LimitFlag = None
    shard: str = "1/1"
    """i/n: do every n-th picture, beginning with the i-th. All shards may share one --out."""
    redo: Literal["all", "none"] = "none"
    """Make the masks of an earlier call again, as when the maps have changed."""
    report_pictures: int = 8
    """Pictures shown in report.html, evenly spread over the run."""
    preset: str = "default"
    """Sets the defaults of the other flags. reference: what CLIP-ES's published code makes of its maps, bit for bit."""
    earlier: Annotated[Path | None, tyro.conf.arg(name="config", metavar="RUN.YAML")] = None
    """The run.yaml of an earlier run, whose settings become the defaults of the other flags: scale, first class, words,
    refiners and all else that decides the masks, but not maps and pictures."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: RunConfig(refine=AFTER_MAPS))

    @classmethod
    def chosen(cls, args: Sequence[str]) -> dict[str, Any]:
        """The defaults under the `--preset` or `--config` among the arguments.

        Raises ConfigError: there is no such preset, both are given, or a setting does not fit. DataError.
        """
        name, earlier = last_of("--preset", args), given_back(args, RunConfig(refine=AFTER_MAPS))
        required: dict[str, Any] = dict.fromkeys(("maps", "images", "out"), tyro.MISSING)
        if earlier and name is not None:
            raise ConfigError("--config and --preset both set the other flags", next_step="Pass one of them.")
        if earlier:
            maps = earlier.pop("maps", {})
            known = {field.name for field in fields(cls)}
            options = {key: value for key, value in earlier.items() if key in known} | _maps_settings(maps)
            return {"default": cls(**required, **options)}
        if name is None:
            return {}
        config = replace(find_preset(name).config, refine=AFTER_MAPS)
        return {"default": cls(**required, preset=name, config=config)}

    def run(self) -> int:
        """Make the masks, evaluate them where there is truth, write the report."""
        part = parse_shard(self.shard)
        if self.first_class not in (0, 1):
            raise ConfigError("--first-class is 0 or 1", found=self.first_class)
        vocabulary = load_vocabulary(self.vocabulary).for_masks()
        folder = find_maps(self.maps, vocabulary.names, vocabulary.class_id, self.scale, self.first_class)
        dataset = first(self._dataset(folder), self.limit)
        encoder = None
        if needs_encoder(self.config):
            encoder = load_encoder(self.weights, device=self.device, config=self.config.encoder)
        maker = MapMaker(folder, vocabulary, self.config, encoder, cache=self.out / "regions")
        settings: Mapping[str, object] = {
            "maps": {"scale": self.scale, "first_class": self.first_class},
            "supervision": "that of the maps",
            "config": maker.used,
            "sha256": {"weights": encoder.source} if encoder else {},
        }
        if note := not_as_before(self.earlier, settings):
            say(note)
        about = {
            "dataset": dataset.name,
            "dataset_sha256": dataset.fingerprint(),
            "images": picture_folder(dataset),
            "maps_folder": str(self.maps.resolve()),
            "vocabulary": vocabulary.name,
            **({"vocabulary_given": self.vocabulary} if self.vocabulary != vocabulary.name else {}),
            **({"weights": self.weights} if encoder else {}),
            "classes": list(vocabulary.names),
            "preset": self.preset,
            "versions": versions(),
        }
        with RunStore.open(self.out, settings, about=about, shard=part) as store:
            store.note(dataset.problems)
            for note in dataset.notes:
                say(note)
            mine = shard(dataset.records, *part)
            if self.redo == "all":
                store.redo({record.image_id for record in mine} & store.finished)
            todo = store.unfinished(mine)
            done = len(mine) - len(todo)
            say(f"{dataset.name}: {counted(len(mine), 'picture')}, {done} done before, {len(todo)} to do")
            with bar("refine", len(todo)) as progress:
                make_masks(
                    todo, maker, store, batch_size=self.batch_size, workers=self.workers,
                    done=lambda: progress.advance(progress.task_ids[0]),
                )  # fmt: skip
            seconds = dict(maker.stopwatch.seconds)
            scores = score_run(self.out, dataset, vocabulary)
            summary = store.finish(seconds, figures(scores))
            failed = store.failed_here
        write_run_report(self.out, dataset, maker, scores, self.report_pictures)
        tell(self.out, summary.done, failed, seconds, scores, vocabulary)
        return 1 if failed else 0

    def _dataset(self, folder: MapFolder) -> Dataset:
        """Every picture that has maps; one whose picture is not found is a problem of its own."""
        pictures = pictures_of(folder.files.keys(), [self.images])
        if not pictures:
            raise DataError(
                "none of these pictures has maps",
                where=self.images,
                expected=f"pictures named as the maps in {self.maps}, such as {next(iter(folder.files))}.jpg",
                next_step="Check --images and --maps.",
            )
        records, problems = [], []
        for image_id in folder.files:
            try:
                if image_id not in pictures:
                    raise DataError("there is no picture for these maps", where=self.images / image_id)
                records.append(ImageRecord(image_id, pictures[image_id], ()))
            except DataError as error:
                problems.append(Problem.of(image_id, error))
        truth = {} if self.truth is None else masks_below(self.truth)
        truth = {record.image_id: truth[record.image_id] for record in records if record.image_id in truth}
        alone = sorted(name for name in picture_names(self.images) if image_id_of(name) not in folder.files)
        note = f"{counted(len(alone), 'picture')} of {self.images} without maps, such as {alone[0]}" if alone else ""
        return Dataset(self.maps.resolve().name, records, tuple(problems), truth, notes=(note,) if note else ())


def _maps_settings(told: object) -> dict[str, Any]:
    """`scale` and `first_class` as run.yaml has them. Raises ConfigError."""
    given = dict(told) if isinstance(told, Mapping) else {"maps": told}
    wrong = {
        name: value
        for name, value in given.items()
        if not ((name == "scale" and value in get_args(Scale)) or (name == "first_class" and value in (0, 1)))
    }
    if wrong:
        expected = f"scale {' or '.join(get_args(Scale))}, first_class 0 or 1"
        raise ConfigError("has other settings of maps than there are", where="--config", expected=expected, found=wrong)
    return given
