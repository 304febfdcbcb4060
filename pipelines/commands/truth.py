"""`clip-es truth ...`: ground-truth masks with the values of our own: 0 background, k + 1 class k, 255 ignored."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_es.errors import ConfigError, DataError
from clip_es.masks import write_mask
from clip_es.pipelines.commands.sources import Ade20kSource, CityscapesSource, ContextSource
from clip_es.pipelines.commands.sweep import write_failures
from clip_es.pipelines.console import bar, say
from clip_es.prompts import Vocabulary, load_vocabulary
from clip_es.records import Dataset, Problem, annotations_of
from clip_es.records.coco.file import Crowd, Overlap, paint, read_coco_file
from clip_es.records.coco.instances import masks_of
from clip_es.records.dataset import check_id
from clip_es.records.folder import image_id_of
from clip_es.store.disk import make_folder, write_atomic
from clip_es.types import MAX_CLASSES

Painted = Iterable[tuple[str, Callable[[], np.ndarray]]]
"""Ids with what makes their masks."""


@dataclass(frozen=True, kw_only=True)
class _Truth:
    """What all kinds share."""

    out: Path
    """Folder for <id>.png (mode P, VOC palette) and, where something failed, failures.csv. Files are written anew."""

    def masks(self) -> tuple[int, Painted, tuple[Problem, ...]]:
        """How many masks, the masks, and the entries that cannot have one."""
        raise NotImplementedError

    def run(self) -> int:
        """Write the masks, with a progress bar."""
        count, masks, problems = self.masks()
        failed, seen, done = list(problems), set[str](), 0
        make_folder(self.out)
        with bar("truth", count) as progress:
            for image_id, paint_it in masks:
                try:
                    check_id(image_id, "the annotations")
                    if image_id in seen:
                        raise DataError("two pictures have this name; the first one counts", where=image_id)
                    seen.add(image_id)
                    content = io.BytesIO()
                    write_mask(content, paint_it())
                    write_atomic(self.out / f"{image_id}.png", content.getvalue())
                    done += 1
                except DataError as error:
                    failed.append(Problem.of(image_id, error, "truth"))
                progress.advance(progress.task_ids[0])
        write_failures(self.out / "failures.csv", failed)
        say(
            f"{done:,} masks: {self.out}"
            + (f"   {len(failed):,} failed: {self.out / 'failures.csv'}" if failed else "")
        )
        return 1 if failed else 0


@dataclass(frozen=True, kw_only=True)
class _TruthCoco(_Truth):
    """Masks drawn from the annotations of an instances file, one for each picture it lists; needs the extra `coco`.

    Pictures without objects become all background. The pictures themselves are not opened.
    """

    root: Path
    split: str = "train"
    """train or val."""
    annotations: Path | None = None
    """Another file of the instances format."""
    vocabulary: str = "coco14"
    """Which classes are drawn, by name: a packaged vocabulary, a file, or names such as cat,dog."""
    overlap: Overlap = "smaller"
    """Where objects overlap: the one with fewer pixels is seen (of equals the later in the file), or the later one."""
    crowd: Crowd = "ignore"
    """Regions marked as a crowd: 255 where no single object lies on them, or their class like any other object."""
    min_area: float = 0.0
    """Objects with fewer pixels (COCO's `area`) become 255."""

    def year(self) -> int:
        """Of the data set."""
        raise NotImplementedError

    def masks(self) -> tuple[int, Painted, tuple[Problem, ...]]:
        """One for each picture that the file lists."""
        source = self.annotations or annotations_of(self.root, self.split, self.year())
        if source is None:
            raise DataError(
                "is not there",
                where=self.root / "annotations" / f"instances_{self.split}{self.year()}.json",
                next_step="Pass another --root, or the file with --annotations.",
            )
        words = checked(load_vocabulary(self.vocabulary))
        file = read_coco_file(source)
        values = masks_of(file, words.class_id)
        unknown = [name for raw, name in file.names.items() if raw not in values]
        if unknown:
            say(f"Not in {words.name}, so background: {', '.join(unknown[:10])}{', ...' if len(unknown) > 10 else ''}")
        options = {"overlap": self.overlap, "crowd": self.crowd, "min_area": self.min_area}

        def painted() -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
            for image in file.images:
                name = image.get("file_name")
                image_id = image_id_of(name) if isinstance(name, str) else f"image {image['id']}"
                yield image_id, lambda image=image: paint(file, image, values, **options)

        problems = tuple(Problem.of(name, error) for name, error in file.problems)
        return len(file.index.dataset["images"]), painted(), problems


@dataclass(frozen=True, kw_only=True)
class TruthCoco14(_TruthCoco):
    """Ground-truth masks of COCO 2014, drawn from the annotations of its instances file."""

    root: Path = Path("data/COCO2014")
    """Folder with annotations."""

    def year(self) -> int:
        """Of the data set."""
        return 2014


@dataclass(frozen=True, kw_only=True)
class TruthCoco17(_TruthCoco):
    """Ground-truth masks of COCO 2017, drawn from the annotations of its instances file."""

    root: Path = Path("data/COCO2017")
    """Folder with annotations."""

    def year(self) -> int:
        """Of the data set."""
        return 2017


@dataclass(frozen=True, kw_only=True)
class _TruthTable(_Truth):
    """Masks of a set that numbers its classes in another way, rewritten with our values."""

    def dataset(self, vocabulary: Vocabulary, *, labelled: bool) -> Dataset:
        """The pictures; comes from the source."""
        raise NotImplementedError

    def masks(self) -> tuple[int, Painted, tuple[Problem, ...]]:
        """One for each picture of the split that has one."""
        data = self.dataset(load_vocabulary(self.set_name()), labelled=False)
        known = [record.image_id for record in data.records if record.image_id in data.truth]
        masks = ((image_id, lambda image_id=image_id: data.read_truth(image_id)) for image_id in known)
        return len(known), masks, data.problems

    def set_name(self) -> str:
        """Of the vocabulary."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TruthAde20k(Ade20kSource, _TruthTable):
    """ADE20K's masks with our values: classes 1..150, 255 for what is none of them."""

    def set_name(self) -> str:
        """Of the vocabulary."""
        return "ade20k"


@dataclass(frozen=True, kw_only=True)
class TruthCityscapes(CityscapesSource, _TruthTable):
    """Cityscapes' masks with our values: train id + 1, 255 for what has none. Named by city and frame."""

    def set_name(self) -> str:
        """Of the vocabulary."""
        return "cityscapes"


@dataclass(frozen=True, kw_only=True)
class TruthContext(ContextSource, _TruthTable):
    """Pascal Context's masks with our values: classes 1..59, and 255 or 0 for everything else."""

    def set_name(self) -> str:
        """Of the vocabulary."""
        return "context"


def checked(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary. Raises ConfigError: an 8-bit mask cannot hold so many classes."""
    if len(vocabulary.classes) > MAX_CLASSES:
        raise ConfigError(
            "an 8-bit mask cannot hold this number of classes",
            where=f"vocabulary '{vocabulary.name}'",
            expected=f"at most {MAX_CLASSES}",
            found=len(vocabulary.classes),
            next_step="Split the vocabulary.",
        )
    return vocabulary
