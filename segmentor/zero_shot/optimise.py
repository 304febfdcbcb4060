"""The optimisers of an extension: one for each group of its networks, without memory as each phase begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clip_es.segmentor.zero_shot.schedule import poly, stepped
from clip_es.segmentor.zero_shot.settings import ExtendSettings, Rate
from clip_es.segmentor.zero_shot.steps import StepLosses

_BLOCK_RATE = 2e-3
"""Of the PixelCNN."""


class Optimisers:
    """Adam for (classifier and critic, contextual module, generator, PixelCNN); a part may be missing."""

    def __init__(self, parts: Sequence[nn.Module | None], settings: ExtendSettings) -> None:
        self.parts, self.settings = parts, settings
        self.reset()

    def groups(self) -> list[list[nn.Parameter]]:
        """What is trained of each part."""
        return [[] if part is None else [p for p in part.parameters() if p.requires_grad] for part in self.parts]

    def reset(self) -> None:
        """Forget what was met, as each published phase begins."""
        decays = (self.settings.decay, self.settings.decay, 0.0, 0.0)
        nothing = nn.Parameter(torch.zeros(1))
        self.each = [
            torch.optim.Adam(group or [nothing], lr=1e-3, weight_decay=decay)
            for group, decay in zip(self.groups(), decays, strict=True)
        ]

    def set_rates(self, phase: str, local: int) -> None:
        """Learning rates of a step of a phase."""
        rate = self.settings.rate(phase)
        length = dict(self.settings.phases)[phase]
        falling = stepped(local, rate.start, rate.every, rate.factor) if rate.every else 1.0
        falling = poly(local, 1.0, length, every=min(10, length)) if rate.poly else falling
        context = poly(local, rate.context, length, every=min(10, length)) if rate.context else 0.0
        rates = (rate.classifier * falling, context, rate.generator * falling, _BLOCK_RATE)
        for optimiser, value in zip(self.each, rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = value

    def update(self, losses: StepLosses, rate: Rate) -> None:
        """One step of classifier, context and generator, their gradients cut at norm 10."""
        groups = self.groups()[:3]
        for number, (group, found) in enumerate(zip(groups, losses.gradients(groups), strict=True)):
            if all(gradient is None for gradient in found) or (number == 1 and not rate.context):
                continue
            for parameter, gradient in zip(group, found, strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(group, 10.0)
            self.each[number].step()
            self.each[number].zero_grad(set_to_none=True)

    def update_blocks(self, loss: Float[Tensor, ""]) -> None:
        """One step of the PixelCNN."""
        self.each[3].zero_grad(set_to_none=True)
        loss.backward()
        self.each[3].step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Of each optimiser."""
        return [optimiser.state_dict() for optimiser in self.each]

    def load_state_dict(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on from such a state."""
        for optimiser, saved in zip(self.each, state, strict=True):
            optimiser.load_state_dict(saved)
