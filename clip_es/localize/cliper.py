"""CLIPer's localizer: the early layers of CLIP read through the last one, with their attention fused.

The last block's own attention, residual and MLP are thrown away. The attentions of all blocks before it are summed,
balanced, and applied to the last block's values of what *each* block saw. Every patch so has one embedding for each
layer; softmax over the text rows, the mean over layers, and one step along the fused attention make the map.
Training free; with labels it makes class maps like any localizer, without labels a score threshold picks the classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from clip_es.config.methods import CliperConfig, LastAttention
from clip_es.encoder.capture import enter, normalised, watch
from clip_es.encoder.encode import Encoder
from clip_es.encoder.vit import SelfAttention
from clip_es.errors import ConfigError, ShapeError, nearest
from clip_es.localize.base import Localization, check_known
from clip_es.refine.affinity import attention_affinity
from clip_es.scaling import even_at, min_max
from clip_es.types import ClassMaps, EncodedImage, Picture, TextBank

Backbone = Literal["B/16", "L/14"]


@dataclass(frozen=True)
class PatchEmbeddings:
    """One embedding of each token for each layer that is read."""

    layers: Float32[Tensor, "layer token embed"]
    """In CLIP's common space, not of unit length; row 0 is the class token."""
    attention: Float32[Tensor, "head token token"]
    """What the last of them was read with; row = query."""
    grid_hw: tuple[int, int]

    @property
    def patch_attention(self) -> Float32[Tensor, "patch patch"]:
        """Mean over heads, class token cut away, rows not renormalised."""
        return self.attention[:, 1:, 1:].mean(0)


@dataclass(frozen=True)
class CliperSight(EncodedImage):
    """What CLIPer keeps of a picture besides."""

    inputs: Float32[Tensor, "layer token dim"]
    """What each block saw: its input after its first norm; the last block's as it is."""
    total: Float32[Tensor, "head token token"]
    """The attentions of all blocks but the last, summed."""


