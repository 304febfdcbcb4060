"""Where pictures and labels come from: the flags of each kind of data set, shared by the commands that read one.

`dataset(..., labelled=False)` of a source asks for pictures alone: no class of any of them is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from clip_es import records
from clip_es.errors import ConfigError
from clip_es.prompts import Vocabulary
from clip_es.records import Dataset, OnBadLabel, Use


@dataclass(frozen=True, kw_only=True)
class Voc12Source:
    """A folder in the layout of PASCAL VOC 2012: labels from the XML files, ids from ImageSets."""

    root: Path = Path("data/VOC2012")
    """Folder with JPEGImages, Annotations and ImageSets."""
    split: str = "train"
    """Name of a list in ImageSets/Segmentation; train_aug is derived from SegmentationClassAug where there is none."""
    list_file: Path | None = None
    """A list of your own in place of --split: one id a line."""
    difficult: Use = "keep"
    """Whether objects marked difficult count as labels, as published."""
    truncated: Use = "keep"
    """Whether objects marked truncated count as labels, as published."""

    def dataset(
        self,
        vocabulary: Vocabulary,
        on_bad_label: OnBadLabel = "fail",
        need_size: bool = False,
        labelled: bool = True,
    ) -> Dataset:
        """The records, with the truth that SegmentationClass has."""
        return records.voc(
            self.root,
            self.split,
            class_id=vocabulary.class_id,
            list_file=self.list_file,
            on_bad_label=on_bad_label,
            need_size=need_size,
            difficult=self.difficult,
            truncated=self.truncated,
            labelled=labelled,
        )


@dataclass(frozen=True, kw_only=True)
class ScenesSource(Voc12Source):
    """Scenes drawn by `clip-es scenes make`, in the layout of VOC."""

    root: Path = Path("runs/scenes")
    """Folder of the scenes; `clip-es scenes make` draws one."""
    split: str = "val"
    """Name of a list in ImageSets/Segmentation."""

    def dataset(
        self,
        vocabulary: Vocabulary,
        on_bad_label: OnBadLabel = "fail",
        need_size: bool = False,
        labelled: bool = True,
    ) -> Dataset:
        """The scenes of the split, under their own name."""
        found = super().dataset(vocabulary, on_bad_label, need_size, labelled)
        return replace(found, name=f"scenes {self.split}")


@dataclass(frozen=True, kw_only=True)
class _CocoSource:
    """What the years of COCO share."""

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

    def instances(
        self, year: int, vocabulary: Vocabulary, on_bad_label: OnBadLabel, labelled: bool, file: Path | None
    ) -> Dataset:
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
            on_bad_label=on_bad_label,
            labelled=labelled,
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

    def dataset(
        self,
        vocabulary: Vocabulary,
        on_bad_label: OnBadLabel = "fail",
        need_size: bool = False,
        labelled: bool = True,
    ) -> Dataset:
        """The records; a list states no size, so `need_size` asks for nothing."""
        listed = self.list_file is not None or (self.root / f"{self.split}.txt").is_file()
        file = self.annotations_file(2014)
        if self.annotations is not None and self.list_file is not None:
            raise ConfigError("labels come from one file", expected="--annotations or --list-file", found="both")
        if file is not None and (self.annotations is not None or not listed):
            return self.instances(2014, vocabulary, on_bad_label, labelled, file)
        if self.crowd == "drop" or self.min_area > 0:
            raise ConfigError(
                "a list of labels does not say which objects are crowds or small",
                where=self.list_file or self.root / f"{self.split}.txt",
                next_step="Pass --annotations, or leave --crowd and --min-area as they are.",
            )
        return records.coco14(
            self.root,
            self.split,
            list_file=self.list_file,
            class_count=len(vocabulary.classes),
            truth=self.truth,
            on_bad_label=on_bad_label,
            labelled=labelled,
        )


@dataclass(frozen=True, kw_only=True)
class Coco17Source(_CocoSource):
    """COCO 2017, labels from its instances file."""

    root: Path = Path("data/COCO2017")
    """Folder with train2017, val2017 and annotations."""

    def dataset(
        self,
        vocabulary: Vocabulary,
        on_bad_label: OnBadLabel = "fail",
        need_size: bool = False,
        labelled: bool = True,
    ) -> Dataset:
        """The records, with the sizes that the file states."""
        return self.instances(2017, vocabulary, on_bad_label, labelled, self.annotations_file(2017))


@dataclass(frozen=True, kw_only=True)
class Ade20kSource:
    """ADE20K's scene parsing set: labels and truth from its masks, 150 classes and no background."""

    root: Path = Path("data/ADEChallengeData2016")
    """Folder with images and annotations."""
    split: str = "val"
    """train or val."""
    min_area: int = 1
    """A class with fewer pixels in the mask is no label."""

    def dataset(
        self,
        vocabulary: Vocabulary,
        on_bad_label: OnBadLabel = "fail",
        need_size: bool = False,
        labelled: bool = True,
    ) -> Dataset:
        """The records. Every label is a number of the set's own, so `on_bad_label` asks for nothing."""
        return records.ade20k(
            self.root, self.split, class_count=len(vocabulary.classes), min_area=self.min_area, labelled=labelled
        )


