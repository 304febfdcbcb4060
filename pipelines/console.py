"""What a person sees while it runs: a bar with rate and time left, tables, one line where no terminal is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

T = TypeVar("T")


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
        disable=not sys.stderr.isatty(),
    )
    progress.add_task(what, total=total)
    return progress


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, with a bar that moves as they are used."""
    with bar(what, total) as progress:
        for item in items:
            yield item
            progress.advance(progress.task_ids[0])


def say(text: str) -> None:
    """A line on standard output."""
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


def show_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; numbers stand on the right with two digits."""
    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", show_edge=False)
    for i, name in enumerate(header):
        numeric = any(isinstance(row[i], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(highlight=False).print(table)
