"""Where pictures and labels come from: the flags of each kind of data set, shared by the commands that read one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_es import records
from clip_es.prompts import Vocabulary
from clip_es.records import Dataset, OnBadLabel


@dataclass(frozen=True, kw_only=True)
class Voc12Source:
    """A folder in the layout of PASCAL VOC 2012: labels from the XML files, ids from ImageSets."""

    root: Path = Path("data/VOC2012")
    """Folder with JPEGImages, Annotations and ImageSets."""
    split: str = "train"
    """Name of a list in ImageSets/Segmentation; train_aug is derived from SegmentationClassAug where there is none."""
    list_file: Path | None = None
    """A list of your own in place of --split: one id a line."""

    def dataset(self, vocabulary: Vocabulary, on_bad_label: OnBadLabel = "fail", need_size: bool = False) -> Dataset:
        """The records, with the truth that SegmentationClass has."""
        return records.voc(
            self.root,
            self.split,
            class_id=vocabulary.class_id,
            list_file=self.list_file,
            on_bad_label=on_bad_label,
            need_size=need_size,
        )


@dataclass(frozen=True, kw_only=True)
class Coco14Source:
    """COCO 2014, labels from a published list of `COCO_train2014_... 45 49` lines with 0-based ids."""

    root: Path = Path("data/COCO2014")
    """Folder with train2014 and val2014."""
    split: str = "train"
    """train or val."""
    list_file: Path | None = None
    """The list of ids and labels; None: <split>.txt in the root."""
    truth: Path | None = None
    """Folder of ground-truth masks, for figures that need it."""

    def dataset(self, vocabulary: Vocabulary, on_bad_label: OnBadLabel = "fail", need_size: bool = False) -> Dataset:
        """The records; the list states no size, so `need_size` asks for nothing."""
        return records.coco14(
            self.root,
            self.split,
            list_file=self.list_file,
            class_count=len(vocabulary.classes),
            truth=self.truth,
            on_bad_label=on_bad_label,
        )


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Pictures of your own: a folder and a CSV with the header `image,labels`, labels separated by `;`."""

    images: Path
    """Folder of the pictures."""
    labels: Path
    """The CSV; its first column names files under --images."""
    truth: Path | None = None
    """Folder of ground-truth masks with the pictures' names, for figures that need it."""

    def dataset(self, vocabulary: Vocabulary, on_bad_label: OnBadLabel = "fail", need_size: bool = False) -> Dataset:
        """The records; the table states no size, so `need_size` asks for nothing."""
        return records.folder(
            self.images, self.labels, class_id=vocabulary.class_id, truth=self.truth, on_bad_label=on_bad_label
        )
