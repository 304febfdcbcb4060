"""The two steps of CaGNet: on real features with seen labels, and on features made for drawn labels.

Each step runs one forward pass and takes the gradients of three groups of parameters before any of them moves: the
discriminator with the classifier, the contextual module (and what lies before it), the generator. The published order
steps the classifier first and then goes back through it, which today's torch refuses; the difference is one step of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from clip_es.segmentor.zero_shot.context import Context, kl_divergence
from clip_es.segmentor.zero_shot.generator import Discriminator, Generator
from clip_es.segmentor.zero_shot.labels import resize_labels
from clip_es.segmentor.zero_shot.losses import Adversary, Content, adversarial, classification, content
from clip_es.types import UNDECIDED


@dataclass(frozen=True)
class Weights:
    """Coefficients of the losses. The defaults are the published ones of the first phase."""

    kl: float = 100.0
    """Of the KL divergence of the latent code."""
    classes: float = 0.5
    """Of the cross-entropy that trains contextual module and backbone."""
    critic: float = 1.0
    """Of the critic's adversarial loss."""
    real: float = 1.0
    """Of the cross-entropy on real features, for the classifier."""
    fake: float = 0.0
    """Of the cross-entropy on made features of seen classes, for the classifier; 0.25 in the published fine-tuning."""
    adversary: float = 1.0
    """Of the generator's adversarial loss."""
    content: float = 50.0
    """Of the distance between made and real features."""
    generator_classes: float = 0.0
    """Of the cross-entropy on made features, for the generator."""
    synthetic: float | None = 1.0
    """Of the cross-entropy on made features of drawn labels, for the classifier; published for VOC: 0.125. None: so
    much that an unseen class counts as much as a seen one does on the average."""
    synthetic_generator: float = 0.0
    """The same, for the generator; 1 published for COCO."""


@dataclass(frozen=True)
class StepLosses:
    """What each group of parameters is trained on, and every figure that was met on the way."""

    discriminator: Float[Tensor, ""]
    backbone: Float[Tensor, ""] | None
    generator: Float[Tensor, ""] | None
    figures: dict[str, Tensor] = field(default_factory=dict)

    def gradients(self, groups: Sequence[Iterable[nn.Parameter]]) -> list[list[Tensor | None]]:
        """Gradients of (discriminator, backbone, generator) from one forward pass; None for a group without a loss."""
        found: list[list[Tensor | None]] = []
        for loss, group in zip((self.discriminator, self.backbone, self.generator), groups, strict=True):
            chosen = list(group)
            if loss is None or not loss.requires_grad or not chosen:
                found.append([None] * len(chosen))
                continue
            found.append(list(torch.autograd.grad(loss, chosen, retain_graph=True, allow_unused=True)))
        return found


def both(first: StepLosses, second: StepLosses) -> StepLosses:
    """The losses of two steps in one."""
    generators = [part for part in (first.generator, second.generator) if part is not None]
    backbones = [part for part in (first.backbone, second.backbone) if part is not None]
    return StepLosses(
        first.discriminator + second.discriminator,
        torch.stack(backbones).sum() if backbones else None,
        torch.stack(generators).sum() if generators else None,
        {**first.figures, **second.figures},
    )


