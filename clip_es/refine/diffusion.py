"""Maps carried along the self-attention of another network: CLIPer's chain of Stable Diffusion's heads.

Each head's attention at 64 x 64 is cleaned of weak entries and made row-stochastic; the class maps pass through all of
them, one after the other. The product of the matrices is never formed: the last one goes to the maps first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

from clip_es.errors import ConfigError, ShapeError, WeightsError
from clip_es.refine.base import Surroundings
from clip_es.scaling import min_max
from clip_es.types import ClassMaps, EncodedImage, Picture


@dataclass(frozen=True)
class DiffusionConfig:
    """Maps carried along Stable Diffusion's self-attention (extra `diffusion`)."""

    model: str = "stabilityai/stable-diffusion-2-1-base"
    """A folder in the diffusers layout, or a hub name. The 2.1-base weights are no longer at that hub name; mirrors
    exist, and 1.5 and 1.4 work too."""
    threshold: float = 0.1
    """Entries of an attention below this share of their column's maximum are dropped."""
    mode: Literal["chain", "mean", "single"] = "chain"
    """The product of all heads; their average; or one head alone."""
    single: int = 1
    """Which head, for `single`."""
    timestep: int = 45
    """Index into the scheduler's 50 steps at which the picture is noised."""
    side: int = 512
    """The picture is stretched to a square of this side, pixels; a multiple of 8."""
    seed: int = 0
    """Of the noise; the published code draws it anew each time."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or not 0 <= self.timestep < 50 or self.side < 8 or self.side % 8:
            raise ConfigError(
                "these settings of the diffusion refiner cannot work",
                expected="threshold 0..1, timestep 0..49, side a multiple of 8",
                found=(self.threshold, self.timestep, self.side),
            )


LAYERS = ("up_blocks.3.attentions.1", "up_blocks.3.attentions.0")
"""Whose self-attention is read, in the order of the chain; the third of that block is not used."""

_TINY = 1e-5


def clean(attention: Float32[Tensor, "query key"], threshold: float) -> Float32[Tensor, "query key"]:
    """Columns divided by their maxima, entries below the threshold dropped, rows divided by their sums.

    Source: CLIPer's published code, with its 1e-5 in both divisions: a row's sum is just below one.
    """
    attention = attention / (attention.amax(0, keepdim=True) + _TINY)
    attention = torch.where(attention < threshold, 0, attention)
    return attention / (attention.sum(1, keepdim=True) + _TINY)


def carry(
    maps: Float32[Tensor, "class h w"],
    attentions: Iterable[Float32[Tensor, "patch patch"]],
    side_hw: tuple[int, int],
    *,
    threshold: float = 0.1,
    mode: Literal["chain", "mean", "single"] = "chain",
    single: int = 1,
) -> Float32[Tensor, "class gh gw"]:
    """Maps, resized to `side_hw`, through the cleaned attentions: their product A_0 A_1 ... A_n in that order.

    The chain is evaluated from its right end, at one product of a matrix with the maps for each head; `attentions`
    may be given lazily. `mean` takes the average of all heads, `single` one head alone, as ablations.
    Raises ShapeError: an attention of another grid, or none. Source: CLIPer (ICCV 2025), fine-grained compensation.
    """
    rows, columns = side_hw
    values = F.interpolate(maps[None], size=side_hw, mode="bilinear", align_corners=False)[0].flatten(1).T
    heads = list(attentions)
    wrong = [list(one.shape) for one in heads if tuple(one.shape) != (rows * columns, rows * columns)]
    if wrong or not heads or (mode == "single" and not 0 <= single < len(heads)):
        raise ShapeError(
            "the maps can only be carried along attentions of their grid",
            expected=f"[{rows * columns} {rows * columns}], {single + 1 if mode == 'single' else 1} at least",
            found=wrong[0] if wrong else f"{len(heads)} heads",
        )
    if mode == "single":
        carried = clean(heads[single], threshold) @ values
    elif mode == "mean":
        carried = sum((clean(head, threshold) @ values for head in heads), torch.zeros_like(values)) / len(heads)
    else:
        carried = values
        while heads:
            carried = clean(heads.pop(), threshold) @ carried  # popping frees each map once it is used
    return carried.T.unflatten(1, side_hw)


@dataclass(frozen=True)
class Diffusion:
    """The parts of Stable Diffusion that are needed; make one with `load_diffusion`."""

    vae: Any
    unet: Any
    scheduler: Any
    prompt: Float32[Tensor, "1 length width"]
    """The text tower's answer to the empty prompt."""


