"""Ask a prompt-driven decoder about one picture, and show its answers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, UInt8
from PIL import Image
from torch import Tensor

from clip_es.encoder import Encoder
from clip_es.encoder.capture import normalised
from clip_es.errors import ConfigError, DataError
from clip_es.localize.clipseg.decoder import Decoder
from clip_es.localize.clipseg.draws import example_config
from clip_es.localize.clipseg.prompts import visual_prompt
from clip_es.localize.clipseg.sight import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    block_outputs,
    image_prompts,
    mix,
    prepare,
    text_prompts,
)
from clip_es.masks import read_mask
from clip_es.overlay import overlay_heat
from clip_es.pipelines.report import GalleryRow, Page
from clip_es.records.phrases.table import as_binary, read_rgb
from clip_es.store.disk import write_atomic


@dataclass(frozen=True)
class Answer:
    """What one prompt found in a picture."""

    name: str
    """The prompt in words."""
    probability: Float32[np.ndarray, "h w"]
    """At the picture's size."""
    shown: UInt8[np.ndarray, "s s 3"] | None = None
    """The example as CLIP saw it."""

    def share(self, threshold: float) -> float:
        """Share of the picture above a probability."""
        return float((self.probability > threshold).mean())

    def write(self, folder: Path, name: str, rgb: UInt8[np.ndarray, "h w 3"], threshold: float) -> None:
        """Write NAME_map.png, NAME_mask.png and NAME_overlay.png."""
        above = self.probability > threshold
        pictures = {
            "map": np.rint(255 * self.probability).astype(np.uint8),
            "mask": np.where(above, 255, 0).astype(np.uint8),
            "overlay": marked(rgb, above),
        }
        for kind, pixels in pictures.items():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            write_atomic(folder / f"{name}_{kind}.png", buffer.getvalue())


@torch.no_grad()
def ask(
    encoder: Encoder,
    decoder: Decoder,
    image: Path,
    texts: Sequence[str] = (),
    *,
    example: Path | None = None,
    example_mask: Path | None = None,
    text_share: float = 0.0,
    sentence: str = "{}",
    side: int | None = None,
) -> tuple[UInt8[np.ndarray, "h w 3"], list[Answer]]:
    """The picture, and an answer to each text and to the example; one encoding for all.

    With `text_share` above 0 each text is mixed with the example, and nothing else is asked.
    Raises DataError: a prompt is empty or too long, a file cannot be read, the example has no mask, another size than
    its mask, or nothing in it. ConfigError: settings that do not fit.
    """
    if not 0 <= text_share <= 1 or (text_share and (example is None or not texts)):
        raise ConfigError("text_share mixes texts with an example, 0..1", found=text_share)
    if sentence.count("{}") != 1:
        raise ConfigError("the sentence names what is looked for with {} exactly once", found=repr(sentence))
    for text in texts:
        if not text.strip():
            raise DataError("a prompt is empty", found=repr(text), next_step="Say what to look for.")
    vectors = text_prompts(encoder, [sentence.format(text) for text in texts]).float()
    names: list[str] = list(texts)
    shown: list[np.ndarray | None] = [None] * len(names)
    if example is not None:
        pixels, seen = _example(encoder, decoder, example, example_mask)
        vector = image_prompts(encoder, pixels[None].to(encoder.device)).float()
        if text_share:
            vectors = mix(vectors, vector, text_share)
            names, shown = [f"{name} + {example.name}" for name in names], [seen] * len(names)
        else:
            vectors, names, shown = torch.cat([vectors, vector]), [*names, f"example {example.name}"], [*shown, seen]
    rgb = read_rgb(image)
    side = side or decoder.side or 352
    outputs = block_outputs(encoder, prepare(rgb, side, encoder.patch).to(encoder.device), decoder.layers)
    maps = decoder(outputs, vectors, (side // encoder.patch, side // encoder.patch)).float().sigmoid()
    maps = F.interpolate(maps[None], size=rgb.shape[:2], mode="bilinear", align_corners=False)[0].cpu().numpy()
    return rgb, [Answer(name, one, seen) for name, one, seen in zip(names, maps, shown, strict=True)]


def prompt_page(rgb: UInt8[np.ndarray, "h w 3"], answers: Sequence[Answer], threshold: float, supervision: str) -> Page:
    """A report with a row for each answer."""
    page = Page("Prompts", f"CLIPSeg: maps from words and examples. Its decoder was trained on {supervision}.")
    rows = []
    for one in answers:
        columns = [[("picture", rgb)], [(one.name, overlay_heat(rgb, one.probability))]]
        columns.append([(f"above {threshold:g}", marked(rgb, one.probability > threshold))])
        if one.shown is not None:
            columns.append([("the example as CLIP sees it", one.shown)])
        rows.append(GalleryRow(columns, maps=True))
    page.gallery(rows)
    return page


def marked(rgb: UInt8[np.ndarray, "h w 3"], above: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, dark where nothing was found."""
    return np.where(above[..., None], rgb, 0.3 * rgb).astype(np.uint8)


def _example(
    encoder: Encoder, decoder: Decoder, example: Path, mask_path: Path | None
) -> tuple[Float32[Tensor, "3 s s"], UInt8[np.ndarray, "s s 3"]]:
    """An example faded and cut, for CLIP and for people."""
    if mask_path is None:
        raise DataError(
            "an example needs a mask that says what it shows",
            where=example,
            expected="a PNG of the same size in which the object is not 0",
            next_step="Pass --example-mask.",
        )
    rgb, mask = read_rgb(example), as_binary(read_mask(mask_path))
    if mask.shape != rgb.shape[:2]:
        raise DataError(
            "the mask of an example has another size",
            where=mask_path,
            expected=list(rgb.shape[:2]),
            found=list(mask.shape),
        )
    pixels = torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 0)[None].float() / 255
    pixels = normalised(pixels, IMAGENET_MEAN, IMAGENET_STD)[0]
    side = int(decoder.about.get("example_side", 352))
    cut = visual_prompt(pixels, torch.from_numpy(mask), example_config("crop_blur_highlight352", side))
    mean, std = (torch.tensor(row)[:, None, None] for row in (IMAGENET_MEAN, IMAGENET_STD))
    seen = ((cut * std + mean).clamp(0, 1) * 255).movedim(0, -1).to(torch.uint8).numpy()
    return cut, seen
