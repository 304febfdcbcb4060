"""How the scenes CLIPs are trained: two recipes, their phases, every setting with the value of the shipped models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from clip_es.errors import ConfigError

Recipe = Literal["plain", "dense"]
"""plain: contrastive terms alone, as public CLIPs have them; dense: further terms that make its maps sharp."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training on one kind of scenes."""

    steps: int
    """Optimiser steps."""
    lr: tuple[float, float] = (1.0, 1.0)
    """Learning rate at the first and after the last step, as shares of the peak; in between it changes evenly."""
    size: int = 112
    """Side of a training crop in pixels, a multiple of the patch."""
    keep: float = 0.5
    """Share of the patches the vision tower sees, 0..1; 1 keeps all."""
    objects: tuple[int, int] = (1, 4)
    """Fewest and most objects in a scene."""
    scale: tuple[float, float] = (0.2, 0.8)
    """Smallest and largest object, as in SceneConfig."""
    extremes: float = 1.0
    """How often things are seen from very near or very far, as in SceneConfig."""
    batch: int = 256
    """Pairs in a batch."""
    background_rate: float = 0.75
    """Share of the captions that mention the background."""
    filip: float = 0.5
    """Weight of FILIP's contrast of single patches with nouns; 0 leaves it out."""
    explain: float = 0.0
    """Weight of the term in which patches and the nouns of their own sentence explain each other; 0 leaves it out."""
    agree: float = 0.0
    """Weight of the term that draws attention to patches which show the same; 0 leaves it out."""
    cam: float = 0.0
    """Weight, in every second step, of the term that makes GradCAM agree with the patches; 0 leaves it out."""
    bare: float = 0.0
    """Share of the pictures that pass the last block without its residual, 0..1; the other blocks: a fifth of it."""


_LARGE = Phase(steps=1300, lr=(0.75, 0.75), size=192, objects=(1, 5), scale=(0.1, 0.75), batch=96)
"""Pictures as large as those of the dataset: a thing covers more patches, and more is learned from each."""

_PLAIN = (
    Phase(steps=100, lr=(0.02, 1.0), objects=(1, 1), scale=(0.4, 0.95), extremes=0.0, background_rate=0.5),
    Phase(steps=150, objects=(1, 1), scale=(0.4, 0.95), extremes=0.0, background_rate=0.5),
    Phase(steps=900, objects=(1, 3), scale=(0.25, 0.85), extremes=0.3),
    Phase(steps=850, objects=(1, 4), scale=(0.2, 0.8), extremes=0.6),
    # Half the pairs, for more steps in the same time.
    Phase(steps=1900, lr=(0.75, 0.75), objects=(1, 4), scale=(0.2, 0.8), extremes=0.6, batch=128),
    _LARGE,
    replace(_LARGE, steps=500, lr=(0.75, 0.02)),
)
"""Simple scenes first, then crowded ones, then large pictures; in the last phase the learning rate falls."""

_ALL_TERMS = replace(_LARGE, filip=0.0, explain=1.0, agree=2.0, cam=1.0, bare=0.5)

PHASES: dict[Recipe, tuple[Phase, ...]] = {
    "plain": _PLAIN,
    "dense": (
        *_PLAIN,
        replace(_ALL_TERMS, steps=100, lr=(0.05, 0.6)),
        replace(_ALL_TERMS, steps=650, lr=(0.6, 0.02)),
    ),
}
"""The phases of each recipe. Dense goes on where plain ends."""


@dataclass(frozen=True)
class TrainConfig:
    """What is trained and how. The defaults are those of the shipped models."""

    recipe: Recipe = "dense"
    """plain: contrastive terms alone, as public CLIPs have them; dense: further terms that make its maps sharp."""
    instead: tuple[Phase, ...] = ()
    """Phases that take the place of the recipe's."""
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
    text_width: int = 96
    """Channels of the text tower."""
    text_layers: int = 2
    """Blocks of the text tower."""
    lr: float = 2e-3
    """Peak learning rate."""
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
    device: str = "cpu"
    """cpu, cuda, or cuda:1 and so on. Another device adds up in another order, so it gives an equivalent model."""
    draw_ahead: bool = True
    """Draw coming scenes in a second process. It changes nothing but the time."""
    save_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for phase in self.phases:
            if phase.size % self.patch:
                raise ConfigError("a crop must be whole patches", expected=f"a multiple of {self.patch}", found=phase)
            if not 0 < phase.keep <= 1:
                raise ConfigError("keep is a share of the patches, above 0 up to 1", found=phase)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What is done, in order."""
        return self.instead or PHASES[self.recipe]

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    @property
    def trunk_steps(self) -> int:
        """Steps of the phases that the recipes share; 0 where this config has others."""
        shared = self.phases[: len(_PLAIN)]
        return sum(phase.steps for phase in shared) if shared == _PLAIN else 0

    def phase_at(self, step: int) -> tuple[int, int]:
        """Number of the phase of a step, and how many steps into it."""
        for number, phase in enumerate(self.phases):
            if step < phase.steps:
                return number, step
            step -= phase.steps
        raise IndexError("step beyond the last phase")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        number, into = self.phase_at(step)
        phase = self.phases[number]
        begin, end = phase.lr
        return self.lr * (begin + (end - begin) * into / phase.steps)
