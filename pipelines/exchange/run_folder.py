"""A run's folder as other tools find it: its pictures, its classes, its masks, confidences and labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from jaxtyping import UInt8

from clip_es.errors import ConfigError, DataError
from clip_es.formats import Names
from clip_es.formats.names import coco_category_ids
from clip_es.masks import read_mask
from clip_es.prompts import load_vocabulary
from clip_es.records.picture_files import pictures_below
from clip_es.safe_yaml import load_yaml
from clip_es.store.disk import names_in
from clip_es.types import UNDECIDED

LabelKind = Literal["masks", "decided"]
"""RUN/masks, where unsure pixels are 255, or RUN/labels, where every pixel has its likeliest label."""

FOLDERS: Mapping[LabelKind, str] = {"masks": "masks", "decided": "labels"}

_DEPTH = 4
"""The names of the stated folder and of two above it may be part of an id, or none of them."""


@dataclass(frozen=True)
class Run:
    """What the folder of a run holds. `Run.open` reads it."""

    folder: Path
    names: Names
    image_ids: tuple[str, ...]
    """Finished pictures, sorted."""
    about: Mapping[str, Any]
    """What run.yaml says of the data set and the versions."""

    @classmethod
    def open(cls, folder: str | Path, vocabulary: str | None = None) -> Run:
        """Read run.yaml and list the masks.

        `vocabulary` is a name or a YAML file; None: the classes run.yaml names.
        Raises ConfigError: no run, no finished picture, or nobody knows its classes.
        """
        folder = Path(folder)
        path = folder / "run.yaml"
        try:
            tree = load_yaml(path.read_bytes())
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(
                "is not the folder of a run", where=folder, expected="a readable run.yaml", found=str(error)[:200]
            ) from error
        about = tree.get("about") if isinstance(tree, dict) else None
        about = about if isinstance(about, dict) else {}
        ids = tuple(sorted(name[:-4] for name in names_in(folder / "masks") if name.endswith(".png")))
        if not ids:
            raise ConfigError("no picture of this run is finished", where=folder / "masks")
        return cls(folder, _names(about, vocabulary, path), ids, about)

    def labels(self, image_id: str, kind: LabelKind) -> UInt8[np.ndarray, "h w"]:
        """The mask of a picture. Raises DataError: missing, damaged, or with labels the classes do not have."""
        path = self.path(image_id, kind)
        labels = read_mask(path)
        most = int(np.where(labels == UNDECIDED, 0, labels).max(initial=0))
        if most > len(self.names.classes):
            raise DataError(
                "holds a label that is no class",
                where=path,
                expected=f"0..{len(self.names.classes)} or {UNDECIDED}",
                found=most,
                next_step="Pass the --vocabulary with which the masks were made.",
            )
        return labels

    def path(self, image_id: str, kind: LabelKind) -> Path:
        """The file of a picture's mask."""
        return self.folder / FOLDERS[kind] / f"{image_id}.png"

    def pictures(self, images: Path | None = None, only: Collection[str] | None = None) -> dict[str, Path]:
        """The picture of each id, looked for below `images`, or where run.yaml says the pictures are.

        Raises ConfigError: no folder is known, or it is not there, or it has none of the pictures.
        """
        stated = self.about.get("images") or []
        known = [Path(path) for path in ([stated] if isinstance(stated, str) else stated)]
        folders = [images] if images is not None else known
        step = "Pass --images DIR, or --pictures none for masks alone."
        if not folders:
            raise ConfigError("run.yaml does not say where the pictures are", where=self.folder, next_step=step)
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError("the folder of the pictures is not there", where=folder, next_step=step)
        wanted = set(self.image_ids if only is None else only)
        found: dict[str, Path] = {}
        for folder in folders:
            for inner, files in pictures_below(folder).items():
                # The id is the path below the folder the run was given; run.yaml may name one that lies deeper.
                for depth in range(_DEPTH):
                    image_id = "__".join((*folder.parts[len(folder.parts) - depth :], inner))
                    if image_id in wanted:
                        found.setdefault(image_id, files[0])
                        break
        if not found:
            raise ConfigError("none of the run's pictures is there", where=", ".join(map(str, folders)), next_step=step)
        return found


def _names(about: Mapping[str, Any], vocabulary: str | None, path: Path) -> Names:
    stated = about.get("classes")
    if vocabulary is not None:
        classes = load_vocabulary(vocabulary).names
    elif isinstance(stated, list) and stated and all(isinstance(name, str) for name in stated):
        classes = tuple(stated)
    else:
        try:
            classes = load_vocabulary(str(about.get("vocabulary"))).names
        except (ConfigError, DataError) as error:
            raise ConfigError(
                "does not say what the classes are called",
                where=path,
                found=f"vocabulary {about.get('vocabulary')!r}",
                next_step="Pass --vocabulary with the file the run was made with.",
            ) from error
    return Names(classes, coco_category_ids(classes, load_vocabulary("coco14").names))
