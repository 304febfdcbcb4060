"""The parts mmsegmentation needs: the published trunk, its head, and the head that carries an extended segmenter.

Imported by `clip_es.segmentor.prepare`, which also registers it; needs mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.backbones import ResNet
from mmseg.models.backbones.resnet import Bottleneck
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from clip_es.errors import ConfigError
from clip_es.segmentor.zero_shot.context import ContextualModule
from clip_es.segmentor.zero_shot.generator import Discriminator


class CeilResNet(ResNet):
    """ResNet whose max-pooling keeps the rest at the edge, as Caffe's does: 513 pixels become 65 cells at stride 8.

    `blocks` are the numbers of bottlenecks of the stages, where they are not those of `depth`.
    """

    def __init__(self, depth: int = 101, blocks: Sequence[int] | None = None, **kwargs: Any) -> None:
        if blocks is not None:
            self.arch_settings = {depth: (Bottleneck, tuple(blocks))}
        super().__init__(depth=depth, **kwargs)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)


class AsppSumHead(BaseDecodeHead):
    """The sum of four dilated 3x3 convolutions to `channels`, then a pointwise classifier.

    Source: DeepLab v2 as CaGNet uses it: 600 channels, dilations 6, 12, 18, 24, no activation.
    """

    def __init__(self, dilations: Sequence[int] = (6, 12, 18, 24), **kwargs: Any) -> None:
        kwargs = {"dropout_ratio": 0, "init_cfg": {"type": "Normal", "std": 0.01, "layer": "Conv2d"}, **kwargs}
        super().__init__(**kwargs)
        self.branches = nn.ModuleList(
            nn.Conv2d(kwargs["in_channels"], self.channels, 3, padding=d, dilation=d) for d in dilations
        )

    def features(self, inputs: Sequence[Tensor]) -> Tensor:
        """The map [n channels h w] before the classifier."""
        seen = self._transform_inputs(inputs)
        return torch.stack([branch(seen) for branch in self.branches]).sum(dim=0)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits [n class h w] on the backbone's grid."""
        return self.cls_seg(self.features(inputs))


class ZeroShotHead(BaseDecodeHead):
    """A decode head without its classifier, a contextual module on its features, and a classifier of all classes.

    `inner` is the config of the head as it was; `level` adds the backbone's map of that index to its features,
    `clip` its last map, CLIP's, with cells of unit length.
    `classes` are the classifier's outputs, one more than there are labels; `order[k]` is the output that is label k,
    so the extra output never wins. Features are brought to mean 0 and spread 1 with fixed figures.
    Raises ConfigError: the head has no feature map before a pointwise classifier.
    """

    shift: Tensor
    spread: Tensor

    def __init__(
        self,
        inner: dict[str, Any],
        order: Sequence[int],
        feature_channels: int,
        context: dict[str, Any],
        hidden: int,
        patch: bool = False,
        linear: bool = False,
        level: int | None = None,
        clip: bool = False,
        **kwargs: Any,
    ) -> None:
        built: Any = MODELS.build(dict(inner))
        kwargs = {"dropout_ratio": 0, "align_corners": built.align_corners, "in_index": built.in_index, **kwargs}
        kwargs.setdefault("input_transform", built.input_transform)
        kwargs.setdefault("loss_decode", {"type": "CrossEntropyLoss", "avg_non_ignore": True})
        super().__init__(in_channels=inner["in_channels"], channels=feature_channels, num_classes=len(order), **kwargs)
        del self.conv_seg
        self.inner, self.level, self.clip = built, level, clip
        tap(built)
        self.order = list(order)
        self.context = ContextualModule(feature_channels, **context)
        self.discriminator = Discriminator(feature_channels, len(order) + 1, hidden, patch=patch, linear=linear)
        self.register_buffer("shift", torch.zeros(feature_channels, 1, 1))
        self.register_buffer("spread", torch.ones(feature_channels, 1, 1))

    def features(self, inputs: Sequence[Tensor]) -> Tensor:
        """F [n c h w]: what the contextual module sees."""
        return (raw_features(self.inner, inputs, self.level, clip=self.clip) - self.shift) / self.spread

    def classify(self, features: Tensor) -> Tensor:
        """Logits [n label h w] of F."""
        scores = self.discriminator.scores(self.context(features).features)
        return scores[:, self.order]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits [n label h w] on the grid of the inner head's features."""
        return self.classify(self.features(inputs))


def tap(head: Any) -> nn.Conv2d:
    """Take the classifier out of a head, in place: its forward then gives the features that went into it.

    Raises ConfigError: it has no pointwise classifier.
    """
    classifier = getattr(head, "conv_seg", None)
    if not isinstance(classifier, nn.Conv2d) or classifier.kernel_size != (1, 1):
        raise ConfigError(
            f"a {type(head).__name__} has no feature map before a pointwise classifier",
            expected="a decode head that ends with mmsegmentation's 1x1 conv_seg",
            found="no conv_seg" if classifier is None else f"{classifier}",
            next_step="Train another config, such as deeplabv2_cagnet_voc, segformer_b2_voc or scenes_small.",
        )
    del head.conv_seg
    # In the instance's own dictionary it hides the method of the class, which would ask for the classifier.
    head.__dict__["cls_seg"] = _itself
    return classifier


def raw_features(head: Any, inputs: Sequence[Tensor], level: int | None = None, *, clip: bool = False) -> Tensor:
    """Features of a tapped head, with maps of the backbone beside them where they are asked for."""
    parts = [head(inputs)]
    if level is not None:
        parts.append(inputs[level])
    if clip:
        parts.append(F.normalize(inputs[-1], dim=1))
    size = parts[0].shape[-2:]
    beside = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in parts[1:]]
    return torch.cat((parts[0], *beside), dim=1) if beside else parts[0]


def _itself(features: Tensor) -> Tensor:
    return features
