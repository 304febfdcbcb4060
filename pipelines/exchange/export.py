"""From a run's folder to a data set in another tool's format, one picture at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.formats import FORMATS, ExportFolder, FormatName
from clip_es.formats.pictures import PictureMode
from clip_es.pipelines.exchange.history import digest, note_exports
from clip_es.pipelines.exchange.run_folder import LabelKind, Run
from clip_es.records import Problem
from clip_es.store.disk import StoreError


@dataclass(frozen=True)
class Exported:
    """What came of an export."""

    pictures: int
    problems: tuple[Problem, ...] = ()
    """Pictures that were left out, and why."""
    recorded: bool = True
    """Whether the run could note what left it, so that an import tells edits from its own changes."""


def export(
    run: Run,
    name: FormatName,
    out: Path,
    *,
    labels: LabelKind = "masks",
    images: Path | None = None,
    pictures: PictureMode = "link",
    split: str | None = None,
    only: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
    done: Callable[[], object] = lambda: None,
) -> Exported:
    """Write the masks of a run, or those of the ids in `only`, as a data set of the format `name`.

    A picture that cannot be exported is left out and told; `about` goes into the mark of the folder.
    Raises ConfigError: the folder is taken, the format cannot hold a class name, or the pictures are not known.
    StoreError: the disk refuses; the same call begins again.
    """
    image_ids = list(run.image_ids if only is None else only)
    if not len(image_ids) > 0:
        raise ConfigError("there is no picture to export", where=run.folder)
    files = {} if pictures == "none" else run.pictures(images, image_ids)
    what = {
        "format": name,
        "run": str(run.folder.resolve()),
        "labels": labels,
        "split": split,
        "pictures": pictures,
        "classes": list(run.names.classes),
        **(about or {}),
    }
    problems: list[Problem] = []
    digests: list[tuple[str, str]] = []
    with ExportFolder.open(out, what) as folder:
        writer = FORMATS[name].writer(folder, run.names, image_ids, split=split, pictures=pictures)
        writer.things = run.things
        for image_id in image_ids:
            try:
                picture = files.get(image_id)
                if picture is None and pictures != "none":
                    raise DataError(
                        "its picture is not there",
                        where=image_id,
                        next_step="Pass the --images the run was made with, or --pictures none.",
                    )
                content = run.labels(image_id, labels)
                writer.add(image_id, content, picture)
                digests.append((image_id, digest(content)))
            except StoreError:
                raise
            except ClipEsError as error:
                problems.append(Problem.of(image_id, error, "export"))
            done()
        writer.finish()
        # The same masks have the same id, so a stopped export that begins again is the same one.
        export_id = hashlib.sha256(repr((labels, digests)).encode()).hexdigest()[:16]
        recorded = _record(run, export_id, labels, digests)
        count = len(image_ids) - len(problems)
        folder.finish({"export": export_id, "exported": count, "left_out": len(problems)})
    return Exported(count, tuple(problems), recorded)


def _record(run: Run, export_id: str, labels: LabelKind, digests: Sequence[tuple[str, str]]) -> bool:
    """Note in the run what left it; a run that cannot be written is exported all the same."""
    try:
        note_exports(run.folder, export_id, labels, digests)
    except StoreError:
        return False
    return True
