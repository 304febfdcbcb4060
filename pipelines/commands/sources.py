"""Where pictures and labels come from: one dataclass for each kind of data set, with its flags; all commands read them.

`clip-es masks voc12` is the command `masks` on the source `voc12`. The names stand in `pipelines.table.SOURCES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import tyro

from clip_es import records
from clip_es.config.stages import LabelSource
from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.commands.data_source import DataSource, Reading
from clip_es.pipelines.commands.flags import LabelsFormatFlag
from clip_es.pipelines.console import say
from clip_es.prompts import Vocabulary, load_vocabulary
from clip_es.prompts.vocabulary_files import vocabulary_of
from clip_es.records import Dataset, Use
from clip_es.records.file_listing import picture_names
from clip_es.records.folder import image_id_of
from clip_es.records.labels.names import label_names
from clip_es.records.labels.rows import Unpacked, unpack
from clip_es.records.stored.pictures import StoredTree
from clip_es.storage import address_of
from clip_es.types import UNDECIDED


def check_order(vocabulary: Vocabulary, packaged: str) -> None:
    """Do nothing where a set that numbers its classes can be read with a vocabulary.

    The vocabulary may have other words for the classes, but in the set's own order. Raises ConfigError: it has the
    names of the set in another order.
    """
    own = load_vocabulary(packaged)
    moved = [(name, own.names[k]) for k, name in enumerate(vocabulary.names[: len(own.names)]) if name != own.names[k]]
    if moved and set(vocabulary.names) == set(own.names):
        raise ConfigError(
            f"the labels of this data set are numbers in the order of {packaged}; {vocabulary.name} has another one",
            expected=f"{moved[0][1]!r} in the place of {moved[0][0]!r}",
            next_step=f"Pass --vocabulary {packaged}, or bring the classes into its order.",
        )


def _has(vocabulary: Vocabulary, name: str) -> bool:
    try:
        vocabulary.class_id(name)
    except DataError:
        return False
    return True


def with_classes_of(vocabulary: Vocabulary, dataset: Dataset, truth_names: tuple[str, ...]) -> Dataset:
    """The data set with its truth numbered as in the vocabulary; the ground truth's own label k + 1 is
    `truth_names[k]`.

    A class the vocabulary lacks becomes background, or 255 where the ground truth has no background.
    """
    if truth_names == vocabulary.names or not len(dataset.truth):
        return dataset
    table = np.full(256, UNDECIDED, dtype=np.uint8)
    table[0] = 0
    missing = []
    for label, name in enumerate(truth_names, start=1):
        try:
            table[label] = vocabulary.class_id(name) + 1
        except DataError:
            missing.append(name)
            table[label] = 0 if dataset.has_background else UNDECIDED
    notes = dataset.notes
    if missing:
        counts_as = "background" if dataset.has_background else "ignored"
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        notes += (f"Not in {vocabulary.name}, so {counts_as} in the ground truth: {', '.join(missing[:10])}{more}.",)
    before = dataset.truth_table
    return replace(dataset, truth_table=table if before is None else table[before], notes=notes)


@dataclass(frozen=True, kw_only=True)
class Voc12Source(DataSource):
    """A folder in the layout of PASCAL VOC 2012: labels from the XML files, ids from ImageSets."""

    root: Path = Path("data/VOC2012")
    """Folder with JPEGImages, Annotations and ImageSets."""
    split: str = "train"
    """Name of a list in ImageSets/Segmentation; train_aug is derived from SegmentationClassAug where there is none."""
    list_file: Path | None = None
    """Your own list instead of --split: one id per line."""
    difficult: Use = "keep"
    """Whether objects marked difficult count as labels, as published."""
    truncated: Use = "keep"
    """Whether objects marked truncated count as labels, as published."""
    truth_vocabulary: str | None = None
    """The classes of SegmentationClass in their order. None: VOC's where --vocabulary has only names of VOC, and
    those of --vocabulary itself where it has none of them."""

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The records, with the ground truth that SegmentationClass has."""
        truth_names = self._truth_names(vocabulary)
        found = records.voc(
            self.root,
            self.split,
            class_id=vocabulary.class_id,
            list_file=self.list_file,
            on_bad_label=reading.on_bad_label,
            need_size=reading.need_size,
            difficult=self.difficult,
            truncated=self.truncated,
            labelled=reading.labelled,
        )
        return with_classes_of(vocabulary, found, truth_names)

    def _truth_names(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        if self.truth_vocabulary is not None:
            return load_vocabulary(self.truth_vocabulary).names
        published = self.words(None)
        known = [name for name in vocabulary.names if _has(published, name)]
        if known and len(known) < len(vocabulary.names):
            others = [name for name in vocabulary.names if name not in known]
            raise ConfigError(
                f"some classes of {vocabulary.name} are those of {published.name}, others are not, so the order of the "
                "classes in SegmentationClass is not known",
                where=self.root,
                found=f"{', '.join(known[:3])} in both; {', '.join(others[:3])} in {vocabulary.name} alone",
                next_step=f"Pass --truth-vocabulary {published.name}, or the vocabulary the masks were made with.",
            )
        return published.names if known else vocabulary.names


@dataclass(frozen=True, kw_only=True)
class ScenesSource(Voc12Source):
    """Scenes drawn by `clip-es scenes make`, in the layout of VOC."""

    vocabulary: ClassVar[str | None] = "scenes"
    weights: ClassVar[str] = "scenes"

    root: Path = Path("runs/scenes")
    """Folder of the scenes; `clip-es scenes make` draws one."""
    split: str = "val"
    """Name of a list in ImageSets/Segmentation."""

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The scenes of the split, under their own name."""
        found = super().read(vocabulary, reading)
        return replace(found, name=f"scenes {self.split}")


@dataclass(frozen=True, kw_only=True)
class _CocoSource(DataSource):
    """What the years of COCO share."""

    vocabulary: ClassVar[str | None] = "coco14"

    root: Path
    split: str = "train"
    """train or val."""
    annotations: Path | None = None
    """COCO's instances file; None: annotations/instances_<split><year>.json in the root. Needs the extra `coco`."""
    crowd: Use = "keep"
    """Whether regions marked as a crowd count as labels."""
    min_area: float = 0.0
    """Objects with fewer pixels (COCO's `area`) are no labels."""
    truth: Path | None = None
    """Folder of ground-truth masks, for figures that need it; `clip-es truth` makes one."""

    def instances(self, year: int, vocabulary: Vocabulary, reading: Reading, file: Path | None) -> Dataset:
        """The records of an instances file."""
        return records.coco_instances(
            self.root,
            self.split,
            class_id=vocabulary.class_id,
            year=year,
            annotations=file,
            crowd=self.crowd,
            min_area=self.min_area,
            truth=self.truth,
            on_bad_label=reading.on_bad_label,
            labelled=reading.labelled,
        )

    def annotations_file(self, year: int) -> Path | None:
        """The file that is meant: as named, or of that name in the root's annotations, or the split's own."""
        if self.annotations is None or self.annotations.is_file():
            return self.annotations or records.annotations_of(self.root, self.split, year)
        inner = self.root / "annotations" / self.annotations
        return inner if inner.is_file() else self.annotations


@dataclass(frozen=True, kw_only=True)
class Coco14Source(_CocoSource):
    """COCO 2014, labels from a published list of `COCO_train2014_... 45 49` lines or from COCO's instances file."""

    root: Path = Path("data/COCO2014")
    """Folder with train2014 and val2014."""
    list_file: Path | None = None
    """The list of ids and labels; None: <split>.txt in the root. Where there is none, the instances file is read."""

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The records; a list states no size, so none is asked for."""
        listed = self.list_file is not None or (self.root / f"{self.split}.txt").is_file()
        file = self.annotations_file(2014)
        if self.annotations is not None and self.list_file is not None:
            raise ConfigError("labels come from one file", expected="--annotations or --list-file", found="both")
        if file is not None and (self.annotations is not None or not listed):
            return self.instances(2014, vocabulary, reading, file)
        if self.crowd == "drop" or self.min_area > 0:
            raise ConfigError(
                "a list of labels does not say which objects are crowds or small",
                where=self.list_file or self.root / f"{self.split}.txt",
                next_step="Pass --annotations, or leave --crowd and --min-area as they are.",
            )
        check_order(vocabulary, "coco14")
        return records.coco14(
            self.root,
            self.split,
            list_file=self.list_file,
            class_count=len(vocabulary.classes),
            truth=self.truth,
            on_bad_label=reading.on_bad_label,
            labelled=reading.labelled,
        )


@dataclass(frozen=True, kw_only=True)
class Coco17Source(_CocoSource):
    """COCO 2017, labels from its instances file."""

    root: Path = Path("data/COCO2017")
    """Folder with train2017, val2017 and annotations."""

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The records, with the sizes that the file states."""
        return self.instances(2017, vocabulary, reading, self.annotations_file(2017))


@dataclass(frozen=True, kw_only=True)
class Ade20kSource(DataSource):
    """ADE20K's scene parsing set: labels and ground truth from its masks, 150 classes and no background."""

    vocabulary: ClassVar[str | None] = "ade20k"

    root: Path = Path("data/ADEChallengeData2016")
    """Folder with images and annotations."""
    split: str = "val"
    """train or val."""
    min_area: int = 1
    """A class with fewer pixels in the mask is no label."""

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The records. Every label is a number of the set's own, so none is bad."""
        check_order(vocabulary, "ade20k")
        return records.ade20k(
            self.root,
            self.split,
            class_count=len(vocabulary.classes),
            min_area=self.min_area,
            labelled=reading.labelled,
        )


@dataclass(frozen=True, kw_only=True)
class CityscapesSource(DataSource):
    """Cityscapes: labels and ground truth from its fine masks, 19 classes and no background."""

    vocabulary: ClassVar[str | None] = "cityscapes"

    root: Path = Path("data/cityscapes")
    """Folder with leftImg8bit and gtFine."""
    split: str = "val"
    """train or val."""
    min_area: int = 1
    """A class with fewer pixels in the mask is no label."""

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The records. Every label is a number of the set's own, so none is bad."""
        check_order(vocabulary, "cityscapes")
        return records.cityscapes(
            self.root,
            self.split,
            class_count=len(vocabulary.classes),
            min_area=self.min_area,
            labelled=reading.labelled,
        )


@dataclass(frozen=True, kw_only=True)
class ContextSource(DataSource):
    """Pascal Context: labels and ground truth from its masks, 59 classes."""

    vocabulary: ClassVar[str | None] = "context"

    root: Path = Path("data/VOC2010")
    """Folder with JPEGImages and SegmentationClassContext."""
    split: str = "val"
    """Name of a list in ImageSets/SegmentationContext; without lists every mask counts."""
    background: Literal["ignore", "class"] = "ignore"
    """What is none of the 59 classes is not evaluated, or is background (60 classes)."""
    min_area: int = 1
    """A class with fewer pixels in the mask is no label."""

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The records. Every label is a number of the set's own, so none is bad."""
        check_order(vocabulary, "context")
        return records.context(
            self.root,
            self.split,
            background=self.background,
            class_count=len(vocabulary.classes),
            min_area=self.min_area,
            labelled=reading.labelled,
        )


@dataclass(frozen=True, kw_only=True)
class FolderSource(DataSource):
    """Pictures of your own: a folder, and labels from a table or a labelling tool, or sub-folders, or no labels."""

    vocabulary: ClassVar[str | None] = None

    images: Path
    """Folder of the pictures, or an address such as s3://bucket/pictures (extra `storage`); those of its sub-folders
    count too."""
    labels: str = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """A file, folder or zip of labels in any known format, subfolders (named after the classes), auto or none: no
    labels are given."""
    labels_format: LabelsFormatFlag = None
    label_field: str | None = None
    """Column or field that holds the labels, where a file has several."""
    label_separator: str | None = None
    """What stands between several labels of one cell of a table; None: ; or |."""
    truth: Path | None = None
    """Folder of ground-truth masks with the pictures' names, for figures that need it."""

    @property
    def label_source(self) -> LabelSource:
        """Whether a table or the sub-folders give labels, or they are to be found, or not even that."""
        if self.labels in {"auto", "none"}:
            return "auto" if self.labels == "auto" else "none"
        return "given"

    def words(self, vocabulary: str | None) -> Vocabulary:
        """The vocabulary that is named, or the names of the sub-folders, or those in the table of labels."""
        if vocabulary is not None:
            return load_vocabulary(vocabulary)
        if self.labels == "subfolders":
            where, names = self.images, {name.split("/")[0] for name in self._picture_names() if "/" in name}
        elif self.label_source == "given":
            where = Path(self.labels)
            names = label_names(where, self.labels_format, self.label_field, self.label_separator)
        else:
            raise ConfigError(
                "which classes are to be looked for?",
                where=self.images,
                expected="--vocabulary with a name, a file, or names such as cat,dog",
                next_step="Where sub-folders are named after the classes: --labels subfolders.",
            )
        found = vocabulary_of(names, where, where.stem)
        more = f" and {len(found.names) - 20} more" if len(found.names) > 20 else ""
        say(f"{len(found.names)} classes from {where}: {', '.join(found.names[:20])}{more}")
        return found

    def without_row(self, dataset: Dataset) -> list[str]:
        """Pictures below the folder that the table of labels does not list, as paths below it."""
        if self.labels in ("subfolders", "auto", "none"):
            return []
        listed = {record.image_id for record in dataset.records} | {problem.image_id for problem in dataset.problems}
        return [name for name in self._picture_names() if image_id_of(name) not in listed]

    def _picture_names(self) -> Iterable[str]:
        address = address_of(self.images)
        return StoredTree(address).names() if address else picture_names(self.images)

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The records, with no class known where no labels are given; no size is stated."""
        return records.folder(
            self.images,
            self.labels,
            class_id=vocabulary.class_id,
            class_count=len(vocabulary.classes),
            truth=self.truth,
            on_bad_label=reading.on_bad_label,
            labelled=reading.labelled,
            labels_format=self.labels_format,
            label_field=self.label_field,
            label_separator=self.label_separator,
        )


@dataclass(frozen=True, kw_only=True)
class ShardsSource(DataSource):
    """Pictures in tar files as webdataset reads them, or in Parquet, with or without labels beside them."""

    vocabulary: ClassVar[str | None] = None

    shards: tuple[str, ...]
    """Files or addresses (extra `storage`), with * and {000..099} for several: s3://bucket/train-{0000..0099}.tar."""
    image_field: str | None = None
    """Column of Parquet with the bytes of the pictures; None: the only one."""
    label_field: str | None = None
    """Column, or key of the JSON beside a picture, with the labels; None: labels, label, classes, class or the like."""

    def words(self, vocabulary: str | None) -> Vocabulary:
        """The vocabulary that is named."""
        if vocabulary is None:
            raise ConfigError(
                "which classes are to be looked for?",
                expected="--vocabulary with a name, a file, or names such as cat,dog",
            )
        return load_vocabulary(vocabulary)

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The records; no size is stated."""
        return records.shards(
            self.shards,
            class_id=vocabulary.class_id,
            class_count=len(vocabulary.classes),
            on_bad_label=reading.on_bad_label,
            labelled=reading.labelled,
            image_field=self.image_field,
            label_field=self.label_field,
        )


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSource(DataSource):
    """A data set that `datasets` loads: its rows are streamed, each picture is written once as a file."""

    vocabulary: ClassVar[str | None] = None

    dataset_name: Annotated[str, tyro.conf.arg(name="dataset")]
    """A folder that `datasets` saved or loads, or a name on the Hub."""
    split: str = "train"
    """Which rows."""
    image_field: str | None = None
    """Column of the pictures; None: the only one."""
    label_field: str | None = None
    """Column of the labels; None: label, labels, class, objects or the like."""
    unpack_to: Path | None = None
    """Folder for the pictures; None: data/huggingface/<name>-<split>. What is there is not unpacked again."""

    @property
    def label_source(self) -> LabelSource:
        """Given, unless something else is asked for."""
        return self.labels

    def words(self, vocabulary: str | None) -> Vocabulary:
        """The vocabulary that is named, or the classes that the data set declares, or those it uses."""
        if vocabulary is not None:
            return load_vocabulary(vocabulary)
        found = self._unpacked()
        return load_vocabulary(found.classes) if found.classes else self._folder(found).words(None)

    def read(self, vocabulary: Vocabulary, reading: Reading) -> Dataset:
        """The records; no size is stated."""
        return self._folder(self._unpacked()).read(vocabulary, reading)

    def _unpacked(self) -> Unpacked:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.dataset_name).strip("-.") or "set"
        folder = self.unpack_to or Path("data/huggingface") / f"{name}-{self.split}"
        return unpack(self.dataset_name, self.split, folder, image_field=self.image_field, label_field=self.label_field)

    def _folder(self, found: Unpacked) -> FolderSource:
        return FolderSource(images=found.folder, labels=str(found.labels), labels_format="huggingface")
