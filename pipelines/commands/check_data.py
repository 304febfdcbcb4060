"""`clip-es check voc12|coco14|folder|...`: a data set before the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from clip_es.config.run import RunConfig
from clip_es.encoder import load_encoder
from clip_es.encoder.download import OFFICIAL, cache_folder
from clip_es.errors import ClipEsError, ConfigError
from clip_es.pipelines.checks.dataset import KINDS, SERIOUS, DataCheck, check_data
from clip_es.pipelines.checks.estimate import Estimate, estimate
from clip_es.pipelines.commands.data_source import S, first
from clip_es.pipelines.commands.flags import DataVocabularyFlag, LimitFlag, TemplateFlag
from clip_es.pipelines.commands.masks import OnPresets
from clip_es.pipelines.commands.sources import FolderSource
from clip_es.pipelines.console import say, show_table, summarize, track
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.parallel.cores import cores
from clip_es.prompts import Vocabulary
from clip_es.prompts.templates import sentences
from clip_es.records import Dataset, OnBadLabel
from clip_es.store.cams import KeepCams
from clip_es.store.tables import write_csv, write_json

_WORTH_WORKERS = 300
"""Pictures from which on starting further processes (some seconds) pays."""

_MOST_CLASSES_SHOWN = 40
_COLUMNS = ("severity", "kind", "image_id", "file", "detail", "remedy")


@dataclass(frozen=True, kw_only=True)
class CheckData(OnPresets[S]):
    """Find whatever would stop or spoil a run."""

    vocabulary: DataVocabularyFlag = "voc12"
    fast: bool = False
    """Read headers only: a thousand pictures a second or more, but damage, bad masks and repeated pictures go
    unnoticed."""
    workers: int | None = None
    """Additional processes that decode pictures; None: chosen by cores and number of pictures."""
    estimate: bool = True
    """Make the masks of a few pictures and say what the run will take in time, memory and disk."""
    measure: int = 4
    """Pictures on which the estimate is measured, from small to large."""
    weights: str = "ViT-B/16"
    """Weights the run will have, for the estimate; they are not fetched for it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..., for the estimate."""
    batch_size: int = 8
    """Most pictures of one size the run will encode together, for the estimate."""
    keep_cams: KeepCams = "none"
    """Whether the run will keep maps, for the estimate."""
    on_bad_label: OnBadLabel = "fail"
    """An unknown label is a problem of its picture, or is left out."""
    template: TemplateFlag = ()
    limit: LimitFlag = None
    shown: int = 5
    """Files shown of each kind of problem."""
    out: Path | None = None
    """Also write all findings to this file: .csv, or .json with the label balance and the estimate."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)

    def run(self) -> int:
        """Print the label balance, problems with their remedies, and the estimate; 1 where there are problems."""
        if self.out and self.out.suffix.lower() not in {".csv", ".json"}:
            raise ConfigError("the report is CSV or JSON", where=self.out, expected="a name that ends in .csv or .json")
        if min(self.shown, self.workers or 0) < 0 or self.measure < 1:
            raise ConfigError(
                "counts cannot be negative, and one picture at least is measured",
                found=f"--shown {self.shown}, --workers {self.workers}, --measure {self.measure}",
            )
        vocabulary = self.source.words(self.vocabulary)
        need_size = self.config.image.size_from == "annotation"
        labelled = self.source.label_source == "given"
        dataset = first(self.source.dataset(vocabulary, self.on_bad_label, need_size, labelled), self.limit)
        # Only a second reading tells which labels are unknown and how often.
        again = dataset.problems and self.on_bad_label == "fail"
        skipped = self.source.dataset(vocabulary, "skip", need_size, labelled) if again else None
        result = check_data(
            dataset,
            vocabulary,
            self.config.image,
            pixels=not self.fast,
            workers=self._workers(len(dataset.records)),
            skipped=skipped,
            unlisted=self.source.without_row(dataset) if isinstance(self.source, FolderSource) else (),
            progress=lambda items, what, total: track(items, what, total),
        )
        _show_labels(result)
        expected, reason = self._estimate(dataset, vocabulary, result) if self.estimate else (None, "")
        _show_findings(result, self.shown)
        if expected:
            _show_estimate(expected)
        elif reason:
            say(f"No estimate: {reason}")
        troubles = expected.troubles if expected else ()
        for trouble in troubles:
            say(f"Problem: {trouble}")
        if self.out:
            _write_report(self.out, result, expected)
            say(f"All findings: {self.out}")
        count = len(result.problems) + len(troubles)
        summarize(
            {"dataset": result.name, "entries": result.listed, "usable": result.usable, "problems": count}
            | {"estimate": asdict(expected) if expected else None}
        )
        say(
            f"{result.name}: {result.listed} entries, {result.usable} usable, {count or 'no'} "
            f"problem{'' if count == 1 else 's'}"
        )
        return 1 if count else 0

    def _workers(self, pictures: int) -> int:
        if self.workers is not None:
            return self.workers
        return cores() if cores() > 1 and pictures >= _WORTH_WORKERS and not self.fast else 0

    def _estimate(self, dataset: Dataset, vocabulary: Vocabulary, result: DataCheck) -> tuple[Estimate | None, str]:
        if self.weights in OFFICIAL and not (cache_folder() / OFFICIAL[self.weights].file_name).is_file():
            return None, f"{self.weights} is not on this machine yet; the first run fetches it. Or pass --weights."
        try:
            encoder = load_encoder(self.weights, device=self.device, config=self.config.encoder)
            templates, labels = sentences(self.template) or None, self.source.label_source
            maker = MaskMaker(encoder, vocabulary, config=self.config, templates=templates, labels=labels)
            return estimate(
                dataset.records,
                result.sizes_hw,
                maker,
                count=self.measure,
                batch_size=self.batch_size,
                keep=self.keep_cams,
                out=self.out or Path(),
            ), ""
        except ClipEsError as error:
            return None, str(error)


