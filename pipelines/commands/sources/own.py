"""Pictures of your own: folders with labels from wherever they are, shards, what `datasets` loads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from clip_es import records
from clip_es.config.stages import LabelSource
from clip_es.errors import ConfigError
from clip_es.pipelines.commands.data_source import DataSource, Reading
from clip_es.pipelines.commands.flags import LabelsFormatFlag
from clip_es.pipelines.console import say
from clip_es.prompts import Vocabulary, load_vocabulary
from clip_es.prompts.vocabulary_files import vocabulary_of
from clip_es.records import Dataset
from clip_es.records.file_listing import picture_names
from clip_es.records.folder import image_id_of
from clip_es.records.labels.names import label_names
from clip_es.records.labels.rows import Unpacked, unpack
from clip_es.records.stored.pictures import StoredTree
from clip_es.storage import address_of


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
