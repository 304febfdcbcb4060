"""The paper's head, and the model that hands its losses the confidence. Needs mmsegmentation; see `compat.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from clip_es.segmentor.losses.confidence import ConfidenceGuidedLoss


class DeepLabV2Head(BaseDecodeHead):
    """Atrous spatial pyramid of DeepLab v2: the sum of four dilated 3x3 classifiers, no projection in between.

    Source: Chen et al. 2018 (TPAMI), ASPP-L: dilations 6, 12, 18, 24; initial weights N(0, 0.01), no bias at first.
    """

    def __init__(self, dilations: tuple[int, ...] = (6, 12, 18, 24), **kwargs: Any) -> None:
        kwargs.setdefault("channels", kwargs["in_channels"])
        super().__init__(
            **{"dropout_ratio": 0, "init_cfg": {"type": "Normal", "std": 0.01, "layer": "Conv2d"}, **kwargs}
        )
        # The base class makes a 1x1 classifier; left in, a distributed run would wait for its gradient.
        del self.conv_seg
        self.branches = nn.ModuleList(
            nn.Conv2d(kwargs["in_channels"], self.out_channels, 3, padding=d, dilation=d) for d in dilations
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits [batch class h w] on the backbone's grid."""
        features = self._transform_inputs(inputs)
        return torch.stack([branch(features) for branch in self.branches]).sum(dim=0)


class _HandsConfidence:
    """A segmentor whose confidence-guided losses know the confidence of the batch, whatever the heads."""

    def loss(self, inputs: Tensor, data_samples: list) -> dict:
        """mmseg's loss; `gt_confidence` of the data samples reaches every ConfidenceGuidedLoss for its time."""
        confidence = batch_confidence(data_samples)
        losses = [module for module in self.modules() if isinstance(module, ConfidenceGuidedLoss)]  # type: ignore
        for loss in losses:
            loss.confidence = confidence
        edges = [module for module in self.modules() if hasattr(module, "decode_logits")]  # type: ignore
        forget = self._watch(edges) if edges else None
        try:
            return super().loss(inputs, data_samples)  # type: ignore
        finally:
            if forget:
                forget()
            for edge in edges:
                edge.decode_logits = None
            for loss in losses:
                loss.confidence = None

    def _watch(self, edges: list[Any]) -> Callable[[], None]:
        """Hand the logits of the (last) decode head, which comes before the auxiliary heads, to the edge heads.

        Returns what undoes it. mmseg's heads call `forward` themselves, so a forward hook would never be called.
        """
        head: Any = self.decode_head  # type: ignore
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        losses_of = head.loss_by_feat

        def keep(seg_logits: Any, *args: Any, **kwargs: Any) -> Any:
            for edge in edges:
                edge.decode_logits = seg_logits if isinstance(seg_logits, Tensor) else None
            return losses_of(seg_logits, *args, **kwargs)

        head.loss_by_feat = keep
        return lambda: delattr(head, "loss_by_feat")


class ConfidenceEncoderDecoder(_HandsConfidence, EncoderDecoder):
    """mmseg's EncoderDecoder for losses that want confidence; predicts as it."""


class ConfidenceCascadeEncoderDecoder(_HandsConfidence, CascadeEncoderDecoder):
    """mmseg's CascadeEncoderDecoder for losses that want confidence; predicts as it."""


def batch_confidence(data_samples: list) -> Tensor | None:
    """[batch h w] in 0..1, padded with 0 to the size of the labels; None where no sample has any."""
    if not data_samples or any("gt_confidence" not in sample for sample in data_samples):
        return None
    stacked = []
    for sample in data_samples:
        confidence, size = sample.gt_confidence.data[0], sample.gt_sem_seg.data.shape[-2:]
        padding = (0, size[1] - confidence.shape[1], 0, size[0] - confidence.shape[0])
        stacked.append(F.pad(confidence, padding))
    return torch.stack(stacked).float() / 255
