"""`clip-es sweep ...`: which template finds all the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from clip_es.config.run import RunConfig
from clip_es.encoder import Encoder, load_encoder
from clip_es.errors import ConfigError
from clip_es.pipelines.commands.data_source import DataSource, OnSource, S
from clip_es.pipelines.commands.flags import DataVocabularyFlag, TemplateListsFlag, WeightsFlag
from clip_es.pipelines.commands.sources import ScenesSource
from clip_es.pipelines.console import bar, say, summarize, track
from clip_es.pipelines.sweep.report import show_sweep, write_sweep
from clip_es.pipelines.sweep.sweep import SweepResult, sweep
from clip_es.prompts.bank import Synonyms
from clip_es.prompts.choice import SELECT, SHARE_DEFINITION, Select
from clip_es.prompts.sharpness import SharpnessConfig
from clip_es.prompts.templates import load_templates
from clip_es.prompts.vocabulary import Vocabulary
from clip_es.prompts.write import write_vocabulary
from clip_es.records import Dataset, OnBadLabel, Problem
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.failures import COLUMNS as FAILURE_COLUMNS
from clip_es.store.failures import failure_row
from clip_es.store.tables import write_csv


@dataclass(frozen=True, kw_only=True)
class DrawnScenes(ScenesSource):
    """The drawn world; scenes that are missing are drawn first."""

    root: Path = Path("runs/sweep-scenes")
    """Folder of the scenes; what is missing is drawn."""
    scenes: Annotated[ScenesConfig, tyro.conf.arg(name="scenes")] = field(default_factory=ScenesConfig)

    def draw(self) -> None:
        """Draw the scenes. A folder that is there is taken as it is."""
        if not (self.root / "ImageSets" / "Segmentation" / f"{self.split}.txt").is_file():
            with bar("scenes", self.scenes.train + self.scenes.val) as progress:
                make(self.root, self.scenes, lambda done, _: progress.update(progress.task_ids[0], completed=done))


@dataclass(frozen=True, kw_only=True)
class Sweep(OnSource[S]):
    """Rank templates by their sharpness, or by the share of the labels."""

    variants: ClassVar[Mapping[str, type[DataSource]]] = {"scenes": DrawnScenes}

    out: Path
    """Folder for sweep.csv, sweep.json and report.html. The same call with the same folder continues."""
    templates: TemplateListsFlag = ("imagenet80",)
    weights: WeightsFlag = "ViT-B/16"
    vocabulary: DataVocabularyFlag = "voc12"
    synonyms: Synonyms = "sentence"
    """Synonyms of a class in one sentence (the paper's), as the mean of their vectors, or left out."""
    select: Select = "sharpness"
    """What the templates are ordered by, from labels alone. sharpness: how unevenly the labels of a picture score,
    lower is better (the paper's). share: what they hold of the softmax against background words, higher is better."""
    sharpness: Annotated[SharpnessConfig, tyro.conf.arg(name="")] = field(default_factory=SharpnessConfig)
    miou: bool = True
    """Where there is ground truth, also score the maps of each template: an oracle figure, and slow."""
    apply: tuple[Path, ...] | None = None
    """Write a copy of the vocabulary with the best template to this file; to OUT/vocabulary.yaml if none is named."""
    pictures: int | None = None
    """Use at most this many pictures, evenly spread; None: all."""
    cache: Path | None = None
    """Folder of image features, shared by all sweeps; None: features in $CLIP_ES_CACHE or the user's cache folder."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    on_bad_label: OnBadLabel = "fail"
    """An unknown label fails its picture, or is left out."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: RunConfig(refine=()))

    @classmethod
    def defaults(cls, source: type[DataSource]) -> dict[str, Any]:
        """Drawn scenes are also swept over the templates that were written for them."""
        drawn = {"templates": ("imagenet80", "drawn24")} if issubclass(source, DrawnScenes) else {}
        return {**super().defaults(source), **drawn}

    def run(self) -> int:
        """Measure, show and write. Raises ConfigError: no labels are given."""
        if self.source.label_source != "given":
            raise ConfigError(
                "a sweep compares templates by the labels of the pictures",
                found=f"--labels {self.source.labels}",
                next_step="Pass a table of labels, or subfolders.",
            )
        if self.pictures is not None and self.pictures < 1:
            raise ConfigError("a sweep needs pictures", expected="--pictures of 1 or more", found=self.pictures)
        if isinstance(self.source, DrawnScenes):
            self.source.draw()
        templates = joined_templates(self.templates)
        vocabulary = self.source.words(self.vocabulary)
        dataset = self.source.dataset(vocabulary, self.on_bad_label, self.config.image.size_from == "annotation")
        if self.pictures is not None:
            dataset = thinned(dataset, self.pictures)
        encoder = load_encoder(self.weights, device=self.device, config=self.config.encoder)
        result = sweep(
            encoder,
            vocabulary,
            dataset,
            templates,
            config=self.config,
            select=self.select,
            sharpness=self.sharpness,
            synonyms=self.synonyms,
            truth=self.miou,
            cache=self.cache,
            state=self.out / "state",
            track=track,
        )
        definition = str(self.sharpness) if self.select == "sharpness" else SHARE_DEFINITION
        show_sweep(result, definition)
        problems = (*dataset.problems, *result.problems)
        write_sweep(self.out, result, definition, self._settings(encoder, dataset, len(problems)))
        write_failures(self.out / "failures.csv", problems)
        if problems:
            say(f"{len(problems)} pictures failed: {self.out / 'failures.csv'}")
        best = {"template": result.best.template, "score": result.best.score}
        summarize({"templates": len(result.scores), "pictures": result.pictures, "best": best, "failed": len(problems)})
        say(f"Report: {self.out / 'report.html'}")
        for path in (self.apply or (self.out / "vocabulary.yaml",)) if self.apply is not None else ():
            write_winner(path, vocabulary, result, dataset, self.weights, encoder, definition)
            say(f"Vocabulary with {result.best.template!r}: {path}")
        return 1 if problems else 0

    def _settings(self, encoder: Encoder, dataset: Dataset, failed: int) -> dict[str, object]:
        return {
            "lists": list(self.templates),
            "weights": self.weights,
            "weights_sha256": encoder.source,
            "vocabulary": self.vocabulary,
            "dataset": dataset.name,
            "dataset_sha256": dataset.fingerprint(),
            "failed": failed,
            "synonyms": self.synonyms,
            "select": self.select,
            "sharpness": asdict(self.sharpness),
            "config": asdict(self.config),
        }


def joined_templates(lists: Sequence[str]) -> tuple[str, ...]:
    """The templates of several lists, each once, in order."""
    return tuple(dict.fromkeys(template for name in lists for template in load_templates(name)))


def thinned(dataset: Dataset, count: int) -> Dataset:
    """At most `count` records of a data set, evenly spread."""
    count = min(count, len(dataset.records))
    records = tuple(dataset.records[i * len(dataset.records) // count] for i in range(count))
    truth = {record.image_id: dataset.truth[record.image_id] for record in records if record.image_id in dataset.truth}
    return replace(dataset, records=records, truth=truth)


def write_winner(
    path: Path,
    vocabulary: Vocabulary,
    result: SweepResult,
    dataset: Dataset,
    weights: str,
    encoder: Encoder,
    definition: str,
) -> None:
    """A copy of the vocabulary with the template of the best score and its origin. Raises StoreError."""
    chosen = replace(vocabulary, templates=(result.best.template,))
    remark = (
        f"template: {SELECT[result.select].best} {result.select} of {len(result.scores)}, {result.best.score:.5f} "
        f"({definition}), measured "
        f"on {result.pictures} pictures of {dataset.name} with {weights} (SHA-256 {encoder.source[:16]}...). "
        f"Before: {', '.join(map(repr, vocabulary.templates))}."
    )
    write_vocabulary(chosen, path, [remark])


def write_failures(path: Path, problems: Sequence[Problem]) -> None:
    """failures.csv as in the folder of a run; none is left where nothing failed."""
    if not problems:
        path.unlink(missing_ok=True)
        return
    write_csv(path, FAILURE_COLUMNS, map(failure_row, problems))