def _show_labels(result: DataCheck) -> None:
    if not any(label.pictures for label in result.labels):
        return say("No labels are given.") if result.usable else None
    used = sorted((label for label in result.labels if label.pictures), key=lambda label: -label.pictures)
    rows = [
        (label.name, label.pictures, 100 * label.pictures / max(result.usable, 1), label.alone, _few(label.always_with))
        for label in used
    ]
    title = f"Label balance of {result.usable} pictures"
    if len(rows) > _MOST_CLASSES_SHOWN:
        half = _MOST_CLASSES_SHOWN // 2
        title += f": the {half} most and the {half} least frequent of {len(rows)}"
        rows = [*rows[:half], *rows[-half:]]
    show_table(title, ("class", "pictures", "% of pictures", "as only label", "never without"), rows)
    if result.unknown_labels:
        rows = [(name, times, hint) for name, times, hint in result.unknown_labels[:20]]
        show_table("Labels the vocabulary does not know", ("label", "times", ""), rows)


def _show_findings(result: DataCheck, shown: int) -> None:
    for note in result.notes:
        say(f"Note: {note}")
    for kind, group in groupby(result.findings, key=lambda finding: finding.kind):
        findings = list(group)
        what, remedy = KINDS[kind]
        say(f"{'Problem' if kind in SERIOUS else 'Note'}, {len(findings)} times: {what}. {remedy}")
        for finding in findings[:shown]:
            say("  " + ": ".join(part for part in (finding.file, finding.detail) if part))
        if len(findings) > shown:
            say(f"  ... and {len(findings) - shown} more; --out FILE.csv writes all of them")


def _show_estimate(expected: Estimate) -> None:
    stages = ", ".join(f"{stage} {1000 * s:.0f} ms" for stage, s in expected.seconds_by_stage.items() if s >= 0.0005)
    height, width = expected.largest_hw
    memory = f"{expected.memory_mib:.0f} MiB for the main process"
    memory += "" if expected.memory_free_mib is None else f" of {expected.memory_free_mib:.0f} MiB free"
    memory += "" if expected.gpu_memory_mib is None else f", {expected.gpu_memory_mib:.0f} MiB on the GPU"
    rows = [
        ("time", f"{_clock(expected.seconds)} for {expected.pictures} pictures"),
        ("of each", f"{stages} (mean of {expected.measured})"),
        ("memory", f"{memory}; {'measured' if expected.measured_largest else 'extrapolated'} at {height} x {width}"),
        ("disk", f"{expected.disk_mib:.0f} MiB of {expected.disk_free_mib:.0f} MiB free"),
    ]
    if expected.workers:
        rows.insert(1, ("with", f"{expected.workers} processes for the CRF"))
    show_table("What the run will take", ("", ""), rows)


def _clock(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _write_report(path: Path, result: DataCheck, expected: Estimate | None) -> None:
    rows = [
        {
            "severity": "problem" if finding.kind in SERIOUS else "note",
            "kind": finding.kind,
            "image_id": finding.image_id,
            "file": finding.file,
            "detail": finding.detail,
            "remedy": KINDS[finding.kind][1],
        }
        for finding in result.findings
    ]
    if path.suffix.lower() == ".csv":
        return write_csv(path, _COLUMNS, [[row[column] for column in _COLUMNS] for row in rows])
    heights_widths = result.sizes_hw[result.sizes_hw.any(axis=1)]
    sizes = np.median(heights_widths, axis=0).tolist() if len(heights_widths) else None
    content = {
        "dataset": result.name,
        "entries": result.listed,
        "usable": result.usable,
        "problems": len(result.problems),
        "median_height_width": sizes,
        "labels": [asdict(label) for label in result.labels],
        "unknown_labels": [{"label": name, "times": times} for name, times, _ in result.unknown_labels],
        "reader_notes": list(result.notes),
        "findings": rows,
        "estimate": asdict(expected) if expected else None,
    }
    write_json(path, content)
