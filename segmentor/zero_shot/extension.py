"""The training of an extension: phases of steps on kept features, each step a function of the seed and its number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from clip_es.errors import ConfigError, ShapeError
from clip_es.segmentor.zero_shot.blocks import (
    EmpiricalSampler,
    PixelCNN,
    accepted,
    cut_blocks,
    lay_out,
    only_centres,
)
from clip_es.segmentor.zero_shot.context import ContextualModule
from clip_es.segmentor.zero_shot.features import Crops, Example, moments
from clip_es.segmentor.zero_shot.generator import Discriminator, Generator, initialise
from clip_es.segmentor.zero_shot.labels import class_prior, gated_labels, top_p_labels
from clip_es.segmentor.zero_shot.schedule import poly, stepped
from clip_es.segmentor.zero_shot.settings import ExtendSettings, Rate
from clip_es.segmentor.zero_shot.steps import StepLosses, synthetic_step, training_step
from clip_es.types import UNDECIDED

_SIDE = 3
"""Cells of a block's side."""


class Extension(nn.Module):
    """Contextual module, generator, classifier, and the steps that train them. A task of `clip_es.training.train`.

    `vectors` [class d] are the conditions, seen classes first; a row of zeros is a class features are never made of
    (such as background). `examples` have labels 0..seen-1 on their feature grid. Raises ShapeError: vectors that do
    not fit; ConfigError: no picture with a seen class.
    """

    shift: Tensor
    spread: Tensor
    vectors: Tensor

    def __init__(
        self,
        settings: ExtendSettings,
        examples: Sequence[Example],
        vectors: Float32[Tensor, "class d"],
        seen: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.settings, self.examples, self.seen = settings, list(examples), seen
        self.unseen = range(seen, len(vectors))
        self.device = torch.device(device)
        if not len(self.unseen) or seen < 1:
            raise ShapeError("there must be seen and unseen classes", found=(seen, len(self.unseen)))
        with_labels = [example for example in self.examples if (example.labels != UNDECIDED).any()]
        if not with_labels:
            raise ConfigError("no mask holds a seen class", found=f"{len(self.examples)} masks, all of them ignored")
        if settings.self_training == "gated" and any(example.gates is None for example in self.examples):
            raise ConfigError("gated self-training needs the localizer's maps", found="pictures without them")
        self._build(len(self.examples[0].features), vectors)
        self.crops = Crops(with_labels, settings.batch, settings.crop, settings.seed)
        self.open = Crops(self.examples, settings.batch, settings.crop, settings.seed)
        self.sampler: EmpiricalSampler | None = None
        if settings.sampler == "empirical":
            self.sampler = EmpiricalSampler(self._blocks(self.examples))
        self.to(self.device)
        self._reset("seen")

    def _build(self, channels: int, vectors: Float32[Tensor, "class d"]) -> None:
        chosen = self.settings.networks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self.context = ContextualModule(
                channels,
                chosen.context_hidden,
                selector=chosen.selector,
                free_variance=chosen.free_variance,
                bounded=chosen.bounded,
                enabled=chosen.context,
            )
            self.generator = Generator(
                vectors.shape[1],
                channels,
                channels,
                chosen.widths,
                chosen.dropout,
                bounded=chosen.bounded,
                skip=chosen.skip,
            )
            self.discriminator = Discriminator(
                channels,
                len(vectors) + 1,
                chosen.hidden,
                chosen.classifier_dropout,
                patch=chosen.patch,
            )
            for part in (self.context, self.generator, self.discriminator):
                initialise(part)
            self.pixelcnn = PixelCNN(vectors) if self.settings.sampler == "blocks" else None
        if chosen.context and not chosen.train_selector:
            self.context.selector.requires_grad_(False)
        self.register_buffer("vectors", vectors.clone())
        mean, spread = moments(self.examples)
        if chosen.bounded:  # The published features go into a sigmoid as they are.
            mean, spread = torch.zeros_like(mean), torch.ones_like(spread)
        self.register_buffer("shift", mean)
        self.register_buffer("spread", spread)
        prior = self._prior()
        self.prior = torch.from_numpy(prior / prior.sum()).float()

    def _prior(self) -> np.ndarray:
        chosen = self.settings
        mass = {"unseen_mass": chosen.unseen_mass}
        prior = class_prior(
            self.seen,
            len(self.unseen),
            **(mass if chosen.unseen_mass is not None else {"extra_weight": chosen.unseen_rate}),
        )
        nameless = ~(self.vectors != 0).any(dim=1).numpy() if "vectors" in self._buffers else np.zeros(len(prior), bool)
        if nameless[self.seen :].any():
            raise ShapeError("an unseen class has no vector", found="a row of zeros")
        return np.where(nameless, 0, prior)

    # What the loop asks for.

    def advance(self, step: int, batch: Any = None, /) -> dict[str, float]:
        """One step of whichever phase it is."""
        phase, local = self.settings.at(step)
        if local == 0:
            self._reset(phase)
        self._rates(phase, local)
        self.train()
        if phase == "blocks":
            return self._block_step(step)
        made = phase in ("unseen", "unseen again") and (local // self.settings.alternate) % 2 == 1
        losses = self._synthetic() if made else self._real(step, phase)
        figures = {name: float(value.detach()) for name, value in losses.figures.items()}
        figures["loss"] = float(losses.discriminator.detach())
        self._update(losses, self.settings.rate(phase))
        return figures

    def after(self, step: int, figures: dict[str, float]) -> None:
        """Nothing more to do."""

    def save(self, out: Path, step: int) -> None:
        """The model is written once, at the end."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Networks and optimisers."""
        if args or kwargs:  # As a module that is asked for its tensors.
            return super().state_dict(*args, **kwargs)
        return {
            "networks": super().state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def load_state_dict(self, state: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Go on from such a state."""
        result = super().load_state_dict(state["networks"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return result

    # Steps.

    def _real(self, step: int, phase: str) -> StepLosses:
        chosen = self.settings
        first = phase == "seen"
        crops = self.open if phase == "self-training" else self.crops
        raw, found, gates = crops(step)
        raw, labels = raw.to(self.device), found.long().to(self.device)
        features = (raw - self.shift) / self.spread
        if phase == "self-training":
            labels = self._guess(features, labels, gates)
        seen = self.context(features, torch.randn_like(features))
        weights = chosen.weights
        if not first:
            weights = replace(weights, real=chosen.fine_real, fake=chosen.fine_fake)
        named = (self.vectors != 0).any(dim=1)
        known = named[labels.clamp(max=len(named) - 1)] & (labels != UNDECIDED)
        return training_step(
            seen,
            labels,
            self.generator,
            self.discriminator,
            self.vectors,
            weights,
            adversary=chosen.adversary,
            content_kind=chosen.content,
            generated=torch.where(known, labels, UNDECIDED),
        )

    def _synthetic(self) -> StepLosses:
        chosen = self.settings
        n, side = chosen.batch, chosen.crop
        channels = self.shift.shape[0]
        if chosen.sampler == "pixel":
            labels = torch.multinomial(self.prior, n * side * side, replacement=True).reshape(n, side, side)
            noise, scored = torch.randn(n, channels, side, side), None
        else:
            labels = lay_out(self._drawn_blocks(n * (side // _SIDE) ** 2).reshape(n, -1, _SIDE, _SIDE))
            shared = torch.randn(n, channels, side // _SIDE, side // _SIDE)
            noise = shared.repeat_interleave(_SIDE, 2).repeat_interleave(_SIDE, 3)
            scored = only_centres(labels, _SIDE).to(self.device)
        return synthetic_step(
            labels.to(self.device),
            noise.to(self.device),
            self.generator,
            self.discriminator,
            self.vectors,
            chosen.weights,
            scored=scored,
        )

    def _drawn_blocks(self, count: int) -> Int[Tensor, "m side side"]:
        """Pure blocks of the prior's classes, and among them blocks of the sampler with an unseen class each."""
        pure = torch.multinomial(self.prior, count, replacement=True)[:, None, None].repeat(1, _SIDE, _SIDE)
        mixed = torch.rand(count) >= self.settings.block_pure
        chosen = torch.randint(self.seen, self.unseen.stop, (count,))
        if self.sampler is not None:
            drawn, good = self.sampler.sample(chosen), torch.ones(count, dtype=torch.bool)
        else:
            assert self.pixelcnn is not None
            drawn = self.pixelcnn.sample(chosen.to(self.device), _SIDE, preset=5).cpu()
            good = accepted(drawn, self.unseen)
        return torch.where((mixed & good)[:, None, None], drawn, pure)

    def _block_step(self, step: int) -> dict[str, float]:
        assert self.pixelcnn is not None
        _, found, _ = self.crops(step)
        blocks = cut_blocks(found.long(), _SIDE).to(self.device)
        if not len(blocks):
            return {"loss": 0.0}
        loss = self.pixelcnn.loss(blocks, self.settings.block_condition)
        optimiser = self.optimisers[3]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"loss": float(loss.detach()), "blocks": float(loss.detach())}

    @torch.no_grad()
    def _guess(self, features: Tensor, labels: Tensor, gates: Tensor | None) -> Tensor:
        """Labels with unseen classes where the current model, and the localizer's maps, see them."""
        self.eval()
        scores = self.discriminator.scores(self.context(features).features)
        self.train()
        if self.settings.self_training == "top-p":
            return top_p_labels(labels, scores, self.unseen, self.settings.top_p)
        assert gates is not None
        return gated_labels(labels, scores, gates.to(self.device), self.unseen, threshold=self.settings.gate_threshold)

    def _blocks(self, examples: Iterable[Example]) -> Int[Tensor, "m side side"]:
        cut = [cut_blocks(torch.from_numpy(example.labels.astype(np.int64))[None], _SIDE) for example in examples]
        return torch.cat(cut)

    # Optimisers.

    def _groups(self) -> list[list[nn.Parameter]]:
        """Classifier and critic, context, generator, PixelCNN."""
        parts = (self.discriminator, self.context, self.generator, self.pixelcnn)
        return [[] if part is None else [p for p in part.parameters() if p.requires_grad] for part in parts]

    def _reset(self, phase: str) -> None:
        """Optimisers without memory, as each published phase begins with."""
        decays = (self.settings.decay, self.settings.decay, 0.0, 0.0)
        nothing = nn.Parameter(torch.zeros(1))
        self.optimisers = [
            torch.optim.Adam(group or [nothing], lr=1e-3, weight_decay=decay)
            for group, decay in zip(self._groups(), decays, strict=True)
        ]

    def _rates(self, phase: str, local: int) -> None:
        rate = self.settings.rate(phase)
        falling = stepped(local, rate.start, rate.every, rate.factor) if rate.every else 1.0
        length = dict(self.settings.phases)[phase]
        context = poly(local, rate.context, length, every=min(10, length)) if rate.context else 0.0
        for optimiser, value in zip(
            self.optimisers, (rate.classifier * falling, context, rate.generator * falling, 2e-3), strict=True
        ):
            for group in optimiser.param_groups:
                group["lr"] = value

    def _update(self, losses: StepLosses, rate: Rate) -> None:
        groups = self._groups()[:3]
        gradients = losses.gradients(groups)
        for number, (group, found) in enumerate(zip(groups, gradients, strict=True)):
            if all(gradient is None for gradient in found) or (number == 1 and not rate.context):
                continue
            for parameter, gradient in zip(group, found, strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(group, 10.0)
            self.optimisers[number].step()
            self.optimisers[number].zero_grad(set_to_none=True)

    # What it is for.

    @torch.no_grad()
    def scores(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n class h w"]:
        """Logits of the classes (without the extra output) from features as the segmenter gives them."""
        self.eval()
        ready = (features.to(self.device) - self.shift) / self.spread
        return self.discriminator.scores(self.context(ready).features)[:, : len(self.vectors)]
