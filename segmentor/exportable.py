"""A trained segmenter as one module from pixels, and text rows where it has them, to logits: what ONNX gets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from clip_es.errors import ConfigError
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.models.text_table import TextTable
from clip_es.store.disk import write_atomic


class Exportable(nn.Module):
    """From pixels to logits, with what the data preprocessor does on the way: colours, normalisation, padding."""

    mean: Tensor
    std: Tensor

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        from mmengine.model import revert_sync_batchnorm

        self.segmentor: Any = revert_sync_batchnorm(segmenter.model)
        before = self.segmentor.data_preprocessor
        # mmseg reads blue first, so it is a model that turns the channels that wants red first.
        self.red_first = bool(before._channel_conversion)
        self.register_buffer("mean", before.mean.clone() if before._enable_normalize else torch.zeros(3, 1, 1))
        self.register_buffer("std", before.std.clone() if before._enable_normalize else torch.ones(3, 1, 1))
        padding = before.test_cfg or {}
        self.divisor = int(padding.get("size_divisor") or 1)
        self.pad_value = float(before.pad_val)
        if padding.get("size"):
            raise ConfigError(
                "the model pads every picture to one size, which is no part of the ONNX graph",
                found=f"test_cfg of the data preprocessor: {dict(padding)}",
                next_step="Replace size by size_divisor there, and pass that config with --config.",
            )

    def forward(self, image: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n label h w"]:
        """RGB, 0..255, in; logits out."""
        pixels = self.prepared(image)
        logits = self.segmentor.encode_decode(pixels, [{"img_shape": pixels.shape[2:]}])
        return logits[..., : image.shape[2], : image.shape[3]]

    def prepared(self, image: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n 3 ph pw"]:
        """What the model itself is shown."""
        colours = image if self.red_first else image.flip(dims=(1,))
        pixels = (colours - self.mean) / self.std
        height, width = image.shape[2], image.shape[3]
        if self.divisor > 1:
            lacking = (0, -width % self.divisor, 0, -height % self.divisor)
            pixels = nn.functional.pad(pixels, lacking, value=self.pad_value)
        return pixels

    def inputs(self, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """What it can be shown, for pictures of a shape [n 3 h w]; each time another list of classes."""
        return (picture(shape),)

    @torch.no_grad()
    def as_in_a_test(self, image: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n label h w"]:
        """The same by mmsegmentation's own steps."""
        return _by_mmseg(self.segmentor, image)


class TextExportable(Exportable):
    """A pixel-text model with its text rows as a second input: text float32 [class word dim], background first.

    A class answers with its best word, so one with fewer words than another repeats one of them. The bonus of classes
    that were not trained on is left out; whoever wants it adds it to their logits.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(segmenter)
        head = self.segmentor.decode_head
        self.table = TextTable(head.pixel_text.names, head.pixel_text.rows.cpu(), head.pixel_text.owners.cpu())

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, image: Float32[Tensor, "n 3 h w"], text: Float32[Tensor, "class word dim"]
    ) -> Float32[Tensor, "n class h w"]:
        """RGB, 0..255, and text rows in; logits out."""
        pixels, head = self.prepared(image), self.segmentor.decode_head
        logits = head.pixel_text.logits_of(head.maps(self.segmentor.extract_feat(pixels)), text)
        logits = head.predict_by_feat(logits, [{"img_shape": pixels.shape[2:]}])
        return logits[..., : image.shape[2], : image.shape[3]]

    def inputs(self, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Other pictures get other rows: in another order, and more of them, so that a file that holds the rows of its
        export is found out."""
        text = self.table.by_class()
        order = torch.randperm(len(text), generator=torch.Generator().manual_seed(sum(shape)))
        return picture(shape), torch.cat([text[order], text[: shape[0]].flip(2)]).repeat(1, shape[0] % 2 + 1, 1)

    @torch.no_grad()
    def as_in_a_test(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, image: Float32[Tensor, "n 3 h w"], text: Float32[Tensor, "class word dim"]
    ) -> Float32[Tensor, "n class h w"]:
        """The same by mmsegmentation's own steps, with these rows as the model's table."""
        model = self.segmentor.decode_head.pixel_text
        names = tuple(f"class {k}" for k in range(len(text)))
        owners = torch.arange(len(text)).repeat_interleave(text.shape[1])
        before = TextTable(model.names, model.rows, model.owners), model.bonus
        model.set_table(TextTable(names, text.flatten(0, 1), owners))
        try:
            return _by_mmseg(self.segmentor, image)
        finally:
            model.set_table(*before)


def exportable(segmenter: Segmenter) -> Exportable:
    """The module that is exported: with text rows as an input where the model has them. Raises ConfigError."""
    return (Exportable if segmenter.text_facts() is None else TextExportable)(segmenter)


@torch.no_grad()
def _by_mmseg(segmentor: Any, image: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n label h w"]:
    """What mmsegmentation itself makes of whole pictures: its preprocessor, its model, its cut."""
    from mmseg.structures import SegDataSample

    blue_first = [picture.flip(dims=(0,)).to(torch.uint8) for picture in image]
    samples = [SegDataSample(metainfo={"ori_shape": tuple(image.shape[2:])}) for _ in blue_first]
    data = segmentor.data_preprocessor({"inputs": blue_first, "data_samples": samples})
    logits = segmentor.encode_decode(data["inputs"], [{"img_shape": data["inputs"].shape[2:]}])
    results = segmentor.postprocess_result(logits, data["data_samples"])
    return torch.stack([result.seg_logits.data for result in results])


def save_text_rows(segmenter: Segmenter, path: str | Path) -> tuple[int, int, int]:
    """Write what the input `text` of an exported pixel-text model takes for the classes this one is asked for.

    An .npz of `text` float32 [class word dim] and `names` [class]; returns that shape. Raises ConfigError: the model
    has no text, or a class has no words.
    """
    if segmenter.text_facts() is None:
        raise ConfigError(
            "this model has classes of its own and no text",
            expected="a model of `clip-es train --head pixel-text`",
            next_step="Leave --text out.",
        )
    text = TextExportable(segmenter).table.by_class().numpy()
    file = io.BytesIO()
    np.savez(file, text=text, names=np.array(segmenter.names))
    write_atomic(Path(path), file.getvalue(), durable=True)
    return text.shape


def picture(shape: tuple[int, ...]) -> Float32[Tensor, "n 3 h w"]:
    """Colours that differ from place to place, smooth as in a picture; the same each time."""
    coarse = torch.rand((*shape[:2], 9, 9), generator=torch.Generator().manual_seed(0))
    return (255 * nn.functional.interpolate(coarse, shape[2:], mode="bilinear", align_corners=True)).round()
