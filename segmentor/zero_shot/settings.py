"""How a segmenter is extended: every coefficient, with what is published and what is used by default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clip_es.errors import ConfigError
from clip_es.segmentor.zero_shot.context import Selector
from clip_es.segmentor.zero_shot.generator import PUBLISHED_DROPOUT, PUBLISHED_WIDTHS, Names
from clip_es.segmentor.zero_shot.losses import Adversary, Content
from clip_es.segmentor.zero_shot.steps import Weights

Way = Literal["default", "parity"]
Sampler = Literal["pixel", "blocks", "empirical"]
SelfTraining = Literal["none", "top-p", "gated"]
Noise = Literal["latent", "carried"]


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes and kinds of the networks."""

    context: bool = True
    """Off: no contextual module, the latent code is noise that knows nothing of the picture."""
    context_hidden: int = 128
    """Channels of its dilated convolutions; 256 published."""
    context_kernel: int = 1
    """Side of the convolutions that give its mean and log-variance: 1 in the paper, 3 in the code."""
    selector: Selector = "softmax"
    """Weights of the three reaches. relu-sigmoid: the published code's, never below 0.5."""
    train_selector: bool = True
    """The published code never trains it."""
    free_variance: bool = True
    """Off, as in the published code: the log-variance of the latent code is never below 0."""
    bounded: bool = False
    """A sigmoid around the features, as in the published code. Off: they are brought to mean 0, spread 1."""
    widths: tuple[int, ...] = (512,)
    """Hidden layers of the generator; the paper: 512, the code: 1024 960 864 784 720."""
    dropout: tuple[float, ...] = (0.1,)
    """Dropout of each; the code: 0.1 0.1 0.3 0.5 0.5."""
    names: Names = "fitted"
    """Linear path from a name to its features. fitted: in closed form from the seen classes, anew as each phase begins;
    trained: by gradient descent; none: the published code, which has the perceptron alone."""
    hidden: int = 512
    """First layer of classifier and critic; 1024 published."""
    classifier_dropout: float = 0.5
    """Dropout after it."""
    patch: bool = False
    """A 3x3 convolution before the classifier's last layer, as published for blocks."""
    linear: bool = True
    """The classifier reads the features themselves. Off: through the critic's hidden layer, as published."""
    begin: Literal["segmenter", "random"] = "segmenter"
    """segmenter: the classifier begins with the segmenter's own answers and the contextual module without any of its
    own; needs `linear`. random: both from random weights, as published."""
    level: int | None = None
    """Also read the backbone's map of this index; -1: the deepest."""
    clip: bool = True
    """Also read the patches of the frozen CLIP (--weights) in the space of its text, where names point to features of
    their own. Off, as published: the segmenter's features alone."""

    def __post_init__(self) -> None:
        if min(self.context_hidden, self.hidden, *self.widths, 1) < 1 or len(self.widths) != len(self.dropout):
            raise ConfigError(
                "the networks need channels, and one dropout for each of --networks.widths",
                found=(self.context_hidden, self.hidden, self.widths, self.dropout),
            )
        if not all(0 <= share < 1 for share in (*self.dropout, self.classifier_dropout)):
            raise ConfigError("dropout is a share below 1", found=(*self.dropout, self.classifier_dropout))


@dataclass(frozen=True)
class Rate:
    """Learning rates of a phase and how those of classifier and generator fall."""

    classifier: float
    generator: float
    context: float = 0.0
    """0: the contextual module stays as it is."""
    start: int = 0
    """Step of the phase from which classifier and generator slow down ..."""
    every: int = 0
    """... by `factor`, and again after so many steps; 0: never."""
    factor: float = 1.0
    poly: bool = False
    """In its place: down to 0 at the end of the phase, as (1 - step / steps) ^ 0.9."""


