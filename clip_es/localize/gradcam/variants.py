"""The other class activation maps of pytorch-grad-cam, on our encoder: same layer, same scores, another formula.

The library hooks `ln_1` of the last block and combines activation and gradient; ReLU and scaling stay ours, on the
patch grid, so that a variant differs from GradCAM in its formula alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_es.config.methods import Variant
from clip_es.encoder.vit import VisionTower
from clip_es.errors import ConfigError
from clip_es.localize.gradcam.closed_form import Answer, Question, Tail
from clip_es.types import EncodedImage

_CLASSES: dict[Variant, str] = {
    "gradcam": "GradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "eigengradcam": "EigenGradCAM",
}


def explain_variant(variant: Variant, visual: VisionTower, seen: EncodedImage, question: Question) -> Answer:
    """The raw maps of a variant, one for each label, through pytorch-grad-cam.

    Raises ConfigError: pytorch-grad-cam, or the torchvision it needs, is not installed.
    Source: pytorch-grad-cam 1.5. Differs: its resize to pixels and its own scaling are left out.
    """
    method = getattr(_library(variant), _CLASSES[variant])
    labels = range(question.labels)
    # One copy of the picture for each label, so that all labels go through in one pass.
    tokens = seen.tokens.expand(question.labels, -1, -1)
    tail = Tail(visual, tokens, question)

    def to_grid(rows: Tensor) -> Tensor:
        return rows[:, 1:].transpose(1, 2).unflatten(2, seen.grid_hw)

    with torch.no_grad():
        scores = Tail(visual, seen.tokens[None], question)(seen.tokens[None])[0]
    if not labels:
        return Answer(scores, None, seen.tokens.new_zeros(0, seen.grid_hw[0] * seen.grid_hw[1]))
    with torch.enable_grad(), method(tail, [tail.block.ln_1], reshape_transform=to_grid) as cam:
        recorder = cam.activations_and_grads
        outputs = recorder(tokens.detach().requires_grad_())
        torch.autograd.backward([outputs[k, k] for k in labels])
        activations, gradients = (kept[0].numpy() for kept in (recorder.activations, recorder.gradients))
        raw = cam.get_cam_image(None, tail.block.ln_1, None, activations, gradients, False)
    raw = torch.from_numpy(np.ascontiguousarray(raw, dtype=np.float32)).to(seen.tokens.device)
    return Answer(scores, None, raw.flatten(1))


def _library(variant: str) -> Any:
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise ConfigError(
            f"the variant '{variant}' comes from pytorch-grad-cam, which cannot be imported here",
            found=error,
            next_step="pip install 'clip-es[gradcam]' (it brings torchvision), or pass --localize.variant gradcam.",
        ) from error
    return pytorch_grad_cam
