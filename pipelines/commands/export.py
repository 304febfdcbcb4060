"""`clip-es export`, `import` and `worst`: masks to other tools, edits back, and the pictures that need a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.formats import FORMATS, FormatName, ReadableName, Source, readable
from clip_es.formats.pictures import PictureMode
from clip_es.pipelines.commands.flags import LimitFlag, OwnVocabularyFlag
from clip_es.pipelines.console import bar, say, show_table, summarize
from clip_es.pipelines.exchange.export import export
from clip_es.pipelines.exchange.history import exported_as
from clip_es.pipelines.exchange.import_masks import OnConflict, import_masks, imported_ids, restore
from clip_es.pipelines.exchange.run_folder import FOLDERS, LabelKind, Run
from clip_es.pipelines.exchange.worst import PictureScore, Ranking, ScoreName, all_scores, rank
from clip_es.pipelines.exchange.worst_sheet import write_sheet
from clip_es.records import Problem
from clip_es.store.tables import write_csv

_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Export:
    """A run's masks as a data set in the format of another tool."""

    run_folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of a run."""
    format: Annotated[FormatName, tyro.conf.arg(help=f"What the data set is for. {FORMATS.sentences()}.")]
    out: Path
    """A new folder. A stopped export begins again there; a finished one is never touched."""
    labels: LabelKind = "masks"
    """masks: unsure pixels are undecided (255). decided: every pixel has its likeliest label."""
    images: Path | None = None
    """Folder of the pictures; None: where run.yaml says they are."""
    pictures: PictureMode = "link"
    """Put the pictures beside the masks as hard links (no space; else copies), as copies, or not at all."""
    vocabulary: OwnVocabularyFlag = None
    split: str | None = None
    """Name of the list or sub-folder; None: train, or default for cvat."""
    limit: LimitFlag = None

    def run(self) -> int:
        """Write the data set."""
        run = Run.open(self.run_folder, self.vocabulary)
        image_ids = run.image_ids[: self.limit]
        with bar("export", len(image_ids)) as progress:
            made = export(
                run,
                self.format,
                self.out,
                labels=self.labels,
                images=self.images,
                pictures=self.pictures,
                split=self.split,
                only=image_ids,
                done=lambda: progress.advance(progress.task_ids[0]),
            )
        _tell(made.problems, "left out")
        summarize({"format": self.format, "pictures": made.pictures, "left_out": len(made.problems)})
        if not made.recorded:
            say("The run cannot be written, so a later import cannot tell whose edit is newer.")
        say(f"{made.pictures} pictures as {self.format} in {self.out}")
        if not FORMATS[self.format].read:
            say(f"`clip-es import` does not read {self.format} back; it reads {', '.join(readable())}.")
        return 1 if made.problems else 0


@dataclass(frozen=True, kw_only=True)
class Import:
    """Bring edited masks back: they replace those of their run."""

    run_folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run they came from."""
    format: ReadableName
    """What the edited masks are in."""
    source: Annotated[Path, tyro.conf.arg(name="from")]
    """A folder, a zip archive (never unpacked) or a single file."""
    labels: LabelKind | None = None
    """What had been exported; None: what the mark of the export says, or what alone was exported of the run."""
    reviewed: bool = False
    """Every picture was checked as a whole: all its pixels become certain, not only the edited ones."""
    on_conflict: OnConflict = "refuse"
    """A picture edited here that the run has changed since it was exported: refused, taken from here (theirs), or left
    as the run has it (ours)."""
    vocabulary: OwnVocabularyFlag = None

    def run(self) -> int:
        """Write masks/, labels/ and confidence/ of the edited pictures."""
        run = Run.open(self.run_folder, self.vocabulary)
        with Source(self.source) as source:
            kind = self.labels or exported_as(run.folder, source, self.format)
            made = import_masks(
                run, source, self.format, compared_with=kind, reviewed=self.reviewed, on_conflict=self.on_conflict
            )
        _tell(made.problems, "refused")
        counts = {name: getattr(made, name) for name in ("edited", "pixels", "unchanged", "kept")}
        summarize({**counts, "refused": len(made.problems)})
        say(
            f"{made.edited} pictures edited ({made.pixels} pixels differ from RUN/{FOLDERS[kind]}), "
            f"{made.unchanged} unchanged, {len(made.problems)} refused"
            + (f", {made.kept} in conflict left as they were" if made.kept else "")
        )
        if made.edited:
            say(f"As they were before: clip-es restore {self.run_folder}")
        return 1 if made.problems else 0