@dataclass(frozen=True)
class ExtendSettings:
    """How a segmenter is extended to classes it has no masks of."""

    sampler: Sampler = "pixel"
    """Labels of made features. pixel: each cell alone; blocks: 3x3 by a PixelCNN; empirical: blocks seen, renamed."""
    self_training: SelfTraining = "none"
    """Guess unseen classes in the pictures afterwards. top-p: the published rule; gated: where a CLIP map agrees."""
    seen_steps: int = 800
    """Steps of the first phase, on seen masks; 40,000 published."""
    block_steps: int = 600
    """Steps of the PixelCNN, where the sampler needs one."""
    unseen_steps: int = 200
    """Steps of the second phase, on made features; 6,000 (Context: 10,000) published."""
    self_steps: int = 200
    """Steps of self-training; 10,000 published."""
    again_steps: int = 100
    """Steps on made features after it; 10,000 published."""
    alternate: int = 0
    """In the second phase so many steps on real features and so many on made ones take turns; 100 published. 0: both
    in each step, in self-training too, and what is guessed there is guessed in the phase after it as well."""
    noise: Noise = "carried"
    """What is added to the mean of a made feature. latent: the published code's, what the generator makes of a random
    code; carried: what a real cell of a seen class has beside its class's mean."""
    doubt: bool = True
    """With carried noise: a made feature of an unseen class also has what the mean of a seen one lies beside the map
    from names that was fitted without it, so the classifier does not rely on made means more than they deserve."""
    batch: int = 8
    """Crops in a step; 8 published."""
    crop: int = 24
    """Side of a crop in cells of the feature map; a multiple of 3 for blocks. Published: 47 and 48."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of a picture's size at which its features are read; crops are of all of them. Published: 1 0.75 0.5."""
    networks: NetworkSettings = field(default_factory=NetworkSettings)
    weights: Weights = field(default_factory=lambda: Weights(kl=1.0, classes=1.0, content=10.0, synthetic=None))
    """Coefficients of the losses."""
    self_synthetic: float = 0.3
    """Factor of --weights.synthetic from self-training on, where guessed cells stand for unseen classes too; 1
    published."""
    fine_real: float = 1.0
    """Cross-entropy of real features from the second phase on; 0.75 published."""
    fine_fake: float = 0.25
    """Cross-entropy of made features of seen classes from the second phase on; 0.25 published."""
    adversary: Adversary = "mse"
    """l1: the code's; mse: the paper's; gan, wgan, none."""
    content: Content = "mse"
    """mse: the paper's; mmd-runs: the code's; mmd: by class; l1, none."""
    unseen_mass: float | None = 0.5
    """Share of made cells that are of unseen classes; the paper: 0.5. None: by --unseen-rate."""
    unseen_rate: float = 9.0
    """How much more likely than a seen class an unseen one is drawn, less one: 9 VOC, 14 Context, 59 COCO."""
    top_p: int = 1
    """An ignored cell becomes unseen where an unseen class is among so many outputs: 1 VOC, 16 Context, 1 COCO."""
    gate_threshold: float = 0.5
    """With gated self-training: what the localizer's map of the class must reach in a cell."""
    block_condition: Literal["majority", "own-label", "none"] = "majority"
    """What a block is told in the PixelCNN's training. own-label: published, and gives the answer away."""
    block_pure: float = 0.5
    """Share of blocks of a single class, drawn from the prior, among those laid out."""
    seen_rate: Rate = field(default_factory=lambda: Rate(1e-3, 1e-3, 1e-3, poly=True))
    unseen_rates: Rate = field(default_factory=lambda: Rate(1e-3, 3e-4, poly=True))
    self_rate: Rate = field(default_factory=lambda: Rate(5e-4, 3e-4, 1e-4, poly=True))
    again_rate: Rate = field(default_factory=lambda: Rate(5e-4, 3e-4, poly=True))
    decay: float = 5e-4
    """Weight decay of classifier and contextual module; the generator has none."""
    seed: int = 0
    """Of weights, crops and everything drawn."""

    def __post_init__(self) -> None:
        counts = (self.seen_steps, self.unseen_steps, self.batch, self.crop)
        if min(counts) < 1 or min(self.self_steps, self.again_steps, self.block_steps, self.alternate) < 0:
            raise ConfigError("steps, --batch and --crop are at least 1", found=counts)
        if not self.scales or not all(0.05 <= s <= 16 for s in self.scales) or len(set(self.scales)) < len(self.scales):
            raise ConfigError("--scales are factors of a picture's size", expected="0.05..16", found=self.scales)
        if self.sampler != "pixel" and self.crop % 3:
            raise ConfigError("blocks are 3x3 cells", expected="--crop a multiple of 3", found=self.crop)
        if self.unseen_mass is not None and not 0 < self.unseen_mass <= 1:
            raise ConfigError("--unseen-mass is a share", expected="above 0, at most 1", found=self.unseen_mass)
        if not 0 <= self.gate_threshold <= 1 or not 0 <= self.block_pure <= 1 or self.top_p < 0:
            raise ConfigError(
                "--gate-threshold and --block-pure are shares, --top-p is a count",
                found=(self.gate_threshold, self.top_p),
            )

    @property
    def phases(self) -> tuple[tuple[str, int], ...]:
        """Name and steps of each phase that is run."""
        again = self.self_training != "none"
        named = (
            ("seen", self.seen_steps),
            ("blocks", self.block_steps if self.sampler == "blocks" else 0),
            ("unseen", self.unseen_steps),
            ("self-training", self.self_steps if again else 0),
            ("unseen again", self.again_steps if again else 0),
        )
        return tuple((name, steps) for name, steps in named if steps)

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(steps for _, steps in self.phases)

    def at(self, step: int) -> tuple[str, int]:
        """The phase of a step and the step within it."""
        for name, steps in self.phases:
            if step < steps:
                return name, step
            step -= steps
        return self.phases[-1][0], self.phases[-1][1] + step

    def rate(self, phase: str) -> Rate:
        """Learning rates of a phase."""
        return {"unseen": self.unseen_rates, "self-training": self.self_rate, "unseen again": self.again_rate}.get(
            phase, self.seen_rate
        )


