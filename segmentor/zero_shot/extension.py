"""The training of an extension: phases of steps on kept features, each step a function of the seed and its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from clip_es.errors import ConfigError, ShapeError, WeightsError
from clip_es.segmentor.zero_shot.beginning import OldClassifier, begin_unseen
from clip_es.segmentor.zero_shot.blocks import PixelCNN, cut_blocks
from clip_es.segmentor.zero_shot.context import ContextualModule
from clip_es.segmentor.zero_shot.drawing import BLOCK, Drawing
from clip_es.segmentor.zero_shot.features import Crops, Example, moments
from clip_es.segmentor.zero_shot.generator import Discriminator, Generator, initialise
from clip_es.segmentor.zero_shot.labels import class_prior, gated_labels, top_p_labels
from clip_es.segmentor.zero_shot.names import ClassMoments, fit_names, visible_cells
from clip_es.segmentor.zero_shot.optimise import Optimisers
from clip_es.segmentor.zero_shot.settings import ExtendSettings
from clip_es.segmentor.zero_shot.steps import StepLosses, both, synthetic_step, training_step, with_names
from clip_es.types import UNDECIDED

_FIT_CELLS = 20_000
"""Cells that the path from names is computed from; about a tenth of them are of objects."""


class Extension(nn.Module):
    """Contextual module, generator, classifier, and the steps that train them. A task of `clip_es.training.train`.

    `vectors` [class d] are the conditions, seen classes first; a row of zeros is a class features are never made of
    (such as background). `examples` have labels 0..seen-1 on their feature grid. Raises ShapeError: vectors that do
    not fit; ConfigError: no picture with a seen class.
    """

    shift: Tensor
    spread: Tensor
    vectors: Tensor
    offset: Tensor
    missed: Tensor
    fit: Tensor
    """Ridge of the linear path from names, and its error on seen classes left out; zeros where there is none."""

    def __init__(
        self,
        settings: ExtendSettings,
        examples: Sequence[Example],
        vectors: Float32[Tensor, "class d"],
        seen: int,
        device: torch.device | str = "cpu",
        shared: int = 0,
        old: OldClassifier | None = None,
    ) -> None:
        super().__init__()
        self.old = old
        self.shared = shared if settings.networks.names == "fitted" else 0
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
        if settings.sampler == "empirical":
            self.drawing.empirical(with_labels)
        self.to(self.device)
        self.optimisers = Optimisers((self.discriminator, self.context, self.generator, self.pixelcnn), settings)

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
                kernel=chosen.context_kernel,
            )
            self.generator = Generator(
                vectors.shape[1],
                channels,
                channels,
                chosen.widths,
                chosen.dropout,
                bounded=chosen.bounded,
                names=chosen.names,
            )
            self.discriminator = Discriminator(
                channels,
                len(vectors) + 1,
                chosen.hidden,
                chosen.classifier_dropout,
                patch=chosen.patch,
                linear=chosen.linear,
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
        self.register_buffer("fit", torch.zeros(2))
        self.register_buffer("offset", torch.zeros(len(vectors), channels))
        self.register_buffer("missed", torch.zeros(len(vectors), channels))
        named = (vectors != 0).any(dim=1)
        if not named[self.seen :].all():
            raise ShapeError("an unseen class has no vector", found="a row of zeros")
        self.named_seen = [k for k in range(self.seen) if named[k]]
        self.drawing = Drawing(self.settings, self._prior(named.numpy()), range(self.seen, len(vectors)), self.pixelcnn)
        self.balance = self._balance()
        if chosen.begin == "segmenter":
            factor = self.context.begin_neutral()
            if self.old is not None and chosen.linear and not chosen.bounded:
                self.old.give(self.discriminator, self.shift, self.spread, factor)
            begin_unseen(self.discriminator, self.seen, self.named_seen)

    def _prior(self, named: np.ndarray) -> Tensor:
        """How often each class is drawn; never one without a vector."""
        chosen = self.settings
        mass = {"unseen_mass": chosen.unseen_mass}
        extra = {"extra_weight": chosen.unseen_rate}
        prior = class_prior(self.seen, len(self.unseen), **(extra if chosen.unseen_mass is None else mass))
        prior = np.where(named, prior, 0)
        return torch.from_numpy(prior / prior.sum()).float()

    def _balance(self) -> float:
        """Weight of the made cells' entropy with which an unseen class counts as much as the mean seen one."""
        labels = np.concatenate([example.labels.ravel() for example in self.examples])
        counts = np.bincount(labels[labels != UNDECIDED], minlength=self.seen)[self.named_seen]
        share = float(counts.mean()) / max(int((labels != UNDECIDED).sum()), 1) if len(counts) else 0.0
        prior = self.drawing.prior
        unseen, seen = (
            float(prior[self.seen :].mean()),
            float(prior[self.named_seen].mean()) if self.named_seen else 0.0,
        )
        return min(share / max(unseen - seen, 1e-3), 10.0)

    @torch.no_grad()
    def _fit_names(self) -> None:
        """Compute the linear path from names to features, on crops of the first steps."""
        self.eval()
        channels, chosen = int(self.shift.shape[0]), self.settings
        moments = ClassMoments(len(self.vectors), channels, self.shared)
        for number in range(-(-_FIT_CELLS // (chosen.batch * chosen.crop**2))):
            raw, labels, *_ = self.crops(number)
            raw = raw.to(self.device)
            features = self.context((raw - self.shift) / self.spread).features
            joined = torch.cat((features, raw[:, channels - self.shared :]), dim=1)
            cells, found = visible_cells(joined, labels.long().to(self.device), self.named_seen)
            if len(cells):
                moments.add(cells[:, :channels], cells[:, channels:], found)
        known = torch.zeros(len(self.vectors), dtype=torch.bool)
        known[self.named_seen] = True
        made = fit_names(moments, self.vectors, known, 1 / self.spread[channels - self.shared :, 0, 0])
        self.generator.set_names(made.weight, made.bias)
        self.offset.copy_(made.offset)
        self.missed.copy_(made.missed)
        self.fit.copy_(torch.tensor([made.ridge, made.error]))

    # What the loop asks for.

    def advance(self, step: int, batch: Any = None, /) -> dict[str, float]:
        """One step of whichever phase it is."""
        phase, local = self.settings.at(step)
        if local == 0:
            self.optimisers.reset()
            if self.settings.networks.names == "fitted" and phase != "blocks":
                self._fit_names()
        self.optimisers.set_rates(phase, local)
        self.train()
        if phase == "blocks":
            return self._block_step(step)
        losses = self._losses(step, phase, local)
        figures = {name: float(value.detach()) for name, value in losses.figures.items()}
        figures["loss"] = float(losses.discriminator.detach())
        self.optimisers.update(losses, self.settings.rate(phase))
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
            "optimisers": self.optimisers.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Go on from such a state."""
        result = super().load_state_dict(state["networks"])
        self.optimisers.load_state_dict(state["optimisers"])
        return result

    def load_networks(self, networks: Mapping[str, Tensor]) -> None:
        """Begin with the networks of another extension; a PixelCNN it does not have stays as it was made."""
        missing = nn.Module.load_state_dict(self, networks, strict=False)
        if lacking := [name for name in missing.missing_keys if not name.startswith("pixelcnn.")]:
            raise WeightsError("these are not the weights of such an extension", found=f"no {', '.join(lacking[:5])}")

    # Steps.

    def _losses(self, step: int, phase: str, local: int) -> StepLosses:
        """Of real features, of made ones, or of both."""
        every = self.settings.alternate
        if phase == "seen" or (every and phase == "self-training"):
            return self._real(step, phase)
        if every:
            return self._synthetic(step, phase) if (local // every) % 2 else self._real(step, phase)
        return both(self._real(step, phase), self._synthetic(step, phase))

    def _real(self, step: int, phase: str) -> StepLosses:
        chosen = self.settings
        first = phase == "seen"
        # As published, what was guessed is forgotten after self-training; with both in each step it is guessed on.
        guessing = phase == "self-training" or (phase == "unseen again" and not chosen.alternate)
        crops = self.open if guessing else self.crops
        raw, found, gates, inside = crops(step)
        raw, labels = raw.to(self.device), found.long().to(self.device)
        features = (raw - self.shift) / self.spread
        if guessing:
            labels = self._guess(features, labels, gates, inside)
        with torch.set_grad_enabled(chosen.rate(phase).context > 0):  # Where it stays as it is there is no need.
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

    def _synthetic(self, step: int, phase: str) -> StepLosses:
        chosen, n, side = self.settings, self.settings.batch, self.settings.crop
        labels, scored = self.drawing.labels(n, side)
        if chosen.noise == "latent":
            noise, beside = self.drawing.noise(n, self.shift.shape[0], side).to(self.device), None
        else:
            noise, beside = self._carried(step)
            if chosen.doubt:
                beside = beside + self._doubt(labels)
        weights = chosen.weights
        if weights.synthetic is None:
            weights = replace(weights, synthetic=self.balance)
        if phase in ("self-training", "unseen again") and weights.synthetic is not None:
            weights = replace(weights, synthetic=chosen.self_synthetic * weights.synthetic)
        return synthetic_step(
            labels.to(self.device),
            noise,
            self.generator,
            self.discriminator,
            self.vectors,
            weights,
            scored=scored.to(self.device),
            beside=beside,
        )

    @torch.no_grad()
    def _carried(self, step: int) -> tuple[Tensor, Tensor]:
        """Of cells of seen classes, drawn from the step's crops: the latent code, and what is not made of it."""
        raw, found, *_ = self.crops(step)
        labels = found.long().to(self.device)
        self.eval()
        seen = self.context((raw.to(self.device) - self.shift) / self.spread)
        made = self.generator(with_names(labels, seen.latent, self.vectors))
        self.train()
        cells, which = visible_cells(seen.features - made, labels, self.named_seen)
        latent, _ = visible_cells(seen.latent, labels, self.named_seen)
        n, side = self.settings.batch, self.settings.crop
        if not len(cells):  # No crop of this step has an object; there is nothing to carry.
            return torch.zeros_like(seen.latent), torch.zeros_like(seen.features)
        at = self.drawing.places(n, side, len(cells)).to(self.device)
        beside = cells - self.offset[which]
        return latent[at].permute(0, 3, 1, 2), beside[at].permute(0, 3, 1, 2)

    def _doubt(self, labels: Tensor) -> Tensor:
        """For cells of unseen classes how far a seen class, drawn anew for each, lies from what its name foretold."""
        n, side = labels.shape[:2]
        drawn = torch.tensor(self.named_seen)[self.drawing.places(n, side, len(self.named_seen))]
        drawn[labels < self.seen] = len(self.missed)
        table = torch.cat((self.missed, self.missed.new_zeros(1, self.missed.shape[1])))
        return table[drawn.to(self.device)].permute(0, 3, 1, 2)

    def _block_step(self, step: int) -> dict[str, float]:
        assert self.pixelcnn is not None
        _, found, *_ = self.crops(step)
        blocks = cut_blocks(found.long(), BLOCK).to(self.device)
        if not len(blocks):
            return {"loss": 0.0}
        loss = self.pixelcnn.loss(blocks, self.settings.block_condition)
        self.optimisers.update_blocks(loss)
        return {"loss": float(loss.detach()), "blocks": float(loss.detach())}

    @torch.no_grad()
    def _guess(self, features: Tensor, labels: Tensor, gates: Tensor | None, inside: Tensor) -> Tensor:
        """Labels with unseen classes where the current model, and the localizer's maps, see them; not in padding."""
        self.eval()
        scores = self.discriminator.scores(self.context(features).features)
        self.train()
        if self.settings.self_training == "top-p":
            guessed = top_p_labels(labels, scores, self.unseen, self.settings.top_p)
            return torch.where(inside.to(self.device), guessed, labels)
        assert gates is not None
        return gated_labels(labels, scores, gates.to(self.device), self.unseen, threshold=self.settings.gate_threshold)

    # What it is for.

    @torch.no_grad()
    def scores(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n class h w"]:
        """Logits of the classes (without the extra output) from features as the segmenter gives them."""
        self.eval()
        ready = (features.to(self.device) - self.shift) / self.spread
        return self.discriminator.scores(self.context(ready).features)[:, : len(self.vectors)]
