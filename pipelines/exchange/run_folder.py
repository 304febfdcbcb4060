"""A run's folder as other tools find it: its pictures, its classes, its masks, confidences and labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from clip_es.errors import ConfigError, DataError
from clip_es.formats import Names
from clip_es.formats.names import coco_category_ids
from clip_es.masks import read_mask
from clip_es.prompts.vocabulary_files import classes_of_run, load_vocabulary
from clip_es.records.picture_files import pictures_of
from clip_es.store.disk import names_in
from clip_es.store.manifest import FILE, Manifest
from clip_es.store.regions import read_instances
from clip_es.types import UNDECIDED

LabelKind = Literal["masks", "decided"]
"""RUN/masks, where unsure pixels are 255, or RUN/labels, where every pixel has its likeliest label."""

FOLDERS: Mapping[LabelKind, str] = {"masks": "masks", "decided": "labels"}


@dataclass(frozen=True)
class Run:
    """What the folder of a run holds. `Run.open` reads it."""

    folder: Path
    names: Names
    image_ids: tuple[str, ...]
    """Finished pictures, sorted."""
    manifest: Manifest
    """What run.yaml says."""

    @classmethod
    def open(cls, folder: str | Path, vocabulary: str | None = None) -> Run:
        """Read run.yaml and list the masks.

        `vocabulary` is a name or a YAML file; None: the classes run.yaml names.
        Raises DataError: no run. ConfigError: no finished picture, or its classes are not known.
        """
        manifest = Manifest.read(folder)
        ids = tuple(sorted(name[:-4] for name in names_in(manifest.folder / "masks") if name.endswith(".png")))
        if not ids:
            raise ConfigError("no picture of this run is finished", where=manifest.folder / "masks")
        return cls(manifest.folder, _names(manifest, vocabulary), ids, manifest)

    def labels(self, image_id: str, kind: LabelKind) -> UInt8[np.ndarray, "h w"]:
        """The mask of a picture. Raises DataError: missing, damaged, or with labels the classes do not have."""
        path = self.path(image_id, kind)
        labels = read_mask(path)
        most = int(np.where(labels == UNDECIDED, 0, labels).max(initial=0))
        if most > len(self.names.classes):
            raise DataError(
                "holds a label that is not a class",
                where=path,
                expected=f"0..{len(self.names.classes)} or {UNDECIDED}",
                found=most,
                next_step="Pass the --vocabulary the masks were made with.",
            )
        return labels

    def things(self, image_id: str, labels: UInt8[np.ndarray, "h w"]) -> Int64[np.ndarray, "h w"] | None:
        """The number of the single thing at each pixel, from 1, 0 for none; None where the method told none apart.

        Where a mask was edited since, things end with the pixels of their class. Raises DataError, ShapeError.
        """
        path = self.folder / "instances" / f"{image_id}.json"
        if not path.is_file():
            return None
        return read_instances(path, (labels.shape[0], labels.shape[1])).numbered(labels)

    def path(self, image_id: str, kind: LabelKind) -> Path:
        """The file of a picture's mask."""
        return self.folder / FOLDERS[kind] / f"{image_id}.png"

    def pictures(self, images: Path | None = None, only: Collection[str] | None = None) -> dict[str, Path]:
        """The picture of each id, looked for below `images`, or where run.yaml says the pictures are.

        Raises ConfigError: no folder is known, or it is not there, or it has none of the pictures.
        """
        folders = self.manifest.picture_folders if images is None else (images,)
        step = "Pass --images DIR, or --pictures none for masks alone."
        if not folders:
            raise ConfigError("run.yaml does not say where the pictures are", where=self.folder, next_step=step)
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError("the folder of the pictures does not exist", where=folder, next_step=step)
        found = pictures_of(self.image_ids if only is None else only, folders)
        if not found:
            raise ConfigError("none of the run's pictures is there", where=", ".join(map(str, folders)), next_step=step)
        return found


def _names(manifest: Manifest, vocabulary: str | None) -> Names:
    classes = classes_of_run(manifest, vocabulary)
    if classes is None:
        raise ConfigError(
            "does not name the classes",
            where=manifest.folder / FILE,
            found=f"vocabulary {manifest.vocabulary!r}",
            next_step="Pass --vocabulary with the file the run was made with.",
        )
    return Names(classes, coco_category_ids(classes, load_vocabulary("coco14").names))
