"""From embeddings to maps: softmax over the words, the mean over layers, one step along the attention, windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from clip_es.config.methods import CliperConfig
from clip_es.encoder.encode import Encoder
from clip_es.errors import ShapeError
from clip_es.localize.cliper.layers import CliperSight, PatchEmbeddings, proxy_attention, read_layers, see
from clip_es.refine.dino import Dino


def comparison_set(
    foreground: Float32[Tensor, "class embed"], background: Float32[Tensor, "word embed"]
) -> Float32[Tensor, "text embed"]:
    """Classes, background words, and the mean of the classes as one more row that rejects."""
    return torch.cat([foreground, background, F.normalize(foreground.mean(0, keepdim=True), dim=-1)])


@torch.no_grad()
def class_maps(
    encoder: Encoder,
    sight: CliperSight,
    pixels: Float32[Tensor, "1 3 h w"] | None,
    text: Float32[Tensor, "text embed"],
    count: int,
    config: CliperConfig,
    proxy: Dino | None = None,
) -> Float32[Tensor, "class gh gw"]:
    """The published maps, in 0..2, of the first `count` rows of `text`, which all compete.

    `pixels`, in CLIP's scale, are needed for a sliding window and for the proxy attention only.
    """
    attention = None
    if proxy is not None and pixels is not None:
        attention = proxy_attention(proxy, pixels, sight.grid_hw)
    seen = read_layers(encoder, sight, config, attention)
    shares = layer_logits(seen, text, config.temperature).softmax(1)[:, :count]
    if config.window is not None and pixels is not None:
        slid = sliding_logits(encoder, pixels, text, config)
        shares = (shares + slid.softmax(1)[:, :count]) / 2
    return combine(shares, seen.patch_attention, config).unflatten(1, seen.grid_hw)


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
    encoder: Encoder,
    pixels: Float32[Tensor, "1 3 h w"],
    text: Float32[Tensor, "text embed"],
    config: CliperConfig,
    proxy: Float32[Tensor, "patch patch"] | None = None,
) -> Float32[Tensor, "layer text patch"]:
    """Logits from overlapping windows, averaged where they overlap, then carried along their pooled attention.

    Attention between patches that never share a window is zero. Raises ShapeError: window or stride are not whole
    patches.
    """
    check_window(encoder.patch, config)
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
            seen = read_layers(encoder, see(encoder, crop), config)
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


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First row of each window; the last window ends with the picture."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def check_window(patch: int, config: CliperConfig) -> None:
    """Raises ShapeError: window or stride are not whole patches."""
    if config.window is not None and (config.window % patch or config.stride % patch):
        raise ShapeError(
            "window and stride must be whole patches",
            expected=f"multiples of {patch} pixels",
            found=f"window {config.window}, stride {config.stride}",
        )
