"""`clip-es truth ...`: ground-truth masks with the values of our own: 0 background, k + 1 class k, 255 ignored."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import tyro

from clip_es.config.stages import LabelSource
from clip_es.errors import DataError
from clip_es.masks import write_mask
from clip_es.pipelines.commands.data_source import DataSource, OnSource, S
from clip_es.pipelines.commands.flags import DataVocabularyFlag, LimitFlag
from clip_es.pipelines.commands.sweep import write_failures
from clip_es.pipelines.console import bar, say, summarize
from clip_es.prompts import Vocabulary
from clip_es.records import Problem, annotations_of
from clip_es.records.coco.file import Crowd, Overlap, paint, read_coco_file
from clip_es.records.coco.instances import masks_of
from clip_es.records.dataset import check_id
from clip_es.records.folder import image_id_of
from clip_es.store.disk import make_folder, write_atomic


class TruthMasks(NamedTuple):
    """The masks of a data set, made when they are asked for."""

    count: int
    masks: Iterable[tuple[str, Callable[[], np.ndarray]]]
    """Ids with what makes their masks."""
    problems: tuple[Problem, ...]
    """Entries that cannot have one."""


@dataclass(frozen=True, kw_only=True)
class _AnnotatedCoco(DataSource):
    """Masks are drawn from the annotations of an instances file, one for each picture it lists; needs the extra `coco`.

    Pictures without objects become all background. The pictures themselves are not opened.
    """

    vocabulary: ClassVar[str | None] = "coco14"
    year: ClassVar[int]

    labels: tyro.conf.Suppress[LabelSource] = "given"
    root: Path
    split: str = "train"
    """train or val."""
    annotations: Path | None = None
    """Another file of the instances format."""
    overlap: Overlap = "smaller"
    """Where objects overlap: the one with fewer pixels is seen (of equals the later in the file), or the later one."""
    crowd: Crowd = "ignore"
    """Regions marked as a crowd: 255 where no single object lies on them, or their class like any other object."""
    min_area: float = 0.0
    """Objects with fewer pixels (COCO's `area`) become 255."""

    def painted(self, words: Vocabulary) -> TruthMasks:
        """One for each picture that the file lists."""
        source = self.annotations or annotations_of(self.root, self.split, self.year)
        if source is None:
            raise DataError(
                "is not there",
                where=self.root / "annotations" / f"instances_{self.split}{self.year}.json",
                next_step="Pass another --root, or the file with --annotations.",
            )
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
        return TruthMasks(len(file.images), painted(), problems)


@dataclass(frozen=True, kw_only=True)
class AnnotatedCoco14(_AnnotatedCoco):
    """COCO 2014, its masks drawn from the annotations of an instances file."""

    year: ClassVar[int] = 2014
    root: Path = Path("data/COCO2014")
    """Folder with annotations."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedCoco17(_AnnotatedCoco):
    """COCO 2017, its masks drawn from the annotations of an instances file."""

    year: ClassVar[int] = 2017
    root: Path = Path("data/COCO2017")
    """Folder with annotations."""


@dataclass(frozen=True, kw_only=True)
class Truth(OnSource[S]):
    """Ground-truth masks with this package's values: 0 background, k + 1 class k, 255 ignored."""

    variants: ClassVar[Mapping[str, type[DataSource]]] = {"coco14": AnnotatedCoco14, "coco17": AnnotatedCoco17}

    out: Path
    """Folder for <id>.png (mode P, VOC palette) and, where something failed, failures.csv. Files are written anew."""
    vocabulary: DataVocabularyFlag = "voc12"
    limit: LimitFlag = None

    def run(self) -> int:
        """Write the masks, with a progress bar."""
        words = self.source.words(self.vocabulary).for_masks()
        masks = self.source.painted(words) if isinstance(self.source, _AnnotatedCoco) else rewritten(self.source, words)
        failed, seen, done = list(masks.problems), set[str](), 0
        make_folder(self.out)
        count = masks.count if self.limit is None else min(masks.count, self.limit)
        with bar("truth", count) as progress:
            for image_id, paint_it in islice(masks.masks, self.limit):
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
        summarize({"masks": done, "failed": len(failed)})
        say(
            f"{done:,} mask{'s' * (done != 1)}: {self.out}"
            + (f"   {len(failed):,} failed: {self.out / 'failures.csv'}" if failed else "")
        )
        return 1 if failed else 0


def rewritten(source: DataSource, words: Vocabulary) -> TruthMasks:
    """The masks of a data set that has some, with our values. Raises DataError: it has none."""
    data = source.dataset(words, labelled=False)
    for note in data.notes:
        say(note)
    known = [record.image_id for record in data.records if record.image_id in data.truth]
    if not known and data.records:
        raise DataError("has no ground-truth masks", where=data.name, next_step="Name the folder of its masks.")
    masks = ((image_id, lambda image_id=image_id: data.read_truth(image_id)) for image_id in known)
    return TruthMasks(len(known), masks, data.problems)
