"""The frozen encoder: pictures to `EncodedImage`, prompts to unit vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from clip_es.config.stages import EncoderConfig
from clip_es.encoder.engines.base import Engine, Wanted
from clip_es.encoder.engines.choose import choose
from clip_es.encoder.engines.onnx_blocks import OnnxBlocks
from clip_es.encoder.engines.torch_blocks import TorchBlocks
from clip_es.encoder.products import Linear, plain_linear, quick_linear
from clip_es.encoder.tokenize import tokenize
from clip_es.encoder.vit import CLIP, SelfAttention, TowerSizes, shell
from clip_es.encoder.weights import (
    checked,
    load_weights,
    located,
    told_activation,
    told_heads,
    tower_sizes,
    weights_hash,
)
from clip_es.errors import ConfigError, ShapeError
from clip_es.types import EncodedImage

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

_DEFAULT = EncoderConfig()
_PROMPTS_AT_ONCE = 64


def load_encoder(weights: str | Path, *, device: str = "auto", config: EncoderConfig = _DEFAULT) -> Encoder:
    """The encoder for an official name (`ViT-B/16`, ...), the packaged `scenes` and `scenes-plain`, a weights file, a
    snapshot folder, or a name on the hub (`openai/clip-vit-base-patch16`, extra `hub`).

    `device` is `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`, ...
    Raises WeightsError: the weights cannot be found or used. ConfigError: no such device, engine and dtype do not fit
    it, or an extra is missing.
    """
    weights = located(weights)
    if config.activation == "auto" and (told := told_activation(weights)):
        config = replace(config, activation=told)
    return build_encoder(load_weights(weights), device=device, config=config, heads=told_heads(weights))


def build_encoder(
    state: Mapping[str, Tensor],
    *,
    device: str = "auto",
    config: EncoderConfig = _DEFAULT,
    heads: tuple[int | None, int | None] = (None, None),
) -> Encoder:
    """The encoder for a state dict in any public layout; `heads` of vision and text, where they are known.

    Raises WeightsError: the keys are not those of a CLIP ViT. ConfigError: no such device.
    """
    place = find_device(device)
    config = choose(config, place.type).config
    state = checked(state)
    usual = tower_sizes(state)
    sizes = tower_sizes(state, heads=heads)
    model = shell(sizes)
    model.load_state_dict({key: value.to(torch.float32, copy=True) for key, value in state.items()}, assign=True)
    model.eval().requires_grad_(False)
    if config.half_weights:
        _round_to_half(model)
    if config.dtype == "bfloat16":
        model.visual.transformer.resblocks[:-1].to(torch.bfloat16)
    source = weights_hash(state)
    if (sizes.heads, sizes.text_heads) != (usual.heads, usual.text_heads):
        source = hashlib.sha256(f"{source} heads {sizes.heads} {sizes.text_heads}".encode()).hexdigest()
    if config.activation == "gelu":
        # Another activation makes another model of the same weights, and other text vectors.
        model, source = model.with_plain_gelu(), hashlib.sha256(f"{source} gelu".encode()).hexdigest()
    return Encoder(model.to(place), source=source, config=config)


class Encoder:
    """A frozen CLIP. Make one with `load_encoder`."""

    model: CLIP
    """Both towers; the last vision block, `ln_post` and `proj` are what a localizer explains."""
    source: str
    """SHA-256 of the weights as they were given, and of their activation where it is not OpenAI's."""
    config: EncoderConfig
    """Its settings, with engine and dtype settled."""
    engine: Engine
    """What computes all blocks but the last."""

    def __init__(self, model: CLIP, *, source: str, config: EncoderConfig = _DEFAULT) -> None:
        """Raises ConfigError: engine, dtype and device do not go together, or the extra `onnx` is missing."""
        self.model, self.source = model, source
        choice = choose(config, self.device.type)
        self.config, self.chosen = choice.config, choice.why
        self.engine = self._engine()

    def _engine(self) -> Engine:
        visual, config = self.model.visual, self.config
        if config.engine != "onnx":
            return TorchBlocks(visual)
        return OnnxBlocks(visual, "int8" if config.dtype == "int8" else "float32", (self.source, config.half_weights))

    def to(self, device: str) -> Encoder:
        """This encoder, moved to another device. Raises ConfigError: no such device, or its engine is not for it."""
        kind = find_device(device).type if device == "auto" else str(device).partition(":")[0]
        choose(self.config, kind)  # first: an engine for CPUs alone is refused on a machine without a GPU, too
        self.model.to(find_device(device))
        return self

    def in_float32(self) -> Encoder:
        """The same weights in torch and float32, to compare with; itself where it computes so.

        Raises ConfigError: its weights were narrowed, so that they must be read again.
        """
        if self.config.dtype == "bfloat16":
            raise ConfigError("weights in bfloat16 cannot be widened again", next_step="Load them in float32.")
        if self.config.engine == "torch":
            return self
        return Encoder(self.model, source=self.source, config=replace(self.config, engine="torch", dtype="float32"))

    @property
    def linear(self) -> Linear:
        """The products of the last block with its weights. Those of torch in float32 keep the bytes they always had."""
        as_ever = (self.config.engine, self.config.dtype) == ("torch", "float32")
        return plain_linear if as_ever or self.device.type != "cpu" else quick_linear

    @property
    def sizes(self) -> TowerSizes:
        """Sizes of both towers."""
        return self.model.sizes

    @property
    def patch(self) -> int:
        """Side of a patch in pixels; pictures must be a whole number of patches."""
        return self.model.sizes.patch

    @property
    def device(self) -> torch.device:
        """Where the weights are, and all that is encoded."""
        return self.model.logit_scale.device

    @cached_property
    def logit_scale(self) -> float:
        """Factor between a cosine and a logit; 100 in OpenAI's weights. Read from the device once: a read waits for
        all that was asked before."""
        return float(self.model.logit_scale.exp())

    @torch.no_grad()
    def reads(self, text: str) -> bool:
        """Whether the text tower was trained on every token of a text.

        The packaged CLIPs were trained on few words; all others share one row of the token embedding, so that texts
        with them mean nothing. True where every token has a row of its own, as in public weights.
        """
        table = self.model.token_embedding.weight
        for token in tokenize([text], self.sizes.context, self.sizes.vocab)[0].tolist():
            alike = table[table[:, 0] == table[token, 0]]
            if int((alike == table[token]).all(dim=1).sum()) > 1:
                return False
        return True

    @torch.no_grad()
    def encode(
        self, patches: Sequence[UInt8[np.ndarray, "ph pw 3"]], attention_layers: int = 8, together: int = 1
    ) -> list[EncodedImage]:
        """Pictures of one size, a whole number of patches, to what a localizer and the affinity need of each.

        `attention_layers`: over how many of the last layers the attention is averaged; all where there are fewer.
        On the CPU the pictures go through one by one, so a batch of one gives the same bytes as a batch of many,
        unless `together` says how many may share a pass. A GPU takes all of them together, and its kernels may round
        differently for another batch size.
        Raises ShapeError: pictures of several sizes, or not whole patches. ConfigError: no layer to average, or a tower
        too large for the engine. WeightsError: weights that do not bear the engine's arithmetic.
        Source: CLIP-ES (CVPR 2023), section 3, and its published code. Differs: a grid of 76 patches is nothing
        special; on a GPU the arithmetic is float32, not float16.
        """
        if attention_layers < 1:
            raise ConfigError("attention must be averaged over at least one layer", found=attention_layers)
        if not patches:
            return []
        pixels = self._pixels(patches)
        groups = [pixels] if self.device.type == "cuda" else pixels.split(together)
        return [seen for group in groups for seen in self._encode(group, attention_layers)]

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Float32[Tensor, "text dim"]:
        """One unit vector for each prompt. Only the positions in use go through the tower: attention is causal.

        Raises DataError: a prompt is longer than the text tower has positions.
        """
        if not prompts:
            return torch.zeros(0, self.sizes.embed, device=self.device)
        ids = tokenize(prompts, self.sizes.context, self.sizes.vocab).to(self.device)
        vectors = torch.cat([self.model.encode_text(some) for some in ids.split(_PROMPTS_AT_ONCE)])
        return F.normalize(vectors, dim=-1)

    def positions(self, grid_hw: tuple[int, int]) -> Float32[Tensor, "token dim"]:
        """Position embedding of a grid, class token first, rounded to float16 values where the config asks for it."""
        positions = self.model.visual.positions(grid_hw)
        return positions.half().float() if self.config.half_positions else positions

    def _pixels(self, patches: Sequence[np.ndarray]) -> Tensor:
        sizes = {picture.shape for picture in patches}
        if len(sizes) > 1 or any(picture.dtype != np.uint8 or picture.ndim != 3 for picture in patches):
            raise ShapeError(
                "a batch must hold pictures of one size",
                expected="uint8 [h w 3], all alike",
                found=sorted({f"{picture.dtype} {list(picture.shape)}" for picture in patches}),
                next_step="Batch pictures by their grid.",
            )
        height, width, channels = patches[0].shape
        if height % self.patch or width % self.patch or not height or not width or channels != 3:
            raise ShapeError(
                "a picture must be RGB and a whole number of patches",
                expected=f"[h w 3], h and w multiples of {self.patch}",
                found=[height, width, channels],
                next_step="Resize it with clip_es.images first.",
            )
        pixels = torch.from_numpy(np.stack(patches)).to(self.device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(row, device=self.device)[:, None, None] for row in (PIXEL_MEAN, PIXEL_STD))
        return (pixels - mean) / std

    def _encode(self, pixels: Tensor, attention_layers: int) -> list[EncodedImage]:
        visual = self.model.visual
        grid_hw = (pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch)
        # cuDNN would do the patch convolution in TF32, which keeps three decimal digits.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            tokens = visual.embed(pixels, self.positions(grid_hw))

        blocks = visual.transformer.blocks
        layers = min(attention_layers, len(blocks))
        seen = self.engine.passed(tokens, Wanted(len(blocks) - 1, averaged=layers - 1, last=True))
        last_attention = seen.last_attention
        assert last_attention is not None  # it was wanted
        attention = seen.attention
        attention += last_attention.mean(1)[:, 1:, 1:]
        attention /= layers
        return [EncodedImage(*parts, grid_hw) for parts in zip(seen.tokens, attention, last_attention, strict=True)]


def _round_to_half(model: nn.Module) -> None:
    """Float16 values for what OpenAI's loader makes float16: all but norms, embeddings and the logit scale."""
    for module in model.modules():
        own = [module.weight, module.bias] if isinstance(module, nn.Conv2d | nn.Linear) else []
        if isinstance(module, SelfAttention):
            own = [module.in_proj_weight, module.in_proj_bias]
        own += [getattr(module, name) for name in ("proj", "text_projection") if hasattr(module, name)]
        for tensor in own:
            if tensor is not None:
                tensor.data = tensor.data.half().float()


def find_device(name: str) -> torch.device:
    if name == "auto":
        apple = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if apple else "cpu")
    try:
        place = torch.device(name)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        found = torch.cuda.device_count()
        raise ConfigError(
            f"the device '{name}' cannot be used",
            expected="auto, cpu, cuda, cuda:N or mps",
            found=f"{found} GPUs" if found else "no GPU",
            next_step="Pass --device auto or --device cpu.",
        ) from error
    return place