@dataclass(frozen=True, kw_only=True)
class Restore:
    """Restore masks as they were before an import; the present ones are kept, so this can be undone too."""

    run_folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run."""
    number: int | None = None
    """Of the import, as RUN/imports counts them; None: the last one."""
    pictures: tuple[str, ...] = ()
    """Ids of the pictures; none: all that this import or a later one changed."""

    def run(self) -> int:
        """Write masks/, labels/ and confidence/ as they were."""
        found = restore(Run.open(self.run_folder), self.number, self.pictures or None)
        summarize({"pictures": len(found)})
        which = "the last import" if self.number is None else f"import {self.number}"
        say(f"{len(found)} picture{'s' * (len(found) != 1)} as before {which}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Worst:
    """Export the pictures a run is least sure of, to be corrected by hand."""

    run_folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of a run."""
    out: Path
    """A new folder for the pictures, their masks, worst.csv (all pictures) and worst.html (those exported)."""
    count: int = 20
    """How many."""
    format: ReadableName = "labelme"
    """What they are exported in; `clip-es import` reads it back."""
    by: ScoreName = "expected-miou"
    """expected-miou: the mIoU that the confidences promise. mean-confidence: of all pixels. decided-share: not 255."""
    labels: LabelKind = "decided"
    """decided: the likeliest labels, to be corrected. masks: unsure pixels are marked as undecided, to be filled."""
    again: bool = False
    """Include pictures that were corrected before."""
    truth: Path | None = None
    """Folder of ground-truth PNGs: shows how well each score predicts the true mIoU of a picture."""
    images: Path | None = None
    """Folder of the pictures; None: where run.yaml says they are."""
    pictures: PictureMode = "link"
    """Put the pictures beside the masks as hard links (no space; else copies), as copies, or not at all."""
    vocabulary: OwnVocabularyFlag = None

    def run(self) -> int:
        """Rank, print, export."""
        run = Run.open(self.run_folder, self.vocabulary)
        skip = set() if self.again else imported_ids(run.folder)
        with bar("score", len(run.image_ids)) as progress:
            ranking = rank(
                run, self.by, truth=self.truth, skip=skip, done=lambda: progress.advance(progress.task_ids[0])
            )
        chosen = ranking.pictures[: max(self.count, 0)]
        made = export(
            run,
            self.format,
            self.out,
            labels=self.labels,
            images=self.images,
            pictures=self.pictures,
            only=[picture.image_id for picture in chosen],
            about={"worst_by": self.by},
        )
        _write_table(self.out / "worst.csv", ranking.pictures)
        write_sheet(self.out / "worst.html", run, chosen, self.by, self.images, self.pictures)
        self._show(ranking, chosen)
        problems = (*ranking.problems, *made.problems)
        _tell(problems, "left out")
        worst = [picture.image_id for picture in chosen]
        summarize({"format": self.format, "pictures": made.pictures, "left_out": len(problems), "worst": worst})
        say(f"{made.pictures} pictures as {self.format} in {self.out}; look at {self.out / 'worst.html'}")
        say(f"Edit them, then: clip-es import {self.run_folder} --format {self.format} --from {self.out}")
        return 1 if ranking.problems or made.problems else 0

    def _show(self, ranking: Ranking, chosen: Sequence[PictureScore]) -> None:
        names = all_scores()
        truth = any(picture.miou is not None for picture in ranking.pictures)
        rows = [_row(picture, names, truth) for picture in chosen[:_SHOWN]]
        show_table(
            f"the {len(chosen)} of {len(ranking.pictures)} pictures with the lowest {self.by}, per cent",
            ("picture", *names, *(["true mIoU"] if truth else [])),
            rows,
        )
        if len(chosen) > _SHOWN:
            say(f"... all of them in {self.out / 'worst.csv'}")
        for name in names if truth else ():
            say(f"rank correlation of {name} with true mIoU: {ranking.correlation(name)}")


def _row(picture: PictureScore, names: Sequence[ScoreName], truth: bool) -> list[object]:
    scores = [100 * picture.scores[name] for name in names]
    miou = "unknown" if picture.miou is None else 100 * picture.miou
    return [picture.image_id, *scores, *([miou] if truth else [])]


def _write_table(path: Path, pictures: Sequence[PictureScore]) -> None:
    names = all_scores()
    rows = [
        (p.image_id, *(f"{p.scores[name]:.6f}" for name in names), "" if p.miou is None else f"{p.miou:.6f}")
        for p in pictures
    ]
    write_csv(path, ("image_id", *(name.replace("-", "_") for name in names), "true_miou"), rows)


def _tell(problems: Sequence[Problem], what: str) -> None:
    for problem in problems[:5]:
        say(f"{what} {problem.image_id}: {problem.reason}")
    if len(problems) > 5:
        say(f"... and {len(problems) - 5} more")
