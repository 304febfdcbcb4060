"""Heads for mmsegmentation: pixels compared with text, and outlines as an auxiliary task. See `pixel_text`.

Imported by `clip_es.segmentor.prepare`, which also registers them; needs mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError
from clip_es.segmentor.losses.edges import (
    EdgeKind,
    balanced_edge_loss,
    edge_attention_loss,
    edge_targets,
    shrink_edges,
)
from clip_es.segmentor.losses.shape import InverseNetDistance, MomentDistance, Prediction, read_inverse_net
from clip_es.segmentor.models.pixel_embedding import ClipPixelEmbedding, PixelEmbedding
from clip_es.segmentor.models.pixel_text import LSEG_SCALE, PixelText, resize_scores
from clip_es.segmentor.models.text_table import TextTable, text_table
from clip_es.types import UNDECIDED


class PixelTextHead(BaseDecodeHead):
    """Decode head whose classes are rows of text. `set_table` gives it other classes, with the same weights.

    `text` says which words a class has: `weights` of a CLIP, `words` (for each class its name and synonyms, background
    left out), `background` words, `templates`. Its vectors are made when a training begins and are part of the
    checkpoint. `own`: the last input map lies in the text's space already, as `FrozenClip(project=True)` gives it, and
    is brought to pixels by attention; without it the head learns the text's space from the masks.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        text: dict[str, Any],
        embed: int,
        own: bool = False,
        adapt: float = 0.0,
        normalize: bool = True,
        scale: float = LSEG_SCALE,
        objectness: bool | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("input_transform", "multiple_select")
        super().__init__(in_channels, channels, **{"dropout_ratio": 0.0, **kwargs})
        # The base class makes a classifier of fixed classes.
        del self.conv_seg
        self.text = dict(text)
        widths = list(in_channels)
        embedding = (
            ClipPixelEmbedding(widths, embed, channels, adapt=adapt) if own else PixelEmbedding(widths, embed, channels)
        )
        words = [tuple(row) for row in self.text["words"]]
        owners = [0] * len(self.text.get("background", ())) + [k for k, row in enumerate(words, 1) for _ in row]
        names = ("background", *(row[0] for row in words))
        blank = TextTable(names, torch.zeros(len(owners), embed), torch.tensor(owners))
        self.pixel_text = PixelText(
            embedding,
            blank,
            normalize=normalize,
            scale=scale,
            objectness=own if objectness is None else objectness,
            channels=channels,
        )

    def init_weights(self) -> None:
        """Random layers keep torch's initial weights; the rows are the text's."""
        words = [tuple(row) for row in self.text["words"]]
        self.set_table(self.table_of(words))

    def table_of(self, words: Sequence[Sequence[str]]) -> TextTable:
        """Rows for other words, by the same CLIP, background words and templates. Raises ConfigError, DataError."""
        encoder = load_encoder(self.text["weights"], device="cpu")
        templates = self.text.get("templates") or ("a photo of a {}.",)
        return text_table(encoder, words, self.text.get("background", ()), templates)

    def set_table(self, table: TextTable, bonus: float = 0.0) -> None:
        """Answer with these classes from now on, new ones with a bonus. Raises ShapeError: text of another width."""
        self.pixel_text.set_table(table, bonus)
        self.num_classes = self.out_channels = len(table.names)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits [batch class h w] on the grid of the first map."""
        return self.pixel_text(self._transform_inputs(inputs))

    def maps(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Those of the backbone's maps that this head reads."""
        return self._transform_inputs(inputs)  # pyright: ignore[reportReturnType] a list, for several are selected


class EdgeHead(BaseDecodeHead):
    """Auxiliary head that predicts outlines from the backbone's maps; leaves nothing behind but a better backbone.

    Its losses: `loss_edge` (balanced), `loss_edge_attention` (cross-entropy of the decode head where this head is sure
    of an edge; the model hands it the decode head's logits), `loss_edge_shape`. Targets are made from the label maps;
    255 belongs to no region, and pixels near it do not count unless `count_unknown`.
    """

    decode_logits: Tensor | None = None
    """Of the batch that is being trained on; set by the model."""

    def __init__(
        self,
        in_channels: int,
        channels: int = 32,
        *,
        kind: EdgeKind = "edt",
        radius: float = 2.0,
        shrink: Literal["max", "nearest"] = "max",
        edge_weight: float = 0.3,
        attention_weight: float = 0.1,
        shape_weight: float = 0.3,
        shape_net: str | None = None,
        shape_prediction: Prediction = "sigmoid",
        count_unknown: bool = False,
        num_classes: int = 2,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("loss_decode", None)
        super().__init__(
            in_channels, channels, num_classes=2, out_channels=1, threshold=0.5, dropout_ratio=0.0, **kwargs
        )
        del self.conv_seg
        self.class_count = num_classes
        self.kind: EdgeKind = kind
        self.shrink: Literal["max", "nearest"] = shrink
        self.radius, self.count_unknown = radius, count_unknown
        self.weights = {"edge": edge_weight, "attention": attention_weight, "shape": shape_weight}
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 1, 1)
        )
        self.shape = MomentDistance() if shape_net is None else InverseNetDistance(_net(shape_net), shape_prediction)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Edge logits [batch 1 h w] on the grid of the chosen map."""
        return self.layers(self._transform_inputs(inputs))

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """The losses, each with its weight."""
        labels = self._stack_batch_gt(batch_data_samples)[:, 0]
        size = (seg_logits.shape[2], seg_logits.shape[3])
        edges = shrink_edges(edge_targets(labels, self.class_count, self.radius, self.kind), size, self.shrink)
        known = None
        if not self.count_unknown:
            unknown = (labels == UNDECIDED).float()[:, None]
            known = F.adaptive_max_pool2d(unknown, size) == 0
        found = {"loss_edge": self.weights["edge"] * balanced_edge_loss(seg_logits, edges, known)}
        if self.weights["attention"] and self.decode_logits is not None:
            logp = resize_scores(self.decode_logits, size).float().log_softmax(1)
            target = F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()
            attention, _ = edge_attention_loss(logp, target, seg_logits)
            found["loss_edge_attention"] = self.weights["attention"] * attention / len(labels)
        if self.weights["shape"]:
            found["loss_edge_shape"] = self.weights["shape"] * self.shape(seg_logits.float(), edges)
        return found


def _net(path: str) -> Any:
    if not Path(path).is_file():
        raise ConfigError(
            "there is no such shape network",
            where=path,
            expected="the public file, or shape_net.pth of `clip-es train-shape-net`",
            next_step="Leave --shape-net out: the default needs no network.",
        )
    return read_inverse_net(path)
