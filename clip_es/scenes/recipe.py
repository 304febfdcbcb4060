"""How the scenes CLIP is trained: the phases and every setting, with the values of the shipped model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clip_es.errors import ConfigError


@dataclass(frozen=True)
class Phase:
    """A stretch of training on one kind of scenes."""

    steps: int
    """Optimiser steps."""
    size: int = 128
    """Side of a training crop in pixels, a multiple of the patch."""
    keep: float = 0.5
    """Share of the patches the vision tower sees, 0..1; 1 keeps all."""
    objects: tuple[int, int] = (1, 4)
    """Fewest and most objects in a scene."""
    scale: tuple[float, float] = (0.2, 0.8)
    """Smallest and largest object, as in SceneConfig."""
    batch: int = 256
    """Pairs in a batch."""
    background_rate: float = 0.75
    """Share of the captions that mention the background."""
    patch: float = 1.0
    """Weight of the term in which single patches and nouns explain each other."""
    agree: float = 1.0
    """Weight of the term that draws attention to patches which show the same; 0 leaves it out."""
    cam: float = 1.0
    """Weight, in every second step, of the term that makes GradCAM agree with the patches; 0 leaves it out."""
    bare: float = 0.5
    """Share of the pictures that pass the last block without its residual, 0..1; the other blocks: a fifth of it."""


@dataclass(frozen=True)
class TrainConfig:
    """What is trained and how. The defaults are those of the shipped model."""

    phases: tuple[Phase, ...] = (
        Phase(steps=150, objects=(1, 1), scale=(0.35, 0.9), background_rate=0.5, bare=0.0, agree=0.0, cam=0.0),
        Phase(steps=550, objects=(1, 3), scale=(0.25, 0.8), bare=0.0, agree=0.0, cam=0.0),
        Phase(steps=400, objects=(1, 3), scale=(0.25, 0.8), agree=0.0, cam=0.0),
        Phase(steps=250, objects=(1, 3), scale=(0.25, 0.8), agree=0.3, cam=0.0),
        Phase(steps=150, objects=(1, 4), scale=(0.2, 0.8), agree=0.3, cam=0.0),
        Phase(steps=400, objects=(1, 4), scale=(0.2, 0.8), agree=0.3),
        Phase(steps=300, objects=(1, 4), scale=(0.2, 0.8)),
        Phase(steps=300, size=192, objects=(1, 5), scale=(0.1, 0.67), batch=192),
    )
    """Simple scenes first, then crowded ones, at last pictures as large as those of the dataset."""
    patch: int = 16
    """Side of a patch in pixels."""
    width: int = 192
    """Channels of the vision tower."""
    layers: int = 4
    """Blocks of the vision tower."""
    grid: int = 12
    """Side of the stored position grid; it is interpolated to the crop's."""
    embed: int = 192
    """Channels of the space shared with text."""
    text_width: int = 128
    """Channels of the text tower."""
    text_layers: int = 2
    """Blocks of the text tower."""
    lr: float = 2e-3
    """Peak learning rate; cosine to a hundredth of it at `horizon`."""
    horizon: int = 3600
    """Step at which the cosine ends. The phases may end before: beyond 2500 steps labels are still found better, but
    the maps shrink to the most telling parts of objects."""
    warmup: int = 80
    """Steps in which the rate rises from zero."""
    weight_decay: float = 0.05
    """On matrices only."""
    whitening: int = 400
    """Scenes from whose patches the first filters are computed."""
    shard: int = 2048
    """Scenes drawn at a time."""
    window: int = 10
    """How many of the latest shards a batch is taken from."""
    reuse: int = 10
    """How often a scene is shown on average, each time with another crop, flip, colour cast and caption."""
    seed: int = 7
    """Seed of the scenes, the captions and the weights."""
    bfloat16: bool = True
    """Matrix products in bfloat16; weights and loss stay float32."""
    threads: int = 1
    """Threads of the matrix products."""
    draw_ahead: bool = True
    """Draw coming scenes in a second process. It changes nothing but the time."""
    save_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError("training needs at least one phase")
        for phase in self.phases:
            if phase.size % self.patch:
                raise ConfigError("a crop must be whole patches", expected=f"a multiple of {self.patch}", found=phase)
            if not 0 < phase.keep <= 1:
                raise ConfigError("keep is a share of the patches, above 0 up to 1", found=phase)

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[int, int]:
        """Number of the phase of a step, and how many steps into it."""
        for number, phase in enumerate(self.phases):
            if step < phase.steps:
                return number, step
            step -= phase.steps
        raise IndexError("step beyond the last phase")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min((step - self.warmup) / max(self.horizon - self.warmup, 1), 1)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * done))))