class Cliper:
    """CLIPer as a `Localizer`: with labels, or without."""

    supervision = "none"
    finds_classes = True
    sources: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, encoder: Encoder, bank: TextBank, config: CliperConfig | None = None, layers: int = 8, known: bool = True
    ) -> None:
        """`layers`: over how many of the last ones the attention for the affinity is averaged; `known`: labels are."""
        self.encoder, self.bank, self.config, self.layers = encoder, bank, config or CliperConfig(), layers
        self.keeps_height = not known or self.config.labelled == "heights"
        _check_window(encoder.patch, self.config)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The shorter side as the settings say, both rounded to whole patches."""
        side = self.config.short_side
        return size_hw if side is None else short_side_hw(size_hw, side, self.encoder.patch)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """One pass each; tokens and attention are those of `Encoder.encode`, to rounding."""
        return [see(self.encoder, _pixels(self.encoder, picture.patches), self.layers) for picture in pictures]

    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """`answer`. Raises ShapeError: the picture was not encoded by CLIPer; a class that the bank does not have."""
        if not isinstance(seen, CliperSight):
            raise ShapeError(
                "CLIPer reads all layers of a picture", expected="what Cliper.encode gives", found=type(seen)
            )
        pixels = None if self.config.window is None else _pixels(self.encoder, picture.patches)
        return answer(self.encoder, seen, pixels, self.bank, class_ids, self.config)


@torch.no_grad()
def cliper(
    encoder: Encoder,
    patches: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    bank: TextBank,
    class_ids: Sequence[Sequence[int]] | None = None,
    config: CliperConfig | None = None,
) -> list[Localization]:
    """Maps of some pictures, each a whole number of patches (see `resize_short_side`); one by one, whatever their size.

    `class_ids` holds the labels of each picture; None: nothing is known. The rest is `answer`.
    Raises ShapeError: not one list of labels for each picture; a picture that is not whole patches; as `answer`.
    """
    config = config or CliperConfig()
    labels = [None] * len(patches) if class_ids is None else list(class_ids)
    if len(labels) != len(patches):
        raise ShapeError("each picture has its own labels", expected=f"{len(patches)} lists", found=len(labels))
    _check_window(encoder.patch, config)
    found = []
    for picture, known in zip(patches, labels, strict=True):
        pixels = _pixels(encoder, picture)
        found.append(answer(encoder, see(encoder, pixels), pixels, bank, known, config))
    return found


@torch.no_grad()
def answer(
    encoder: Encoder,
    seen: CliperSight,
    pixels: Float32[Tensor, "1 3 h w"] | None,
    bank: TextBank,
    class_ids: Sequence[int] | None,
    config: CliperConfig,
) -> Localization:
    """Maps of one picture; `pixels` are needed for a sliding window only.

    The maps keep their heights, with the background threshold at 0.5, so that the common rule for background is the
    published one. With labels, these take the place of the score threshold; without, the classes whose score is above
    it are found, possibly none. `labelled="stretched"`: with labels each map is stretched to [0, 1] instead. In the
    Localization `raw` is the map as published, in 0..2, `scores` the maximum of each raw map, and `weights` None.
    Raises ShapeError: a class that the bank does not have.
    Source: CLIPer (ICCV 2025), early-layer fusion, and its published code. Differs: labels may be known; a row of the
    attention without any positive entry gives zeros, not 0/0; maps are enlarged after thresholds are set, not before.
    """
    classes = tuple(range(bank.class_count))
    shown = classes if class_ids is None else check_known(class_ids, bank)
    competing = shown if config.competitors == "labels" else classes
    all_rows = comparison_set(bank.vectors[: bank.class_count], bank.background)
    text = torch.cat([all_rows[list(competing)], all_rows[bank.class_count :]]).to(encoder.device)
    raw = _maps(encoder, seen, pixels, text, len(competing), config)
    if competing != shown:
        raw = raw[list(shown)]
    scores = raw.amax((1, 2))
    if class_ids is not None and config.labelled == "stretched":
        return Localization(ClassMaps(min_max(raw), shown), scores, raw, None)
    if class_ids is None:
        keep = scores > config.score_threshold
        shown = tuple(k for k, kept in zip(shown, keep.tolist(), strict=True) if kept)
        raw, scores = raw[keep], scores[keep]
    return Localization(ClassMaps(with_heights(raw, config), shown), scores, raw, None)


def with_heights(raw: Float32[Tensor, "class gh gw"], config: CliperConfig) -> Float32[Tensor, "class gh gw"]:
    """Maps in [0, 1] whose background threshold is 0.5 and whose order is that of the published rule."""
    # Where background competes as (1 - best)^2, the two are even at best = 0.382.
    threshold = config.background_threshold or (3 - 5**0.5) / 2
    if config.normalise:
        return even_at(min_max(raw), threshold)
    return even_at((raw / 2).clamp(0, 1), threshold / 2)


def comparison_set(
    foreground: Float32[Tensor, "class embed"], background: Float32[Tensor, "word embed"]
) -> Float32[Tensor, "text embed"]:
    """Classes, background words, and the mean of the classes as one more row that rejects."""
    return torch.cat([foreground, background, F.normalize(foreground.mean(0, keepdim=True), dim=-1)])


@torch.no_grad()
def class_maps(
    encoder: Encoder,
    pixels: Float32[Tensor, "1 3 h w"],
    text: Float32[Tensor, "text embed"],
    count: int,
    config: CliperConfig,
) -> Float32[Tensor, "class gh gw"]:
    """The published maps, in 0..2, of the first `count` rows of `text`, which all compete; pixels in CLIP's scale."""
    return _maps(encoder, see(encoder, pixels), pixels, text, count, config)


def _maps(
    encoder: Encoder, sight: CliperSight, pixels: Tensor | None, text: Tensor, count: int, config: CliperConfig
) -> Float32[Tensor, "class gh gw"]:
    seen = read_layers(encoder, sight, config)
    shares = layer_logits(seen, text, config.temperature).softmax(1)[:, :count]
    if config.window is not None and pixels is not None:
        slid = sliding_logits(encoder, pixels, text, config)
        shares = (shares + slid.softmax(1)[:, :count]) / 2
    return combine(shares, seen.patch_attention, config).unflatten(1, seen.grid_hw)


@torch.no_grad()
def embed_layers(encoder: Encoder, pixels: Float32[Tensor, "1 3 h w"], config: CliperConfig) -> PatchEmbeddings:
    """Read what each block saw through the last block's values and the fused attention.

    Layer k < N - 1 is the input of block k after its norm, the last layer the input of the last block as it is; all
    pass the last block's norm, so that early ones are normed twice, as published.
    """
    return read_layers(encoder, see(encoder, pixels), config)


