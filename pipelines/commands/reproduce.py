"""`clip-es reproduce ...`: the published protocol on the real files, beside the published figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from clip_es.config.presets import find_preset
from clip_es.config.run import RunConfig
from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.commands.data_source import DataSource
from clip_es.pipelines.commands.flags import LimitFlag, WeightsFlag
from clip_es.pipelines.commands.masks import Masks, versions
from clip_es.pipelines.commands.sources import Coco14Source, Voc12Source
from clip_es.pipelines.console import say, show_table, summarize
from clip_es.refine.registry import REFINERS
from clip_es.store.made_from import file_digest
from clip_es.store.manifest import Manifest
from clip_es.store.tables import read_json, write_json

KEYS = ("published", "difference")
"""Columns that may be empty."""


@dataclass(frozen=True)
class Published:
    """A figure of the paper, per cent."""

    before_crf: float | None
    """Pseudo masks after the affinity."""
    with_crf: float | None


@dataclass(frozen=True, kw_only=True)
class _Reproduce:
    """What both data sets share."""

    published: ClassVar[Published]

    out: Path
    """Folder of the two runs and of reproduce.json. The same call with the same folder continues."""
    weights: WeightsFlag = "ViT-B/16"
    preset: str = "reference"
    """reference: what CLIP-ES's published code computes. default: without its quirks. best: the most accurate without
    training. Others as in `clip-es masks`."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    batch_size: int = 8
    """Most pictures of one size to encode together."""
    workers: int | None = None
    """Processes for the CRF; 0: none; None: chosen by cores and number of pictures."""
    limit: LimitFlag = None

    def source(self) -> DataSource:
        """The data set."""
        raise NotImplementedError

    def lists(self) -> dict[str, Path]:
        """Files that say which pictures count, by name."""
        raise NotImplementedError

    def run(self) -> int:
        """Make the masks before and after the refiners of pixels, evaluate both, print and write the figures."""
        found = find_preset(self.preset)
        on_grid = tuple(name for name in found.config.refine if REFINERS[name].grid != "pixels")
        steps = {"before the CRF": replace(found.config, refine=on_grid), "with the CRF": found.config}
        figures = {"before the CRF": self.published.before_crf, "with the CRF": self.published.with_crf}
        rows, code = [], 0
        for name, config in steps.items():
            folder = self.out / name.replace(" ", "-").lower()
            code = max(code, self._masks(folder, config))
            rows.append(self._row(name, folder, figures[name]))
        record = {
            "preset": self.preset,
            "rows": rows,
            **({} if self.limit is None else {"limit": self.limit}),
            "sha256": self._hashes(),
            "weights": self.weights,
            "versions": versions(),
        }
        write_json(self.out / "reproduce.json", record)
        summarize(record)
        self._tell(rows)
        return code

    def _masks(self, folder: Path, config: RunConfig) -> int:
        command = Masks.of(
            self.source(),
            out=folder,
            weights=self.weights,
            device=self.device,
            batch_size=self.batch_size,
            workers=self.workers,
            limit=self.limit,
            preset=self.preset,
            report_pictures=0,
            config=config,
        )
        return command.run()

    def _row(self, name: str, folder: Path, published: float | None) -> dict[str, object]:
        summary = read_json(folder / "summary.json")
        if "miou" not in summary:
            raise DataError(
                "there is no ground truth, so there is nothing to compare with the published figures",
                where=folder,
                next_step="Put it where data/README.md says; the masks are kept, and the same call continues.",
            )
        ours = float(summary["miou"])
        apart = None if published is None else ours - published
        return {"step": name, "miou": ours, "published": published, "difference": apart} | {
            "pictures": summary["evaluated"]
        }

    def _hashes(self) -> dict[str, str]:
        """Of weights, texts, lists and labels."""
        manifest = Manifest.read(self.out / "with-the-crf")
        found = {name: str(value) for name, value in dict(manifest.settings.get("sha256", {})).items()}
        found["labels"] = str(manifest.about["dataset_sha256"])
        for name, path in self.lists().items():
            if path.is_file():
                found[name] = file_digest(path)
        return found

    def _tell(self, rows: list[dict[str, object]]) -> None:
        shown = [
            (
                row["step"],
                row["pictures"],
                row["miou"],
                *("not stated" if row[key] is None else row[key] for key in KEYS),
            )
            for row in rows
        ]
        show_table(
            f"mIoU of pseudo masks, per cent (preset {self.preset}, {self.weights})",
            ("step", "pictures", "here", "CLIP-ES, published", "difference"),
            shown,
        )
        if self.preset != "reference":
            say("The published figures are those of CLIP-ES itself; --preset reference computes them.")
        say(f"Hashes of weights and lists: {self.out / 'reproduce.json'}")


@dataclass(frozen=True, kw_only=True)
class ReproduceVoc12(_Reproduce):
    """CLIP-ES's masks of PASCAL VOC 2012's train split, evaluated; published 70.8 and, with the CRF, 75.0."""

    published: ClassVar[Published] = Published(70.8, 75.0)

    root: Path = Path("data/VOC2012")
    """Folder with JPEGImages, Annotations, ImageSets and the ground truth."""
    split: str = "train"
    """Name of a list in ImageSets/Segmentation; published: train, 1,464 pictures."""

    def source(self) -> Voc12Source:
        """The data set."""
        return Voc12Source(root=self.root, split=self.split)

    def lists(self) -> dict[str, Path]:
        """The split's list."""
        return {"list": self.root / "ImageSets" / "Segmentation" / f"{self.split}.txt"}


@dataclass(frozen=True, kw_only=True)
class ReproduceCoco14(_Reproduce):
    """CLIP-ES's masks of COCO 2014's train split, evaluated; published 39.7 after the affinity."""

    published: ClassVar[Published] = Published(39.7, None)

    root: Path = Path("data/COCO2014")
    """Folder with train2014 and the list or annotations."""
    truth: Path
    """Folder of ground-truth masks; `clip-es truth coco14` makes one."""
    list_file: Path | None = None
    """The list of ids and labels; None: train.txt in the root, else the instances file."""

    def source(self) -> Coco14Source:
        """The data set."""
        if not self.truth.is_dir():
            raise ConfigError(
                "this is not a folder of ground-truth masks",
                where=self.truth,
                next_step="Make one: clip-es truth coco14",
            )
        return Coco14Source(root=self.root, truth=self.truth, list_file=self.list_file)

    def lists(self) -> dict[str, Path]:
        """The list of labels, or the instances file."""
        return {
            "list": self.list_file or self.root / "train.txt",
            "annotations": self.root / "annotations" / "instances_train2014.json",
        }
