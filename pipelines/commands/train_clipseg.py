"""`clip-es train-clipseg ...`: train CLIPSeg's decoder on phrases and masks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.encoder import load_encoder
from clip_es.localize.clipseg.training import DecoderTraining
from clip_es.pipelines.clipseg.train import train_decoder
from clip_es.pipelines.console import bar, say, summarize
from clip_es.records.phrases.phrasecut import PhraseCut
from clip_es.records.phrases.table import PhraseSet, PhraseTable
from clip_es.scenes.phrases import ScenePhrases, ScenePhrasesConfig

SCENES = DecoderTraining(
    layers=(1, 2, 3),
    hidden=512,
    dropout=0.0,
    side=224,
    steps=1000,
    batch=32,
    per_picture=4,
    lr=6e-4,
    lr_end=2e-5,
    examples=0.5,
    example_side=192,
    example_may_be_itself=False,
    text_share=(0.0, 1.0),
    save_every=50,
    threads=0,
    validate_every=200,
    seed=3,
)
"""The training of the decoder that ships with the package."""


@dataclass(frozen=True, kw_only=True)
class _Train:
    """Base of the commands: each knows how to read its data."""

    out: Path
    """Folder of the checkpoint and of decoder.safetensors. The same call continues."""
    weights: str = "ViT-B/16"
    """The frozen CLIP: ViT-B/16, ..., scenes or scenes-plain (in the package), or a file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    half: bool = False
    """Store the weights in float16."""
    train: Annotated[DecoderTraining, tyro.conf.arg(name="")] = field(default_factory=DecoderTraining)

    def data(self) -> tuple[PhraseSet, PhraseSet | None]:
        """What is trained on, and what is scored now and then."""
        raise NotImplementedError

    def run(self) -> int:
        """Train to the end, or continue."""
        say("The decoder learns from masks: what it makes later is not weakly supervised.")
        data, val = self.data()
        say(f"{data.name}: {len(data.samples)} phrases, {len(data.texts)} different, {len(data.problems)} left out")
        encoder = load_encoder(self.weights, device=self.device)
        begun, first = time.perf_counter(), 0
        with bar("steps", self.train.steps) as progress:
            task = progress.task_ids[0]

            def report(step: int, figures: dict[str, float]) -> None:
                nonlocal first
                first = first or step
                text = f"loss {figures['loss']:.3f}"
                if "val_miou" in figures:
                    passed = time.perf_counter() - begun
                    each = passed / (step - first + 1)
                    text += f", val mIoU {100 * figures['val_miou']:.1f}"
                    say(
                        f"step {step}/{self.train.steps}: {text} at {figures['val_threshold']:.2f},"
                        f" {1 / each:.2f} steps/s, {each * (self.train.steps - step) / 60:.1f} min left"
                    )
                progress.update(task, completed=step, description=text)

            path = train_decoder(encoder, data, self.train, self.out, val=val, report=report, half=self.half)
        for problem in data.problems[:5]:
            say(f"  left out {problem.image_id}: {problem.reason}")
        summarize({"phrases": len(data.samples), "left_out": len(data.problems), "weights": str(path)})
        say(f"Weights: {path}")
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainClipSegScenes(_Train):
    """Train on drawn scenes with exact masks, as the decoder was trained that ships with the package."""

    out: Path = Path("runs/clipseg-scenes")
    """Folder of the checkpoint and of decoder.safetensors. The same call continues."""
    weights: str = "scenes"
    """The frozen CLIP: scenes or scenes-plain (in the package), ViT-B/16, ..., or a file."""
    scenes: Annotated[ScenePhrasesConfig, tyro.conf.arg(name="scenes")] = field(default_factory=ScenePhrasesConfig)
    val_pictures: int = 60
    """Other scenes, for the validation."""
    train: Annotated[DecoderTraining, tyro.conf.arg(name="")] = field(default_factory=lambda: SCENES)

    def data(self) -> tuple[PhraseSet, PhraseSet | None]:
        """The scenes, drawn now."""
        say(f"drawing {self.scenes.pictures} scenes")
        val = ScenePhrasesConfig(
            self.val_pictures, self.scenes.seed, self.scenes.side, self.scenes.without, split="val"
        )
        return ScenePhrases(self.scenes), ScenePhrases(val)


@dataclass(frozen=True, kw_only=True)
class TrainClipSegPhraseCut(_Train):
    """Train on PhraseCut, as the published decoders were trained (layers, learning rate, steps are those defaults)."""

    root: Path = Path("data/VGPhraseCut_v0")
    """Folder with images/ and refer_train.json."""
    split: str = "train"
    """train, val, test, miniv, or several joined by _."""
    val_split: str | None = "miniv"
    """Split that is scored now and then; None: none."""
    without: tuple[str, ...] = ()
    """Words: phrases that mention them are left out, in singular or plural, to keep classes unseen."""

    def data(self) -> tuple[PhraseSet, PhraseSet | None]:
        """The splits."""
        val = self.val_split if self.val_split and (self.root / f"refer_{self.val_split}.json").is_file() else None
        return PhraseCut(self.root, self.split, without=self.without), PhraseCut(self.root, val) if val else None


@dataclass(frozen=True, kw_only=True)
class TrainClipSegFolder(_Train):
    """Train on your own pictures: a CSV with the header `image,phrase,mask`."""

    images: Path
    """Folder of the pictures."""
    table: Path
    """The CSV; its first column names files under --images, its last ones under --masks."""
    masks: Path | None = None
    """Folder of the masks, PNGs that are 0 where the phrase is not; None: that of the pictures."""
    val_table: Path | None = None
    """A second CSV, for the validation."""

    def data(self) -> tuple[PhraseSet, PhraseSet | None]:
        """The rows of the table."""
        val = PhraseTable(self.images, self.val_table, self.masks) if self.val_table else None
        return PhraseTable(self.images, self.table, self.masks), val
