"""`clip-es prompt` and `clip-es evaluate-clipseg ...`: ask CLIPSeg about a picture, and measure its answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro

from clip_es.encoder import Encoder, load_encoder
from clip_es.errors import ConfigError
from clip_es.localize.clipseg.decoder import Decoder, check_fits
from clip_es.localize.clipseg.scores import score_phrases
from clip_es.localize.clipseg.weights import load_decoder
from clip_es.metrics.phrases import ReferringScores
from clip_es.overlay import overlay_heat
from clip_es.pipelines.clipseg.one_shot import OneShotConfig, one_shot
from clip_es.pipelines.clipseg.prompt import ask, marked, prompt_page
from clip_es.pipelines.clipseg.zero_shot import zero_shot
from clip_es.pipelines.commands.data_source import first
from clip_es.pipelines.commands.flags import LimitFlag, VocabularyFlag
from clip_es.pipelines.console import say, show_table, summarize, track
from clip_es.pipelines.report import GalleryRow, Page
from clip_es.prompts import load_vocabulary
from clip_es.records import voc
from clip_es.records.phrases.phrasecut import PhraseCut
from clip_es.records.phrases.table import PhraseSet, PhraseTable
from clip_es.scenes.phrases import Part, ScenePhrases, ScenePhrasesConfig
from clip_es.scenes.weights import shipped_decoder_path
from clip_es.store.disk import make_folder
from clip_es.store.tables import write_json


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The encoder and the decoder."""

    weights: str = "scenes"
    """The frozen CLIP: scenes or scenes-plain (in the package), ViT-B/16, ..., or a file."""
    decoder: str = "scenes"
    """scenes (in the package), or a file: the authors' .pth, the transformers port's, or one of `train-clipseg`."""
    layers: tuple[int, ...] | None = None
    """Blocks, counted from 0, whose outputs the decoder reads. None: as its file says, else 3 6 9."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def load(self) -> tuple[Encoder, Decoder]:
        """Both, fitting each other."""
        decoder = load_decoder(shipped_decoder_path() if self.decoder == "scenes" else self.decoder, self.layers)
        encoder = load_encoder(self.weights, device=self.device)
        check_fits(encoder, decoder)
        return encoder, decoder.to(encoder.device)


@dataclass(frozen=True, kw_only=True)
class Prompt(_Model):
    """Find words or an example in one picture: a map and a mask for each prompt.

    Writes for each prompt N map (grey), mask (0 or 255) and overlay as PNG, and report.html.
    """

    image: tyro.conf.Positional[Path]
    """The picture."""
    text: tuple[str, ...] = ()
    """What to look for, in words; several prompts share one encoding."""
    example: Path | None = None
    """A picture that shows it."""
    example_mask: Path | None = None
    """PNG of the example's size in which the object is not 0."""
    text_share: float = 0.0
    """With both an example and texts: how much of each prompt is text, 0..1. 0 asks for them separately."""
    side: int | None = None
    """The picture is resized to a square of this side, pixels. None: as the decoder's file says, else 352."""
    sentence: Annotated[str, tyro.conf.arg(name="template", aliases=["--sentence"])] = "{}"
    """Sentence around each text, such as 'a photo of a {}.'"""
    threshold: float = 0.3
    """Probability above which a pixel is marked; published tables use 0.1 to 0.3."""
    out: Path
    """Folder of the pictures and of report.html."""

    def run(self) -> int:
        """Ask, write, tell."""
        if not self.text and self.example is None:
            raise ConfigError("there is nothing to look for", next_step="Pass --text, or --example with its mask.")
        encoder, decoder = self.load()
        make_folder(self.out)
        rgb, answers = ask(
            encoder,
            decoder,
            self.image,
            self.text,
            example=self.example,
            example_mask=self.example_mask,
            text_share=self.text_share,
            sentence=self.sentence,
            side=self.side,
        )
        for number, answer in enumerate(answers, start=1):
            answer.write(self.out, f"{number:02d}", rgb, self.threshold)
        page = prompt_page(rgb, answers, self.threshold, decoder.about.get("supervision", "masks"))
        page.write(self.out / "report.html")
        rows = [(one.name, float(one.probability.max()), 100 * one.share(self.threshold)) for one in answers]
        summarize({"prompts": [dict(zip(("prompt", "highest", "share_above"), row, strict=True)) for row in rows]})
        show_table(str(self.image), ("prompt", "highest", f"% above {self.threshold:g}"), rows)
        say(f"Report: {self.out / 'report.html'}")
        return 0