@dataclass(frozen=True, kw_only=True)
class CityscapesSource:
    """Cityscapes: labels and truth from its fine masks, 19 classes and no background."""

    root: Path = Path("data/cityscapes")
    """Folder with leftImg8bit and gtFine."""
    split: str = "val"
    """train or val."""
    min_area: int = 1
    """A class with fewer pixels in the mask is no label."""

    def dataset(
        self,
        vocabulary: Vocabulary,
        on_bad_label: OnBadLabel = "fail",
        need_size: bool = False,
        labelled: bool = True,
    ) -> Dataset:
        """The records. Every label is a number of the set's own, so `on_bad_label` asks for nothing."""
        return records.cityscapes(
            self.root, self.split, class_count=len(vocabulary.classes), min_area=self.min_area, labelled=labelled
        )


@dataclass(frozen=True, kw_only=True)
class ContextSource:
    """Pascal Context: labels and truth from its masks, 59 classes."""

    root: Path = Path("data/VOC2010")
    """Folder with JPEGImages and SegmentationClassContext."""
    split: str = "val"
    """Name of a list in ImageSets/SegmentationContext; without lists every mask counts."""
    background: Literal["ignore", "class"] = "ignore"
    """What is none of the 59 classes is not evaluated, or is background (60 classes)."""
    min_area: int = 1
    """A class with fewer pixels in the mask is no label."""

    def dataset(
        self,
        vocabulary: Vocabulary,
        on_bad_label: OnBadLabel = "fail",
        need_size: bool = False,
        labelled: bool = True,
    ) -> Dataset:
        """The records. Every label is a number of the set's own, so `on_bad_label` asks for nothing."""
        return records.context(
            self.root,
            self.split,
            background=self.background,
            class_count=len(vocabulary.classes),
            min_area=self.min_area,
            labelled=labelled,
        )


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Pictures of your own: a folder, and a table of labels, or sub-folders named after the classes, or no labels."""

    images: Path
    """Folder of the pictures; those of its sub-folders count too."""
    labels: str = "auto"
    """A table (.csv, .jsonl, .txt, .npy), subfolders (named after the classes), auto or none: no labels are given."""
    truth: Path | None = None
    """Folder of ground-truth masks with the pictures' names, for figures that need it."""

    @property
    def label_source(self) -> Literal["given", "auto", "none"]:
        """Whether the data set has labels, or they are to be found, or not even that."""
        if self.labels in {"auto", "none"}:
            return "auto" if self.labels == "auto" else "none"
        return "given"

    def dataset(
        self,
        vocabulary: Vocabulary,
        on_bad_label: OnBadLabel = "fail",
        need_size: bool = False,
        labelled: bool = True,
    ) -> Dataset:
        """The records, with no class known where no labels are given; no size is stated, so `need_size` has no say."""
        return records.folder(
            self.images,
            self.labels,
            class_id=vocabulary.class_id,
            class_count=len(vocabulary.classes),
            truth=self.truth,
            on_bad_label=on_bad_label,
            labelled=labelled,
        )
