"""What a person sees while it runs: a bar with rate and time left, tables, one line where no terminal is."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from clip_es.records import Problem

T = TypeVar("T")


@dataclass
class _Voice:
    """How this call speaks."""

    quiet: bool = False
    json: bool = False
    figures: dict[str, Any] = field(default_factory=dict)


_voice = _Voice()


@contextmanager
def speaking(*, quiet: bool, json: bool) -> Iterator[dict[str, Any]]:
    """`quiet`: neither lines nor bars. `json`: lines go to standard error, for standard output gets the summary alone.

    Yields what `summarize` collects meanwhile.
    """
    global _voice
    before, _voice = _voice, _Voice(quiet, json)
    try:
        yield _voice.figures
    finally:
        _voice = before


def summarize(figures: Mapping[str, Any]) -> None:
    """Add to what `--json` prints when the command ends."""
    _voice.figures.update(figures)


def _console() -> Console:
    return Console(highlight=False, stderr=_voice.json, quiet=_voice.quiet)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s" if speed >= 1 else f"{1 / max(speed, 1e-9):.1f} s each")


def bar(what: str, total: int) -> Progress:
    """A progress bar on standard error, silent where that is no terminal; add `what` as its only task."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True),
        disable=_voice.quiet or not sys.stderr.isatty(),
    )
    progress.add_task(what, total=total)
    return progress


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, with a bar that moves as they are used."""
    with bar(what, total) as progress:
        for item in items:
            yield item
            progress.advance(progress.task_ids[0])


def counted(number: int, what: str, several: str | None = None) -> str:
    """`1 picture`, `2 pictures`, `no pictures`."""
    return f"{number or 'no'} {what if number == 1 else several or f'{what}s'}"


def by_reason(problems: Iterable[Problem]) -> list[tuple[str, list[Problem]]]:
    """Problems that have the same reason but for the names and numbers in it, the most frequent reason first."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.stage, _alike(problem)), []).append(problem)
    several = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [(some[0].reason if len(some) == 1 else reason, some) for (_, reason), some in several]


def examples(problems: Sequence[Problem], most: int = 3) -> str:
    """Their pictures, a few by name."""
    names = ", ".join(problem.image_id for problem in problems[:most])
    return names if len(problems) <= most else f"{names}, ..."


def say_failures(problems: Sequence[Problem], table: Path, most: int = 5) -> None:
    """What went wrong, each reason once, and where all of it stands."""
    groups = by_reason(problems)
    for reason, some in groups[:most]:
        say(f"  {counted(len(some), 'picture')} [{some[0].stage}]: {reason}  ({examples(some)})")
    if problems:
        more = f"  {counted(len(groups) - most, 'further reason')}; all" if len(groups) > most else "  All"
        say(f"{more} of them in {table}")


def _alike(problem: Problem) -> str:
    reason = re.sub(r"\S*[/\\]\S*", "...", problem.reason)
    return re.sub(r"\d+", "#", reason.replace(problem.image_id, "..."))


def say(text: str) -> None:
    """A line on standard output; on standard error with --json, nowhere with --quiet."""
    _console().print(text, markup=False, soft_wrap=True)


def show_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table where `say` has its lines; numbers stand on the right with two digits."""
    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", show_edge=False)
    for i, name in enumerate(header):
        numeric = any(isinstance(row[i], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    _console().print(table)
