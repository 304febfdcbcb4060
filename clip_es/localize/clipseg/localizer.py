"""CLIPSeg: a small trained decoder on a frozen CLIP that answers a prompt, a text or an example picture, with a mask.

Its decoder was trained on masks (PhraseCut), so masks made with it are not weakly supervised. One picture is encoded
once, however many prompts it is asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clip_es.config.methods import ClipSegConfig
from clip_es.encoder.capture import watch
from clip_es.encoder.encode import Encoder
from clip_es.encoder.engines.base import Wanted
from clip_es.errors import DataError, ShapeError
from clip_es.localize.base import Localization, Settled
from clip_es.localize.clipseg.decoder import Decoder, check_fits
from clip_es.localize.clipseg.sight import enter_bicubic, scaled
from clip_es.scaling import even_at, keep_heights, upsample
from clip_es.types import ClassMaps, EncodedImage, Picture

_PROMPTS_AT_ONCE = 16
"""Prompts that go through the decoder together."""


@dataclass(frozen=True)
class ClipSegSight(EncodedImage):
    """What CLIPSeg keeps of a picture besides."""

    outputs: tuple[Float[Tensor, "token dim"], ...]
    """What leaves the blocks that the decoder reads."""


@dataclass(frozen=True)
class EvenAt:
    """Probabilities to full size, and only there compared with the threshold: it is brought to 0.5."""

    threshold: float

    def __call__(self, maps: ClassMaps, size_hw: tuple[int, int]) -> ClassMaps:
        """From probabilities on whatever grid."""
        full = upsample(maps, size_hw)
        return ClassMaps(even_at(full.scores, self.threshold), maps.class_ids)


class ClipSeg:
    """CLIPSeg as a `Localizer`: each class has a prompt of its own, so classes do not compete before their maps do."""

    finds_classes = True

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        prompts: Mapping[int, Float[Tensor, " embed"]],
        config: ClipSegConfig | None = None,
        *,
        on_grid: bool = False,
        layers: int = 8,
        sources: Mapping[str, str] | None = None,
        supervision: str = "masks (PhraseCut)",
    ) -> None:
        """`prompts`: the vector of each class that can be asked for. `on_grid`: maps on the patch grid, for refiners
        that work there. `layers`: over how many of the last ones the attention is averaged. Raises WeightsError,
        ConfigError: decoder and encoder do not fit."""
        self.encoder, self.decoder, self.prompts = encoder, decoder, dict(prompts)
        self.config, self.on_grid, self.layers = config or ClipSegConfig(), on_grid, layers
        self.sources, self.supervision = dict(sources or {}), supervision
        check_fits(encoder, decoder, self.config.layers)

    def to(self, device: str) -> None:
        """Move what is not the encoder's to another device."""
        self.decoder.to(device)
        self.prompts = {k: vector.to(device) for k, vector in self.prompts.items()}

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """A square, unless the settings say otherwise."""
        side = seen_side(self.config, self.decoder)
        return (side, side) if side else size_hw

    @torch.no_grad()
    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """One pass each, in ImageNet's scale and with bicubic positions, as the decoder was trained."""
        wanted = self.config.layers or self.decoder.layers
        found: list[EncodedImage] = []
        for picture in pictures:
            size = (picture.patches.shape[0], picture.patches.shape[1])
            pixels = scaled(picture.rgb, size).to(self.encoder.device)
            grid_hw = (size[0] // self.encoder.patch, size[1] // self.encoder.patch)
            found.append(self._seen(enter_bicubic(self.encoder, pixels), grid_hw, wanted))
        return found

    def _seen(
        self, tokens: Float[Tensor, "1 token dim"], grid_hw: tuple[int, int], wanted: Sequence[int]
    ) -> ClipSegSight:
        """What the blocks make of tokens entering the first of them."""
        blocks = self.encoder.model.visual.transformer.blocks
        early = len(blocks) - 1
        averaged = min(self.layers, len(blocks))
        before = tuple(sorted({layer for layer in wanted if layer < early}))
        asked = Wanted(early, averaged - 1, outputs=before, explicit=True)
        seen = self.encoder.engine.passed(tokens, asked)
        (last,) = watch(blocks[-1:], seen.tokens)
        outputs = {**dict(zip(before, seen.outputs, strict=True)), early: last.left.float()}
        mean = (seen.attention[0] + last.attention[0].mean(0)[1:, 1:]) / averaged
        kept = tuple(outputs[layer][0] for layer in wanted)
        return ClipSegSight(seen.tokens[0], mean, last.attention[0], grid_hw, kept)

    @torch.no_grad()
    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """`answer` with the prompts of the labels, or of all classes. Raises DataError: a label has no prompt."""
        if not isinstance(seen, ClipSegSight):
            raise ShapeError(
                "CLIPSeg reads some layers of a picture",
                expected="what ClipSeg.encode gives",
                found=type(seen).__name__,
            )
        ids = tuple(self.prompts) if class_ids is None else tuple(class_ids)
        if missing := [k for k in ids if k not in self.prompts]:
            raise DataError(
                "there is no example for a label of this picture",
                where=picture.image_id,
                expected=f"examples of {len(ids)} classes",
                found=f"none for class {', '.join(map(str, missing))}",
                next_step="Add a folder of that class to the examples, or leave out --examples to use words.",
            )
        vectors = [self.prompts[k] for k in ids]
        prompts = torch.stack(vectors) if vectors else torch.zeros(0, self.decoder.sizes.embed)
        found = answer(self.encoder, self.decoder, seen.outputs, seen.grid_hw, prompts, ids, self.on_grid)
        if class_ids is None:
            keep = found.scores > self.config.score_threshold
            ids = tuple(k for k, kept in zip(ids, keep.tolist(), strict=True) if kept)
            found = Localization(ClassMaps(found.maps.scores[keep], ids), found.scores[keep], found.raw[keep], None)
        return found

    def settle(self, found: Localization, maps: ClassMaps, known: bool) -> Settled:
        """All of it; refiners that stretch maps are undone in that, and the threshold is set at full size."""
        return Settled(found, keep_heights(found.maps, maps), EvenAt(self.config.threshold))


def seen_side(config: ClipSegConfig, decoder: Decoder) -> int:
    """Side of the square that the encoder sees; 0: the picture's own shape."""
    return decoder.side or 352 if config.side is None else config.side


@torch.no_grad()
def answer(
    encoder: Encoder,
    decoder: Decoder,
    outputs: Sequence[Float[Tensor, "token width"]],
    grid_hw: tuple[int, int],
    prompts: Float[Tensor, "p embed"],
    class_ids: tuple[int, ...],
    on_grid: bool = False,
) -> Localization:
    """A map for each prompt from one encoding; the decoder takes some prompts at a time.

    In the Localization `raw` holds the logits, `maps` their sigmoids (of which 0.5 is no natural threshold: published
    tables use 0.1 to 0.3), `scores` the largest of each map, and `weights` None.
    """
    height, width = (encoder.patch * side for side in grid_hw)
    tokens = [one[None] for one in outputs]
    some = [decoder(tokens, part.to(encoder.device), grid_hw) for part in prompts.split(_PROMPTS_AT_ONCE) if len(part)]
    logits = torch.cat(some) if some else torch.zeros(0, height, width, device=encoder.device)
    scores = logits.sigmoid()
    highest = scores.amax((1, 2))
    if on_grid:
        logits, scores = (F.avg_pool2d(x[None], encoder.patch)[0] for x in (logits, scores))
    return Localization(ClassMaps(scores, class_ids), highest, logits, None)