@dataclass(frozen=True, kw_only=True)
class EvaluateReferring(_Model):
    """Phrases against their masks: mIoU (each phrase a group of its own), IoU of the foreground, of both, and AP."""

    data: Literal["scenes", "phrasecut", "folder"] = "scenes"
    """Drawn scenes, PhraseCut (--root, --split), or your own pictures (--root, --table)."""
    part: Part = "names"
    """Of the scenes: names it was trained with, synonyms or places it never saw, or all that training says (train)."""
    pictures: int = 100
    """How many scenes."""
    seed: int = 2026
    """World of the scenes; the shipped decoder was trained on another one."""
    root: Path = Path("data/VGPhraseCut_v0")
    """Folder of PhraseCut, or of your pictures."""
    split: str = "test"
    """Split of PhraseCut."""
    table: Path | None = None
    """CSV with the header `image,phrase,mask`."""
    by: Literal["text", "example"] = "text"
    """Prompt with words, or with another picture of the same phrase and its mask."""
    prompt: Annotated[str, tyro.conf.arg(name="template", aliases=["--prompt"])] = "{}"
    """Sentence around a phrase."""
    side: int | None = None
    """The picture is resized to a square of this side, pixels. None: as the decoder's file says, else 352."""
    own_size: bool = False
    """Compare at the size of the picture; off: at that of the square, as published."""
    threshold: float = 0.3
    """0.02, 0.04 .. 0.98; the published table uses 0.3, and 0.1 for some rows."""
    out: Path | None = None
    """Also write the figures to this JSON file."""
    report: Path | None = None
    """Also write a page with pictures to this HTML file."""
    report_pictures: int = 12
    """Phrases shown there, evenly spread over the set."""

    def run(self) -> int:
        """Score, print, write."""
        encoder, decoder = self.load()
        data = self.phrases()
        every = max(len(data.samples) // max(self.report_pictures, 1), 1)
        shown: dict[int, np.ndarray] = {}

        def watch(number: int, probability: torch.Tensor) -> None:
            if number % every == 0 and len(shown) < self.report_pictures:
                shown[number] = probability.numpy()

        scores = score_phrases(
            encoder,
            decoder,
            data,
            by=self.by,
            watch=watch if self.report else None,
            prompt=self.prompt,
            side=self.side,
            own_size=self.own_size,
            progress=lambda items: track(items, "pictures", len(items)),
        )
        figures = referring_figures(scores, self.threshold)
        how = f"prompt {self.prompt!r}" if self.by == "text" else "asked by an example"
        title = f"{data.name}: {scores.samples} phrases, {how}"
        say(title)
        show_table("", ("figure", "per cent"), list(figures.items()))
        _write(self.out, {"data": data.name, "phrases": scores.samples, "asked": how, **figures})
        if self.report:
            page = Page(title, f"CLIPSeg; its decoder was trained on {decoder.about.get('supervision', 'masks')}.")
            page.figures(figures)
            page.gallery([_row(data, number, maps, self.threshold) for number, maps in shown.items()])
            page.write(self.report)
        return 1 if data.problems else 0

    def phrases(self) -> PhraseSet:
        """What is scored."""
        if self.data == "scenes":
            return ScenePhrases(ScenePhrasesConfig(self.pictures, self.seed, part=self.part, split="val"))
        if self.data == "phrasecut":
            return PhraseCut(self.root, self.split)
        if self.table is None:
            raise ConfigError("--data folder needs --table", expected="a CSV with the header `image,phrase,mask`")
        return PhraseTable(self.root, self.table)


@dataclass(frozen=True, kw_only=True)
class _Labelled(_Model):
    """A data set with label maps, in the layout of VOC."""

    root: Path = Path("runs/scenes")
    """Folder with JPEGImages, Annotations, SegmentationClass and ImageSets; `clip-es scenes make` draws one."""
    split: str = "val"
    """Name of a list in ImageSets/Segmentation."""
    vocabulary: VocabularyFlag = "scenes"
    limit: LimitFlag = None
    out: Path | None = None
    """Also write the figures to this JSON file."""


@dataclass(frozen=True, kw_only=True)
class EvaluateZeroShot(_Labelled):
    """All classes as prompts on every picture; IoU of seen and of unseen classes."""

    unseen: tuple[str, ...]
    """Classes the decoder was trained without."""
    prompt: Annotated[str, tyro.conf.arg(name="template", aliases=["--prompt"])] = "{}"
    """Sentence around a name; the word background is used alone."""
    background_factor: float | None = 3.0
    """Factor on the probability of "background", as published. None: pixels below --threshold are background."""
    threshold: float = 0.3
    """Without a background factor."""
    side: int | None = None
    """Side of the square, pixels. None: as the decoder's file says, else 352."""

    def run(self) -> int:
        """Score, print, write."""
        encoder, decoder = self.load()
        vocabulary = load_vocabulary(self.vocabulary)
        dataset = first(voc(self.root, self.split, class_id=vocabulary.class_id), self.limit)
        scores = zero_shot(
            encoder,
            decoder,
            dataset,
            [entry.name for entry in vocabulary.classes],
            self.unseen,
            side=self.side,
            prompt=self.prompt,
            background_factor=self.background_factor,
            threshold=self.threshold,
            track=lambda items: track(items, "pictures", len(items)),
        )
        rows = [(name, "unseen" if name in self.unseen else "seen", 100 * v) for name, v in scores.iou.items()]
        show_table(f"{dataset.name}: IoU of {scores.images} pictures, per cent", ("class", "", "IoU"), rows)
        say(
            f"seen {100 * scores.seen:.1f}, unseen {100 * scores.unseen:.1f}, harmonic mean {100 * scores.harmonic:.1f}"
        )
        _write(self.out, {**asdict(scores), "harmonic": scores.harmonic})
        return 0


@dataclass(frozen=True, kw_only=True)
class EvaluateOneShot(_Labelled):
    """One class at a time, shown by one example with its mask (or named), over folds of the classes."""

    config: Annotated[OneShotConfig, tyro.conf.arg(name="")] = field(default_factory=OneShotConfig)

    def run(self) -> int:
        """Score, print, write."""
        encoder, decoder = self.load()
        vocabulary = load_vocabulary(self.vocabulary)
        dataset = first(voc(self.root, self.split, class_id=vocabulary.class_id), self.limit)
        names = [entry.name for entry in vocabulary.classes]
        scores = one_shot(encoder, decoder, dataset, names, self.config, track=lambda x: track(x, "pictures", len(x)))
        rows = []
        for fold, one in scores.folds.items():
            at = one.at(scores.threshold)
            here = ", ".join(names[k] for k in self.config.classes_of(fold, len(names)))
            rows.append((f"{fold}: {here}", one.samples, *(100 * at[name] for name in at), 100 * one.ap))
        mean = scores.mean()
        values = [100 * mean[name] for name in ("miou", "iou_fg", "iou_bin", "ap")]
        rows.append(("mean", sum(one.samples for one in scores.folds.values()), *values))
        show_table(
            f"{dataset.name}, by {self.config.prompt}, per cent at {scores.threshold:g}",
            ("fold", "episodes", "mIoU", "IoU_FG", "IoU_BIN", "AP"),
            rows,
        )
        say(f"best mIoU {100 * mean['best_miou']:.1f} at {mean['best_threshold']:.2f}")
        _write(self.out, mean)
        return 0


def referring_figures(scores: ReferringScores, threshold: float) -> dict[str, float]:
    """The figures of a table row, per cent."""
    best, where = scores.best("miou")
    at = scores.at(threshold)
    return {
        f"mIoU at {threshold:g}": 100 * at["miou"],
        f"IoU_FG at {threshold:g}": 100 * at["iou_fg"],
        f"IoU_BIN at {threshold:g}": 100 * at["iou_bin"],
        "best mIoU": 100 * best,
        "its threshold": 100 * where,
        "AP": 100 * scores.ap,
        "AP (trapezoid)": 100 * scores.ap_trapezoid,
    }


def _row(data: PhraseSet, number: int, probability: np.ndarray, threshold: float) -> GalleryRow:
    rgb, truth = data.picture(data.samples[number].picture), data.mask(number)
    wide = F.interpolate(torch.from_numpy(probability)[None, None], size=truth.shape, mode="bilinear")[0, 0].numpy()
    union = (truth | (wide > threshold)).sum()
    iou = (truth & (wide > threshold)).sum() / union if union else 1.0
    columns = [
        ("picture", rgb),
        (data.samples[number].text, overlay_heat(rgb, wide)),
        (f"above {threshold:g}: IoU {100 * iou:.0f}", marked(rgb, wide > threshold)),
        ("truth", marked(rgb, truth)),
    ]
    return GalleryRow([[one] for one in columns], maps=True)


def _write(path: Path | None, figures: dict[str, Any]) -> None:
    summarize(figures)
    if path:
        write_json(path, figures)