def load_diffusion(model: str | Path, device: str | torch.device = "cpu") -> Diffusion:
    """Stable Diffusion from a folder in the diffusers layout or from a hub name, in float32.

    Raises ConfigError: diffusers or transformers are not installed. WeightsError: the folder is incomplete, or there is
    no such model.
    """
    try:
        from diffusers import (
            AutoencoderKL,  # pyright: ignore[reportPrivateImportUsage]
            PNDMScheduler,  # pyright: ignore[reportPrivateImportUsage]
            UNet2DConditionModel,  # pyright: ignore[reportPrivateImportUsage]
        )
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise ConfigError(
            "the diffusion refiner needs the extra `diffusion`", next_step="pip install 'clip-es[diffusion]'"
        ) from error
    name = str(model)
    parts: dict[str, Any] = {
        "vae": AutoencoderKL,
        "unet": UNet2DConditionModel,
        "scheduler": PNDMScheduler,
        "text_encoder": CLIPTextModel,
        "tokenizer": CLIPTokenizer,
    }
    if Path(name).is_dir() and (missing := [part for part in parts if not (Path(name) / part).is_dir()]):
        raise WeightsError(
            "the Stable Diffusion folder is incomplete",
            where=name,
            expected="the folders " + ", ".join(parts),
            found="no " + ", ".join(missing),
            next_step="Copy the whole model, in the layout of diffusers.",
        )
    try:
        loaded = {part: kind.from_pretrained(name, subfolder=part) for part, kind in parts.items()}
    except (OSError, ValueError) as error:
        raise WeightsError(
            "Stable Diffusion cannot be loaded",
            where=name,
            expected="a complete folder in the layout of diffusers, or a hub name",
            found=str(error).splitlines()[0],
            next_step="Fetch the model to a folder and pass its path.",
        ) from error
    for part in ("vae", "unet", "text_encoder"):
        loaded[part].to(device).eval().requires_grad_(False)
    ids = loaded["tokenizer"]("", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        prompt = loaded["text_encoder"](ids.to(device))[0]
    return Diffusion(loaded["vae"], loaded["unet"], loaded["scheduler"], prompt)


class DiffusionRefiner:
    """`refine` with its network. A copy in another process fetches the network there, when it is first needed."""

    def __init__(self, config: DiffusionConfig, device: str | torch.device = "cpu") -> None:
        """Raises ConfigError, WeightsError as `load_diffusion`."""
        self.config, self.device = config, device
        self._model: Diffusion | None = load_diffusion(config.model, device)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    def to(self, device: str | torch.device) -> None:
        """Use the network on another device."""
        if torch.device(device) != torch.device(self.device):
            self.device, self._model = device, None

    def __call__(self, picture: Picture, seen: EncodedImage, maps: ClassMaps) -> ClassMaps:
        """As `refine`."""
        self._model = self._model or load_diffusion(self.config.model, self.device)
        return refine(picture, seen, maps, self.config, self._model)


def make(config: DiffusionConfig, around: Surroundings) -> DiffusionRefiner:
    """The refiner of the table. Raises ConfigError, WeightsError: its network cannot be loaded."""
    return DiffusionRefiner(config, around.device)


def refine(
    picture: Picture, seen: EncodedImage, maps: ClassMaps, config: DiffusionConfig, model: Diffusion
) -> ClassMaps:
    """`carry` as a refiner, for maps of any size; the result has the grid of the attention and spans [0, 1]."""
    if not maps.class_ids:
        return maps
    heads = self_attention(model, picture.rgb, config)
    side = round(len(heads[0]) ** 0.5)
    chosen: dict[str, Any] = {"threshold": config.threshold, "mode": config.mode, "single": config.single}
    carried = carry(maps.scores.to(heads[0].device), heads, (side, side), **chosen)
    return ClassMaps(min_max(carried).to(maps.scores.device), maps.class_ids, unscaled=carried)


@torch.no_grad()
def self_attention(
    model: Diffusion, rgb: UInt8[np.ndarray, "h w 3"], config: DiffusionConfig
) -> list[Float32[Tensor, "patch patch"]]:
    """The self-attention of each head of `LAYERS` on a picture noised once, in the order of the chain.

    Source: CLIPer (ICCV 2025). Differs: the noise is seeded, on the CPU, so every device sees the same.
    """
    latent = latents(model, squared(rgb, config.side))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(config.seed)).to(latent)
    return attention_at(model, latent, noise, config.timestep)


def squared(rgb: UInt8[np.ndarray, "h w 3"], side: int) -> Float32[Tensor, "1 3 side side"]:
    """A picture in -1..1, stretched to a square by taking the nearest pixel, as published."""
    pixels = torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 0)[None].float() / 255
    return 2 * F.interpolate(pixels, size=(side, side), mode="nearest") - 1


def latents(model: Diffusion, pixels: Float32[Tensor, "1 3 h w"]) -> Float32[Tensor, "1 c lh lw"]:
    """The mean of the autoencoder's posterior, times its scaling factor; nothing is drawn."""
    return model.vae.encode(pixels.to(model.vae.device)).latent_dist.mode() * model.vae.config.scaling_factor


@torch.no_grad()
def attention_at(
    model: Diffusion, latent: Float32[Tensor, "1 c lh lw"], noise: Float32[Tensor, "1 c lh lw"], index: int
) -> list[Float32[Tensor, "patch patch"]]:
    """One pass of the UNet over the latent noised for step `index` of 50, and what `LAYERS` attended to."""
    model.scheduler.set_timesteps(50)
    timestep = model.scheduler.timesteps[index]
    noised = model.scheduler.add_noise(latent, noise, timestep[None].to(latent.device))
    with capture(model.unet) as kept:
        model.unet(noised, timestep, encoder_hidden_states=model.prompt)
    return [head for name in LAYERS for head in kept[name].float()]


@contextmanager
def capture(unet: Any) -> Iterator[dict[str, Tensor]]:
    """Inside it, the UNet leaves the self-attention [head query key] of `LAYERS` in the dictionary given.

    Its output does not change. Only these layers form their attention; afterwards all is as it was.
    """
    kept: dict[str, Tensor] = {}
    layers = {name: unet.get_submodule(f"{name}.transformer_blocks.0.attn1") for name in LAYERS}
    before = {name: layer.processor for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.set_processor(_Keep(kept, name))
        yield kept
    finally:
        for name, layer in layers.items():
            layer.set_processor(before[name])


class _Keep:
    """An attention processor for diffusers that forms the attention matrix and keeps it."""

    def __init__(self, kept: dict[str, Tensor], name: str) -> None:
        self.kept, self.name = kept, name

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        q, k, v = (attn.head_to_batch_dim(part(hidden_states)) for part in (attn.to_q, attn.to_k, attn.to_v))
        weights = attn.get_attention_scores(q, k)
        self.kept[self.name] = weights
        out = attn.batch_to_head_dim(weights @ v)
        return attn.to_out[1](attn.to_out[0](out))
