"""CLIPer's localizer: the early layers of CLIP read through the last one, with their attention fused.

The last block's own attention, residual and MLP are thrown away. The attentions of all blocks before it are summed,
balanced, and applied to the last block's values of what *each* block saw. Every patch so has one embedding for each
layer; softmax over the text rows, the mean over layers, and one step along the fused attention make the map.
Training free; with labels it makes class maps like any localizer, without labels a score threshold picks the classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from clip_es.encoder.capture import enter, normalised, watch
from clip_es.encoder.encode import Encoder
from clip_es.encoder.vit import SelfAttention
from clip_es.errors import ConfigError, ShapeError, nearest
from clip_es.localize.clip_es import Localization
from clip_es.refine.affinity import attention_affinity
from clip_es.scaling import min_max
from clip_es.types import ClassMaps, TextBank

LastAttention = Literal["fused", "qq", "kk", "vv", "identity", "vanilla"]
Backbone = Literal["B/16", "L/14"]


@dataclass(frozen=True)
class CliperConfig:
    """CLIPer: early-layer fusion, and the rule that turns its maps into labels."""

    variant: Literal["v2", "v1"] = "v2"
    """v2: the code of the ICCV 2025 version. v1: that of December 2024, which spreads the other way along the
    attention and leaves the last layer out of the mean."""
    last_attention: LastAttention = "fused"
    """What stands in for the last block's attention: the fused one, or, as ablations, query-query, key-key,
    value-value, none (identity) or the block's own (vanilla)."""
    fuse: bool = True
    """Read all layers. Off: only the selected one, without a mean over layers."""
    select: Literal[-1, -2] = -1
    """Whose map is spread along the attention: the last layer's or the last but one's."""
    threshold: float = 0.2
    """Share of a map's maximum below which the selected layer's patches are zeroed before spreading."""
    temperature: float = 100.0
    """Factor between a cosine and a logit; not the one CLIP learnt."""
    competitors: Literal["vocabulary", "labels"] = "vocabulary"
    """Where the labels are known: who competes with them besides the background words. All classes of the vocabulary,
    as published (there no labels are known), or only each other. On drawn scenes the former is far better."""
    short_side: int | None = 336
    """The shorter side of the picture for the encoder, pixels. None: the picture's own size, in whole patches."""
    window: int | None = None
    """Side of the sliding window, pixels; averaged with the whole picture. None: the whole picture only."""
    stride: int = 112
    """Steps of the sliding window, pixels."""
    score_threshold: float = 0.45
    """Without labels: classes whose score (0..2) is not above this do not occur."""
    background_threshold: float = 0.45
    """Pixels below this in every map are background. 0: background competes as (1 - best map) squared."""
    normalise: bool = False
    """Stretch each map to 0..1 before it is compared with the background threshold."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("threshold", 0.0, 1.0),
            ("temperature", 1e-3, 1e4),
            ("score_threshold", 0.0, 2.0),
            ("background_threshold", 0.0, 2.0),
            ("stride", 1, 10**6),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is out of range", expected=f"{low:g}..{high:g}", found=getattr(self, name))
        if any(side is not None and side < 1 for side in (self.short_side, self.window)):
            raise ConfigError("sides are at least one pixel", found=(self.short_side, self.window))
        if self.variant == "v1" and self.select != -1:
            raise ConfigError("the variant v1 knows only the last layer", expected="select -1", found=self.select)


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


@torch.no_grad()
def cliper(
    encoder: Encoder,
    patches: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    bank: TextBank,
    class_ids: Sequence[Sequence[int]] | None = None,
    config: CliperConfig | None = None,
) -> list[Localization]:
    """Maps of some pictures, each a whole number of patches (see `resize_short_side`); one by one, whatever their size.

    `class_ids` holds the labels of each picture; None: nothing is known, and the classes whose score is above
    `score_threshold` are found, possibly none. In each Localization `raw` is the map as published, in 0..2, `maps` the
    same stretched to [0, 1], `scores` the maximum of each raw map, and `weights` None.
    Raises ShapeError: not one list of labels for each picture; a class that the bank does not have; a picture that is
    not whole patches; a window or stride that is not.
    Source: CLIPer (ICCV 2025), early-layer fusion, and its published code. Differs: labels may be known; a row of the
    attention without any positive entry gives zeros, not 0/0.
    """
    config = config or CliperConfig()
    labels = [None] * len(patches) if class_ids is None else list(class_ids)
    if len(labels) != len(patches):
        raise ShapeError("each picture has its own labels", expected=f"{len(patches)} lists", found=len(labels))
    classes = range(bank.class_count)
    all_rows = comparison_set(bank.vectors[: bank.class_count], bank.background)
    found = []
    for picture, known in zip(patches, labels, strict=True):
        shown = _checked(classes if known is None else known, bank)
        competing = shown if config.competitors == "labels" else tuple(classes)
        text = torch.cat([all_rows[list(competing)], all_rows[bank.class_count :]]).to(encoder.device)
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(encoder.device).movedim(-1, 0).float() / 255
        raw = class_maps(encoder, normalised(pixels[None]), text, len(competing), config)
        if competing != shown:
            raw = raw[list(shown)]
        scores = raw.amax((1, 2))
        if known is None:
            keep = scores > config.score_threshold
            shown = tuple(k for k, kept in zip(shown, keep.tolist(), strict=True) if kept)
            raw, scores = raw[keep], scores[keep]
        found.append(Localization(ClassMaps(min_max(raw), shown), scores, raw, None))
    return found


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
    seen = embed_layers(encoder, pixels, config)
    shares = layer_logits(seen, text, config.temperature).softmax(1)[:, :count]
    if config.window is not None:
        slid = sliding_logits(encoder, pixels, text, config)
        shares = (shares + slid.softmax(1)[:, :count]) / 2
    return combine(shares, seen.patch_attention, config).unflatten(1, seen.grid_hw)


@torch.no_grad()
def embed_layers(encoder: Encoder, pixels: Float32[Tensor, "1 3 h w"], config: CliperConfig) -> PatchEmbeddings:
    """Read what each block saw through the last block's values and the fused attention.

    Layer k < N - 1 is the input of block k after its norm, the last layer the input of the last block as it is; all
    pass the last block's norm, so that early ones are normed twice, as published.
    """
    visual = encoder.model.visual
    *early, last = visual.transformer.blocks
    grid_hw = (pixels.shape[-2] // encoder.patch, pixels.shape[-1] // encoder.patch)
    tokens = enter(encoder, pixels)
    inputs: list[Tensor] = []
    total = tokens.new_zeros(last.attn.heads, tokens.shape[1], tokens.shape[1])
    for block in watch(early, tokens):
        inputs.append(block.normed[0].float())
        total = total + block.attention[0]
        tokens = block.left
    inputs.append(tokens[0].float())

    fused = fused_attentions(total) if config.last_attention == "fused" else None
    read: list[Tensor] = []
    attention = torch.eye(len(inputs[0]), device=pixels.device)
    for tokens in map(last.ln_1, inputs):
        attention = _attention(last.attn, tokens, config.last_attention) if fused is None else next(fused)
        read.append(visual.ln_post(last.attn.merge(attention @ _values(last.attn, tokens))) @ visual.proj)
    return PatchEmbeddings(torch.stack(read), attention, grid_hw)


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
    patch, window = encoder.patch, config.window or config.stride
    if window % patch or config.stride % patch:
        raise ShapeError(
            "window and stride must be whole patches",
            expected=f"multiples of {patch} pixels",
            found=f"window {window}, stride {config.stride}",
        )
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


def _checked(class_ids: Sequence[int], bank: TextBank) -> tuple[int, ...]:
    unknown = [k for k in class_ids if not 0 <= k < bank.class_count]
    if unknown:
        raise ShapeError(
            "these classes are not in the text bank",
            expected=f"0..{bank.class_count - 1}",
            found=unknown,
            next_step="Build the bank from the vocabulary that the labels come from.",
        )
    return tuple(class_ids)


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