@torch.no_grad()
def see(encoder: Encoder, pixels: Float32[Tensor, "1 3 h w"], layers: int = 8) -> CliperSight:
    """One picture through all blocks but the last; `layers` as `Encoder.encode` has it. Pixels in CLIP's scale."""
    *early, last = encoder.model.visual.transformer.blocks
    grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
    tokens = enter(encoder, pixels)
    inputs: list[Tensor] = []
    total = tokens.new_zeros(last.attn.heads, tokens.shape[1], tokens.shape[1])
    mean = tokens.new_zeros(tokens.shape[1] - 1, tokens.shape[1] - 1)
    averaged = min(layers, len(early) + 1)
    for index, block in enumerate(watch(early, tokens)):
        inputs.append(block.normed[0].float())
        total = total + block.attention[0]
        if index > len(early) - averaged:
            mean += block.attention[0].mean(0)[1:, 1:]
        tokens = block.left
    inputs.append(tokens[0].float())
    queries, keys, _ = last.attn.project(last.ln_1(inputs[-1]))
    own = SelfAttention.weights(queries, keys)
    mean = (mean + own.mean(0)[1:, 1:]) / averaged
    return CliperSight(inputs[-1], mean, own, grid_hw, torch.stack(inputs), total)


@torch.no_grad()
def read_layers(encoder: Encoder, sight: CliperSight, config: CliperConfig) -> PatchEmbeddings:
    """The second half of `embed_layers`."""
    visual = encoder.model.visual
    last = visual.transformer.blocks[-1]
    fused = fused_attentions(sight.total) if config.last_attention == "fused" else None
    read: list[Tensor] = []
    attention = sight.total
    for tokens in map(last.ln_1, sight.inputs):
        attention = _attention(last.attn, tokens, config.last_attention) if fused is None else next(fused)
        read.append(visual.ln_post(last.attn.merge(attention @ _values(last.attn, tokens))) @ visual.proj)
    return PatchEmbeddings(torch.stack(read), attention, sight.grid_hw)


def fused_attentions(total: Float32[Tensor, "head token token"]) -> Iterator[Float32[Tensor, "head token token"]]:
    """The summed attention made ready for the first embedding, the second, and so on without end.

    Each time it is balanced once more (columns, then rows, to sum one, as CLIP-ES's affinity does three times), made
    symmetric, cleared of what lies below its column's mean, and its rows divided by their sums. That the balance
    accumulates is how the published code works; from the third time on it changes less than 1e-4.
    """
    while True:
        total = attention_affinity(total, rounds=1, symmetric=False)
        both = (total + total.mT) / 2
        clear = (both - both.mean(-2, keepdim=True)).relu()
        yield clear / clear.sum(-1, keepdim=True).clamp(min=torch.finfo(clear.dtype).tiny)


def layer_logits(
    seen: PatchEmbeddings, text: Float32[Tensor, "text embed"], temperature: float
) -> Float32[Tensor, "layer text patch"]:
    """Temperature times cosine of every patch of every layer with every text row."""
    return temperature * F.normalize(text, dim=-1) @ F.normalize(seen.layers[:, 1:], dim=-1).mT


def combine(
    shares: Float32[Tensor, "layer class patch"], attention: Float32[Tensor, "patch patch"], config: CliperConfig
) -> Float32[Tensor, "class patch"]:
    """The selected layer's map, cut below the threshold and spread along the attention, plus the mean over layers."""
    chosen = shares[config.select]
    cut = torch.where(chosen < config.threshold * chosen.amax(-1, keepdim=True), 0, chosen)
    if config.variant == "v1":
        spread, averaged = cut @ attention.T, shares[:-1]
    else:
        # The published code cuts in place, so the mean sees the cut map.
        averaged = shares.clone()
        averaged[config.select] = cut
        spread = cut @ attention
    return spread + averaged.mean(0) if config.fuse else spread


