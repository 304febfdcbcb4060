"""`clip-es check RUN`: a run folder before it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.errors import ConfigError, DataError, nearest
from clip_es.pipelines.checks.run import RunCheck, check_run
from clip_es.pipelines.commands.flags import OwnVocabularyFlag
from clip_es.pipelines.console import say, show_table, summarize, track
from clip_es.pipelines.exchange.import_masks import imported_ids
from clip_es.segmentor.data.check import AGAIN, KINDS, Trouble
from clip_es.store.tables import write_csv

_MADE_AGAIN = ("missing", "damaged", "kind", "size", "undecided", "differs")
"""Problems that go away when the picture is made again."""


@dataclass(frozen=True, kw_only=True)
class CheckRun:
    """Find whatever would stop or spoil a training: labels out of range, wrong sizes, missing or damaged files.

    Reads every file of the run and lists all problems at once; exit code 1 where there are any.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, as `clip-es masks ... --out RUN` makes it."""
    images: tuple[Path, ...] = ()
    """Folders of the pictures, where run.yaml does not name them or they have moved."""
    vocabulary: OwnVocabularyFlag = None
    headers_only: bool = False
    """Look at names, kinds and sizes alone: seconds in place of minutes, and no class balance."""
    workers: int = 0
    """Additional processes that decode pictures."""
    shown: int = 5
    """Files shown of each kind of problem."""
    repair: bool = False
    """Take back the pictures whose files are missing, damaged or contradict each other: the next call of `clip-es
    masks` with the same --out makes them again. What a person has edited is named and stays."""
    out: Path | None = None
    """Also write all problems to this CSV file: kind,file,detail."""

    def run(self) -> int:
        """Print the class balance, the notes and the problems."""
        if self.workers < 0 or self.shown < 0:
            raise ConfigError("workers and shown cannot be negative", found=(self.workers, self.shown))
        try:
            result = check_run(
                self.folder,
                self.images or None,
                vocabulary=self.vocabulary,
                depth="headers" if self.headers_only else "pixels",
                workers=self.workers,
                progress=lambda items, what, total: track(items, what, total),
            )
        except DataError as error:
            raise self._meant(error) from error
        _show(result, self.shown)
        summarize({"run": result.run, "pictures": result.pictures, "undecided": result.undecided})
        if self.out:
            write_csv(self.out, ("kind", "file", "detail"), result.troubles)
            say(f"All problems: {self.out}")
        left = self._repair(result.troubles) if self.repair else len(result.troubles)
        summarize({"problems": len(result.troubles), "left": left})
        return 1 if left else 0

    def _repair(self, troubles: Sequence[Trouble]) -> int:
        """Remove the masks of what can be made again; returns how many problems are left."""
        edited = imported_ids(self.folder)
        found = {Path(one.file).stem: one for one in troubles if one.kind in _MADE_AGAIN and one.file.endswith(".png")}
        taken_back = found.keys() - edited
        for image_id in taken_back:
            # The mask comes last when a picture is made, so without it the picture counts as unfinished.
            (self.folder / "masks" / f"{image_id}.png").unlink(missing_ok=True)
        say(f"Taken back: {len(taken_back)}. {AGAIN}" if taken_back else "Nothing to take back.")
        for image_id in sorted(found.keys() & edited):
            say(f"  {image_id} was edited by a person and stays; `clip-es restore` brings back an earlier version")
        return sum(Path(one.file).stem not in taken_back for one in troubles)

    def _meant(self, error: DataError) -> DataError:
        """`clip-es check voc` may have been meant as `check voc12`, a command of its own."""
        from clip_es.pipelines.table import COMMANDS

        group = [name.removeprefix("check ") for name in COMMANDS if name.startswith("check ")]
        hint = "" if self.folder.exists() else nearest(str(self.folder), group)
        return DataError(error.what, where=error.where, expected=error.expected, found=error.found, next_step=hint)


def _show(result: RunCheck, shown: int) -> None:
    if result.classes:
        rows = [(c.name, c.pictures, 100 * c.share, "-" if c.sure != c.sure else 100 * c.sure) for c in result.classes]
        show_table("Class balance of labels/", ("class", "pictures", "% of pixels", "% of them sure (>= 0.95)"), rows)
        say(f"{100 * result.undecided:.1f} % of the pixels of masks/ are undecided (255)")
    for note in result.notes:
        say(f"Note: {note}.")
    ordered = sorted(result.troubles, key=lambda trouble: list(KINDS).index(trouble.kind))
    for kind, group in groupby(ordered, key=lambda trouble: trouble.kind):
        troubles = list(group)
        what, remedy = KINDS[kind]
        say(f"{len(troubles)} times: {what}. {remedy}")
        for trouble in troubles[:shown]:
            say(f"  {trouble.file}: {trouble.detail}")
        if len(troubles) > shown:
            say(f"  ... and {len(troubles) - shown} more; --out FILE.csv writes all of them")
    count = len(result.troubles)
    say(f"{result.run}: {result.pictures} pictures, {count or 'no'} problem{'s' if count != 1 else ''}")