@dataclass(frozen=True)
class _Published:
    """What the published code sets for each of its splits."""

    rate: float
    """How much more often than a seen class an unseen one is drawn, less one."""
    top_p: int
    unseen_steps: int
    seen: Rate
    unseen: Rate
    self_training: Rate
    again: Rate
    again_steps: int = 10_000
    synthetic: float = 0.125
    synthetic_generator: float = 0.0
    fake: float = 0.25


_PUBLISHED = {
    "voc-15-5": _Published(
        9.0,
        1,
        6_000,
        Rate(2.5e-4, 2e-4, 1.25e-3, 10_000, 5_000, 0.71),
        Rate(5e-5, 5e-5, 0.0, 3_000, 1_000, 0.1),
        Rate(1e-4, 5e-5, 2.5e-4, 5_000, 1_000, 0.3),
        Rate(1e-4, 1e-4, 0.0, 5_000, 2_500, 0.5),
    ),
    "context-29-4": _Published(
        14.0,
        16,
        10_000,
        Rate(2.5e-4, 2e-4, 1.25e-3, 10_000, 10_000, 0.3),
        Rate(5e-5, 5e-5, 0.0, 5_000, 1_000, 0.3),
        Rate(2.5e-4, 2e-4, 1.25e-3, 5_000, 1_000, 0.3),
        Rate(1e-4, 1e-4, 0.0, 5_000, 2_500, 0.5),
    ),
    "coco-stuff-167-15": _Published(
        59.0,
        1,
        6_000,
        Rate(5e-4, 2e-4, 1.25e-3, 10_000, 10_000, 0.3),
        Rate(1e-5, 1e-5, 0.0, 3_000, 2_000, 0.3),
        Rate(5e-5, 5e-5, 2.5e-4, 5_000, 1_000, 0.3),
        Rate(5e-5, 5e-5, 0.0, 3_000, 1_000, 0.5),
        synthetic=1.0,
        synthetic_generator=1.0,
    ),
}


def settings_of(way: Way, split: str = "voc-15-5") -> ExtendSettings:
    """The two named ways. `parity`: networks, losses, steps and rates of the published code for a split.

    It still differs from that code: the segmenter stays frozen, so its rates and the losses at three scales play no
    part; gradients are cut at norm 10; pseudo labels of self-training have the vectors of their classes, not zeros;
    on COCO-Stuff the generator slows down as often as the classifier. Raises ConfigError: no such split.
    """
    if way == "default":
        return ExtendSettings()
    if split not in _PUBLISHED:
        raise ConfigError("nothing is published for this split", expected=", ".join(_PUBLISHED), found=split)
    published = _PUBLISHED[split]
    return ExtendSettings(
        seen_steps=40_000,
        unseen_steps=published.unseen_steps,
        self_steps=10_000,
        again_steps=published.again_steps,
        alternate=100,
        noise="latent",
        crop=48,
        networks=NetworkSettings(
            context_hidden=256,
            context_kernel=3,
            selector="relu-sigmoid",
            train_selector=False,
            free_variance=False,
            bounded=True,
            widths=PUBLISHED_WIDTHS,
            dropout=PUBLISHED_DROPOUT,
            names="none",
            hidden=1024,
            linear=False,
            begin="random",
            clip=False,
        ),
        weights=Weights(synthetic=published.synthetic, synthetic_generator=published.synthetic_generator),
        self_synthetic=1.0,
        fine_real=0.75,
        fine_fake=published.fake,
        adversary="l1",
        content="mmd-runs",
        unseen_mass=None,
        unseen_rate=published.rate,
        top_p=published.top_p,
        block_condition="own-label",
        seen_rate=published.seen,
        unseen_rates=published.unseen,
        self_rate=published.self_training,
        again_rate=published.again,
    )
