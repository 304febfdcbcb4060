"""What a sweep leaves behind: sweep.csv, sweep.json, report.html, and a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clip_es.pipelines.console import say, show_table
from clip_es.pipelines.report import Page
from clip_es.pipelines.sweep.sweep import SweepResult
from clip_es.prompts.choice import SELECT
from clip_es.store.tables import json_text, write_csv, write_json

ORACLE = (
    "Oracle figure: mIoU and the rank correlation use ground truth, which image-level labels do not give. "
    "They judge the choice; the choice itself needs labels alone."
)
"""Stands beside every figure that needs ground truth."""


def show_sweep(result: SweepResult, definition: str, most: int = 10) -> None:
    """The best and the worst templates, and the correlation."""
    known, scoring = result.with_truth > 0, SELECT[result.select]
    scores = list(enumerate(result.scores, start=1))
    shown = scores if len(scores) <= 2 * most else [*scores[:most], *scores[-most:]]
    show_table(
        f"{scoring.name} under {len(scores)} templates over {result.pictures} pictures with {_counted(result)} "
        f"({scoring.better} is better)",
        ("rank", "template", result.select, *(("mIoU (oracle)",) if known else ())),
        [(i, row.template, f"{row.score:.5f}", *((row.miou,) if known else ())) for i, row in shown],
    )
    say(f"{scoring.name}: {definition}.")
    say(f"Best: {result.best.template!r}; worst: {result.scores[-1].template!r}")
    if result.correlation:
        say(f"Rank correlation of {result.select} and mIoU over {result.with_truth} pictures: {result.correlation}")
        say(scoring.verdict(result.correlation.direction))
    if known:
        say(ORACLE)


def write_sweep(out: Path, result: SweepResult, definition: str, settings: Mapping[str, object]) -> None:
    """Write the three files. Raises StoreError."""
    rows = [
        (rank, row.template, repr(row.score), "" if row.miou is None else repr(row.miou))
        for rank, row in enumerate(result.scores, start=1)
    ]
    write_csv(out / "sweep.csv", ("rank", "template", result.select, "miou"), rows)
    content = {
        "templates": [{"template": row.template, result.select: row.score, "miou": row.miou} for row in result.scores],
        "best": result.best.template,
        "rank_correlation": _finite(result.correlation.value) if result.correlation else None,
        "settings": dict(settings) | _about(result, definition),
    }
    write_json(out / "sweep.json", content)
    _page(result, definition, json_text(content["settings"])).write(out / "report.html")


def _about(result: SweepResult, definition: str) -> dict[str, object]:
    about: dict[str, object] = {"definition": definition, "pictures": result.pictures, "with_truth": result.with_truth}
    if result.correlation:
        found = result.correlation
        about["rank_correlation_interval"] = [_finite(found.low), _finite(found.high)]
        about["rank_correlation_resamples"] = found.resamples
    if result.with_truth:
        about["oracle"] = ORACLE
    return about


def _page(result: SweepResult, definition: str, settings: str) -> Page:
    page = Page(
        "Prompt sweep",
        {
            "sharpness": "Which sentence finds all the labels of a picture (CLIP-ES, equation 9).",
            "share": "Which sentence finds the labels of a picture, and not its background.",
        }[result.select],
    )
    scoring = SELECT[result.select]
    best, worst = result.scores[0], result.scores[-1]
    numbers: dict[str, object] = {"templates": len(result.scores), f"pictures with {_counted(result)}": result.pictures}
    if result.correlation:
        numbers["rank correlation (oracle)"] = result.correlation.value
    page.figures(numbers)
    page.paragraph(f"Best: {best.template!r} with {result.select} {best.score:.5f}. ")
    page.paragraph(f"Worst: {worst.template!r} with {result.select} {worst.score:.5f}.")
    page.paragraph(f"{scoring.name} is: {definition}. {scoring.better.capitalize()} is better.")
    judged = [row for row in result.scores if row.miou is not None]
    if judged:
        page.heading(f"{scoring.name} and mIoU")
        top = max(judged, key=lambda row: row.miou or 0.0)
        named = {best.template, worst.template, top.template}
        page.scatter(
            [row.score for row in judged],
            [row.miou or 0.0 for row in judged],
            [row.template if row.template in named else "" for row in judged],
            (result.select, "mIoU of the maps, per cent"),
        )
        page.paragraph(
            f"Named: the best and the worst by {result.select}, and {top.template!r}, the best by mIoU. "
            f"Rank correlation: {result.correlation}. "
            f"{scoring.verdict(result.correlation.direction) if result.correlation else ''}"
        )
        page.paragraph(ORACLE)
    page.heading("All templates")
    page.table(
        ("rank", "template", result.select, *(("mIoU (oracle)",) if judged else ())),
        [
            (i, row.template, f"{row.score:.5f}", *((row.miou,) if judged else ()))
            for i, row in enumerate(result.scores, start=1)
        ],
    )
    page.heading("Settings")
    page.preformatted(settings)
    return page


def _counted(result: SweepResult) -> str:
    return "several labels" if result.select == "sharpness" else "labels"


def _finite(value: float) -> float | None:
    return value if value == value else None
