"""Data sets that were published: one dataclass for each layout, with its flags."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from clip_es import records
from clip_es.errors import ConfigError
from clip_es.pipelines.commands.data_source import DataSource, Reading
from clip_es.pipelines.commands.sources.numbering import check_order, has, with_classes_of
from clip_es.prompts import Vocabulary, load_vocabulary
from clip_es.records import Dataset, Use


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
        known = [name for name in vocabulary.names if has(published, name)]
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