def training_step(
    context: Context,
    labels: Int[Tensor, "n h w"],
    generator: Generator,
    discriminator: Discriminator,
    vectors: Float[Tensor, "class d"],
    weights: Weights,
    *,
    adversary: Adversary = "mse",
    content_kind: Content = "mse",
    others: Sequence[tuple[Float[Tensor, "n c _ _"], Int[Tensor, "n _ _"]]] = (),
    generated: Int[Tensor, "n h w"] | None = None,
) -> StepLosses:
    """Losses of real features with labels 0..class-1, 255 ignored.

    `others` are further features of the same pictures (other scales) with labels on their grids, which count in the
    cross-entropy of real features. `generated` are the labels that take part in making features, where that is not
    every labelled cell: a class without a vector has none. The generator's input is detached, so nothing of its loss
    reaches the contextual module.
    """
    visible = labels != UNDECIDED
    made_of = labels if generated is None else generated
    fake = generator(with_names(made_of, context.latent.detach(), vectors))
    real_score, real_classes = discriminator(context.features)
    fake_score, fake_classes = discriminator(fake)
    entropies = [classification(real_classes, labels)]
    entropies += [classification(discriminator.scores(features), on_grid) for features, on_grid in others]
    real_entropy = torch.stack(entropies).mean()
    fake_entropy = classification(fake_classes, made_of)
    made = made_of != UNDECIDED
    game = adversarial(adversary, real_score, fake_score, made)
    kl = kl_divergence(context.mean, context.log_variance, visible)
    distance = content(content_kind, fake, context.features.detach(), made_of)
    figures = {
        "kl": kl,
        "real": real_entropy,
        "fake": fake_entropy,
        "critic_real": game.critic_real,
        "critic_fake": game.critic_fake,
        "adversary": game.generator,
        "content": distance,
    }
    return StepLosses(
        weights.critic * game.critic + weights.real * real_entropy + weights.fake * fake_entropy,
        weights.kl * kl + weights.classes * real_entropy,
        weights.adversary * game.generator + weights.content * distance + weights.generator_classes * fake_entropy,
        figures,
    )


def synthetic_step(
    labels: Int[Tensor, "n h w"],
    noise: Float[Tensor, "n z h w"],
    generator: Generator,
    discriminator: Discriminator,
    vectors: Float[Tensor, "class d"],
    weights: Weights,
    *,
    scored: Int[Tensor, "n h w"] | None = None,
    beside: Float[Tensor, "n c h w"] | None = None,
) -> StepLosses:
    """Losses of features made for drawn labels. `scored` are the labels that count, where those are not all of them;
    `beside` is added to what the generator makes.

    A generator whose weight is 0 has no loss and takes no step: the published code lets its momentum drift on.
    """
    fake = generator(with_names(labels, noise, vectors))
    fake = fake if beside is None else fake + beside
    if not weights.synthetic_generator:
        fake = fake.detach()
    entropy = classification(discriminator.scores(fake), labels if scored is None else scored)
    trained = weights.synthetic_generator * entropy if weights.synthetic_generator else None
    amount = 1.0 if weights.synthetic is None else weights.synthetic
    return StepLosses(amount * entropy, None, trained, {"synthetic": entropy})


def with_names(
    labels: Int[Tensor, "n h w"], latent: Float[Tensor, "n z h w"], vectors: Float[Tensor, "class d"]
) -> Float[Tensor, "n dz h w"]:
    """The generator's input: the vector of each cell's class, zeros where it has none, and its latent code."""
    table = torch.cat((vectors, vectors.new_zeros(1, vectors.shape[1])))
    rows = torch.where(labels == UNDECIDED, len(vectors), labels.long())
    return torch.cat((F.embedding(rows, table).permute(0, 3, 1, 2).to(latent), latent), dim=1)


def several_scales(
    extend: Callable[[Tensor], Context],
    pixels: Float[Tensor, "n 3 _ _"],
    labels: Int[Tensor, "n _ _"],
    scales: Sequence[float] = (0.5, 0.75),
) -> tuple[Context, list[tuple[Tensor, Tensor]]]:
    """The context at the plain scale, and what the published training adds: other scales, and the maximum of features.

    `extend` takes pixels to their context. Labels are brought to each grid.
    """
    first = extend(pixels)
    size = first.features.shape[-2:]
    found: list[Tensor] = []
    for scale in scales:
        side = [int(length * scale) for length in pixels.shape[-2:]]
        found.append(extend(F.interpolate(pixels, side, mode="bilinear", align_corners=False)).features)
    resized = [F.interpolate(part, size, mode="bilinear", align_corners=False) for part in found]
    greatest = torch.stack([first.features, *resized]).amax(dim=0)
    return first, [(part, shrink(labels, (part.shape[-2], part.shape[-1]))) for part in (*found, greatest)]


def shrink(labels: Int[Tensor, "n _ _"], size_hw: tuple[int, int]) -> Int[Tensor, "n h w"]:
    """Labels on another grid, as `resize_labels`."""
    return torch.from_numpy(resize_labels(labels.cpu().numpy(), size_hw)).to(labels.device)