def sliding_logits(
    encoder: Encoder, pixels: Float32[Tensor, "1 3 h w"], text: Float32[Tensor, "text embed"], config: CliperConfig
) -> Float32[Tensor, "layer text patch"]:
    """Logits from overlapping windows, averaged where they overlap, then carried along their pooled attention.

    Attention between patches that never share a window is zero. Raises ShapeError: window or stride are not whole
    patches.
    """
    _check_window(encoder.patch, config)
    patch, window = encoder.patch, config.window or config.stride
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    index = torch.arange(rows * columns, device=encoder.device).reshape(rows, columns)
    pooled = torch.zeros(rows * columns, rows * columns, device=encoder.device)
    together = torch.zeros_like(pooled)
    logits, counts = None, torch.zeros(rows * columns, device=encoder.device)
    for top in _starts(rows, window // patch, config.stride // patch):
        for left in _starts(columns, window // patch, config.stride // patch):
            inside = index[top : top + window // patch, left : left + window // patch]
            y, x = top * patch, left * patch
            crop = pixels[..., y : y + inside.shape[0] * patch, x : x + inside.shape[1] * patch]
            seen = embed_layers(encoder, crop, config)
            here = layer_logits(seen, text, config.temperature)
            inside = inside.flatten()
            if logits is None:
                logits = here.new_zeros(*here.shape[:2], rows * columns)
            logits[..., inside] += here
            counts[inside] += 1
            pooled[inside[:, None], inside] += seen.patch_attention
            together[inside[:, None], inside] += 1
    assert logits is not None  # a picture has at least one window
    pooled = pooled / (together + 1e-5)
    pooled = pooled / pooled.sum(-1, keepdim=True).clamp(min=torch.finfo(pooled.dtype).tiny)
    return (logits / counts) @ pooled


def label_map(
    maps: Float32[Tensor, "class h w"],
    scores: Float32[Tensor, " class"],
    config: CliperConfig,
) -> UInt8[np.ndarray, "h w"]:
    """The published rule from full-size maps (`weighted`) to labels: 0 background, k + 1 the k-th map given.

    Classes whose score is not above `score_threshold` do not occur; pass infinite scores for known labels.
    Source: CLIPer's published code. Differs: nothing.
    """
    keep = scores > config.score_threshold
    if config.normalise:
        maps = maps - maps.amin((1, 2), keepdim=True)
        maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-6)
    maps = maps * keep[:, None, None]
    if config.background_threshold > 0:
        best, index = torch.where(maps < config.background_threshold, 0, maps).max(0)
        labels = torch.where(best == 0, 0, index + 1)
    else:
        background = (1 - maps.amax(0, keepdim=True)) ** 2
        labels = torch.cat([background, maps]).argmax(0)
    return labels.cpu().numpy().astype(np.uint8)


def weighted(
    raw: Float32[Tensor, "class gh gw"],
    refined: Float32[Tensor, "class rh rw"],
    size_hw: tuple[int, int],
) -> tuple[Float32[Tensor, "class h w"], Float32[Tensor, " class"]]:
    """Full-size maps and scores for `label_map`: maxima before and after refinement averaged, maps scaled to them.

    Without a refiner both arguments are the same map.
    """
    scores = (raw.amax((1, 2)) + refined.amax((1, 2))) / 2
    full = F.interpolate(refined[None], size=size_hw, mode="bilinear", align_corners=False)[0]
    return full / (full.amax((1, 2), keepdim=True) + 1e-5) * scores[:, None, None], scores


def short_side_hw(size_hw: tuple[int, int], side: int, patch: int) -> tuple[int, int]:
    """Height and width whose shorter side is `side`, each rounded (half up) to whole patches."""
    ratio = side / min(size_hw)
    height, width = (max(int(length * ratio / patch + 0.5), 1) * patch for length in size_hw)
    return height, width


def resize_short_side(rgb: UInt8[np.ndarray, "h w 3"], side: int, patch: int) -> UInt8[np.ndarray, "ph pw 3"]:
    """A picture for the encoder: `short_side_hw` by Pillow's bicubic filter. Differs: RGB before the resize."""
    height, width = short_side_hw((rgb.shape[0], rgb.shape[1]), side, patch)
    return np.array(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))


def _attention(attn: SelfAttention, normed: Tensor, kind: LastAttention) -> Tensor:
    """Attention [head token token] of what the last block is shown, for the ablations."""
    q, k, v = attn.project(normed)
    if kind == "identity":
        return torch.eye(q.shape[-2], device=q.device).expand(len(q), -1, -1)
    queries, keys = {"qq": (q, q), "kk": (k, k), "vv": (v, v), "vanilla": (q, k)}[kind]
    return SelfAttention.weights(queries, keys)


def _values(attn: SelfAttention, normed: Tensor) -> Tensor:
    """Values [head token channel] alone; `project` would also make queries and keys."""
    weight, bias = attn.in_proj_weight.chunk(3)[2], attn.in_proj_bias.chunk(3)[2]
    return F.linear(normed, weight, bias).unflatten(-1, (attn.heads, -1)).transpose(0, 1)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First row of each window; the last window ends with the picture."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _pixels(encoder: Encoder, patches: np.ndarray) -> Float32[Tensor, "1 3 h w"]:
    """A picture in CLIP's scale on the encoder's device."""
    pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(encoder.device).movedim(-1, 0).float() / 255
    return normalised(pixels[None])


def _check_window(patch: int, config: CliperConfig) -> None:
    if config.window is not None and (config.window % patch or config.stride % patch):
        raise ShapeError(
            "window and stride must be whole patches",
            expected=f"multiples of {patch} pixels",
            found=f"window {config.window}, stride {config.stride}",
        )


def cliper_preset(data: str, backbone: Backbone = "B/16", *, sliding: bool = False) -> CliperConfig:
    """The published settings for a data set: voc21, voc20, context60, context59, object, stuff, ade or cityscapes.

    Those with 21, 60 or object have background; the others leave background pixels out of the evaluation. All
    thresholds were chosen on the evaluation set itself; say so in a comparison. `TEMPLATES` names the sentences.
    Raises ConfigError: no such data set or backbone. Source: the configuration files of CLIPer's published code.
    """
    if (data, backbone) not in _PUBLISHED:
        raise ConfigError(
            "there are no published settings of CLIPer for this",
            expected=", ".join(sorted({f"'{name}'" for name, _ in _PUBLISHED})) + " with B/16 or L/14",
            found=f"'{data}' with {backbone}",
            next_step=nearest(data, [name for name, _ in _PUBLISHED]) or None,
        )
    threshold, select, temperature, score, background = _PUBLISHED[data, backbone]
    side = {"B/16": 560, "L/14": 448}[backbone] if data == "cityscapes" else 336
    config = CliperConfig(
        select=select,
        threshold=threshold,
        temperature=temperature,
        short_side=side,
        score_threshold=score,
        background_threshold=background,
        normalise=data == "voc21",
    )
    if not sliding:
        return config
    lower = {("context60", "L/14"): 0.2, ("object", "L/14"): 0.4}.get((data, backbone))
    if lower is not None:
        config = replace(config, score_threshold=lower, background_threshold=lower)
    return replace(config, window=336 if data.startswith("voc") else 224)


_PUBLISHED: dict[tuple[str, str], tuple[float, Literal[-1, -2], float, float, float]] = {
    # threshold, select, temperature, score threshold, background threshold
    ("voc21", "B/16"): (0.1, -1, 100.0, 0.7, 0.6),
    ("voc20", "B/16"): (0.1, -1, 100.0, 0.0, 0.001),
    ("context60", "B/16"): (0.2, -1, 100.0, 0.45, 0.45),
    ("context59", "B/16"): (0.2, -1, 100.0, 0.3, 0.3),
    ("object", "B/16"): (0.2, -1, 50.0, 0.3, 0.3),
    ("stuff", "B/16"): (0.2, -1, 50.0, 0.1, 0.1),
    ("ade", "B/16"): (0.2, -1, 100.0, 0.3, 0.3),
    ("cityscapes", "B/16"): (0.35, -1, 100.0, 0.0, 0.0001),
    ("voc21", "L/14"): (0.1, -2, 50.0, 0.5, 0.4),
    ("voc20", "L/14"): (0.2, -1, 70.0, 0.1, 0.0001),
    ("context60", "L/14"): (0.2, -2, 50.0, 0.3, 0.3),
    ("context59", "L/14"): (0.2, -2, 100.0, 0.45, 0.45),
    ("object", "L/14"): (0.1, -2, 50.0, 0.5, 0.5),
    ("stuff", "L/14"): (0.2, -2, 50.0, 0.2, 0.2),
    ("ade", "L/14"): (0.2, -1, 50.0, 0.2, 0.2),
    ("cityscapes", "L/14"): (0.35, -1, 100.0, 0.0, 0.0001),
}

TEMPLATES: dict[tuple[str, str], str] = {
    key: "imagenet80"
    if key in {("object", "B/16"), ("cityscapes", "B/16")}
    or key in {(name, "L/14") for name in ("context60", "object", "stuff", "ade")}
    else "scene15"
    for key in _PUBLISHED
}
"""Sentence templates published with each setting, by data set and backbone; names of packaged lists."""
